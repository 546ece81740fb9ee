"""The gradient score of chapter `sec-gradient-ood`, beside the authors' loop, torch.func and pytorch-ood.

    python benchmarks/gradient_norm.py              # about ten minutes; wants an idle machine
    python benchmarks/gradient_norm.py --quick      # about a minute: small batches, once; writes nothing

All times are process time in milliseconds **an image**, on one thread: the methods take turns in one process, and the
best of several rounds counts. Each method runs in the memory format (contiguous or channels last) that suits it
better in this run; cases say which. A peer whose scores are not ours (in float64 to 1e-6 on an image, in float32 to
1e-2 in the timed calls) ends the run without a report.

- *loop*: the authors' way written out plainly, two forward and two full backward passes an image.
- *vmap*: torch.func's gradients by image, four at once. It is given our perturbation, so that only the norms differ.
- *pytorch-ood*: its ``GradUncertainty``, the L2 norm of another loss's gradients over all weights, without a
  perturbation; beside ours without one. It has no chunks of its own: the batch is taken whole.
- *forward* cases: one batched forward pass as ours, the score as the peer, so that the ratio counts forward passes.
- *floor* cases: two forward passes and two backward passes through activations as ours (with the norm of the first layer
  alone), the loop as the peer: no exact way can beat the loop by more.
- *grid* cases: all 210 cells beside 210 times the loop's time for one, since each cell costs the loop the same.

``memory_ratio`` compares peaks of resident memory above the model, each the smallest of three processes (what an
allocator keeps differs from one to the next). Networks have random weights, on which no time depends, but for
EfficientNet's. Writes ``benchmarks/results/gradient_norm.json``.
"""

import argparse
import copy
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from pytorch_ood.detector import GradUncertainty
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from nuisance import paths, study
from nuisance.models.pretrained import load_pretrained
from nuisance.models.resnet import CifarResNet
from nuisance.models.small_cnn import SmallCNN
from nuisance.models.wide_resnet import WideResNet
from nuisance.ood.gradient_norm import GradientNorm
from nuisance.ood.grid import EPSILONS, TEMPERATURES, score_grid
from nuisance.ood.odin import perturb
from nuisance.seeding import deterministic, generator

TEMPERATURE, EPSILON = 2, 0.002
ROUNDS = 4
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
Method = Callable[[Tensor], Tensor]


class Setting(NamedTuple):
    """A network, the shape of its images and the sizes of its batches, the largest one last."""

    build: Callable[[], nn.Module]
    channels: int
    side: int
    batches: tuple[int, ...]

    def images(self) -> Tensor:
        """A largest batch of random images, smooth as photographs are: from noise more slopes are all but zero."""
        coarse = (self.batches[-1], self.channels, self.side // 4, self.side // 4)
        return F.interpolate(torch.rand(coarse, generator=generator(0)), size=self.side, mode="bilinear")


def small_resnet() -> nn.Module:
    return CifarResNet(blocks=1, widths=(8, 16, 32), in_channels=1, classes=6)


SETTINGS = {
    "SmallCNN": Setting(partial(SmallCNN, classes=6), 1, 28, (1, 2, 4, 8, 16, 32, 64)),
    "small ResNet": Setting(small_resnet, 1, 28, (64,)),
    "ResNet-20": Setting(CifarResNet, 3, 32, (64,)),
    "EfficientNet-lite0": Setting(
        lambda: load_pretrained("efficientnet_lite0", paths.data_root()), 3, 224, (8,)
    ),
    "ResNet-18": Setting(torchvision.models.resnet18, 3, 224, (1, 2, 4, 8)),
    "WRN-28-10": Setting(WideResNet, 3, 32, (8,)),
}
GRIDS = {"SmallCNN": 64, "ResNet-18": 4}
"""Networks whose grid is scored, and on how many images."""
MEMORY = ("SmallCNN", "ResNet-18")
"""Networks whose peak memory is measured, at the largest batch."""


class FirstTwo(nn.Module):
    """A network's first two logits.

    With two classes both losses, ours and pytorch-ood's, depend on the gap between the logits alone, and the two
    scores are known multiples of each other.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[b, 2]``."""
        return self.network(x)[:, :2]


def loop(
    network: nn.Module, x: Tensor, *, temperature: float = TEMPERATURE, epsilon: float = EPSILON
) -> Tensor:
    """The authors' way, plainly: image by image, with the gradients of all weights in both backward passes."""
    scores = []
    for image in x.split(1):
        image = image.clone().requires_grad_()
        network.zero_grad()
        logits = network(image) / temperature
        F.cross_entropy(logits, logits.argmax(1)).backward()
        assert image.grad is not None
        moved = torch.where(image.grad >= 0, image.detach() - epsilon, image.detach() + epsilon)
        network.zero_grad()
        logits = network(moved) / temperature
        F.cross_entropy(logits, logits.argmax(1)).backward()
        norms = [weight.grad.norm() for weight in network.parameters() if weight.grad is not None]
        scores.append(torch.stack(norms).norm())
    network.zero_grad()
    return torch.stack(scores)


def by_vmap(network: nn.Module, x: Tensor) -> Tensor:
    """Gradients of all weights by torch.func, four images at once."""
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits = functional_call(network, {**weights, **buffers}, (image[None],)) / TEMPERATURE
        return F.cross_entropy(logits, logits.argmax(1))

    def score(image: Tensor) -> Tensor:
        return torch.stack([g.norm() for g in grad(loss)(weights, image).values()]).norm()

    return vmap(score, chunk_size=4)(perturb(network, x, epsilon=EPSILON, temperature=TEMPERATURE))


def first(network: nn.Module) -> list[str]:
    """The name of a network's first layer."""
    return [next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))]


