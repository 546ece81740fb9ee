"""The runs of chapters `sec-gradient-ood` and `sec-gradient-ood-anatomy`.

First `validate`: networks are trained where the data set has none, the outliers are selected, and epsilon
and temperature are chosen on validation images. Then `judge`: every score of every test image. Both chapters call
both, and find in the store what the other has computed.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nuisance import published
from nuisance.errors import ParameterError
from nuisance.experiments.gradient_ood import CHOSEN_ON, score_tests, train
from nuisance.experiments.gradient_ood_grid import grid
from nuisance.experiments.gradient_ood_sets import (
    TRAINED_HERE,
    Weights,
    make_network,
    reference_confidences,
)
from nuisance.experiments.gradient_ood_settings import SETS
from nuisance.metrics.detection import METRICS, auroc, bootstrap, bootstrap_difference, detection_metrics
from nuisance.metrics.intervals import Interval, mean_interval
from nuisance.models.pretrained import stages
from nuisance.ood.ensemble import MEASURES, measures
from nuisance.seeding import generator
from nuisance.study import Run, row

Cell = tuple[float, float]
"""An epsilon and a temperature."""

VALIDATED = ("selected", "random", "restyled")
"""The sets of outliers with validation images."""


@dataclass(frozen=True)
class Validation:
    """What validation images have decided.

    Attributes
    ----------
    networks : (architecture, seed) of every network.
    weights : their weights, or None where they are trained already.
    confidences : of the reference network in the images of the pool, ``[n]``.
    grids : by (architecture, set): ``odin`` and ``gradient`` scores ``[n, epsilons, temperatures]``.
    cells : by (architecture, set): the grid's epsilons and temperatures.
    """

    networks: list[tuple[str, int]]
    weights: dict[tuple[str, int], Weights]
    confidences: Tensor
    grids: dict[tuple[str, str], dict[str, Tensor]]
    cells: dict[tuple[str, str], tuple[list[float], list[float]]]

    def heat(self, architecture: str, images: str, score: str) -> np.ndarray:
        """Validation AUROC of ``score`` in every cell ``[epsilons, temperatures]``, known images against a set."""
        known = self.on_cells(architecture, "known", images, score)
        outliers = self.grids[architecture, images][score]
        cells = range(known.shape[1]), range(known.shape[2])
        return np.array([[auroc(known[:, e, t], outliers[:, e, t]) for t in cells[1]] for e in cells[0]])

    def on_cells(self, architecture: str, of: str, images: str, score: str) -> Tensor:
        """Scores of the set ``of`` in the cells of the set ``images``, whose grid may be the coarser one."""
        rows, columns = (
            [have.index(cell) for cell in want]
            for have, want in zip(self.cells[architecture, of], self.cells[architecture, images], strict=True)
        )
        return self.grids[architecture, of][score][:, rows][:, :, columns]

    def on_common_cells(self) -> "Validation":
        """The same in those cells alone that all architectures and sets have, so that their best cells can be compared."""
        epsilons, temperatures = (
            [cell for cell in first if all(cell in of[axis] for of in self.cells.values())]
            for axis, first in enumerate(next(iter(self.cells.values())))
        )
        wanted = {(architecture, "common"): (epsilons, temperatures) for architecture, _ in self.cells}
        both = replace(self, cells=self.cells | wanted)
        grids = {
            (architecture, images): {
                score: both.on_cells(architecture, images, "common", score) for score in scores
            }
            for (architecture, images), scores in self.grids.items()
        }
        return replace(self, grids=grids, cells=dict.fromkeys(self.cells, (epsilons, temperatures)))

    def best(self, architecture: str, images: str, score: str, *, without: str = "") -> Cell:
        """The cell of the highest AUROC; of several the last one, as in the thesis' code.

        ``without`` "epsilon" looks at epsilon = 0 alone, "temperature" at T = 1.
        """
        epsilons, temperatures = self.cells[architecture, images]
        heat = self.heat(architecture, images, score)
        candidates = [
            (heat[e, t], e, t)
            for e, epsilon in enumerate(epsilons)
            for t, temperature in enumerate(temperatures)
            if not (without == "epsilon" and epsilon) and not (without == "temperature" and temperature != 1)
        ]
        _, e, t = max(candidates)
        return float(epsilons[e]), float(temperatures[t])

    def best_temperature(self, architecture: str, images: str, score: str, resamples: int) -> Tensor:
        """The temperature of the best cell in resamples ``[resamples]`` of the validation images.

        The AUROC of a resample is a weighted mean over pairs of an outlier and a known image, with
        the numbers of times that each was drawn as weights.
        """
        known = self.on_cells(architecture, "known", images, score).flatten(1)
        outliers = self.grids[architecture, images][score].flatten(1)
        draws = generator(0)
        weights = [
            torch.stack(
                [torch.randint(n, (n,), generator=draws).bincount(minlength=n) for _ in range(resamples)]
            ).double()
            for n in (len(known), len(outliers))
        ]
        heat = torch.stack(
            [
                ((weights[0] @ _outranks(known[:, cell], outliers[:, cell])) * weights[1]).sum(1)
                for cell in range(known.shape[1])
            ],
            1,
        )
        temperatures = self.cells[architecture, images][1]
        last = heat.shape[1] - 1 - heat.flip(1).argmax(1)  # of several the last, as in `best`
        return torch.tensor([float(temperatures[cell % len(temperatures)]) for cell in last.tolist()])


def _outranks(known: Tensor, outliers: Tensor) -> Tensor:
    """``[known, outliers]``: 1 where the outlier has the larger score, and one half where both have the same."""
    above = (outliers > known[:, None]).double()
    return above + (outliers == known[:, None]).double() / 2


def validate(run: Run) -> Validation:
    """Train, select the outliers, and score validation images over the grid, by the first network of an architecture."""
    p = run.parameters
    _check(p)
    common = _common(run)
    networks = [(architecture, seed) for architecture in p.networks for seed in p.seeds]
    # One more network selects, where networks are trained here: outliers that are hard for those that are judged would
    # be so by definition.
    reference = (p.reference, max(p.seeds) + 1)
    trained = [name for name in [*networks, reference] if name[0] in TRAINED_HERE]
    cases = [{"network": name, "seed": seed, "epochs": p.epochs} for name, seed in trained]
    found = run.parts(train, [case | common for case in cases]) if cases else []
    weights: dict[tuple[str, int], Weights] = dict.fromkeys([*networks, reference])
    weights |= dict(zip(trained, found, strict=True))
    case = {"network": p.reference, "weights": weights[reference]}
    confidences = run.parts(reference_confidences, [case | common])[0]
    cases, names, cells = [], [], {}
    for architecture in p.networks:
        for images in ("known", *VALIDATED):
            whole = architecture == p.networks[0] and images in ("known", *p.whole_sets)
            epsilons, temperatures = (
                (p.epsilons, p.temperatures) if whole else (p.coarse_epsilons, p.coarse_temperatures)
            )
            cells[architecture, images] = epsilons, temperatures
            # Photos take minutes each: few in a part, so that an interrupt costs little.
            count = 10 if p.dataset == "imagenet" else 50
            for start in range(0, p.validation_images, count):
                names.append((architecture, images))
                case = {"network": architecture, "images": images, "start": start, "count": count}
                case |= {"epsilons": epsilons, "temperatures": temperatures, "confidences": confidences}
                cases.append(case | {"weights": weights[architecture, p.seeds[0]]} | common)
    parts: dict[tuple[str, str], list[dict[str, Tensor]]] = {}
    for name, part in zip(names, run.parts(grid, cases), strict=True):
        parts.setdefault(name, []).append(part)
    grids = {
        name: {score: torch.cat([part[score] for part in of]) for score in ("odin", "gradient")}
        for name, of in parts.items()
    }
    return Validation(networks, weights, confidences, grids, cells)


def _check(p: SimpleNamespace) -> None:
    """Refuse parameters that do not fit each other."""
    for prefix in ("", "coarse_"):
        if 0 not in getattr(p, f"{prefix}epsilons") or 1 not in getattr(p, f"{prefix}temperatures"):
            raise ParameterError(
                f"{prefix}epsilons must hold 0 and {prefix}temperatures 1: the score without them."
            )
    for name in ("epsilons", "temperatures"):
        more = sorted(set(getattr(p, f"coarse_{name}")) - set(getattr(p, name)))
        if more:
            raise ParameterError(f"coarse_{name} has {more[0]!r}, which {name} has not; add it there.")
    given = [name for name in p.networks if name not in TRAINED_HERE]
    if given and len(p.seeds) > 1:
        raise ParameterError(f"seeds is {p.seeds!r} but {given[0]} is trained already: give one seed.")
    if p.dataset == "imagenet" and set([*p.networks, p.reference]) & set(TRAINED_HERE):
        raise ParameterError(
            "ImageNet's networks are not trained here; choose networks that are trained already."
        )


def judge(run: Run, validation: Validation) -> dict[tuple[str, int], dict[str, dict[str, Tensor]]]:
    """Every score of every test image, by network, set and score; see `score_tests`."""
    names = ["known", *VALIDATED, *(["digits"] if run.parameters.dataset == "fashion_mnist20k" else [])]
    cases = [
        {
            "network": architecture,
            "seed": seed,
            "images": images,
            "weights": validation.weights[architecture, seed],
            "cells": _chosen_cells(validation, architecture),
            "confidences": validation.confidences,
        }
        for architecture, seed in validation.networks
        for images in names
    ]
    found = iter(run.parts(score_tests, [case | _common(run) for case in cases]))
    return {network: {images: next(found) for images in names} for network in validation.networks}


def _chosen_cells(validation: Validation, architecture: str) -> dict[str, dict[str, list[float]]]:
    cells: dict[str, dict[str, list[float]]] = {}
    for images in VALIDATED:
        cells[images] = {
            "odin": list(validation.best(architecture, images, "odin")),
            "gradient": list(validation.best(architecture, images, "gradient")),
        }
    for without in ("epsilon", "temperature"):
        cell = validation.best(architecture, "selected", "gradient", without=without)
        cells["selected"][f"gradient_without_{without}"] = list(cell)
    return cells


def _settings(run: Run) -> dict[str, Any]:
    return {name: getattr(run.parameters, name) for name in SETS if hasattr(run.parameters, name)}


def _common(run: Run) -> dict[str, Any]:
    p = run.parameters
    return {
        "dataset": p.dataset,
        "data_root": str(p.data_root),
        "device": p.device,
        "settings": _settings(run),
    }


def network_stages(network: str, run: Run) -> list[str]:
    """The names of a network's stages, in the order of ``stages`` in `score_tests`."""
    p = run.parameters
    model = make_network(network, dataset=p.dataset, data_root=str(p.data_root), settings=_settings(run))
    return list(stages(model))


