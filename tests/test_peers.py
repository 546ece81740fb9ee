"""pytorch-ood's scores: each against its equation, its direction, and what is refused."""

import pytest
import torch
from torch import nn

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.detection import auroc
from nuisance.ood.peers import PytorchOOD, energy, gradnorm, mahalanobis, nearest_neighbours, react
from nuisance.ood.score import score_all


class Net(nn.Module):
    """Three classes, eight features."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU()
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


def around_centres(n, generator):
    labels = torch.arange(n) % 3
    return 3 * torch.eye(3, 4)[labels] + 0.5 * torch.randn(n, 4, generator=generator), labels


@pytest.fixture(scope="module")
def fitted():
    """A trained network with its training set, test inliers, and outliers between the classes."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x, y = around_centres(300, generator)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    inliers, _ = around_centres(100, generator)
    outliers = 1 + 0.3 * torch.randn(100, 4, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    return net.eval(), x, y, inliers, outliers


def test_energy_is_the_equation(fitted):
    net, _, _, inliers, _ = fitted
    logits = net(inliers).double()
    for temperature in (1.0, 5.0):
        found = energy(net, temperature=temperature).scores(inliers)
        equation = -temperature * (logits / temperature).exp().sum(1).log()
        torch.testing.assert_close(found, equation.detach().float())
        assert not found.requires_grad


def test_mahalanobis_is_the_equation(fitted):
    net, x, y, inliers, outliers = fitted
    z, tests = net.body(x).double().detach(), net.body(torch.cat([inliers, outliers])).double().detach()
    scatter = 1e-6 * torch.eye(8, dtype=torch.float64)
    centres = [z[y == k].mean(0) for k in range(3)]
    for feature, label in zip(z, y, strict=True):
        centred = feature - centres[label]
        scatter += centred.outer(centred)
    steps = torch.stack([tests - centre for centre in centres])
    distances = (steps @ scatter.inverse() * steps).sum(2) / 2
    found = score_all(mahalanobis(net, net.body, x, y, batch_size=70), [inliers, outliers])
    torch.testing.assert_close(found.double(), distances.amin(0), rtol=1e-3, atol=1e-6)


def test_nearest_neighbours_is_the_equation(fitted):
    net, x, y, inliers, outliers = fitted
    tests = torch.cat([inliers, outliers])
    z, near = (nn.functional.normalize(net.body(part).double().detach()) for part in (x, tests))
    distances = (near[:, None] - z).norm(dim=2).sort(1).values
    for k in (1, 50):
        score = nearest_neighbours(net, net.body, x, y, k=k, batch_size=70)
        torch.testing.assert_close(score.scores(tests).double(), distances[:, k - 1], rtol=1e-4, atol=1e-5)


def test_react_is_the_equation(fitted):
    net, x, y, inliers, _ = fitted
    flat = net.body(x).detach().flatten().sort().values.double()
    at = 0.8 * (len(flat) - 1)  # linear between the two nearest
    c = flat[int(at)] + (at - int(at)) * (flat[int(at) + 1] - flat[int(at)])
    clipped = net.body(inliers).clamp(max=c.item())
    assert (clipped < net.body(inliers)).any()
    equation = -net.head(clipped).logsumexp(1).detach()
    found = react(net, net.body, net.head, x, y, percentile=0.8, batch_size=70).scores(inliers)
    torch.testing.assert_close(found, equation)


def test_gradnorm_is_the_equation_and_its_sign_is_turned(fitted):
    net, _, _, inliers, _ = fitted
    features = net.body(inliers)
    off_uniform = (net.head(features).softmax(1) - 1 / 3).abs().sum(1)
    equation = -(off_uniform * features.abs().sum(1)).detach()
    found = gradnorm(net, weight="head.weight", batch_size=30).scores(inliers)
    torch.testing.assert_close(found, equation)
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_all_are_larger_between_the_classes(fitted):
    net, x, y, inliers, outliers = fitted
    train = (x, y)
    scores = {
        "energy": energy(net),
        "mahalanobis": mahalanobis(net, net.body, *train),
        "nearest neighbours": nearest_neighbours(net, net.body, *train),
        "react": react(net, net.body, net.head, *train),
        "gradnorm": gradnorm(net, weight="head.weight"),
    }
    for name, score in scores.items():
        assert isinstance(score, PytorchOOD)
        found = score.scores(torch.cat([inliers, outliers]))
        assert found.shape == (200,), name
        assert auroc(found[:100], found[100:]) > 0.9, name
        # an image's score does not hang on the others of its batch
        torch.testing.assert_close(score_all(score, inliers.split(1)), found[:100], rtol=1e-3, atol=1e-5)


def test_a_plain_function_gives_features_too(fitted):
    net, x, y, inliers, _ = fitted
    doubled = nearest_neighbours(net, lambda x: 2 * net.body(x), x, y, k=3).scores(inliers)
    torch.testing.assert_close(doubled, nearest_neighbours(net, net.body, x, y, k=3).scores(inliers))


def test_double_precision_is_taken(fitted):
    net, x, y, inliers, _ = fitted
    single = mahalanobis(net, net.body, x, y).scores(inliers)
    double = Net().double().eval()
    double.load_state_dict(net.state_dict())
    found = mahalanobis(double, double.body, x.double(), y).scores(inliers.double())
    torch.testing.assert_close(found, single, rtol=1e-3, atol=1e-6)


def test_a_network_in_train_mode_is_refused(fitted):
    net, x, y, _, _ = fitted
    trained = Net()
    for build in (
        lambda: energy(trained),
        lambda: gradnorm(trained, weight="head.weight"),
        lambda: mahalanobis(trained, lambda x: trained.body(x), x, y),
        lambda: nearest_neighbours(net, Net().body, x, y),  # features from a module of its own
        lambda: react(trained, trained.body, trained.head, x, y),
    ):
        with pytest.raises(ParameterError, match="train mode"):
            build()


def test_impossible_parameters_are_refused(fitted):
    net, x, y, _, _ = fitted
    with pytest.raises(ParameterError, match="temperature is 0 but must be above 0"):
        energy(net, temperature=0)
    with pytest.raises(ParameterError, match="k is 301 but must be between 1 and the 300 training images"):
        nearest_neighbours(net, net.body, x, y, k=301)
    with pytest.raises(ParameterError, match="percentile is 90"):
        react(net, net.body, net.head, x, y, percentile=90)
    with pytest.raises(ParameterError, match=r"no weight 'heads.weight'; the nearest are head\.weight"):
        gradnorm(net, weight="heads.weight")


def test_a_head_of_another_network_is_refused(fitted):
    net, x, y, _, _ = fitted
    with pytest.raises(InputError, match="is not the network's output"):
        react(net, net.body, Net().head, x, y)


def test_unusable_training_sets_are_refused(fitted):
    net, x, y, _, _ = fitted
    with pytest.raises(InputError, match="for each of the 300 training images"):
        nearest_neighbours(net, net.body, x, y[:-1])
    with pytest.raises(InputError, match="a class, 0 or greater"):
        mahalanobis(net, net.body, x, y - 1)
    with pytest.raises(InputError, match="No training image has the label 1"):
        mahalanobis(net, net.body, x, 2 * y)
    with pytest.raises(InputError, match=r"must return \[300, d\] but returned \[300, 8, 1\]"):
        nearest_neighbours(net, lambda x: net.body(x)[:, :, None], x, y)
    with pytest.raises(InputError, match="not finite"):
        react(net, net.body, net.head, x / 0, y)
    with pytest.raises(InputError, match="the shape"):
        mahalanobis(net, net.body, x[:, :3], y)


def test_features_that_float32_cannot_invert_are_refused(fitted):
    net, x, y, _, _ = fitted
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(4, 512), nn.ReLU(), nn.Linear(512, 400)).eval()
    with pytest.raises(InputError, match="The 400 features of 300 training images depend on each other"):
        mahalanobis(net, wide, 10 * x, y)
