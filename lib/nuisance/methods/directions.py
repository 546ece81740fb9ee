"""Unsupervised attribute directing: directions of a generator's latent space along which attributes change.

The words are those of the abstract of NaTra (Wang et al. 2021, arXiv 2105.04070), which says no more of it: directions
are found without labels, and attributes are manipulated along them that do not belong to the class. That they are found
as Shen & Zhou or as Voynov & Babenko find them, and kept if a classifier sees the same class, is our inference. Chapter:
`sec-natural-transformation`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.methods.inversion import SplitGenerator, edited, frozen, require_latents
from nuisance.seeding import generator as stream
from nuisance.training import LossWatch, Method, in_parts

PIECE = 256
"""So many images are drawn at once, which bounds the memory."""

_ROTATION, _SHIFTS = 1, 2  # purposes of random streams


@dataclass(frozen=True)
class Directions:
    """Directions of a latent space.

    Attributes
    ----------
    vectors : floats ``[d, K]``, the directions u_1 ... u_K as columns: orthonormal as they are found, and as long as
        their amplitudes once they are kept.
    strengths : floats ``[K]``, what ranks them; None where nothing does.
    """

    vectors: Tensor
    strengths: Tensor | None = None

    def __len__(self) -> int:
        return self.vectors.shape[1]

    def __getitem__(self, index: Tensor | slice) -> "Directions":
        return Directions(self.vectors[:, index], None if self.strengths is None else self.strengths[index])


def sefa(weight: Tensor, count: int) -> Directions:
    """The directions that change most what the first layer makes of a latent, in closed form.

    Shen & Zhou (2021, arXiv 2007.06600): the eigenvectors of W^T W by falling eigenvalue, in float64. As in the
    released code (genforce/sefa), each unit's weights are first divided by their length. There weights lie as
    ``[d, out]`` and these are the columns; here they are the rows. A unit whose weights are all 0 stays as it is.

    Parameters
    ----------
    weight : W, floats ``[out, d]``: what first consumes a latent; of several layers, one above the other.
    count : K, from 1 to d.

    Returns
    -------
    Directions with the eigenvalues as strengths. Of each, the entry of largest size is positive: an eigenvector's sign
        is arbitrary, and differs between machines. So is the choice among directions of equal strength.

    Raises
    ------
    InputError
        If the weight is no matrix of finite numbers.
    ParameterError
        If there are not so many directions.
    """
    if weight.ndim != 2 or not weight.isfinite().all():
        raise InputError(
            f"The weight is {list(weight.shape)} but must be a matrix [out, d] of finite numbers; "
            "give the layer that takes the latent."
        )
    if not 1 <= count <= weight.shape[1]:
        raise ParameterError(f"count is {count} but must be from 1 to the latent size, {weight.shape[1]}.")
    units = F.normalize(weight.detach().double(), dim=1)
    strengths, vectors = torch.linalg.eigh(units.T @ units)  # rising
    vectors = vectors.flip(1)[:, :count]
    largest = vectors.abs().argmax(0, keepdim=True)
    vectors = vectors * vectors.gather(0, largest).sign()
    return Directions(vectors.float(), strengths.flip(0)[:count].float())


class LearnedDirections(Method):
    """Directions that a network can tell apart by what they do to images (Voynov & Babenko 2020, arXiv 2002.03754).

    A direction k and a signed size e are drawn for each latent w; the reconstructor sees G(w) and G(w + e u_k) and
    predicts both. Directions and reconstructor descend

        CE(k^, k) + 0.25 |e^ - e|,

    with the settings of the released code (anvoynov/GANLatentDiscovery), Adam at 1e-4, 100,000 steps of 32 images. What
    differs: the latents are those of given images (theirs are drawn from the prior), since these are what will be
    shifted; the directions are orthonormal, one of the paper's two choices, as the first K columns of exp(S - S^T), so
    that K may be smaller than d, and they start from a rotation drawn from the seed.

    Parameters
    ----------
    generator : G, on the images' device. It stays as it is, and out of the method's state.
    reconstructor : pairs of images ``[b, 2c, h, w]`` -> ``[b, K + 1]``: the logits of the directions, then the size.
    count : K, from 1 to d.
    learning_rate : of Adam, for both.
    largest, smallest : sizes are drawn from U(-largest, largest), and are at least ``smallest`` either way.
    size_weight : of the error in the size.
    seed : decides the first directions and what is drawn in every step.

    Raises
    ------
    ParameterError
        If there are not so many directions, or the sizes are no range.
    """

    def __init__(
        self,
        generator: SplitGenerator,
        reconstructor: nn.Module,
        *,
        count: int,
        learning_rate: float = 1e-4,
        largest: float = 6.0,
        smallest: float = 0.5,
        size_weight: float = 0.25,
        seed: int,
    ) -> None:
        super().__init__()
        dimensions = generator.latent
        if not 1 <= count <= dimensions:
            raise ParameterError(f"count is {count} but must be from 1 to the latent size, {dimensions}.")
        if not 0 <= smallest <= largest:
            raise ParameterError(
                f"smallest is {smallest:g} and largest {largest:g}, but sizes must rise from 0 or more."
            )
        self._outside = (generator,)  # in a tuple, where nn.Module does not take it for a part of its own
        self.reconstructor, self.count, self.seed = reconstructor, count, seed
        self.largest, self.smallest, self.size_weight = largest, smallest, size_weight
        drawn = torch.randn(dimensions, dimensions, generator=stream(seed, _ROTATION)) / dimensions**0.5
        device = next(reconstructor.parameters()).device
        self.rotation = nn.Parameter(drawn.to(device))
        self.optimizers = {"both": torch.optim.Adam(self.parameters(), learning_rate)}
        self.watch = LossWatch()

    def vectors(self) -> Tensor:
        """The directions as orthonormal columns ``[d, K]``, with their gradient."""
        return torch.linalg.matrix_exp(self.rotation - self.rotation.T)[:, : self.count]

    @torch.no_grad()
    def directions(self) -> Directions:
        """The directions as they are now; nothing ranks them."""
        return Directions(self.vectors())

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step.

        Parameters
        ----------
        batch : with the attribute ``latent``, floats ``[b, d]``; its pixels and labels are not looked at.

        Raises
        ------
        InputError
            If the latents are missing or not of the generator's size.
        ParameterError
            If a loss was not finite, at the latest `nuisance.training.CHECK_EVERY` steps later.
        """
        (generator,) = self._outside
        latents = batch_latents(batch, generator.latent)
        random = stream(self.seed, _SHIFTS, self.steps_done)
        chosen = torch.randint(self.count, (len(batch),), generator=random).to(latents.device)
        sizes = (2 * torch.rand(len(batch), generator=random) - 1) * self.largest
        sizes = torch.where(sizes < 0, sizes.clamp(max=-self.smallest), sizes.clamp(min=self.smallest))
        sizes = sizes.to(latents.device)
        with frozen(generator):
            with torch.no_grad():
                before = generator(latents)
            after = generator(latents + sizes[:, None] * self.vectors().T[chosen])
        output = self.reconstructor(torch.cat([before, after], 1))
        logits, predicted = output[:, :-1], output[:, -1]
        direction_loss = F.cross_entropy(logits, chosen)
        size_loss = F.l1_loss(predicted, sizes)
        self.optimizers["both"].zero_grad()
        (direction_loss + self.size_weight * size_loss).backward()
        self.optimizers["both"].step()
        losses = {"direction_loss": direction_loss.detach(), "size_loss": size_loss.detach()}
        self.watch.add(self.steps_done, losses)
        self.steps_done += 1
        return {**losses, "hit_rate": (logits.argmax(1) == chosen).float().mean()}

    def end_epoch(self, epoch: int) -> None:
        """Look whether the losses have stayed finite, see `update`."""
        self.watch.check()


