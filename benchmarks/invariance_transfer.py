"""What chapter `sec-invariance-transfer` costs: a step of its generator, GIT in a training step, and eKLD.

    python benchmarks/invariance_transfer.py            # about three minutes; wants an idle machine
    python benchmarks/invariance_transfer.py --quick    # seconds: the smallest settings, two rounds; writes nothing

The generator's training step. The peer is the step of two generators written out the plain way, as NVlabs' MUNIT goes
about it: the discriminators' half of the step encodes and decodes with the gradients' bookkeeping, though it needs none
for the generators; the generators' half does it all again in fresh styles, and gives the discriminators gradients that
nobody uses; every image takes its own way through the networks. It is given our networks, memory format and optimiser,
so that only the steps differ, and the same batch. We want our step with one generator to take at most 0.5 of its time
and memory, ratios of at least 2; beside it our step with two generators.

GIT on a batch of 128, of which it redraws half, whatever the class. The peer is a training step of the full-width
classifier, ResNet-20, without GIT, on such a batch. With the chapter's reduced generator we want GIT to take at most
0.35 of it, a ratio of at least 2.86. The published generator is far larger; its share is measured as well, in few
rounds.

eKLD of all classes by the chapter's reduced classifier, in batches. The peer is the plain loop, which gives the network
one image and one transform at a time. We want a ratio of at least 5. The loop's time grows with the images, so it is
measured on 2 of each class only and multiplied.

Process time, one thread, ours and the peer take turns in one process, and the best of many rounds counts. Memory is the
peak over a step of the bytes that autograd holds for its backward passes, activations once each and weights not
counted; it is measured for the generator's step alone. Writes ``benchmarks/results/invariance_transfer.json``.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nuisance import study
from nuisance.data.images import Images
from nuisance.data.nuisance_transforms import TRANSFORMS, Transform
from nuisance.experiments.invariance_transfer import make_generator
from nuisance.experiments.invariance_transfer_settings import DEFAULTS
from nuisance.methods.invariance_transfer import InvarianceTransfer
from nuisance.methods.long_tailed import LongTailedClassifier, StepSchedule
from nuisance.methods.munit import InvarianceGenerator, adversarial_loss, discriminator_loss
from nuisance.metrics.expected_kl import expected_kl
from nuisance.models.resnet import CifarResNet
from nuisance.seeding import deterministic, generator

WARM_UP = 3
REDUCED, PUBLISHED = DEFAULTS["reduced", "fashion_mnist20k"], DEFAULTS["full", "kuzushiji49"]
CLASSES, SIDE, BATCH = 10, 28, 128
GIT_ROUNDS, PUBLISHED_GIT_ROUNDS, KL_ROUNDS = 30, 5, 15
LOOPED_IMAGES = 2  # of each class, by the loop of eKLD


class Setting(NamedTuple):
    """What is trained, on how much, and how often it is timed."""

    channels: int
    side: int
    width: int
    residual_blocks: int
    batch: int
    rounds: int

    def build(self, *, two_generators: bool) -> InvarianceGenerator:
        """Our method with one generator or two."""
        return InvarianceGenerator(
            in_channels=self.channels,
            width=self.width,
            residual_blocks=self.residual_blocks,
            two_generators=two_generators,
            seed=0,
        ).train()


SETTINGS = (Setting(1, 28, 8, 2, 32, 60), Setting(1, 28, 16, 2, 32, 40), Setting(3, 32, 64, 4, 4, 12))


def plain_step(method: InvarianceGenerator, batch: Images) -> None:
    """The released step: halves of the batch are the domains a and b."""
    x_a, x_b = method._scale(batch.pixels).chunk(2)
    plain_discriminators_step(method, x_a, x_b)
    plain_generators_step(method, x_a, x_b)


def plain_discriminators_step(method: InvarianceGenerator, x_a: Tensor, x_b: Tensor) -> None:
    """Draws images anew, with the generators' graphs, for the discriminators alone."""
    (gen_a, gen_b), (dis_a, dis_b) = method.generators, method.discriminators
    s_a, s_b = (torch.randn(len(x_a), method.style_dimensions) for _ in range(2))
    c_a, _ = gen_a.encode(x_a)
    c_b, _ = gen_b.encode(x_b)
    x_ba, x_ab = gen_a.decode(c_b, s_a), gen_b.decode(c_a, s_b)
    loss = discriminator_loss(dis_a(x_ba.detach()), dis_a(x_a))
    loss = loss + discriminator_loss(dis_b(x_ab.detach()), dis_b(x_b))
    method.optimizers["discriminators"].zero_grad()
    loss.backward()
    method.optimizers["discriminators"].step()


