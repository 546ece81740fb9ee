"""What the methods of chapter `sec-natural-transformation` cost, beside the plain ways.

    python benchmarks/natural_transformation.py            # about a minute; wants an idle machine
    python benchmarks/natural_transformation.py --quick    # seconds: few steps and rounds; writes nothing

The inversion of a batch of images into a generator's latents, by all three terms as in the chapter, beside a plain
loop over the images with the same steps and, which is checked, the same result: we want the loop to take at least 5
times as long. A training step on natural transformations, the worst of 4 draws, beside one on pixels that 7 steps of
projected gradient ascent have changed, of the same classifier on the same batch: we want ours to take at most as long.
The search by gradient steps is shown as well.

Process time, one thread, all take turns in one process, and the best round counts. The generator and the encoder are
the chapter's, with random weights, on which the time does not depend. Networks lie in memory with their channels last,
in which a CPU's convolutions are faster, the peers' too; the plain loop is measured in PyTorch's own format as well.
Writes ``benchmarks/results/natural_transformation.json``.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nuisance import study
from nuisance.data.images import Images
from nuisance.experiments.natural_transformation_settings import DEFAULTS
from nuisance.methods.directions import sefa
from nuisance.methods.inversion import Features, leftover, shift_latents
from nuisance.methods.natural_transformation import MixedTraining, NaturalTransformation
from nuisance.methods.pixel_attack import PixelAdversary
from nuisance.models.generator import ImageDiscriminator, ImageEncoder, LatentGenerator, draw_weights
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import deterministic, generator

SETTINGS = DEFAULTS["reduced", "fashion_mnist20k"]
ASCENT = f"one draw, {SETTINGS['ascent_steps']} gradient steps"
BATCH, CLASSES = 64, 10
LEARNING_RATE, FEATURE_WEIGHT, ENCODER_WEIGHT = 0.01, 0.01, 0.01
SAME = 1e-4  # of losses around 0.05; in float32 Adam turns a gradient that is nearly 0 by its last bits


def networks(
    memory_format: torch.memory_format = torch.channels_last,
) -> tuple[LatentGenerator, ImageEncoder, ImageDiscriminator]:
    """The chapter's generator, encoder and discriminator."""
    width = SETTINGS["generator_width"]
    found = (
        LatentGenerator(width=width),
        ImageEncoder(width=width),
        ImageDiscriminator(width=SETTINGS["discriminator_width"]),
    )
    for purpose, network in enumerate(found):
        draw_weights(network, generator(0, purpose))
        network.eval().requires_grad_(False).to(memory_format=memory_format)
    return found


def loop(
    images: Tensor, *, encoder: ImageEncoder, pictures: LatentGenerator, features: Features, steps: int
) -> Tensor:
    """The lowest loss of every image, each inverted by itself, in the plainest way."""
    lowest = []
    for image in images.split(1):
        latent = encoder(image).requires_grad_()  # the weights are frozen, so this starts a graph
        wanted = features(image)
        optimizer = torch.optim.Adam([latent], LEARNING_RATE)
        losses = []
        for step in range(steps + 1):
            shown = pictures(latent)
            away = (latent - encoder(shown)).square().mean()
            seen = (features(shown) - wanted).square().mean()
            loss = (shown - image).square().mean() + FEATURE_WEIGHT * seen + ENCODER_WEIGHT * away
            losses.append(loss.detach())
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        lowest.append(torch.stack(losses).min())
    return torch.stack(lowest)


