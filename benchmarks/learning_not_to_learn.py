"""A training step of chapter `sec-learning-not-to-learn`, beside the authors' order of two passes.

    python benchmarks/learning_not_to_learn.py      # about two minutes; wants an idle machine

Our simultaneous update against the two-pass step written out the plain way (three predictors one after the other,
default memory format, default optimiser), and against two passes on our own network, which leaves the order as the
only difference. One thread, interleaved in one process, medians. Also the share of a step that is spent on the batch:
index look-up in bytes on the device, and painting. Writes ``benchmarks/results/learning_not_to_learn.json``.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nuisance import paths, study
from nuisance.data.colored_mnist import color_bins, halve, load_digits, paint, with_colors
from nuisance.data.images import Images
from nuisance.experiments import learning_not_to_learn as lntl
from nuisance.experiments import learning_not_to_learn_settings as chapter
from nuisance.losses import gradient_reversal
from nuisance.models.colored_mnist import FeatureNet, LabelNet
from nuisance.seeding import deterministic, generator

ROUNDS = 60
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "reduced run: 14 px, width 16, batch 64": (chapter.CHOSEN, 14),
    "published: 28 px, width 32, batch 128": (chapter.PUBLISHED, 28),
}


class PlainTwoPass:
    """The released order as one would write it down: separate predictors, two passes, two optimisers."""

    def __init__(self, width: int, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.features, self.labels = FeatureNet(width), LabelNet(width)
        self.predictors = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 8, 3, padding=1),
            )
            for _ in range(3)
        )
        net = [*self.features.parameters(), *self.labels.parameters()]
        rate = settings["game_learning_rate"]
        kind: Callable[..., Any] = torch.optim.Adam if settings["optimizer"] == "adam" else torch.optim.SGD
        self.net, self.bias = kind(net, lr=rate), kind(self.predictors.parameters(), lr=rate)

    def update(self, batch: Images) -> None:
        """One batch: two forward passes, two steps of f and g, one of the predictors."""
        pixels = paint(batch, self.settings["painting"])
        images, bins = pixels.float() / 255, color_bins(pixels)
        self.net.zero_grad()
        features = self.features(images)
        loss = F.cross_entropy(self.labels(features), batch.labels)
        for predictor in self.predictors:
            logits = predictor(features)
            entropy = (F.softmax(logits, 1) * F.log_softmax(logits, 1)).sum(1).mean()
            loss = loss + self.settings["entropy_weight"] * entropy / 3
        loss.backward()
        self.net.step()
        self.net.zero_grad()
        self.bias.zero_grad()
        features = gradient_reversal(self.features(images), self.settings["reversal_strength"])
        losses = [
            F.cross_entropy(predictor(features), bins[:, channel], ignore_index=255)
            for channel, predictor in enumerate(self.predictors)
        ]
        torch.stack(losses).sum().backward()
        self.net.step()
        self.bias.step()


def median_ms(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median time of each, in turn, so that a drift of the machine's speed meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 10):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn >= 10:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    deterministic()
    digits = load_digits("mnist10k", paths.DATA)["train"]
    cases = []
    for size, (settings, side) in SIZES.items():
        grey = halve(digits) if side == 14 else digits
        data = with_colors(grey, 0.02, biased=True, generator=generator(0))
        order = torch.randperm(len(data), generator=generator(1))
        chosen = order[: settings["batch_size"]]
        batch = data[chosen]
        torch.manual_seed(0)
        ours, same = (
            lntl.make_method(row, steps_per_epoch=100, settings=settings).train()
            for row in ("unlearn", "unlearn_two_pass")
        )
        plain = PlainTwoPass(settings["width"], settings)
        found = median_ms(
            {
                "ours": lambda ours=ours, batch=batch: ours.update(batch),  # type: ignore[misc]
                "two passes, plainly written": lambda plain=plain, batch=batch: plain.update(batch),  # type: ignore[misc]
                "two passes, our network": lambda same=same, batch=batch: same.update(batch),  # type: ignore[misc]
                "batch": lambda data=data, chosen=chosen, how=settings["painting"]: paint(data[chosen], how),  # type: ignore[misc]
            }
        )
        for peer in ("two passes, plainly written", "two passes, our network"):
            cases.append(
                {
                    "case": f"training step, {size}",
                    "ours_ms": round(found["ours"], 3),
                    "peer": peer,
                    "peer_ms": round(found[peer], 3),
                    "ratio": round(found[peer] / found["ours"], 3),
                    "memory_ratio": None,
                }
            )
            print(f"{size}: ours is {found['ours'] / found[peer]:.2f} of {peer} ({found['ours']:.1f} ms)")
        cases.append(
            {
                "case": f"look-up and painting of a batch, {size}",
                "ours_ms": round(found["batch"], 3),
                "peer": "the whole training step",
                "peer_ms": round(found["ours"], 3),
                "ratio": round(found["ours"] / found["batch"], 3),
                "memory_ratio": None,
            }
        )
        print(f"{size}: the batch takes {found['batch'] / found['ours']:.1%} of a step")
    path = study.save_benchmark("learning_not_to_learn", cases)
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
