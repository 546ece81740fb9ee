"""What the methods of chapter `sec-natural-transformation` cost, beside the plain ways.

    python benchmarks/natural_transformation.py            # half a minute; wants an idle machine
    python benchmarks/natural_transformation.py --quick    # seconds: few steps, two rounds; writes nothing

The inversion of a batch of images into a generator's latents, beside a plain loop over the images with the same steps
and, which is checked, the same result: we want the loop to take at least 5 times as long. Process time, one thread,
the two take turns in one process, and the best round counts. The generator and the encoder are the chapter's, with
random weights, on which the time does not depend.
Writes ``benchmarks/results/natural_transformation.json``.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nuisance import paths, study
from nuisance.files import replace_file
from nuisance.methods.inversion import shift_latents
from nuisance.models.generator import ImageEncoder, LatentGenerator, draw_weights
from nuisance.seeding import deterministic, generator

BATCH = 64
LEARNING_RATE, ENCODER_WEIGHT = 0.01, 0.01
SAME = 1e-4  # of losses around 0.05; in float32 Adam turns a gradient that is nearly 0 by its last bits


def loop(images: Tensor, *, encoder: ImageEncoder, pictures: LatentGenerator, steps: int) -> Tensor:
    """The lowest loss of every image, each inverted by itself, in the plainest way."""
    lowest = []
    for image in images.split(1):
        latent = encoder(image).requires_grad_()  # the weights are frozen, so this starts a graph
        optimizer = torch.optim.Adam([latent], LEARNING_RATE)
        losses = []
        for step in range(steps + 1):
            shown = pictures(latent)
            loss = (shown - image).square().mean() + ENCODER_WEIGHT * (
                latent - encoder(shown)
            ).square().mean()
            losses.append(loss.detach())
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        lowest.append(torch.stack(losses).min())
    return torch.stack(lowest)


def inversion(quick: bool) -> dict[str, Any]:
    """`shift_latents` of a batch beside the loop."""
    steps, rounds = (3, 2) if quick else (20, 5)
    pictures, encoder = LatentGenerator(), ImageEncoder()
    for purpose, network in enumerate((pictures, encoder)):
        draw_weights(network, generator(0, purpose))
        network.eval().requires_grad_(False)
    images = pictures(torch.randn(BATCH, pictures.latent, generator=generator(0, 2)))
    ours, peer, (losses, expected) = best_ms(
        lambda: (
            shift_latents(
                images,
                encoder=encoder,
                generator=pictures,
                steps=steps,
                learning_rate=LEARNING_RATE,
                encoder_weight=ENCODER_WEIGHT,
            ).loss
        ),
        lambda: loop(images, encoder=encoder, pictures=pictures, steps=steps),
        rounds,
    )
    apart = (losses - expected).abs().max().item()
    if not apart <= SAME:
        raise SystemExit(f"The batch's losses are {apart:.1g} from the loop's: the two do not do the same.")
    name = f"inversion, {steps} steps, batch {BATCH}, {pictures.side} px, width {pictures.width}"
    return case(name, ours, "loop over the images", peer)


def best_ms(
    ours: Callable[[], Tensor], peer: Callable[[], Tensor], rounds: int
) -> tuple[float, float, tuple[Tensor, Tensor]]:
    """Process times in milliseconds, and what the two returned; the first round warms up."""
    taken: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        results = []
        for times, work in zip(taken, (ours, peer), strict=True):
            started = time.process_time()
            results.append(work())
            times.append((time.process_time() - started) * 1e3)
    return min(taken[0][1:]), min(taken[1][1:]), (results[0], results[1])


def case(name: str, ours_ms: float, peer: str, peer_ms: float) -> dict[str, Any]:
    print(f"{name}: {ours_ms:.1f} ms, {peer} {peer_ms:.1f} ms, {peer_ms / ours_ms:.2f} times ours")
    return {
        "case": name,
        "ours_ms": round(ours_ms, 3),
        "peer": peer,
        "peer_ms": round(peer_ms, 3),
        "ratio": round(peer_ms / ours_ms, 3),
        "memory_ratio": None,
    }


CASES = (inversion,)


def main() -> None:
    parser = argparse.ArgumentParser(description="Natural transformations beside the plain ways.")
    parser.add_argument("--quick", action="store_true", help="few steps, two rounds; writes nothing")
    quick = parser.parse_args().quick
    deterministic()
    cases = [measure(quick) for measure in CASES]
    if quick:
        return
    record = {"name": "natural_transformation", "machine": study.processor(), "cases": cases}
    path = paths.ROOT / "benchmarks" / "results" / "natural_transformation.json"
    replace_file(path, (json.dumps(record, indent=1) + "\n").encode())
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