def plain_generators_step(method: InvarianceGenerator, x_a: Tensor, x_b: Tensor) -> None:
    """The adversarial loss and the reconstructions of images, styles and contents."""
    (gen_a, gen_b), (dis_a, dis_b) = method.generators, method.discriminators
    s_a, s_b = (torch.randn(len(x_a), method.style_dimensions) for _ in range(2))
    c_a, own_s_a = gen_a.encode(x_a)
    c_b, own_s_b = gen_b.encode(x_b)
    copy_a, copy_b = gen_a.decode(c_a, own_s_a), gen_b.decode(c_b, own_s_b)
    x_ba, x_ab = gen_a.decode(c_b, s_a), gen_b.decode(c_a, s_b)
    c_b_again, s_a_again = gen_a.encode(x_ba)
    c_a_again, s_b_again = gen_b.encode(x_ab)
    loss = adversarial_loss(dis_a(x_ba)) + adversarial_loss(dis_b(x_ab))
    loss = loss + 10 * (F.l1_loss(copy_a, x_a) + F.l1_loss(copy_b, x_b))
    loss = loss + F.l1_loss(s_a_again, s_a) + F.l1_loss(s_b_again, s_b)
    loss = loss + F.l1_loss(c_a_again, c_a) + F.l1_loss(c_b_again, c_b)
    method.optimizers["generators"].zero_grad()
    loss.backward()
    method.optimizers["generators"].step()


class Held:
    """Bytes that autograd holds, now and at the most; weights are not counted, and a storage counts once."""

    def __init__(self, method: InvarianceGenerator) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in method.parameters()}
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> "_Saved":
        """Take note of a tensor that autograd saves."""
        return _Saved(tensor.detach(), self)  # with its graph it would keep itself alive

    def change(self, tensor: Tensor, by: int) -> None:
        """One holder more or less of a tensor's storage."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.weights:
            return
        before = self.holders[storage.data_ptr()]
        self.holders[storage.data_ptr()] += by
        if before == 0 or before + by == 0:
            self.now += by * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Saved:
    """A tensor that autograd has saved; it dies with the graph."""

    def __init__(self, tensor: Tensor, held: Held) -> None:
        self.tensor, self.held = tensor, held
        held.change(tensor, 1)

    def __del__(self) -> None:
        self.held.change(self.tensor, -1)


def peak_bytes(step: Callable[[], object], method: InvarianceGenerator) -> int:
    held = Held(method)
    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda saved: saved.tensor):
        step()
    return held.peak


def measure_generator(setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """Our training steps of the generator beside the peer's in one setting."""
    batch = noise(setting.batch, setting.channels, setting.side)
    one, two, plain = (setting.build(two_generators=two) for two in (False, True, True))
    steps: dict[str, tuple[InvarianceGenerator, Callable[[], object]]] = {
        "one generator": (one, lambda: one.update(batch)),
        "two generators": (two, lambda: two.update(batch)),
        "plain": (plain, lambda: plain_step(plain, batch)),
    }
    best = best_ms({name: step for name, (_, step) in steps.items()}, rounds)
    memory = {name: peak_bytes(step, method) for name, (method, step) in steps.items()}
    where = f"{setting.side} px, width {setting.width}, batch {setting.batch}"
    cases = []
    for name in ("one generator", "two generators"):
        shares = best[name] / best["plain"], memory[name] / memory["plain"]
        print(
            f"{name}, {where}: {best[name]:.1f} ms and {memory[name] / 1e6:.1f} MB a step, "
            f"{shares[0]:.3f} and {shares[1]:.3f} of the plain step's"
        )
        what, peer = f"training step, {name}, {where}", "two generators, written out"
        cases.append(case(what, best[name], peer, best["plain"], round(1 / shares[1], 3)))
    return cases


