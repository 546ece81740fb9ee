"""Inversion into a generator's latents: closed forms, the per-image loop, and what must not happen."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nuisance.errors import InputError, ParameterError
from nuisance.methods.inversion import expand_latents, psnr, shift_latents
from nuisance.seeding import generator as stream

LATENT, CHANNELS, SIDE = 3, 4, 4


class Pictures(nn.Module):
    """Latents [b, 3] -> activation of a linear layer, 4 channels of 2 x 2 -> images [b, 1, 4, 4]."""

    latent = LATENT

    def __init__(self, early=lambda x: x, late=lambda x: x):
        super().__init__()
        random = stream(0, 1)
        self.weight = nn.Parameter(
            torch.randn(CHANNELS * 4, LATENT, generator=random, dtype=torch.float64) / math.sqrt(LATENT)
        )
        self.bias = nn.Parameter(torch.randn(CHANNELS * 4, generator=random, dtype=torch.float64) / 2)
        self.first, self.last = early, late

    def early(self, w):
        return self.first(F.linear(w, self.weight, self.bias)).unflatten(1, (CHANNELS, 2, 2))

    def late(self, features):
        return F.pixel_shuffle(self.last(features), 2)

    def forward(self, w):
        return self.late(self.early(w))


class Inverse(nn.Module):
    """The latents of pictures in closed form, moved away by ``off``."""

    def __init__(self, pictures, undo=lambda x: x, off=0.0):
        super().__init__()
        self.pictures, self.undo, self.off = pictures, undo, off

    def forward(self, images):
        seen = self.undo(F.pixel_unshuffle(images, 2).flatten(1)) - self.pictures.bias
        return seen @ torch.linalg.pinv(self.pictures.weight).T + self.off


def latents(count, purpose=2):
    return torch.randn(count, LATENT, generator=stream(0, purpose), dtype=torch.float64)


def noise(count):
    return torch.rand(count, 1, SIDE, SIDE, generator=stream(0, 3), dtype=torch.float64)


def sigmoid_pair(off=0.0):
    pictures = Pictures(late=torch.sigmoid)
    return {"generator": pictures, "encoder": Inverse(pictures, torch.logit, off)}


def normalised_pair():
    """A generator and an encoder in training mode that would move and mix images: batch normalisation, dropout."""
    torch.manual_seed(0)
    pictures = Pictures(
        nn.Sequential(nn.BatchNorm1d(CHANNELS * 4), nn.Tanh(), nn.Dropout(0.2)), torch.sigmoid
    )
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIDE**2), nn.Linear(SIDE**2, LATENT))
    return {"generator": pictures.double().train(), "encoder": encoder.double().train()}


def mean_square(differences):
    return differences.square().flatten(1).mean(1)


def same(a, b):
    """Whether two inversions or expansions are the same bits."""
    tensors = {name: value for name, value in vars(a).items() if isinstance(value, torch.Tensor)}
    return all(torch.equal(value, getattr(b, name)) for name, value in tensors.items())


# shift


def test_generated_images_are_recovered_from_a_bad_start():
    wanted = latents(16)
    pair = sigmoid_pair(off=0.7)
    found = shift_latents(
        pair["generator"](wanted).detach(), **pair, encoder_weight=0.0, steps=300, learning_rate=0.03
    )
    torch.testing.assert_close(found.start, wanted + 0.7)
    torch.testing.assert_close(found.latents, wanted, atol=1e-2, rtol=0)
    assert not found.left_out.any()


def test_a_convex_objective_reaches_its_least_squares_solution():
    """All terms linear inside the squares: stacked, each row by the root of its weight over its size."""
    pictures, images = Pictures(), noise(5)
    off = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
    encoder = Inverse(pictures, lambda x: x / 2, off)  # no inverse, so that its term has a gradient
    project = torch.randn(2, SIDE**2, generator=stream(0, 4), dtype=torch.float64)
    found = shift_latents(
        images,
        encoder=encoder,
        generator=pictures,
        features=lambda x: x.flatten(1) @ project.T,
        steps=300,
        learning_rate=0.1,
        pixel_weight=0.7,
        feature_weight=0.3,
        encoder_weight=0.2,
    )
    zero = torch.zeros(1, LATENT, dtype=torch.float64)
    eye = torch.eye(LATENT, dtype=torch.float64)
    with torch.no_grad():
        constant = pictures(zero).flatten(1)
        columns = (pictures(eye).flatten(1) - constant).T
        offset = encoder(pictures(zero))
        turn = eye - (encoder(pictures(eye)) - offset).T
    gap = images.flatten(1) - constant
    roots = [math.sqrt(weight / size) for weight, size in ((0.7, SIDE**2), (0.3, 2), (0.2, LATENT))]
    rows = torch.cat([roots[0] * columns, roots[1] * project @ columns, roots[2] * turn])
    wanted = torch.cat([roots[0] * gap, roots[1] * gap @ project.T, roots[2] * offset.expand(5, -1)], 1)
    solution = torch.linalg.lstsq(rows, wanted.T).solution
    torch.testing.assert_close(found.latents, solution.T, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.loss, (rows @ solution - wanted.T).square().sum(0), atol=1e-6, rtol=0)


def test_a_batch_is_the_loop_over_its_images():
    images, settings = noise(6), {**normalised_pair(), "steps": 25, "learning_rate": 0.1}
    together = shift_latents(images, **settings)
    assert (together.loss < together.start_loss).all()
    for i in range(6):
        alone = shift_latents(images[i : i + 1], **settings)
        torch.testing.assert_close(together.latents[i : i + 1], alone.latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.loss[i : i + 1], alone.loss, atol=1e-8, rtol=0)


def test_the_loss_is_that_of_the_latents_and_never_above_the_encoders():
    pair, images = sigmoid_pair(off=0.1), noise(8)
    found = shift_latents(images, **pair, steps=20, learning_rate=1.0, encoder_weight=0.5)

    def objective(w):
        shown = pair["generator"](w)
        return (mean_square(shown - images) + 0.5 * mean_square(w - pair["encoder"](shown))).detach()

    torch.testing.assert_close(found.start_loss, objective(found.start))
    torch.testing.assert_close(found.loss, objective(found.latents))
    assert (found.loss <= found.start_loss).all()
    perfect = shift_latents(
        pair["generator"](latents(8)).detach(),
        **sigmoid_pair(),
        steps=5,
        learning_rate=0.5,
        encoder_weight=0.0,
    )
    torch.testing.assert_close(perfect.loss, torch.zeros(8, dtype=torch.float64))
    assert not perfect.left_out.any(), "an image that cannot get better has not diverged"


def test_a_step_size_that_diverges_leaves_the_encoders_latents():
    pictures = Pictures()
    found = shift_latents(
        noise(4), encoder=Inverse(pictures), generator=pictures, steps=10, learning_rate=1e6
    )
    assert found.left_out.all()
    assert torch.equal(found.latents, found.start)
    assert torch.equal(found.loss, found.start_loss)


def test_an_image_that_diverges_after_it_got_better_is_left_out_too():
    calls = 0

    def features(images):
        nonlocal calls
        calls += 1
        return images if calls < 10 else images * math.nan

    pair = sigmoid_pair(off=0.3)
    images = pair["generator"](latents(3)).detach()
    settings = {"features": features, "encoder_weight": 0.0, "learning_rate": 0.03}
    better = shift_latents(images, **pair, **settings, steps=7)
    assert (better.loss < better.start_loss).all()
    calls = 0
    found = shift_latents(images, **pair, **settings, steps=20)
    assert found.left_out.all()
    assert torch.equal(found.latents, found.start)
    assert torch.equal(found.loss, found.start_loss)


def test_an_image_of_nan_is_left_out_and_changes_no_other():
    images, settings = noise(5), {**normalised_pair(), "steps": 10, "learning_rate": 0.1}
    clean = shift_latents(images, **settings)
    images[2, 0, 1, 1] = math.nan
    found = shift_latents(images, **settings)
    assert found.left_out.tolist() == [False, False, True, False, False]
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found.latents[others], clean.latents[others], atol=1e-10, rtol=0)
    expanded = expand_latents(
        images,
        start=clean.latents,
        generator=settings["generator"],
        random=stream(0),
        steps=5,
    )
    assert expanded.left_out.tolist() == [False, False, True, False, False]
    assert torch.equal(expanded.codes[2, 0], clean.latents[2])
    assert torch.equal(expanded.importances[2, 0], torch.ones(CHANNELS, dtype=torch.float64))


def test_networks_are_left_as_they_were():
    pair, images = normalised_pair(), noise(4)
    pair["encoder"][1].eval()  # a part in another mode than the whole
    pair["generator"].bias.requires_grad_(False)
    networks = nn.ModuleDict({**pair, "classifier": nn.Sequential(nn.Flatten(), nn.Linear(16, 2).double())})
    weights = {name: value.clone() for name, value in networks.state_dict().items()}
    modes = [part.training for part in networks.modules()]
    learns = [weight.requires_grad for weight in networks.parameters()]

    features = networks["classifier"]
    with torch.no_grad():  # as in an evaluation; the inversion needs its own gradients all the same
        inversion = shift_latents(images, **pair, features=features, steps=2)
    shift_latents(images, **pair, features=lambda x: features(x), steps=2)
    expansion = expand_latents(
        images,
        start=inversion.latents,
        generator=pair["generator"],
        random=stream(0),
        features=features,
        steps=2,
    )
    assert not expansion.reconstruct().requires_grad

    assert all(torch.equal(value, weights[name]) for name, value in networks.state_dict().items())
    assert all(weight.grad is None for weight in networks.parameters())
    assert [part.training for part in networks.modules()] == modes
    assert [weight.requires_grad for weight in networks.parameters()] == learns


def test_features_count():
    """With weight on the features of the left half alone, the left half is reconstructed better."""
    pictures, images = Pictures(late=torch.sigmoid), noise(6)
    encoder = Inverse(pictures, lambda x: x)
    settings = {"encoder": encoder, "generator": pictures, "steps": 60, "learning_rate": 0.1}
    left = shift_latents(
        images, **settings, features=lambda x: x[..., :2], pixel_weight=0.0, feature_weight=1.0
    )
    whole = shift_latents(images, **settings)

    def error(found):
        return mean_square((pictures(found.latents) - images)[..., :2]).mean().item()

    assert error(left) < 0.9 * error(whole)


# expansion


def two_code_images(pictures, count):
    """Images whose features are the mean of two latents' features, which no single latent has."""
    features = pictures.early(latents(count)) + pictures.early(latents(count, purpose=5))
    return pictures.late(features / 2).detach()


