"""An encoder for a generator that came without one, for chapter `sec-natural-transformation`.

With a frozen generator G, latents w as it was trained on and real images x, the encoder E descends

    |E(G(w)) - w|^2  +  a |G(E(x)) - x|^2,

both means over their elements. In-domain inversion (Zhu et al. 2020, arXiv 2004.00049) trains its encoder on real
images alone, by their pixels, by features and against an adversary: the second term is that of the pixels. The first
is ours; it tells E from the first step where the latents lie. That such an encoder is what NaTra's "batch inverse
encoding" (arXiv 2105.04070) begins with is our inference, too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.methods.inversion import SplitGenerator, frozen
from nuisance.models.generator import ImageEncoder
from nuisance.seeding import generator as stream
from nuisance.training import LossWatch, Method

_LATENTS = 1  # purpose of the random streams


class EncoderTraining(Method):
    """An encoder trained with Adam, its learning rate falling linearly to zero; no label is ever read.

    Parameters
    ----------
    encoder : E, to be trained.
    generator : G, on the images' device. It stays as it is, and out of the method's state.
    steps : number of steps of the whole training, 1 or more.
    pixel_weight : a, 0 or more. The default is ours.
    seed : decides the latents of every step.

    Raises
    ------
    InputError
        If the encoder's latents are of another size than the generator's.
    ParameterError
        If a number is outside its range.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        generator: SplitGenerator,
        *,
        steps: int,
        learning_rate: float,
        pixel_weight: float = 1.0,
        seed: int,
    ) -> None:
        super().__init__()
        if encoder.latent != generator.latent:
            raise InputError(
                f"The encoder finds latents of {encoder.latent} numbers but the generator takes {generator.latent}; "
                "build the encoder with the generator's latent size."
            )
        if steps < 1 or not 0 <= pixel_weight < float("inf"):
            raise ParameterError(
                f"steps is {steps} and pixel_weight {pixel_weight:g}, but the one must be 1 or more, "
                "the other 0 or more."
            )
        self._outside = (generator,)  # in a tuple, where nn.Module does not take it for a part of its own
        self.encoder, self.steps, self.learning_rate = encoder, steps, learning_rate
        self.pixel_weight, self.seed = pixel_weight, seed
        self.optimizers = {"encoder": torch.optim.Adam(encoder.parameters(), learning_rate, fused=True)}
        self.watch = LossWatch()

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step on real images and as many drawn ones; returns the two means, unweighted.

        Raises
        ------
        InputError
            If the images are of another size than the generator's or the encoder's.
        ParameterError
            If a loss was not finite, at the latest `nuisance.training.CHECK_EVERY` steps later, or all
            ``steps`` have been done.
        """
        if self.steps_done >= self.steps:
            raise ParameterError(
                f"steps is {self.steps} and they are done; for a longer training build it with more."
            )
        (generator,) = self._outside
        x = batch.pixels.float().div_(255)
        random = stream(self.seed, _LATENTS, self.steps_done)
        w = generator.draw(len(x), random).to(x)
        with frozen(generator):
            with torch.no_grad():
                drawn = generator(w)
            if drawn.shape != x.shape:
                raise InputError(
                    f"The images are {list(x.shape)} but the generator draws {list(drawn.shape)}; "
                    "resize them to the generator's channels and size."
                )
            of_drawn, of_real = self.encoder(torch.cat([drawn, x])).chunk(
                2
            )  # one pass; no image sees another
            latent_loss, pixel_loss = F.mse_loss(of_drawn, w), F.mse_loss(generator(of_real), x)
        optimizer = self.optimizers["encoder"]
        optimizer.zero_grad()
        (latent_loss + self.pixel_weight * pixel_loss).backward()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * (1 - self.steps_done / self.steps)
        optimizer.step()
        losses = {"latent_loss": latent_loss.detach(), "pixel_loss": pixel_loss.detach()}
        self.watch.add(self.steps_done, losses)
        self.steps_done += 1
        return losses

    def end_epoch(self, epoch: int) -> None:
        """Look whether the losses have stayed finite, see `update`."""
        self.watch.check()
