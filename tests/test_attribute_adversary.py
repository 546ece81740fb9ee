"""The attribute adversary: each player's gradient against autograd, part by part, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nuisance.data.images import Images
from nuisance.files import Checkpoint
from nuisance.methods.attribute_adversary import AttributeAdversary
from nuisance.methods.embedding import EmbeddingClassifier
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import deterministic, generator
from nuisance.training import fit

SETTINGS = {"dimensions": 8, "learning_rate": 0.01, "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


@pytest.fixture
def data():
    stream = generator(0)
    labels, attribute = torch.randint(2, (2, 24), generator=stream)
    pixels = torch.randint(256, (24, 3, 8, 8), generator=stream, dtype=torch.uint8)
    return Images(pixels, labels, {"attribute": attribute})


def embed():
    torch.manual_seed(0)
    network = SmallCNN(classes=2, in_channels=3, width=2)
    network.fc = nn.Identity()
    return network


def make(**changed):
    return AttributeAdversary(embed(), **{**SETTINGS, "strength": 0.7, "hidden": 6, **changed})


def gradients(method, data):
    """What a step hands to the optimiser, by name."""
    method = copy.deepcopy(method).double()
    z = method.embedding(data.pixels)
    loss, _ = method.loss(z, method.head(z), data)
    loss.backward()
    return {name: weight.grad for name, weight in method.named_parameters()}


def parts(method, data):
    """Gradients of the two losses, without a reversal layer, D's heads written out."""
    method = copy.deepcopy(method).double()
    labels, attribute = data.labels, data.attributes["attribute"]
    z = method.embedding(data.pixels)
    logits = method.adversary(z)
    if method.conditional:
        logits = torch.stack([row[2 * y : 2 * y + 2] for row, y in zip(logits, labels.tolist(), strict=True)])
    weights = dict(method.named_parameters())
    found = []
    for loss in (F.cross_entropy(method.head(z), labels), F.cross_entropy(logits, attribute)):
        got = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, materialize_grads=True)
        found.append(dict(zip(weights, got, strict=True)))
    return found


@pytest.mark.parametrize("hidden", [None, 6])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_every_player_has_the_gradient_of_the_functional(data, strength, conditional, hidden):
    method = make(strength=strength, conditional=conditional, hidden=hidden)
    of_class, of_attribute = parts(method, data)
    found = gradients(method, data)
    assert {name.split(".")[0] for name in found} == {"embed", "head", "adversary"}
    for name, gradient in found.items():
        expected = {
            "embed": of_class[name] - strength * of_attribute[name],
            "head": of_class[name],
            "adversary": of_attribute[name],
        }[name.split(".")[0]]
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-13)
        assert gradient.abs().max() > 1e-6


def test_only_the_true_classs_head_is_asked_and_trained(data):
    method = make(conditional=True, hidden=None)
    zeros = data[data.labels == 0]
    gradient = gradients(method, zeros)["adversary.weight"]
    assert gradient[:2].abs().min() > 0
    assert torch.equal(gradient[2:], torch.zeros_like(gradient[2:]))
    with torch.no_grad():
        method.adversary.weight.zero_()
        method.adversary.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    logits = method.attribute_logits(torch.zeros(3, 8), torch.tensor([1, 0, 1]))
    assert logits.tolist() == [[3, 4], [1, 2], [3, 4]]


def test_more_attributes_than_classes(data):
    method = make(conditional=True, hidden=None, attributes=3, classes=2)
    with torch.no_grad():
        method.adversary.weight.zero_()
        method.adversary.bias.copy_(torch.arange(6.0))
    assert method.attribute_logits(torch.zeros(2, 8), torch.tensor([1, 0])).tolist() == [[3, 4, 5], [0, 1, 2]]