def inversion(quick: bool) -> list[dict[str, Any]]:
    """`shift_latents` of a batch beside the loop."""
    steps, rounds = (3, 2) if quick else (20, 5)
    pictures, encoder, discriminator = networks()
    features = discriminator.features
    images = pictures(torch.randn(BATCH, pictures.latent, generator=generator(0, 3)))
    settings: dict[str, Any] = {
        "encoder": encoder,
        "generator": pictures,
        "features": features,
        "steps": steps,
        "learning_rate": LEARNING_RATE,
        "feature_weight": FEATURE_WEIGHT,
        "encoder_weight": ENCODER_WEIGHT,
    }
    plain_pictures, plain_encoder, plain_discriminator = networks(torch.contiguous_format)
    plain: dict[str, Any] = {
        "encoder": plain_encoder,
        "pictures": plain_pictures,
        "features": plain_discriminator.features,
    }
    ours: dict[str, Any] = {"encoder": encoder, "pictures": pictures, "features": features}
    peers = {
        "loop over the images, channels first": partial(loop, images, steps=steps, **plain),
        "loop over the images, channels last": partial(loop, images, steps=steps, **ours),
    }
    best, results = best_ms({"ours": lambda: shift_latents(images, **settings).loss, **peers}, rounds)
    apart = max((results["ours"] - results[peer]).abs().max().item() for peer in peers)
    if not apart <= SAME:
        raise SystemExit(f"The batch's losses are {apart:.1g} from the loop's: the two do not do the same.")
    name = f"inversion, {steps} steps, batch {BATCH}, {pictures.side} px, width {pictures.width}"
    return [case(name, best["ours"], peer, best[peer]) for peer in peers]


def training_steps(quick: bool) -> list[dict[str, Any]]:
    """Steps on natural transformations beside steps on attacked pixels."""
    pictures, encoder, _ = networks()
    side, width = pictures.side, SETTINGS["width"]
    pixels = torch.randint(256, (BATCH, 1, side, side), generator=generator(0, 3), dtype=torch.uint8)
    latents = encoder(pixels / 255)
    known = {"latent": latents, "residual": leftover(pictures, latents, pixels / 255)}
    batch = Images(pixels, torch.arange(BATCH) % CLASSES, known)
    common: dict[str, Any] = {"steps": 1000, "learning_rate": 1e-3, "seed": 0}

    def natural(ascent_steps: int) -> NaturalTransformation:
        directions = sefa(pictures.first_weight, SETTINGS["directions"])
        draws = 1 if ascent_steps else SETTINGS["draws"]  # as the chapter's rows have it
        settings: dict[str, Any] = {"amplitude": 1.0, "draws": draws, "ascent_steps": ascent_steps}
        return NaturalTransformation(classifier(width), pictures, directions, **settings, **common)

    methods: dict[str, MixedTraining] = {
        "worst of 4 draws": natural(0),
        ASCENT: natural(SETTINGS["ascent_steps"]),
        "7-step pixel PGD": PixelAdversary(classifier(width), epsilon=0.1, **common),
        "7-step pixel PGD, rho 0.5": PixelAdversary(classifier(width), epsilon=0.1, rho=0.5, **common),
    }
    best, _ = best_ms(
        {name: partial(method.train().update, batch) for name, method in methods.items()},
        3 if quick else 30,
    )
    pairs = (
        ("worst of 4 draws", "7-step pixel PGD"),
        ("worst of 4 draws", "7-step pixel PGD, rho 0.5"),  # as ours: clean images are learnt from, too
        (ASCENT, "7-step pixel PGD"),
        (ASCENT, "7-step pixel PGD, rho 0.5"),
    )
    where = f"{side} px, width {width}, batch {BATCH}"
    return [case(f"NaTra step, {ours}, {where}", best[ours], peer, best[peer]) for ours, peer in pairs]


def classifier(width: int) -> SmallCNN:
    torch.manual_seed(0)
    return SmallCNN(classes=CLASSES, width=width).to(memory_format=torch.channels_last)


def best_ms(works: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Process times in milliseconds, and what the last round returned; the first round warms up."""
    best: dict[str, float] = {}
    results: dict[str, Any] = {}
    for turn in range(1 + rounds):
        for name, work in works.items():
            started = time.process_time()
            results[name] = work()
            taken = (time.process_time() - started) * 1e3
            if turn:
                best[name] = min(best.get(name, taken), taken)
    return best, results


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Natural transformations beside the plain ways.")
    parser.add_argument("--quick", action="store_true", help="few steps and rounds; writes nothing")
    quick = parser.parse_args().quick
    deterministic()
    cases = [*inversion(quick), *training_steps(quick)]
    if quick:
        return
    path = study.save_benchmark("natural_transformation", cases)
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