def test_codes_find_an_image_that_no_single_code_makes():
    pictures = Pictures(early=lambda x: torch.tanh(3 * x), late=torch.sigmoid)
    images = two_code_images(pictures, 12)
    encoder = Inverse(pictures, torch.logit)
    one = shift_latents(
        images, encoder=encoder, generator=pictures, encoder_weight=0.0, steps=200, learning_rate=0.03
    )
    settings = {"start": one.latents, "generator": pictures, "steps": 200, "learning_rate": 0.03}
    weighted = expand_latents(images, **settings, random=stream(0), codes=1)
    found = expand_latents(images, **settings, random=stream(0), codes=4)
    torch.testing.assert_close(found.start_loss, one.loss)
    assert (found.loss <= one.loss).all()
    assert found.loss.mean() < 0.2 * one.loss.mean()
    assert found.loss.mean() < 0.5 * weighted.loss.mean(), "further codes add nothing to importances"
    torch.testing.assert_close(mean_square(found.reconstruct() - images), found.loss)
    moved = found.codes[:, 1:] - one.latents[:, None]
    assert (moved.std(0) > 1e-3).all(), "the further codes stayed where all images have them"


def test_the_start_is_the_reconstruction_by_one_code():
    pair, images = sigmoid_pair(), noise(5)
    start = latents(5)
    still = expand_latents(
        images, start=start, generator=pair["generator"], random=stream(0), learning_rate=0.0
    )
    torch.testing.assert_close(still.reconstruct(), pair["generator"](start).detach(), atol=1e-12, rtol=0)
    assert torch.equal(still.codes[:, 0], start)
    assert still.codes.shape == (5, 4, LATENT)
    assert still.importances.shape == (5, 4, CHANNELS)


