"""eKLD against closed forms and a slow loop."""

import math

import pytest
import torch
from scipy import stats

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.expected_kl import expected_kl
from nuisance.seeding import generator


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def binary_kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def two_logits(pixels):
    """Logits 0 and v / 10 of an image whose only pixel is v."""
    value = pixels.flatten(1).float()[:, :1] / 10
    return torch.cat([torch.zeros_like(value), value], 1)


def pixels_of(values):
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None]


def add(amount):
    return lambda pixels, *, generator: pixels + amount


def randomly(pixels, *, generator):
    return pixels + torch.randint(0, 50, (len(pixels), 1, 1, 1), generator=generator, dtype=torch.uint8)


def measure(values, labels, transform, predict=two_logits, **settings):
    settings = {"draws": 3, "generator": generator(0), **settings}
    return expected_kl(
        predict, pixels_of(values), torch.tensor(labels, dtype=torch.int64), transform, **settings
    )


def test_closed_form_of_a_known_shift():
    # class 0: logits 1 and 2; class 1: logits 0, 3 and 3; the transform adds 0.5
    found = measure([10, 20, 0, 30, 30], [0, 0, 1, 1, 1], add(5))
    zero = [binary_kl(sigmoid(x), sigmoid(x + 0.5)) for x in (1, 2)]
    one = [binary_kl(sigmoid(x), sigmoid(x + 0.5)) for x in (0, 3, 3)]
    assert found.kl.tolist() == pytest.approx([sum(zero) / 2, sum(one) / 3], rel=1e-6)
    assert found.images.tolist() == [2, 3]
    # at logits 0 and 0 the first class is predicted, and after the shift the second
    assert found.agreement.tolist() == pytest.approx([1, 2 / 3])
    assert found.accuracy.tolist() == [0, 1]
    assert found.confidence.tolist() == pytest.approx(
        [(sigmoid(1.5) + sigmoid(2.5)) / 2, (sigmoid(0.5) + 2 * sigmoid(3.5)) / 3]
    )
    for label, of in enumerate((zero, one)):  # Student over images
        low, high = stats.t.interval(0.95, len(of) - 1, loc=sum(of) / len(of), scale=stats.sem(of))
        assert (found.low[label].item(), found.high[label].item()) == pytest.approx((low, high), rel=1e-5)


def test_the_original_comes_first():
    found = measure([0, 30], [0, 1], add(10))
    assert found.kl.tolist() == pytest.approx(
        [binary_kl(0.5, sigmoid(1)), binary_kl(sigmoid(3), sigmoid(4))], rel=1e-6
    )
    assert found.kl[0].item() != pytest.approx(binary_kl(sigmoid(1), 0.5), rel=0.01)
    assert found.low.tolist() == [-math.inf] * 2  # one image tells nothing of others
    assert found.high.tolist() == [math.inf] * 2


