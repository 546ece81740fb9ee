"""A training step of the methods of chapter `sec-attribute-adversary`, beside plain cross-entropy (ERM).

    python benchmarks/attribute_adversary.py            # about a minute; wants an idle machine
    python benchmarks/attribute_adversary.py --quick    # seconds: three rounds; writes nothing

All train the same network with the same optimiser on the same batch, so that the ratio, ERM's time over ours, tells
what the adversary or the groups' weights add: 1 is nothing. We want an adversary's step to take at most 1.15 times
ERM's (a ratio of 0.87), group DRO's at most 1.10 times (0.91). Process time, one thread, the methods take turns in one
process, and the best of many rounds counts. Writes ``benchmarks/results/attribute_adversary.json``.
"""

import argparse
import time
from typing import Any

import torch
from torch import nn

from nuisance import study
from nuisance.data.images import Images
from nuisance.methods.attribute_adversary import AttributeAdversary
from nuisance.methods.embedding import EmbeddingClassifier
from nuisance.methods.group_dro import GroupDRO
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import deterministic, generator

ROUNDS, WARM_UP = 100, 5
BATCH, SIDE, WIDTH = 128, 32, 32


def embed() -> nn.Module:
    network = SmallCNN(classes=2, in_channels=3, width=WIDTH)
    network.fc = nn.Identity()  # type: ignore[assignment]  # leaves the features
    return network


def methods() -> dict[str, EmbeddingClassifier]:
    common: dict[str, Any] = {"dimensions": 4 * WIDTH, "learning_rate": 1e-3, "weight_decay": 1e-4}
    counts = torch.tensor([1750, 92, 28, 530])
    return {
        "ERM": EmbeddingClassifier(embed(), **common),
        "attribute adversary": AttributeAdversary(embed(), **common, strength=0.5),
        "attribute adversary, conditional": AttributeAdversary(
            embed(), **common, strength=0.5, conditional=True
        ),
        "group DRO": GroupDRO(embed(), **common, group_counts=counts, adjustment=2.0),
    }


def random_batch() -> Images:
    random = generator(0)
    pixels = torch.randint(256, (BATCH, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    labels, attribute = torch.randint(2, (2, BATCH), generator=random)
    return Images(pixels, labels, {"attribute": attribute})


def best_ms(rounds: int) -> dict[str, float]:
    """Process time of a step of each method, in milliseconds."""
    torch.manual_seed(0)
    batch = random_batch()
    best: dict[str, float] = {}
    steps = {name: method.train().update for name, method in methods().items()}
    for turn in range(WARM_UP + rounds):
        for name, step in steps.items():
            started = time.process_time()
            step(batch)
            taken = (time.process_time() - started) * 1e3
            if turn >= WARM_UP:
                best[name] = min(best.get(name, taken), taken)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="The attribute adversary's step beside ERM's.")
    parser.add_argument("--quick", action="store_true", help="three rounds; writes nothing")
    quick = parser.parse_args().quick
    deterministic()
    best = best_ms(3 if quick else ROUNDS)
    erm = best.pop("ERM")
    cases = []
    for name, taken in best.items():
        print(f"{name}: {taken:.1f} ms a step, {taken / erm:.2f} times ERM's")
        cases.append(
            {
                "case": f"training step, {name}, {SIDE} px, width {WIDTH}, batch {BATCH}",
                "ours_ms": round(taken, 3),
                "peer": "ERM",
                "peer_ms": round(erm, 3),
                "ratio": round(erm / taken, 3),
                "memory_ratio": None,
            }
        )
    if quick:
        return
    path = study.save_benchmark("attribute_adversary", cases)
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