def methods(network: nn.Module) -> dict[str, Method]:
    """What is timed: all map images to scores ``[b]``, but for "forward" and its logits."""
    two = FirstTwo(network).eval()
    return {
        "ours": GradientNorm(network, temperature=TEMPERATURE, epsilon=EPSILON).scores,
        "loop": partial(loop, network),
        "vmap": partial(by_vmap, network),
        "ours without perturbation": GradientNorm(two).scores,
        "pytorch-ood": GradUncertainty(two).predict,
        "floor": GradientNorm(
            network, temperature=TEMPERATURE, epsilon=EPSILON, layers=first(network)
        ).scores,
        "forward": torch.no_grad()(network),
    }


def as_ours(of_pytorch_ood: Tensor, logits: Tensor) -> Tensor:
    """pytorch-ood's scores of the first two classes as ours.

    With d the larger of the two logits less the smaller, G the gradient of d and p, 1 - p their softmax, our score is
    ``(1 - p) |G|`` and pytorch-ood's ``-(2p - 1)^2 |G|^2``; ``(1 - p) / (2p - 1) = 1 / (exp(d) - 1)``.
    """
    return of_pytorch_ood.neg().sqrt() / torch.expm1((logits[:, 0] - logits[:, 1]).abs())


def require_agreement(found: dict[str, Tensor]) -> None:
    """End the run where a peer does not give our scores."""
    require_equal(found["ours"], found["loop"], "loop")
    require_equal(found["ours"], found["vmap"], "vmap")
    of_pytorch_ood = as_ours(found["pytorch-ood"], found["forward"])
    require_equal(found["ours without perturbation"], of_pytorch_ood, "pytorch-ood")


def require_equal(ours: Tensor, theirs: Tensor, peer: str) -> None:
    """End the run where two ways that should give the same scores do not: in float64 to 1e-6, on every image.

    In float32 the median error may be 1e-2: the sign of a pixel whose slope is all but zero rests on rounding, and
    one such pixel moves the score of an untrained WRN-28-10 by 1e-3.
    """
    error = ((ours - theirs) / theirs).abs()
    error, limit = (error.max(), 1e-6) if theirs.dtype == torch.float64 else (error.median(), 1e-2)
    if not error <= limit:  # so written, a score that is NaN ends the run too
        raise SystemExit(f"{peer} gives other scores than ours, by {error:.1e}: nothing to report.")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of process time, and what the call returns."""
    started = time.process_time()
    result = call()
    return (time.process_time() - started) * 1e3, result


def fit_batch_norms(network: nn.Module, x: Tensor) -> None:
    """Let batch norms take their statistics from x, without which a deep untrained network's logits overflow."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(x)
    network.eval()


def peak(name: str, method: str, form: str) -> int:
    """Peak of resident memory above the model, in the system's unit; to be called in a fresh process."""
    deterministic()
    setting = SETTINGS[name]
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 2)).eval()
    methods(small)[method](torch.rand(2, 1, 8, 8))  # so that what the libraries load counts for neither
    network = setting.build().eval().to(memory_format=FORMATS[form])
    x = setting.images().contiguous(memory_format=FORMATS[form])
    run = methods(network)[method]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(x)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def peaks() -> dict[tuple[str, str, str], int]:
    """Peak memory by network, method and format."""
    wanted = [(name, method, form) for name in MEMORY for method in ("ours", "vmap") for form in FORMATS]
    fresh = multiprocessing.get_context("spawn")
    least: dict[tuple[str, str, str], int] = {}
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        for _ in range(3):
            for key, taken in zip(wanted, pool.map(peak, *zip(*wanted, strict=True)), strict=True):
                least[key] = min(taken, least.get(key, taken))
    return least


