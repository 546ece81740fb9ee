"""Model patching: the translator's losses and what it moves, the consistency term, and the classifier's loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.files import Checkpoint
from nuisance.methods.group_dro import GroupDRO
from nuisance.methods.model_patching import ModelPatching, consistency
from nuisance.methods.subgroup_translation import (
    SubgroupTranslator,
    generator_losses,
    translation_report,
)
from nuisance.models.cyclegan import Generator, PatchDiscriminator
from nuisance.seeding import deterministic, generator
from nuisance.training import fit


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def random_images(n=16, side=8):
    stream = generator(0)
    pixels, translated = torch.randint(256, (2, n, 3, side, side), generator=stream, dtype=torch.uint8)
    labels, attribute = torch.arange(n) // 2 % 2, torch.arange(n) % 2
    return Images(pixels, labels, {"attribute": attribute, "translated": translated})


def make_translator(**changed):
    torch.manual_seed(0)
    return SubgroupTranslator(**{"width": 4, "blocks": 1, "learning_rate": 1e-3, **changed})


def make(method=ModelPatching, **changed):
    torch.manual_seed(0)
    counts = torch.tensor([1750, 92, 28, 530])
    settings = {
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "group_counts": counts,
        "dro_step": 0.5,
        **changed,
    }
    if method is ModelPatching:
        settings.setdefault("consistency_weight", 2.0)
    return method(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh()), dimensions=5, **settings)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# the generator


def test_a_closed_mask_keeps_the_image_and_an_open_one_draws_it_anew():
    torch.manual_seed(0)
    net, x = Generator(width=4), torch.rand(2, 3, 8, 12) * 2 - 1
    nn.init.zeros_(net.draw.weight)
    with torch.no_grad():
        net.draw.bias.copy_(torch.tensor([0.0, 0.5, 9.0, -math.inf]))
        assert torch.equal(net(x), x)
        net.draw.bias[3] = math.inf
        assert net(x)[1, :, 2, 3].tolist() == pytest.approx([0, math.tanh(0.5), 1], abs=1e-6)
        net.draw.bias[3] = math.log(3)  # three quarters open
        assert torch.allclose(net(x)[:, 0], x[:, 0] / 4)


def test_a_generator_refuses_sides_that_it_cannot_halve_twice():
    with pytest.raises(InputError, match=r"30 x 32 but the sides must be multiples of 4; crop or resize"):
        Generator(width=4)(torch.zeros(1, 3, 30, 32))


def test_a_discriminator_sees_patches_of_26_pixels():
    torch.manual_seed(0)
    net = PatchDiscriminator(width=2)
    net.judge[3] = nn.Identity()  # instance norm looks at the whole image
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    logits = net(x)
    assert logits.shape == (1, 1, 16, 16)
    logits[0, 0, 8, 8].backward()
    seen = x.grad[0].abs().sum(0)
    assert (seen.any(0).sum(), seen.any(1).sum()) == (26, 26)


# the translator


def test_the_identity_costs_no_cycle_and_no_identity():
    x = torch.rand(2, 3, 8, 8)
    moved, cycle, identity = generator_losses(x, lambda x: x, lambda x: x)
    assert torch.equal(moved, x)
    assert cycle == identity == 0


def test_cycle_and_identity_losses_by_hand():
    x = torch.tensor([0.5, -0.25]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    moved, cycle, identity = generator_losses(x, lambda x: x + 1, lambda x: x / 2)
    assert torch.equal(moved, x + 1)
    assert cycle == pytest.approx((0.25 + 0.625) / 2)  # 1.5 / 2 - 0.5 and 0.75 / 2 + 0.25
    assert identity == pytest.approx((0.25 + 0.125) / 2)


def test_an_update_follows_the_gradients_of_the_losses_written_out_in_full():
    """On the first batch, which is not mirrored. Both players answer to what the other was before the step."""
    method, reference = make_translator(), make_translator()
    images = random_images()
    watched = method.update(images)
    land, water = (images.pixels[k::2].float() / 127.5 - 1 for k in (0, 1))
    (to_land, to_water), (is_land, is_water) = reference.to_place, reference.of_place
    real, fake = torch.ones(8, 1, 2, 2), torch.zeros(8, 1, 2, 2)
    entropy = F.binary_cross_entropy_with_logits
    on_water, on_land = to_water(land), to_land(water)
    adversarial = entropy(is_water(on_water), real) + entropy(is_land(on_land), real)
    cycle = (to_land(on_water) - land).abs().mean() + (to_water(on_land) - water).abs().mean()
    identity = (to_land(land) - land).abs().mean() + (to_water(water) - water).abs().mean()
    judged = entropy(is_land(land), real) + entropy(is_water(water), real)
    judged = judged + entropy(is_land(on_land.detach()), fake) + entropy(is_water(on_water.detach()), fake)
    (adversarial + 10 * cycle + identity / 2).backward(inputs=list(reference.to_place.parameters()))
    (judged / 2).backward(inputs=list(reference.of_place.parameters()))
    for (name, weight), before in zip(method.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(weight.grad, before.grad, rtol=1e-3, atol=1e-5), name
        moved = (
            weight - before
        )  # the first step of Adam is as long as the learning rate, against the gradient
        large = before.grad.abs() > 1e-3
        assert torch.allclose(moved[large], -1e-3 * before.grad[large].sign(), atol=1e-5), name
    expected = {"adversarial_loss": adversarial / 2, "cycle_loss": cycle / 2}
    expected |= {"identity_loss": identity / 2, "discriminator_loss": judged / 4}
    assert watched.keys() == expected.keys()
    for name, value in expected.items():
        assert watched[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_every_second_batch_is_mirrored():
    images = random_images()
    mirrored = Images(images.pixels.flip(3), images.labels, images.attributes)
    first, second = make_translator(), make_translator()
    second.steps_done = 1
    first.update(images)
    second.update(mirrored)
    assert_same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("absent", [0, 1])
def test_a_batch_without_one_place_is_refused(absent):
    images = random_images()
    with pytest.raises(InputError, match=f"no image of place {absent}; draw both places equally often"):
        make_translator().update(images[images.attributes["attribute"] != absent])


def test_translations_are_bytes_in_their_order_each_by_the_generator_of_the_other_place(monkeypatch):
    monkeypatch.setattr("nuisance.methods.subgroup_translation.PIECE", 3)
    images, method = random_images(), make_translator()
    place = torch.tensor([0, 1, 1, 0] * 4)
    moved = method.translate(images.pixels, place)
    assert moved.dtype == torch.uint8
    for i in range(16):
        with torch.no_grad():
            x = method.to_place[1 - place[i]](images.pixels[i : i + 1].float() / 127.5 - 1)
        assert ((x[0] + 1) * 127.5 - moved[i]).abs().max() < 0.501
    assert torch.equal(
        method.translate(images.pixels[:2], torch.ones(2).long())[1], moved[1]
    )  # one place only


class Shifted(SubgroupTranslator):
    """Adds 51, a fifth of the scale, to what is on land; makes black what is on water."""

    def translate(self, pixels, attribute):
        return torch.where(attribute.view(-1, 1, 1, 1) == 0, pixels + 51, torch.zeros_like(pixels))


def test_a_report_by_hand():
    pixels = torch.full((4, 3, 4, 4), 102, dtype=torch.uint8)
    images = Images(pixels, torch.zeros(4).long(), {"attribute": torch.tensor([0, 0, 0, 1])})
    report = translation_report(Shifted(width=2), images, lambda pixels: (pixels[:, 0, 0, 0] > 0).long())
    # land: 102 -> 153, taken for water -> 0; water: 102 -> 0, taken for land -> 51
    assert report == pytest.approx({"moved": 1, "changed": 0.25, "cycle": (3 * 0.4 + 0.2) / 4})
    nowhere = translation_report(Shifted(width=2), images, lambda pixels: torch.zeros(4).long())
    assert nowhere["moved"] == 0.25


def test_a_translator_learns_to_move_an_easy_place():
    """Dark land and bright water under a square of any grey: the ground is moved, the square is kept better."""
    stream = generator(0)
    place = torch.arange(64) % 2
    pixels = (
        40 + 160 * place.view(-1, 1, 1, 1) + torch.randint(16, (64, 3, 16, 16), generator=stream)
    ).byte()
    pixels[:, :, 5:11, 5:11] = torch.randint(256, (64, 1, 1, 1), generator=stream, dtype=torch.uint8)
    images = Images(pixels, torch.zeros(64).long(), {"attribute": place})
    method = make_translator(width=8, learning_rate=3e-3, cycle_weight=3.0)
    fit(method, images, epochs=20, batch_size=16, generator=stream)
    report = translation_report(
        method, images, lambda pixels: (pixels[:, 0, 0] > 120).float().mean(1).round()
    )
    assert report["moved"] > 0.9
    change = (method.translate(pixels, place).float() - pixels.float()).abs()
    assert change[:, :, 6:10, 6:10].mean() < change[:, :, 0].mean() / 2


# consistency


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_equal_predictions_are_consistent():
    p = logs([0.2, 0.8], [0.5, 0.5])
    assert consistency(p, p, p).item() == pytest.approx(0, abs=1e-12)


def test_consistency_by_hand():
    # m = (3/4, 1/4): KL(p0||m) = log 4/3, KL(p1||m) = log 4/3, KL(p2||m) = log(2/3) / 2 + log(2) / 2
    certain = F.log_softmax(torch.tensor([[1_000.0, 0.0]], dtype=torch.float64), 1)
    even = logs([0.5, 0.5])
    p2 = math.log(4 / 3) / 2
    assert consistency(certain, certain, even).item() == pytest.approx(3 / 4 * math.log(4 / 3) + p2 / 4)
    # the image is not part of m: m is even, and a certain image costs log(2) / 2, not its Jensen-Shannon divergence
    assert consistency(certain, even, even).item() == pytest.approx(math.log(2) / 2)
    assert consistency(even, certain, even).item() == pytest.approx(p2 / 2 + math.log(4 / 3) / 4 + p2 / 4)
    both = consistency(torch.cat([certain, even]), torch.cat([even, even]), torch.cat([even, even]))
    assert both.item() == pytest.approx(math.log(2) / 4)  # the mean over the batch


def test_consistency_and_its_gradient_are_finite_where_logits_are_saturated():
    logits = torch.tensor([[500.0, -500.0], [-500.0, 500.0], [0.0, 0.0]], requires_grad=True)
    p = F.log_softmax(logits, 1)
    for order in ((0, 1, 1), (0, 0, 1), (0, 1, 0), (2, 0, 1), (0, 2, 2)):
        logits.grad = None
        loss = consistency(*(p[i : i + 1] for i in order))
        loss.backward(retain_graph=True)
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


# the classifier


def test_two_steps_of_the_loss_against_a_plain_loop():
    method, images = make(adjustment=2.0), random_images()
    margin = [2 / math.sqrt(n) for n in (1750, 92, 28, 530)]
    q = [0.5, 0.5, 0.5, 0.5]  # within the classes
    for _ in range(2):
        with torch.no_grad():
            log_p, log_t = (
                F.log_softmax(method.predict(pixels), 1)
                for pixels in (images.pixels, images.attributes["translated"])
            )
        groups = (2 * images.labels + images.attributes["attribute"]).tolist()
        means = [0.0] * 4
        for i, group in enumerate(groups):
            means[group] -= log_p[i, images.labels[i]].item() / 4  # four images a group
        q = [w * math.exp(0.5 * (mean + add)) for w, mean, add in zip(q, means, margin, strict=True)]
        q = [q[g] / (q[g] + q[g ^ 1]) for g in range(4)]
        dro = sum(w * mean for w, mean in zip(q, means, strict=True)) / 2
        of_groups = [
            consistency(*(part[[k == g for k in groups]] for part in (log_p, log_p, log_t))) for g in range(4)
        ]
        both = Images(
            torch.cat([images.pixels, images.attributes["translated"]]),
            images.labels.repeat(2),
            {"attribute": images.attributes["attribute"].repeat(2)},
        )
        z = method.embedding(both.pixels)
        loss, watched = method.loss(z, method.head(z), both)
        assert loss.item() == pytest.approx(dro + 2 * sum(of_groups).item(), rel=1e-5)
        assert watched["dro_loss"].item() == pytest.approx(dro, rel=1e-5)
        assert method.q.tolist() == pytest.approx([w / 2 for w in q], rel=1e-5)


def test_without_consistency_translations_teach_nothing():
    images = random_images()
    negative = images.with_attributes(translated=255 - images.pixels)
    trained = []
    for batch in (images, negative):
        method = make(consistency_weight=0.0)
        watched = method.update(batch)
        trained.append((method.state_dict(), watched["consistency_loss"]))
    for name, value in trained[0][0].items():
        assert torch.allclose(value, trained[1][0][name], atol=1e-6), name
    assert trained[0][1] != trained[1][1]
    # and with one step of even weights it is group DRO, whose four weights are even, too
    plain = make(GroupDRO, dro_step=0.0)
    plain.update(images)
    patched = make(consistency_weight=0.0, dro_step=0.0)
    patched.update(images)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, patched.state_dict()[name], atol=1e-6), name


def test_consistency_brings_an_image_and_its_translation_together():
    images, watched = random_images(), {}
    for weight in (0.0, 10.0):
        method = make(consistency_weight=weight)
        for _ in range(60):
            watched[weight] = method.update(images)["consistency_loss"].item()
    assert watched[10.0] < watched[0.0] / 10


@pytest.mark.parametrize("wrong", [None, torch.float32, "smaller"])
def test_translations_that_are_missing_or_unlike_the_images_are_refused(wrong):
    images = random_images()
    translated = images.attributes["translated"]
    if wrong is None:
        images = Images(images.pixels, images.labels, {"attribute": images.attributes["attribute"]})
    elif wrong == "smaller":
        images = images.with_attributes(translated=translated[..., 1:])
    else:
        images = images.with_attributes(translated=translated.to(wrong))
    with pytest.raises(InputError, match=r"no attribute 'translated' of their shape and type; add it"):
        make().update(images)


def test_a_negative_consistency_weight_is_refused():
    with pytest.raises(ParameterError, match="consistency_weight is -1 but must be 0 or more"):
        make(consistency_weight=-1.0)


@pytest.mark.parametrize("maker", [make_translator, make])
def test_training_goes_on_as_if_it_had_never_stopped(maker, tmp_path):
    images = random_images()

    def trained(epochs, path):
        method, checkpoint = maker(), Checkpoint(path, every_seconds=0)
        history = fit(
            method, images, epochs=epochs, batch_size=16, generator=generator(1), checkpoint=checkpoint
        )
        return method.state_dict(), history

    whole, history = trained(3, tmp_path / "whole")
    trained(1, tmp_path / "stopped")  # after an odd number of steps, so that mirroring shows too
    again, history_again = trained(3, tmp_path / "stopped")
    assert_same(whole, again)
    assert history == history_again
