"""What the printed accuracies of chapter `sec-attribute-adversary` mean in images, recomputed from the groups' counts."""

import math

import pandas as pd
from scipy import stats

from nuisance import published
from nuisance.data import celeba, waterbirds

ABSTRACT = 90.3
"""Waterbirds, hard group, as the abstract and the introduction have it; the table has another number."""


def nearest_counts(percent: float, images: int) -> tuple[int, int]:
    """The two counts of right images whose shares enclose a printed accuracy, the nearest first."""
    exact = percent / 100 * images
    low, high = math.floor(exact), math.ceil(exact)
    return (low, high) if exact - low <= high - exact else (high, low)


def is_a_share(percent: float, images: int, *, decimals: int = 2) -> bool:
    """Whether some count of right images out of ``images`` rounds to a printed accuracy."""
    return any(
        math.isclose(round(100 * count / images, decimals), percent, abs_tol=1e-9)
        for count in nearest_counts(percent, images)
    )


def chance_of_gap(one: float, other: float, images: int) -> float:
    """Fisher's exact p, two-sided, that two accuracies in per cent on so many images each come from equal methods."""
    right = [nearest_counts(percent, images)[0] for percent in (one, other)]
    table = [[count, images - count] for count in right]
    return float(stats.fisher_exact(table).pvalue)


def discrepancies() -> pd.DataFrame:
    """The printed numbers that do not fit each other, each with what the counts say of it."""
    birds, faces = waterbirds.RECIPE_COUNTS["test"], celeba.RECIPE_COUNTS["test"]
    hard_birds, hard_faces = birds[2], faces[3]

    def printed(dataset: str, method: str, metric: str) -> float:
        names = {"dataset": dataset, "method": method, "metric": f"{metric}_accuracy"}
        table = published.table("attribute_adversary")
        return float(table[(table[list(names)] == pd.Series(names)).all(axis=1)].value_percent.iloc[0])

    robust = printed("waterbirds", "AAIMR", "robust")
    bound, bound_overall = (printed("waterbirds_masked", "ERM", metric) for metric in ("robust", "overall"))
    right = nearest_counts(printed("celeba", "AAIMR", "robust"), hard_faces)[0]
    overall = printed("celeba", "AAIMR", "overall")
    others = 100 * (overall / 100 * sum(faces) - right) / (sum(faces) - hard_faces)
    gdro, clamp, erm = (printed("waterbirds", of, "robust") for of in ("GDRO", "CLAMP", "ERM"))
    overall_erm, overall_birds = (printed("waterbirds", of, "overall") for of in ("ERM", "AAIMR"))
    share = waterbirds.RECIPE_COUNTS["train"][2] / sum(waterbirds.RECIPE_COUNTS["train"])
    others_erm = (overall_erm - share * erm) / (1 - share)
    hard_share = hard_birds / sum(birds)
    plain_erm = hard_share * erm + (1 - hard_share) * others_erm
    rows = [
        (
            "The abstract has another number than the table",
            f"{ABSTRACT} and {robust}",
            f"{nearest_counts(ABSTRACT, hard_birds)[0]} and {nearest_counts(robust, hard_birds)[0]} "
            f"of {hard_birds} images",
        ),
        (
            "The upper bound is beaten",
            f"{bound} bound, {robust} adversary",
            f"{nearest_counts(bound, hard_birds)[0]} and {nearest_counts(robust, hard_birds)[0]} of {hard_birds} "
            f"images, p = {chance_of_gap(bound, robust, hard_birds):.2f}",
        ),
        (
            "The bound's overall accuracy is no count of images",
            f"{bound_overall}",
            "is a share of the test images"
            if is_a_share(bound_overall, sum(birds))
            else f"lies between {' and '.join(map(str, sorted(nearest_counts(bound_overall, sum(birds)))))} "
            f"of {sum(birds)} images",
        ),
        (
            "The robust accuracy is above the overall one (CelebA)",
            f"{100 * right / hard_faces:.2f} and {overall}",
            f"the three other groups have {others:.2f} on average: the worst is one of them",
        ),
        (
            "A lead of a few images (CelebA, GDRO)",
            f"{printed('celeba', 'AAIMR', 'robust')} and {printed('celeba', 'GDRO', 'robust')}",
            f"{right} and {nearest_counts(printed('celeba', 'GDRO', 'robust'), hard_faces)[0]} of {hard_faces} images, "
            f"p = {chance_of_gap(100 * right / hard_faces, printed('celeba', 'GDRO', 'robust'), hard_faces):.2f}",
        ),
        (
            "The lead over GDRO (Waterbirds)",
            f"{robust} and {gdro}",
            f"{nearest_counts(robust, hard_birds)[0]} and {nearest_counts(gdro, hard_birds)[0]} of {hard_birds} "
            f"images, p = {chance_of_gap(robust, gdro, hard_birds):.2f}",
        ),
        (
            "The lead over CLAMP (Waterbirds)",
            f"{robust} and {clamp}",
            f"the latter is {'a' if is_a_share(clamp, hard_birds) else 'no'} count of {hard_birds} images; with the "
            f"nearest one p = {chance_of_gap(robust, clamp, hard_birds):.2f}",
        ),
        (
            "Averages that cannot be compared (Waterbirds)",
            f"{overall_erm} ERM, {overall_birds} adversary",
            f"{overall_erm} weighs the groups as in training; with the printed {erm} in the hard group it leaves the "
            f"others {others_erm:.2f}, and a plain mean could be {plain_erm:.2f} if they were alike",
        ),
    ]
    return (
        pd.DataFrame(rows, columns=["what", "printed", "from the counts"]).set_index("what").rename_axis(None)
    )