@pytest.mark.parametrize("learning_rate", [0.01, 1.0, 1e6])
def test_an_expansion_is_never_worse_than_one_code(learning_rate):
    pictures, images, start = Pictures(), noise(8), latents(8)
    found = expand_latents(
        images, start=start, generator=pictures, random=stream(0), steps=15, learning_rate=learning_rate
    )
    one = mean_square(pictures(start) - images).detach()
    torch.testing.assert_close(found.start_loss, one)
    assert (found.loss <= found.start_loss).all()
    torch.testing.assert_close(mean_square(found.reconstruct() - images), found.loss)
    assert found.left_out.tolist() == [learning_rate == 1e6] * 8


def test_an_expanded_batch_is_the_loop_and_a_seed_gives_the_same_bits():
    images, start, pictures = noise(4), latents(4), normalised_pair()["generator"]

    def expand(which, seed=0):
        return expand_latents(
            images[which],
            start=start[which],
            generator=pictures,
            random=stream(seed),
            steps=20,
            learning_rate=0.05,
        )

    together = expand(slice(None))
    assert same(together, expand(slice(None)))
    assert not same(together, expand(slice(None), seed=1))
    for i in range(4):
        alone = expand(slice(i, i + 1))
        torch.testing.assert_close(together.codes[i : i + 1], alone.codes, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.importances[i : i + 1], alone.importances, atol=1e-5, rtol=0)