def test_without_strength_it_is_erm_bit_for_bit(data):
    method, erm = make(strength=0.0), EmbeddingClassifier(embed(), **SETTINGS)
    for name, gradient in gradients(erm, data).items():
        assert torch.equal(gradients(method, data)[name], gradient)
    before = copy.deepcopy(method.adversary.state_dict())
    for start in (0, 12):
        method.update(data[start : start + 12])
        erm.update(data[start : start + 12])
    for name, weight in erm.state_dict().items():
        assert torch.equal(method.state_dict()[name], weight)
    assert not torch.equal(method.adversary.state_dict()["0.weight"], before["0.weight"])  # D learns


def test_bytes_are_scaled_to_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert EmbeddingClassifier(embed(), **SETTINGS).scale(pixels).flatten().tolist() == pytest.approx(
        [0, 0.2, 1]
    )


def test_a_step_of_erm_against_plain_adam(data):
    method = EmbeddingClassifier(embed(), **SETTINGS)
    plain = copy.deepcopy(method)
    optimizer = torch.optim.Adam(plain.parameters(), 0.01, weight_decay=0.1)
    for start in (0, 12):
        batch = data[start : start + 12]
        watched = method.update(batch)
        loss = F.cross_entropy(plain.head(plain.embed(batch.pixels.float() / 255)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert watched["class_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert method.steps_done == 2
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_adversary_is_decayed_like_the_others(data):
    """Coupled L2: the decay joins the gradient before Adam scales it."""
    method = make()
    plain = copy.deepcopy(method)
    method.update(data)
    optimizer = torch.optim.Adam(plain.parameters(), 0.01, weight_decay=0.1)
    z = plain.embedding(data.pixels)
    plain.loss(z, plain.head(z), data)[0].backward()
    optimizer.step()
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_adversary_may_move_ahead_of_the_game(data):
    """Two steps of D at twice the rate on frozen embeddings, then the game's: by a plain loop of two optimisers."""
    method = make(ahead=2, rate=2.0)
    plain = copy.deepcopy(method)
    players = [*plain.embed.parameters(), *plain.head.parameters()]
    others = torch.optim.Adam(players, 0.01, weight_decay=0.1)
    adversary = torch.optim.Adam(plain.adversary.parameters(), 0.02, weight_decay=0.1)
    attribute = data.attributes["attribute"]
    method.update(data)
    frozen = plain.embedding(data.pixels).detach()
    for _ in range(2):
        adversary.zero_grad()
        F.cross_entropy(plain.adversary(frozen), attribute).backward()
        adversary.step()
    adversary.zero_grad()
    z = plain.embedding(data.pixels)
    plain.loss(z, plain.head(z), data)[0].backward()
    others.step()
    adversary.step()
    assert method.steps_done == 1
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_what_is_watched(data):
    method = make().eval()
    z = method.embedding(data.pixels)
    _, watched = method.loss(z, method.head(z), data)
    attribute = data.attributes["attribute"]
    guesses = method.adversary(z)
    right = [int(guess[1] > guess[0]) == a for guess, a in zip(guesses, attribute.tolist(), strict=True)]
    assert watched["attribute_accuracy"].item() == pytest.approx(sum(right) / 24)
    assert watched["attribute_loss"].item() == pytest.approx(F.cross_entropy(guesses, attribute).item())
    expected = F.cross_entropy(method.predict(data.pixels), data.labels)
    assert watched["class_loss"].item() == pytest.approx(expected.item())


def test_an_interrupted_training_resumes_to_equal_weights(data, tmp_path):
    def train(epochs, path):
        method = make()
        checkpoint = Checkpoint(path, every_seconds=0)
        settings = {"epochs": epochs, "batch_size": 8, "generator": generator(5)}
        return fit(method, data, **settings, checkpoint=checkpoint), method.state_dict()

    train(1, tmp_path / "stopped")
    history, state = train(3, tmp_path / "stopped")
    whole, whole_state = train(3, tmp_path / "whole")
    assert history == whole
    for one, other in zip(state.values(), whole_state.values(), strict=True):
        assert torch.equal(one, other)