def test_an_invariant_classifier_has_none_unless_images_are_mixed_up():
    def invariant(pixels):  # sees the tens alone, which the transform leaves
        return two_logits(pixels // 10 * 10)

    def within_tens(pixels, *, generator):
        return pixels + torch.randint(0, 10, (len(pixels), 1, 1, 1), generator=generator, dtype=torch.uint8)

    values, labels = [0, 10, 20, 30, 40, 50], [0, 0, 0, 1, 1, 1]
    same = measure(values, labels, within_tens, invariant, draws=20)
    assert same.kl.tolist() == [0, 0]
    assert same.agreement.tolist() == [1, 1]
    released = measure(values, labels, within_tens, invariant, draws=20, pairing="released")
    assert (released.kl > 1e-3).all()
    # both see the same transforms of the same images
    for name in ("accuracy", "confidence", "images"):
        assert torch.equal(getattr(released, name), getattr(same, name))
    alone = measure([0, 30], [0, 1], within_tens, invariant, pairing="released")
    assert alone.kl.tolist() == [0, 0]  # one image has no other to be mixed up with


def test_the_released_pairing_stays_within_the_class():
    # in a class all images are alike, between classes they are not
    found = measure([0] * 4 + [90] * 4, [0] * 4 + [1] * 4, add(0), pairing="released")
    assert found.kl.tolist() == [0, 0]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_give_what_a_loop_over_images_gives(batch_size):
    weights = torch.randn(4, 3, generator=generator(1))

    def predict(pixels):
        return pixels.flatten(1).float() @ weights / 100

    def shift(pixels, *, generator):  # depends on the image alone, so that the order does not matter
        return pixels.roll(1, -1) + 3

    pixels = torch.randint(200, (30, 1, 2, 2), generator=generator(2), dtype=torch.uint8)
    labels = torch.arange(30) % 3
    found = expected_kl(
        predict, pixels, labels, shift, draws=2, per_class=40, generator=generator(0), batch_size=batch_size
    )
    for label in range(3):
        sums = torch.zeros(4, dtype=torch.float64)
        for i in range(30):
            if labels[i] == label:
                p = predict(pixels[i : i + 1]).double().softmax(1)[0]
                q = predict(shift(pixels[i : i + 1], generator=None)).double().softmax(1)[0]
                kl = sum(p[k] * math.log(p[k] / q[k]) for k in range(3))
                sums += torch.stack([kl, p.argmax() == q.argmax(), q.argmax() == label, q.max()])
        ours = [getattr(found, name)[label] for name in ("kl", "agreement", "accuracy", "confidence")]
        assert torch.stack(ours).tolist() == pytest.approx((sums / 10).tolist(), rel=1e-5)


def test_every_draw_is_another_and_all_count():
    few = measure([0, 50], [0, 1], randomly, draws=1)
    many = measure([0, 50], [0, 1], randomly, draws=4000)
    for label, x in enumerate((0, 5)):
        mean = sum(binary_kl(sigmoid(x), sigmoid(x + shift / 10)) for shift in range(50)) / 50
        assert many.kl[label].item() == pytest.approx(mean, rel=0.05)
        assert few.kl[label].item() != pytest.approx(many.kl[label].item(), rel=0.01)
    again = measure([0, 50], [0, 1], randomly, draws=4000)
    assert torch.equal(many.kl, again.kl)


def test_images_are_drawn_of_large_classes_and_all_taken_of_small_ones():
    seen = []

    def note(pixels, *, generator):
        seen.extend(pixels.flatten().tolist())
        return pixels

    values, labels = [*range(100), 200, 201], [0] * 100 + [1] * 2
    found = measure(values, labels, note, per_class=5, draws=2)
    assert found.images.tolist() == [5, 2]
    assert len(seen) == 14
    large = {value for value in seen if value < 100}
    assert len(large) == 5  # without replacement
    assert large != set(range(5))  # at random
    assert sorted(value for value in seen if value >= 200) == [200, 200, 201, 201]
    seen.clear()
    measure(values, labels, note, per_class=5, generator=generator(1))
    assert {value for value in seen if value < 100} != large


def test_certain_predictions_do_not_overflow():
    found = measure([0, 255], [0, 1], add(0), lambda pixels: two_logits(pixels) * 1e4)
    assert found.kl.tolist() == [0, 0]
    sure = measure([1, 255], [0, 1], add(1), lambda pixels: two_logits(pixels) * 1e4)
    assert sure.kl.isfinite().all()


def test_what_cannot_be_measured():
    with pytest.raises(InputError, match=r"\[2, 0\] images but each of the classifier's 2"):
        measure([1, 2], [0, 0], add(1))
    with pytest.raises(InputError, match="there can be no others"):
        measure([1, 2, 3], [0, 1, 2], add(1))
    with pytest.raises(InputError, match="give images of all classes"):
        measure([], [], add(1), predict=two_logits)
    with pytest.raises(InputError, match="keeps shape and type"):
        measure([1, 2], [0, 1], lambda pixels, *, generator: pixels.float())
    for name in ("per_class", "draws", "batch_size"):
        with pytest.raises(ParameterError, match=f"{name} is 0"):
            measure([1, 2], [0, 1], add(1), **{name: 0})
    with pytest.raises(ParameterError, match="must be one of same, released"):
        measure([1, 2], [0, 1], add(1), pairing="other")
