"""Training on natural transformations: images edited along directions of a generator's latent space.

NaTra (Wang et al. 2021, arXiv 2105.04070). That attributes which do not belong to the class are manipulated, to imitate
real variation, and that the transformed images augment an adversarial training, is what the abstract says. The
objective is our inference; with x the image, w its latent, U the kept directions and f the classifier,

    (1 - rho) CE(f(x), y)  +  rho max_c CE(f(x'(c)), y),     x'(c) = clip(G(w + U c) + x - G(w)),  |c|_inf <= a.

x - G(w) is what the generator could not draw; added back, it keeps the image's detail. Chapter:
`sec-natural-transformation`. Peers: `nuisance.methods.pixel_attack`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.methods.directions import Directions, batch_latents, require_directions
from nuisance.methods.inversion import SplitGenerator, choose_by_image, edited, frozen, leftover
from nuisance.methods.supervised import Supervised
from nuisance.seeding import generator as stream
from nuisance.training import LossWatch

Choice = Literal["random", "worst"]

_EDITS = 1  # purpose of the random streams


class MixedTraining(Supervised):
    """A network trained on images and on changed versions of them: (1 - rho) CE(clean) + rho CE(changed).

    Both go through the network in one pass, so that batch norm sees them as one batch; with rho = 1 the clean ones
    are left out. Adam, its learning rate falling linearly to zero, as `Supervised`.

    Parameters
    ----------
    net : images ``[b, c, h, w]`` in [0, 1] -> logits.
    steps : number of steps of the whole training.
    rho : above 0, up to 1.

    Raises
    ------
    ParameterError
        If rho is outside its range.
    """

    def __init__(self, net: nn.Module, *, steps: int, learning_rate: float, rho: float) -> None:
        super().__init__(net, steps=steps, learning_rate=learning_rate)
        if not 0 < rho <= 1:
            raise ParameterError(
                f"rho is {rho:g} but must be above 0, up to 1; train without changes by Supervised."
            )
        self.rho = rho
        self.watch = LossWatch()

    def changed(self, batch: Images) -> Tensor:
        """The changed images of a batch, floats ``[b, c, h, w]`` in [0, 1], without a gradient."""
        raise NotImplementedError

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step.

        Raises
        ------
        ParameterError
            If a loss was not finite, at the latest `nuisance.training.CHECK_EVERY` steps later.
        """
        changed = self.changed(batch)
        if self.rho < 1:
            logits = self.net(torch.cat([scaled(batch), changed]))
            clean_loss = F.cross_entropy(logits[: len(batch)], batch.labels)
            changed_loss = F.cross_entropy(logits[len(batch) :], batch.labels)
            loss = (1 - self.rho) * clean_loss + self.rho * changed_loss
            losses = {"clean_loss": clean_loss.detach(), "changed_loss": changed_loss.detach()}
        else:
            loss = F.cross_entropy(self.net(changed), batch.labels)
            losses = {"changed_loss": loss.detach()}
        optimizer = self.optimizers["net"]
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * (1 - self.steps_done / self.steps)
        optimizer.step()
        self.watch.add(self.steps_done, losses)
        self.steps_done += 1
        return losses

    def end_epoch(self, epoch: int) -> None:
        """Look whether the losses have stayed finite, see `update`."""
        self.watch.check()