@dataclass(frozen=True)
class Kept:
    """The directions that passed `keep_directions`, and the numbers of all.

    Attributes
    ----------
    directions : those that are kept, none perhaps; each is as long as its amplitude.
    kept : bool ``[K]``, which ones of those given.
    amplitudes : floats ``[K]``, how far each can be followed; where the class is not even left at the first amplitude
        that was tried, that one.
    changes : floats ``[K]``, the mean absolute change of a pixel at both ends, on the scale [0, 1].
    flips : floats ``[K]``, the share of edited images in which another class is seen.
    smallest_change, largest_flip : the bounds that were applied.
    """

    directions: Directions
    kept: Tensor
    amplitudes: Tensor
    changes: Tensor
    flips: Tensor
    smallest_change: float
    largest_flip: float

    def note(self) -> str | None:
        """A sentence with the numbers, if no direction is kept."""
        if len(self.directions):
            return None
        changes = ", ".join(f"{change:.3f}" for change in self.changes.tolist())
        flips = ", ".join(f"{flip:.3f}" for flip in self.flips.tolist())
        return (
            f"No direction is kept: pixels change by {changes}, where {self.smallest_change:g} is asked, and another "
            f"class is seen in {flips} of the images, where less than {self.largest_flip:g} is; try other amplitudes."
        )


