"""The printed tables of the five studies, as the studies' own documents print them."""

import pandas as pd

from nuisance import paths


def table(study: str) -> pd.DataFrame:
    """A study's printed numbers, ``book/published/<study>.csv``, one row a number."""
    return pd.read_csv(paths.PUBLISHED / f"{study}.csv")


def value(study: str, **row: object) -> float | None:
    """One printed number, found by the values of its row's columns; None if the study prints none."""
    rows = table(study)
    for column, wanted in row.items():
        rows = rows[rows[column] == wanted]
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} printed numbers of {study!r} fit {row}; name more columns")
    return float(rows["value"].iloc[0]) if len(rows) else None
