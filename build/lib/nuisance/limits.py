"""Limits of parameters, each with the words in which a run refuses what lies outside."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limit:
    """What a value must be: in words, as a test, and as a list where there are few."""

    words: str
    allows: Callable[[Any], bool]
    choices: tuple[Any, ...] = ()


def above(bound: float) -> Limit:
    """Greater than ``bound``."""
    return Limit(f"above {bound:g}", lambda value: value > bound)


def at_least(bound: float) -> Limit:
    """``bound`` or greater."""
    return Limit(f"{bound:g} or greater", lambda value: value >= bound)


def between(low: float, high: float) -> Limit:
    """``low`` or greater, and less than ``high``."""
    return Limit(f"at least {low:g} and below {high:g}", lambda value: low <= value < high)


def one_of(*choices: Any) -> Limit:
    """One of a few values."""
    return Limit(f"one of {', '.join(map(repr, choices))}", lambda value: value in choices, choices)