@torch.no_grad()
def keep_directions(
    generator: SplitGenerator,
    directions: Directions,
    latents: Tensor,
    *,
    residual: Tensor | None = None,
    amplitudes: Sequence[float],
    classify: Callable[[Tensor], Tensor],
    smallest_change: float,
    largest_flip: float = 0.05,
) -> Kept:
    """Keep the directions that change the picture and leave the class, and how far they do.

    Each latent w is moved to w + a u_k and to w - a u_k, and what is drawn there is compared with what is drawn at w, for
    one amplitude a after the other, as long as the class is left. Directions are looked at one by one: where several
    are combined, the class may still change.

    Parameters
    ----------
    latents : floats ``[n, d]``, of images that took no part in any training.
    residual : floats ``[n, c, h, w]``, what the latents leave of the images, see `leftover`: then the images
        themselves are edited and compared, as in `nuisance.methods.natural_transformation`. None for nothing.
    amplitudes : a, rising from above 0.
    classify : images ``[b, c, h, w]`` in [0, 1] -> classes ``[b]``; independent of the network to be trained.
    smallest_change : a direction is kept if its mean absolute change of a pixel is at least this, on the scale [0, 1],
    largest_flip : and if another class is seen in a share of the 2 n edited images that is below this, at its amplitude
        and at all that are smaller.

    Returns
    -------
    With `Kept.note` to say so where none is kept: that is a finding, not an error.

    Raises
    ------
    InputError
        If directions or latents do not fit the generator.
    ParameterError
        If the amplitudes do not rise from above 0.
    """
    steps = list(amplitudes)
    require_rising(steps)
    require_directions(directions, generator.latent)
    require_latents(latents, generator.latent)
    if residual is None:
        residual = torch.zeros_like(generator(latents[:1]))
    residual = residual.expand(len(latents), *residual.shape[1:])
    with frozen(generator):

        def look(direction: Tensor, amplitude: float) -> tuple[float, float]:
            change = flips = torch.zeros((), device=latents.device)
            for w, rest, x, seen in parts:
                for size in (amplitude, -amplitude):
                    after = edited(generator, w + size * direction, rest)
                    change = change + (after - x).abs().flatten(1).mean(1).sum()
                    flips = flips + (classify(after) != seen).sum()
            return change.item() / (2 * len(latents)), flips.item() / (2 * len(latents))

        parts = []
        for w, rest in zip(latents.split(PIECE), residual.split(PIECE), strict=True):
            x = edited(generator, w, rest)
            parts.append((w, rest, x, classify(x)))
        found = []
        for direction in directions.vectors.T:
            reached = (steps[0], *look(direction, steps[0]))
            for amplitude in steps[1:] if reached[2] < largest_flip else []:
                further = (amplitude, *look(direction, amplitude))
                if further[2] >= largest_flip:
                    break
                reached = further
            found.append(reached)
    lengths, changes, flips = torch.tensor(found, device=latents.device).T
    kept = (changes >= smallest_change) & (flips < largest_flip)
    chosen = directions[kept]
    chosen = Directions(chosen.vectors * lengths[kept], chosen.strengths)
    return Kept(chosen, kept, lengths, changes, flips, smallest_change, largest_flip)