METHODS = {
    "msp": "MSP",
    "odin": "ODIN",
    "gradient": "Gradient",
    "max_logit": "MaxLogit",
    "ensemble": "Ensemble",
    "gradient_plain": "Gradient, plain",
    "energy": "Energy",
    "gradnorm": "GradNorm (other)",
    "react": "ReAct",
    "mahalanobis": "Mahalanobis",
    "nearest_neighbours": "Nearest neighbours",
}
"""The methods of the tables by their names in code; the first five are the printed ones."""

_PRINTED = {
    ("fashion_mnist20k", "selected"): ("resnet50", "imagenet_o"),
    ("fashion_mnist20k", "restyled"): ("resnet50", "imagenet_r"),
    ("fashion_mnist20k", "random"): ("resnet50", "imagenet_g"),
    ("cifar10", "random"): ("wide_resnet_28_10", "tiny_imagenet"),
    ("imagenet", "selected"): ("resnet50", "imagenet_o"),
    ("imagenet", "restyled"): ("resnet50", "imagenet_r"),
    ("imagenet", "random"): ("resnet50", "imagenet_g"),
}


class Results:
    """The metrics of a run's test scores, with intervals.

    An interval is Student's over networks where an architecture has several (their seeds), for given images and a
    given cell. Where it has one, and for the ensemble, it is a bootstrap's over images (2.5 and 97.5 percentiles).

    Parameters
    ----------
    outcomes : what `judge` returned.
    """

    def __init__(self, run: Run, outcomes: dict[tuple[str, int], dict[str, dict[str, Tensor]]]) -> None:
        self.outcomes, self.parameters = outcomes, run.parameters
        first = next(iter(outcomes.values()))
        self.sets = [name for name in first if name != "known"]
        ensemble = len(outcomes) > 1
        self.methods = [
            name for name in METHODS if name in (*first["selected"], *(["ensemble"] if ensemble else []))
        ]
        self._bootstraps: dict[tuple[str, str, str], dict[str, Interval]] = {}
        self._measures: dict[tuple[str, str], tuple[str, Tensor, Tensor]] = {}

    def scores(self, network: tuple[str, int], images: str, method: str) -> tuple[Tensor, Tensor]:
        """Scores of the known images and of a set, by a method whose (epsilon, T) was chosen for that set."""
        if method == "ensemble":
            return self.best_ensemble(network[0], images)[1:]
        of = self.outcomes[network]
        known = of["known"]
        if method == "gradient_as_selected":
            return known["gradient@selected"], of[images][method]
        if method.startswith("blocks "):
            return self._over_blocks(known, method), self._over_blocks(of[images], method)
        same = method if method in known else f"{method}@{CHOSEN_ON[images]}"
        return known[same], of[images][method]

    def best_ensemble(self, architecture: str, images: str) -> tuple[str, Tensor, Tensor]:
        """The best of the six measures **on the test images**, as in the thesis, and its scores of known images and set.

        Members are the networks of an architecture; where it has one alone, those of all architectures.
        """
        if (architecture, images) not in self._measures:
            members = [
                name for name in self.outcomes if name[0] == architecture or len(self.parameters.seeds) == 1
            ]

            def all_six(of: str) -> dict[str, Tensor]:
                logits = torch.stack([self.outcomes[name][of]["logits"].double() for name in members])
                return measures(logits.log_softmax(2))

            known, outliers = all_six("known"), all_six(images)
            best = max(MEASURES, key=lambda measure: auroc(known[measure], outliers[measure]))
            self._measures[architecture, images] = best, known[best], outliers[best]
        return self._measures[architecture, images]

    def metric(self, architecture: str, images: str, method: str, metric: str = "auroc") -> Interval:
        """A metric of one cell of the tables."""
        networks = self._networks(architecture)
        if len(networks) > 1 and method != "ensemble":
            values = [detection_metrics(*self.scores(n, images, method))[metric] for n in networks]
            return mean_interval(values)
        key = architecture, images, method
        if key not in self._bootstraps:
            scores, resamples = self.scores(networks[0], images, method), self.parameters.resamples
            exact = detection_metrics(*scores)
            drawn = bootstrap(*scores, resamples=resamples, generator=generator(0))
            self._bootstraps[key] = {m: Interval(exact[m], drawn[m].low, drawn[m].high) for m in METRICS}
        return self._bootstraps[key][metric]

    def difference(self, architecture: str, images: str, one: str, other: str) -> Interval:
        """AUROC of one method minus that of another on the same images, network by network.

        Of the ensemble there is one: the first network is compared with it, and the interval is over images.
        """
        networks = self._networks(architecture)
        if "ensemble" in (one, other):
            networks = networks[:1]
        pairs = [(self.scores(n, images, one), self.scores(n, images, other)) for n in networks]
        if len(networks) > 1:
            return mean_interval([auroc(*a) - auroc(*b) for a, b in pairs])
        (a, b), resamples = pairs[0], self.parameters.resamples
        known, outliers = (a[0], b[0]), (a[1], b[1])
        return bootstrap_difference(
            known, outliers, metric="auroc", resamples=resamples, generator=generator(0)
        )

    def accuracy(self, architecture: str) -> Interval:
        """Share of known test images that the networks classify rightly."""
        values = []
        for network in self._networks(architecture):
            known = self.outcomes[network]["known"]
            values.append((known["logits"].argmax(1) == known["labels"]).double().mean().item())
        return mean_interval(values)

    def rows(self, metric: str) -> list[dict[str, Any]]:
        """A table of one metric: every architecture, set and method, beside what is printed, if anything is."""
        return [
            row(
                method,
                f"{architecture}, {images}",
                metric,
                self.metric(architecture, images, method, metric),
                self._printed(images, method, metric),
            )
            for architecture in self.parameters.networks
            for images in self.sets
            for method in self.methods
        ]

    def tail(self, architecture: str, score: str, share: float) -> Interval:
        """Accuracy of the share of known test images with the largest scores, minus that of all."""
        values, draws = [], generator(0)
        networks = self._networks(architecture)
        for network in networks:
            known = self.outcomes[network]["known"]
            right = (known["logits"].argmax(1) == known["labels"]).double()
            order = known[score].argsort()
            top = right[order[-round(share * len(order)) :]]
            values.append((top.mean() - right.mean()).item())
        if len(networks) > 1:
            return mean_interval(values)
        again = []
        for _ in range(self.parameters.resamples):
            chosen = torch.randint(len(right), (len(right),), generator=draws)
            order = known[score][chosen].argsort()
            some = right[chosen]
            again.append((some[order[-round(share * len(order)) :]].mean() - some.mean()).item())
        low, high = np.percentile(again, [2.5, 97.5])
        return Interval(values[0], float(low), float(high))

    def _over_blocks(self, of: dict[str, Tensor], method: str) -> Tensor:
        """The chosen gradient score over the first so many stages of the network; "blocks all" over all its weights."""
        norms = of["stages"]
        if method == "blocks all":
            return norms.norm(dim=1)
        first = norms.shape[1] - 1 - self.blocks(norms)
        return norms[:, first : first + int(method.removeprefix("blocks "))].norm(dim=1)

    @staticmethod
    def blocks(norms: Tensor) -> int:
        """Stages between stem and head: three of a network for small images, four of one for photographs."""
        return 4 if norms.shape[1] == 6 else 3

    def _networks(self, architecture: str) -> list[tuple[str, int]]:
        return [name for name in self.outcomes if name[0] == architecture]

    def _printed(self, images: str, method: str, metric: str) -> float | None:
        network, outlier = _PRINTED.get((self.parameters.dataset, images), ("", ""))
        if self.parameters.scale == "full" and images == "random":
            outlier = "imagenet_o"  # the pool is ImageNet-O itself, without a further selection
        table = published.table("gradient_ood")
        found = table[
            (table.network == network)
            & (table.outlier == outlier)
            & (table.method == METHODS[method])
            & (table.metric == metric)
        ]
        return float(found.value.iloc[0]) if len(found) else None


def tail_accuracies(known: dict[str, Tensor], score: str, shares: np.ndarray) -> list[float]:
    """Accuracy of known images after the shares with the smallest scores are left out."""
    right = (known["logits"].argmax(1) == known["labels"]).double()[known[score].argsort()]
    return [right[round(share * len(right)) :].mean().item() for share in shares]


def selected_aurocs(results: Results, network: tuple[str, int], method: str, kept: np.ndarray) -> list[float]:
    """AUROC against the shares of the random outliers of which the reference network is surest."""
    known, outliers = results.scores(network, "random", method)
    surest = results.outcomes[network]["random"]["confidence"].argsort(descending=True)
    return [auroc(known, outliers[surest[: round(share * len(surest))]]) for share in kept]