def test_a_shift_moves_all_codes_and_keeps_the_importances():
    pictures, images, start = Pictures(torch.tanh, torch.sigmoid), noise(3), latents(3)
    found = expand_latents(
        images, start=start, generator=pictures, random=stream(0), codes=2, learning_rate=0.1, steps=10
    )
    direction = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)

    def by_hand(i, amplitude):
        moved = found.codes[i] + amplitude * direction
        features = sum(
            pictures.early(moved[n : n + 1]) * found.importances[i, n].reshape(1, -1, 1, 1) for n in (0, 1)
        )
        return pictures.late(features)[0].detach()

    for i, shown in enumerate(found.shifted(direction, 1.5)):
        torch.testing.assert_close(shown, by_hand(i, 1.5))
    amplitudes = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    shown = found.shifted(direction.expand(3, -1), amplitudes)
    for i, amplitude in enumerate(amplitudes.tolist()):
        torch.testing.assert_close(shown[i].detach(), by_hand(i, amplitude))
    shown.sum().backward()
    assert (amplitudes.grad != 0).all()
    assert pictures.weight.grad is None


# what is refused, and the decibels


def test_what_does_not_fit_the_generator_is_named_with_both_sizes():
    pair = sigmoid_pair()
    with pytest.raises(InputError, match=r"\[3, 4, 4\] .*but the generator's are \[1, 4, 4\]"):
        shift_latents(noise(2).expand(-1, 3, -1, -1), **pair)
    with pytest.raises(InputError, match=r"\[1, 4, 2\] .*but the generator's are \[1, 4, 4\]"):
        expand_latents(noise(2)[..., :2], start=latents(2), generator=pair["generator"], random=stream(0))
    small = nn.Sequential(nn.Flatten(), nn.Linear(16, 2).double())
    with pytest.raises(InputError, match=r"\[2, 2\] but the generator takes \[2, 3\]"):
        shift_latents(noise(2), encoder=small, generator=pair["generator"])
    with pytest.raises(InputError, match=r"\[5, 3\] but the generator takes \[2, 3\]"):
        expand_latents(noise(2), start=latents(5), generator=pair["generator"], random=stream(0))
    with pytest.raises(InputError, match=r"uint8 .*divide bytes by 255"):
        shift_latents((noise(2) * 255).byte(), **pair)


def test_no_step_and_no_code_are_refused():
    pair = sigmoid_pair()
    expansion = {"start": latents(2), "generator": pair["generator"], "random": stream(0)}
    with pytest.raises(ParameterError, match="steps is 0 but must be 1 or more"):
        shift_latents(noise(2), **pair, steps=0)
    with pytest.raises(ParameterError, match="steps is 0 but must be 1 or more"):
        expand_latents(noise(2), **expansion, steps=0)
    with pytest.raises(ParameterError, match="codes is 0 but must be 1 or more"):
        expand_latents(noise(2), **expansion, codes=0)


def test_decibels():
    torch.testing.assert_close(psnr(torch.tensor([1.0, 0.1, 0.01])), torch.tensor([0.0, 10.0, 20.0]))
    assert psnr(torch.tensor(0.0)) == math.inf