class NaturalTransformation(MixedTraining):
    """A network trained on images and on their edits along latent directions.

    The edit is chosen for every image: one draw of a direction k and an amplitude in U(-a, a) (``"random"``), or the
    one of several such draws at which the network, in eval mode, has the largest loss (``"worst"``). Steps on all
    coefficients at once may follow: with the sign of the gradient for the worst, and for the random, as its control,
    with signs by the toss of a coin; of these, a single one goes to a corner of the box, and several undo each other in
    part. The first draw is the random choice's, so that at equal weights the worst choice is
    never below a random one without steps.

    Parameters
    ----------
    generator : G, on the images' device. It stays as it is, and out of the method's state.
    directions : U, those kept; one or more.
    amplitude : a, above 0.
    choice : ``"random"`` or ``"worst"``.
    draws : of the worst choice, 1 or more.
    ascent_steps : steps after the draws, each of a / ``ascent_steps`` in every coefficient; 0 for none.
    rho : the share of the edits in the loss. 0.5 is ours.
    seed : of the random numbers, which depend on it and on the step alone.
    others : as `MixedTraining`.

    Raises
    ------
    InputError
        If the directions do not fit the generator.
    ParameterError
        If there is no direction, or a number is outside its range.
    """

    vectors: Tensor

    def __init__(
        self,
        net: nn.Module,
        generator: SplitGenerator,
        directions: Directions,
        *,
        steps: int,
        learning_rate: float,
        amplitude: float,
        choice: Choice = "worst",
        draws: int = 4,
        ascent_steps: int = 0,
        rho: float = 0.5,
        seed: int,
    ) -> None:
        super().__init__(net, steps=steps, learning_rate=learning_rate, rho=rho)
        if not len(directions):
            raise ParameterError(
                "There is no direction to edit along; keep some, see Kept.note for why none is."
            )
        require_directions(directions, generator.latent)
        if not 0 < amplitude < float("inf"):
            raise ParameterError(f"amplitude is {amplitude:g} but must be above 0.")
        if choice not in get_args(Choice):
            raise ParameterError(f"choice is {choice!r} but must be one of {', '.join(get_args(Choice))}.")
        if draws < 1 or ascent_steps < 0:
            raise ParameterError(
                f"draws is {draws} and ascent_steps {ascent_steps}, but the one must be 1 or more, the other 0 or more."
            )
        self._outside = (generator,)  # in a tuple, where nn.Module does not take it for a part of its own
        self.amplitude, self.choice, self.draws = amplitude, choice, draws
        self.ascent_steps, self.seed = ascent_steps, seed
        self.register_buffer("vectors", directions.vectors, persistent=False)

    def changed(self, batch: Images) -> Tensor:
        """The edits of a batch, see `edits`."""
        images, _ = self.edits(batch)
        return images

    @torch.no_grad()
    def edits(self, batch: Images) -> tuple[Tensor, Tensor]:
        """The edited images ``[b, c, h, w]`` of this step and their coefficients c, ``[b, K]``.

        Parameters
        ----------
        batch : with the attribute ``latent``, floats ``[b, d]``; and, to save their computation in every step,
            ``residual``, floats ``[b, c, h, w]``: what the latents leave of the images, x - G(w).

        Raises
        ------
        InputError
            If the latents are missing or not of the generator's size, or the images are of another size than its.
        """
        (generator,) = self._outside
        latents = batch_latents(batch, generator.latent)
        with frozen(generator, self.net):
            residual = batch.attributes.get("residual")
            if residual is None:
                residual = leftover(generator, latents, scaled(batch))

            def edit(coefficients: Tensor) -> Tensor:
                return edited(generator, latents + coefficients @ self.vectors.T, residual)

            random = stream(self.seed, _EDITS, self.steps_done)
            if self.choice == "random":
                coefficients = self._draw(len(batch), random)
                for _ in range(self.ascent_steps):
                    coefficients = self._toss(coefficients, random)
                return edit(coefficients), coefficients
            worst = worst_edits(
                edit,
                lambda images: F.cross_entropy(self.net(images), batch.labels, reduction="none"),
                [self._draw(len(batch), random) for _ in range(self.draws)],
                amplitude=self.amplitude,
                ascent_steps=self.ascent_steps,
            )
            return worst.images, worst.coefficients

    def _draw(self, count: int, random: torch.Generator) -> Tensor:
        """A draw for every image, ``[count, K]``."""
        directions = self.vectors.shape[1]
        drawn = draw_coefficients(count, directions, amplitude=self.amplitude, generator=random)
        return drawn.to(self.vectors.device)

    def _toss(self, coefficients: Tensor, random: torch.Generator) -> Tensor:
        """A step of `worst_edits` with the toss of a coin for the sign of every gradient."""
        signs = 2 * torch.randint(2, coefficients.shape, generator=random) - 1
        step = self.amplitude / self.ascent_steps * signs.to(coefficients)
        return (coefficients + step).clamp(-self.amplitude, self.amplitude)


def draw_coefficients(count: int, directions: int, *, amplitude: float, generator: torch.Generator) -> Tensor:
    """For each image one direction, drawn from all, and its amplitude, drawn from U(-amplitude, amplitude).

    Returns
    -------
    Floats ``[count, directions]`` on the CPU, one entry of a row not 0.
    """
    chosen = torch.randint(directions, (count,), generator=generator)
    sizes = (2 * torch.rand(count, generator=generator) - 1) * amplitude
    return F.one_hot(chosen, directions) * sizes[:, None]


@dataclass(frozen=True)
class Edits:
    """Edited images, without gradients.

    Attributes
    ----------
    images : floats ``[n, c, h, w]`` in [0, 1].
    coefficients : c, ``[n, K]``.
    losses : ``[n]``.
    """

    images: Tensor
    coefficients: Tensor
    losses: Tensor


def worst_edits(
    edit: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor], Tensor],
    candidates: list[Tensor],
    *,
    amplitude: float,
    ascent_steps: int,
) -> Edits:
    """For every image the edit of the largest loss seen: of the candidates, then on the way up from there.

    A step adds a / ``ascent_steps`` to each coefficient with the sign of its gradient and cuts it off at a, so that every
    corner of the box can be reached from its centre. The best ever seen is kept: it is at least the first candidate's.

    Parameters
    ----------
    edit : from coefficients ``[n, K]`` to images, differentiable, and the images independent of each other.
    loss : from images to losses ``[n]``, likewise.
    candidates : one or more ``[n, K]``, within [-a, a].
    amplitude : a.
    ascent_steps : 0 for the best of the candidates.

    Returns
    -------
    The edits of the largest losses. A loss that is not a number is never the largest; an image that has none keeps the
    first candidate.
    """
    best: Edits | None = None

    def look(tried: Tensor) -> Tensor:
        """The losses of coefficients, with their graph; where they are the largest, the edits are kept."""
        nonlocal best
        images = edit(tried)
        losses = loss(images)
        seen = Edits(images.detach(), tried.detach(), losses.detach())
        if best is None:
            best = replace(seen, losses=torch.where(seen.losses.isnan(), -torch.inf, seen.losses))
        else:
            better = seen.losses > best.losses
            best = Edits(
                choose_by_image(better, seen.images, best.images),
                choose_by_image(better, seen.coefficients, best.coefficients),
                choose_by_image(better, seen.losses, best.losses),
            )
        return losses

    with torch.no_grad():
        # with a single candidate, the first step looks at it
        for candidate in candidates if len(candidates) > 1 or not ascent_steps else []:
            look(candidate)
        current = candidates[0] if best is None else best.coefficients
        for _ in range(ascent_steps):
            with torch.enable_grad():
                current = current.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(look(current).sum(), current)
            step = amplitude / ascent_steps
            current = (current.detach() + step * gradient.sign()).clamp(-amplitude, amplitude)
        if ascent_steps:
            look(current)
    assert best is not None
    return best


def scaled(batch: Images) -> Tensor:
    """The images as floats in [0, 1]."""
    return batch.pixels.float().div_(255)