class Comparison:
    """One network's methods, each in the format that suits it."""

    def __init__(self, name: str, largest: int, memory: dict[tuple[str, str, str], int]) -> None:
        self.name, self.memory = name, memory
        torch.manual_seed(0)
        network = SETTINGS[name].build()
        x = SETTINGS[name].images()
        fit_batch_norms(network, x)
        exactly = methods(copy.deepcopy(network).double())
        require_agreement({method: run(x[:1].double()) for method, run in exactly.items()})
        self.weights = sum(weight.numel() for weight in network.parameters())
        self.images, self.networks, in_format = {}, {}, {}
        for form, memory_format in FORMATS.items():
            self.images[form] = x[:largest].contiguous(memory_format=memory_format)
            self.networks[form] = copy.deepcopy(network).to(memory_format=memory_format)
            in_format[form] = methods(self.networks[form])
        self.form: dict[str, str] = {}
        self.methods: dict[str, Method] = {}
        for method in in_format["contiguous"]:
            taken = {}
            for form, images in self.images.items():
                run = in_format[form][method]
                run(images[:1])  # the first call sets things up
                taken[form], _ = timed(partial(run, images))
            self.form[method] = min(taken, key=taken.__getitem__)
            self.methods[method] = in_format[self.form[method]][method]

    def scores(self, batch: int, rounds: int) -> list[dict[str, Any]]:
        """Cases of the scores of one batch."""
        best = dict.fromkeys(self.methods, float("inf"))
        found: dict[str, Tensor] = {}
        for _ in range(rounds):
            for method, run in self.methods.items():
                taken, found[method] = timed(partial(run, self.images[self.form[method]][:batch]))
                best[method] = min(best[method], taken / batch)
        require_agreement(found)
        where = f"{self.name}, batch {batch}"
        ratio = None
        if self.memory and self.name in MEMORY and batch == SETTINGS[self.name].batches[-1]:
            ours, theirs = (self.memory[self.name, method, self.form[method]] for method in ("ours", "vmap"))
            ratio = round(theirs / ours, 3)
            print(f"memory, {where}: vmap {ratio} times ours")
        return [
            self.case(f"score, {where}", best, "ours", "loop", batch),
            self.case(f"score, {where}", best, "ours", "vmap", batch) | {"memory_ratio": ratio},
            self.case(
                f"score without perturbation, {where}",
                best,
                "ours without perturbation",
                "pytorch-ood",
                batch,
            ),
            self.case(f"forward, {where}", best, "forward", "ours", batch),
            self.case(f"floor, {where}", best, "floor", "loop", batch),
        ]

    def grid(self, number: int) -> dict[str, Any]:
        """The case of the grid of so many images; the loop is timed in two cells, and the cheaper one counts."""
        x = self.images[self.form["ours"]][:number]
        network = self.networks[self.form["ours"]]
        taken, grid = timed(partial(score_grid, network, x, batch_size=number, progress=False))
        in_a_cell = []
        for epsilon, temperature in ((EPSILON, TEMPERATURE), (EPSILONS[-1], TEMPERATURES[-1])):
            run = partial(
                loop,
                self.networks[self.form["loop"]],
                self.images[self.form["loop"]][:number],
                temperature=temperature,
                epsilon=epsilon,
            )
            milliseconds, scores = timed(run)
            in_a_cell.append(milliseconds)
            cell = grid.gradient[:, EPSILONS.index(epsilon), TEMPERATURES.index(temperature)]
            require_equal(cell.float(), scores, "loop")
        cells = len(EPSILONS) * len(TEMPERATURES)
        without_step = len(TEMPERATURES)  # these cells cost the loop one of its two passes
        both = {"ours": taken / number, "loop": (cells - without_step / 2) * min(in_a_cell) / number}
        return self.case(f"grid of {cells} cells, {self.name}, batch {number}", both, "ours", "loop", number)

    def case(
        self, title: str, milliseconds: dict[str, float], ours: str, peer: str, batch: int
    ) -> dict[str, Any]:
        """A case as the results file has it, printed."""
        ratio = milliseconds[peer] / milliseconds[ours]
        print(f"{title}: {milliseconds[ours]:.3g} ms an image, {peer} {ratio:.2f} times that", flush=True)
        return {
            "case": title,
            "ours_ms": round(milliseconds[ours], 3),
            "peer": "score" if peer == "ours" else peer,
            "peer_ms": round(milliseconds[peer], 3),
            "ratio": round(ratio, 3),
            "memory_ratio": None,
            "batch": batch,
            "weights": self.weights,
            "format": self.form[ours],
            "peer_format": self.form[peer],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="The gradient score beside its peers.")
    parser.add_argument("--quick", action="store_true", help="small batches, once; writes nothing")
    quick = parser.parse_args().quick
    deterministic()
    # First, while this process is small: a child's peak begins at what its parent has in memory.
    memory = {} if quick else peaks()
    cases = []
    for name, setting in SETTINGS.items():
        batches = (2,) if quick else setting.batches
        comparison = Comparison(name, batches[-1], memory)
        for batch in batches:
            cases += comparison.scores(batch, rounds=1 if quick else ROUNDS)
        if name in GRIDS and (not quick or name == "SmallCNN"):
            cases.append(comparison.grid(min(GRIDS[name], batches[-1])))
    if quick:
        return
    path = study.save_benchmark("gradient_norm", cases)
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