def measure_git(settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """GIT with the generator of these settings, beside a training step of the full-width classifier."""
    batch = noise(BATCH, 1, SIDE)
    transfer = InvarianceTransfer(
        make_generator(1, settings, 0, two_generators=False).eval().generate,
        torch.bincount(batch.labels, minlength=CLASSES),
        share=settings["share"],
        threshold=None,
        seed=0,
    )
    trained = classifier(PUBLISHED).train()
    best = best_ms({"GIT": lambda: transfer(batch, 0), "step": lambda: trained.update(batch)}, rounds)
    what = f"GIT, generator of width {settings['generator_width']}, {SIDE} px, batch {BATCH}"
    print(f"{what}: {best['GIT']:.1f} ms, {best['GIT'] / best['step']:.3f} of a step of the classifier")
    return case(what, best["GIT"], "training step of the full-width classifier", best["step"])


def measure_expected_kl(rounds: int) -> dict[str, Any]:
    """eKLD of all classes, beside the loop."""
    images, draws = REDUCED["kl_images"], REDUCED["kl_draws"]
    clean, few = (noise(CLASSES * count, 1, SIDE) for count in (images, LOOPED_IMAGES))
    predict, transform = classifier(REDUCED).eval().predict, TRANSFORMS[REDUCED["compared"]]
    steps: dict[str, Callable[[], object]] = {
        "ours": lambda: expected_kl(
            predict,
            clean.pixels,
            clean.labels,
            transform,
            per_class=images,
            draws=draws,
            generator=generator(0),
        ),
        "loop": lambda: plain_expected_kl(predict, few, transform, draws),
    }
    best = best_ms(steps, rounds)
    loop = best["loop"] * images / LOOPED_IMAGES
    what = f"eKLD, {CLASSES} classes, {images} images of each, {draws} draws"
    print(f"{what}: {best['ours']:.1f} ms, {loop / best['ours']:.2f} times as fast as the loop")
    peer = f"loop over images and draws, multiplied from {LOOPED_IMAGES} images of each class"
    return case(what, best["ours"], peer, loop)


@torch.no_grad()
def plain_expected_kl(
    predict: Callable[[Tensor], Tensor], images: Images, transform: Transform, draws: int
) -> Tensor:
    """eKLD of every class, one image and one transform at a time."""
    random, sums = generator(0), torch.zeros(CLASSES, dtype=torch.float64)
    for image, label in zip(images.pixels.split(1), images.labels.tolist(), strict=True):
        log_p = predict(image).double().log_softmax(1)
        for _ in range(draws):
            log_q = predict(transform(image, generator=random)).double().log_softmax(1)
            sums[label] += (log_p.exp() * (log_p - log_q)).sum()
    return sums / (len(images) / CLASSES * draws)


def classifier(settings: dict[str, Any]) -> LongTailedClassifier:
    """The classifier of these settings."""
    width = settings["width"]
    net = CifarResNet(
        blocks=settings["blocks"],
        widths=(width, 2 * width, 4 * width),
        in_channels=1,
        classes=CLASSES,
        stem_stride=settings["stem_stride"],
    )
    return LongTailedClassifier(
        net.to(memory_format=torch.channels_last),
        normalization=((0.5,), (0.25,)),
        schedule=StepSchedule(steps_per_epoch=1000),
        class_sizes=torch.full((CLASSES,), 100),
    )


def noise(count: int, channels: int, side: int) -> Images:
    """Images of classes in turn; no time depends on what they show."""
    pixels = torch.randint(256, (count, channels, side, side), generator=generator(0), dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % CLASSES)


def best_ms(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Process time of each step, in milliseconds; they take turns."""
    best: dict[str, float] = {}
    for turn in range(WARM_UP + rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            taken = (time.process_time() - started) * 1e3
            if turn >= WARM_UP:
                best[name] = min(best.get(name, taken), taken)
    return best


def case(
    what: str, ours_ms: float, peer: str, peer_ms: float, memory_ratio: float | None = None
) -> dict[str, Any]:
    return {
        "case": what,
        "ours_ms": round(ours_ms, 3),
        "peer": peer,
        "peer_ms": round(peer_ms, 3),
        "ratio": round(peer_ms / ours_ms, 3),
        "memory_ratio": memory_ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The generator's step, GIT and eKLD beside their peers.")
    parser.add_argument("--quick", action="store_true", help="the smallest settings; writes nothing")
    quick = parser.parse_args().quick
    deterministic()
    torch.manual_seed(0)
    if quick:
        measure_generator(SETTINGS[0], 2)
        measure_git(REDUCED, 2)
        measure_expected_kl(2)
        return
    cases = [each for setting in SETTINGS for each in measure_generator(setting, setting.rounds)]
    cases += [measure_git(REDUCED, GIT_ROUNDS), measure_git(PUBLISHED, PUBLISHED_GIT_ROUNDS)]
    cases += [measure_expected_kl(KL_ROUNDS)]
    path = study.save_benchmark("invariance_transfer", cases)
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