def image_attributes(images: Tensor) -> dict[str, Tensor]:
    """What can be measured of images of one bright thing on black.

    Parameters
    ----------
    images : floats ``[n, c, h, w]``; of colours the mean is taken.

    Returns
    -------
    Floats ``[n]`` by name, 0 where there is nothing to measure. The thing is where a pixel has at least half of the
    image's largest value. ``brightness``: the mean there. ``thickness``: the share of the image that it takes. The others
    are moments of all the light in the image, in pixels: ``slant``, how many columns the thing leans to the right from one
    row to the row above; ``height``, the standard deviation of the rows; ``width``, that of the columns after the
    slant has been taken out.
    """
    grey = images.mean(1)
    rows, columns = (torch.arange(side, device=grey.device, dtype=grey.dtype) for side in grey.shape[1:])
    tiny = torch.finfo(grey.dtype).tiny
    inside = (grey >= grey.amax((1, 2), keepdim=True) / 2) & (grey > 0)
    light = grey / grey.sum((1, 2), keepdim=True).clamp(min=tiny)
    y = rows[:, None] - (light.sum(2) @ rows)[:, None, None]
    x = columns - (light.sum(1) @ columns)[:, None, None]
    yy, xx, xy = ((light * product).sum((1, 2)) for product in (y * y, x * x, x * y))
    slope = torch.where(yy > 0, xy / yy.clamp(min=tiny), 0.0)
    return {
        "brightness": (grey * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1),
        "thickness": inside.float().mean((1, 2)),
        "slant": -slope,  # rows count downwards
        "width": (xx - slope * xy).clamp(min=0).sqrt(),
        "height": yy.sqrt(),
    }


@dataclass(frozen=True)
class Description:
    """What a direction is measured to change.

    Attributes
    ----------
    correlations : of each of `image_attributes` with the amplitude, from -1 to 1.
    strongest : the attribute with the largest one in size; None if all are 0.
    """

    correlations: Mapping[str, float]
    strongest: str | None


@torch.no_grad()
def describe_direction(
    generator: SplitGenerator, direction: Tensor, latents: Tensor, amplitudes: Tensor
) -> Description:
    """Measure which attribute of what is drawn goes with the amplitude.

    Of each attribute, its mean over an image's amplitudes is taken away, so that what differs between images does not
    count, and the rest is correlated with the amplitude over all images. A correlation says how regular a change is, not
    how large; what changes by less than 1e-5, of its mean size if that is above 1, counts as still: rounding does that.

    Parameters
    ----------
    direction : a column of `Directions`, ``[d]``.
    latents : floats ``[n, d]``.
    amplitudes : floats ``[m]``, two or more different ones.

    Raises
    ------
    InputError
        If the direction or the latents do not fit the generator.
    ParameterError
        If the amplitudes are all alike.
    """
    require_directions(Directions(direction.reshape(-1, 1)), generator.latent)
    require_latents(latents, generator.latent)
    if amplitudes.ndim != 1 or len(amplitudes.unique()) < 2:
        raise ParameterError(
            f"amplitudes is {amplitudes.tolist()} but must name two or more different ones in a row."
        )
    measured: dict[str, list[Tensor]] = {}
    with frozen(generator):
        for amplitude in amplitudes.tolist():
            drawn = in_parts(generator, latents + amplitude * direction, PIECE)
            for name, values in image_attributes(drawn).items():
                measured.setdefault(name, []).append(values.double())
    steps = (amplitudes.double() - amplitudes.double().mean()).to(latents.device)
    correlations = {}
    for name, columns in measured.items():
        values = torch.stack(columns, 1)
        moved = values - values.mean(1, keepdim=True)
        still = moved.square().mean().sqrt() <= 1e-5 * values.abs().mean().clamp(min=1)
        joint = (moved * steps).mean() / (moved.square().mean() * steps.square().mean()).sqrt()
        correlations[name] = 0.0 if still else joint.item()
    strongest = max(correlations, key=lambda name: abs(correlations[name]))
    return Description(correlations, strongest if correlations[strongest] else None)


def batch_latents(batch: Images, dimensions: int) -> Tensor:
    """The attribute ``latent`` of a batch.

    Raises
    ------
    InputError
        If it is missing or not floats ``[b, dimensions]``.
    """
    latents = batch.attributes.get("latent")
    if latents is None:
        raise InputError(
            "The images have no attribute 'latent'; encode them first and add it with "
            "images.with_attributes(latent=...)."
        )
    require_latents(latents, dimensions)
    return latents


def require_rising(amplitudes: Sequence[float]) -> None:
    """Refuse amplitudes that do not rise from above 0."""
    if not amplitudes or not all(low < high for low, high in pairwise([0.0, *amplitudes, float("inf")])):
        raise ParameterError(f"amplitudes is {list(amplitudes)} but must rise from above 0.")


def require_directions(directions: Directions, dimensions: int) -> None:
    """Refuse directions of latents of another size than ``dimensions``."""
    if directions.vectors.ndim != 2 or directions.vectors.shape[0] != dimensions:
        raise InputError(
            f"The directions are {list(directions.vectors.shape)} but the generator takes latents of {dimensions} "
            "numbers; find directions of this generator."
        )
