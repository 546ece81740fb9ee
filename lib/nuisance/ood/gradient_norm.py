"""The gradient score: how hard an image pulls at all the weights of a network.

The score of an image is the L2 norm, over all weights theta, of the gradient of the log-probability of
the predicted class c, at a temperature T and at ODIN's perturbed input x_p:

    ``g(x) = || grad_theta log S_c(x_p; T) ||_2,   c = argmax_j h_j(x_p),   S(x; T) = softmax(h(x) / T)``.

Source: the thesis of chapter `sec-gradient-ood`, equations 3.3 and 3.4. As in its code the class is picked again at
the perturbed input, all parameters count (weights, biases, batch norm's affine ones), and nothing is normalised. Its
code takes one image at a time. Here a batch is scored by one forward and one backward pass through the
activations alone; the norms follow layer by layer, see `nuisance.ood.layer_norms`. Both give the same numbers.
"""

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError
from nuisance.ood.layer_norms import rule_of
from nuisance.ood.odin import Std, check_epsilon, check_temperature, gradients, loss_slope, perturb
from nuisance.ood.score import Score, check_inputs, explained, logits_of, require_eval

_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-2}
"""Relative difference between the two ways above which the layer-wise one does not fit a network."""


class GradientNorm(Score):
    """The gradient score, exact and batched.

    Where a part of the network has parameters but no rule in `nuisance.ood.layer_norms` (a vision
    transformer's attention, say), and where the layer-wise way does not agree with the plain one on the first
    image, every image gets a backward pass of its own: as exact, slower, and said once, in a warning.

    Parameters
    ----------
    model : see `nuisance.ood.score.Score`. Frozen weights count like all others.
    temperature : T, above 0.
    epsilon : length of ODIN's step in raw pixels between 0 and 1; 0 for none.
    std : what the network's preprocessing divides raw pixels by, one number or one a channel; 1 for a network
        that takes raw pixels.
    layers : names of modules, as in ``model.named_modules()``, over whose weights the norm is taken; None for all.

    Attributes
    ----------
    by_image : whether every image gets a backward pass of its own.

    Raises
    ------
    ParameterError
        If the model is in train mode, two of its modules share a weight, a layer's name is unknown (names
        the nearest right one) or has no weights, or a number is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        epsilon: float = 0.0,
        std: Std = 1.0,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__(model)
        check_temperature(temperature)
        check_epsilon(epsilon)
        self.temperature, self.epsilon, self.std = temperature, epsilon, std
        _refuse_shared_weights(model)
        self.layers = _weighted_modules(model, layers)
        unruled = [name for name, module in self.layers.items() if rule_of(module) is None]
        self.by_image = self._settled = False
        if unruled:
            self._settled = True
            kind = type(self.layers[unruled[0]]).__name__
            self._go_by_image(f"there is no rule for {kind} ({unruled[0] or 'the model itself'})")

    def _scores(self, x: Tensor) -> Tensor:
        return total(self._by_layer(x))

    def by_layer(self, x: Tensor) -> dict[str, Tensor]:
        """The norm over the weights of every layer, ``[b]`` each, by its name; the root of their squares' sum is the score.

        Raises
        ------
        InputError
            As `scores`.
        """
        check_inputs(x)
        require_eval(self.model)
        with explained(x):
            return self._by_layer(x)

    def _by_layer(self, x: Tensor) -> dict[str, Tensor]:
        self.settle(x[:1])
        if self.by_image and len(x) > 1:
            norms = [self._by_layer(image) for image in x.split(1)]
            return {name: torch.cat([of_image[name] for of_image in norms]) for name in self.layers}
        if self.epsilon:
            x = perturb(self.model, x, epsilon=self.epsilon, temperature=self.temperature, std=self.std)
        return self.norms_at(x, self.temperature)[0]

    def norms_at(self, x: Tensor, temperature: float | Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The norms ``[b]`` by layer at inputs as they are, and the logits ``[b, classes]`` there.

        ``temperature`` may be a tensor ``[b, 1]``, one for each input.
        """
        with gradients(self.model):
            x = _usable(x)
            if self.by_image:
                return self._one_by_one(x, temperature)
            with self.taps() as taps:
                logits = logits_of(self.model, x)
                norms = taps.backward(logits, loss_slope(logits.detach(), temperature))
            scale = torch.as_tensor(temperature, dtype=x.dtype, device=x.device).reshape(-1)
            return {name: norm / scale for name, norm in norms.items()}, logits.detach()

    @contextmanager
    def taps(self) -> Iterator["Taps"]:
        """Hooks on the layers while the context lasts; none on those of a network that is scored image by image."""
        taps = Taps({} if self.by_image else self.layers)
        try:
            yield taps
        finally:
            taps.close()

    def settle(self, image: Tensor) -> None:
        """Decide, on one image ``[1, ...]``, which way this network is scored; done once, before the first scores.

        A network may use its layers as no rule can foresee, so that the two ways are compared, layer by layer; at
        a slope of the logits that does not vanish where the network is sure.
        """
        if self._settled:
            return
        with gradients(self.model):
            image = _usable(image)
            try:
                with self.taps() as taps:
                    logits = logits_of(self.model, image)
                    slope = torch.linspace(-1, 1, logits.shape[1]).to(logits)[None]
                    layerwise = torch.stack(list(taps.backward(logits, slope).values()))
            except _NotByImageError as error:
                self._go_by_image(str(error))
            else:
                plain = torch.stack(list(self._one_by_one(image, slope=slope)[0].values()))
                tolerance = _AGREEMENT.get(image.dtype, 0.1)
                tiny = 1e-3 * tolerance * plain.norm().item()
                if not torch.allclose(layerwise, plain, rtol=tolerance, atol=tiny):
                    worst = list(self.layers)[int((layerwise - plain).abs().argmax())]
                    self._go_by_image(
                        f"the network does not use the weights of {worst!r} through that layer alone"
                    )
        self._settled = True

    def _one_by_one(
        self, x: Tensor, temperature: float | Tensor = 1.0, slope: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The plain way: a forward and a full backward pass for every image; at a given slope of the logits, if any."""
        temperatures = (
            torch.as_tensor(temperature, dtype=x.dtype, device=x.device).reshape(-1, 1).expand(len(x), 1)
        )
        owners = [
            (name, weight)
            for name, module in self.layers.items()
            for weight in module.parameters(recurse=False)
        ]
        norms = {name: x.new_zeros(len(x)) for name in self.layers}
        logits = []
        weights = [weight for _, weight in owners]
        with _following(weights):
            for i, image in enumerate(x.split(1)):
                h = logits_of(self.model, image)
                at = loss_slope(h.detach(), temperatures[i : i + 1]) if slope is None else slope
                found = torch.autograd.grad(h, weights, at, allow_unused=True)
                for (name, _), gradient in zip(owners, found, strict=True):
                    if gradient is not None:
                        norms[name][i] += gradient.square().sum()
                logits.append(h.detach())
        return {name: norm.sqrt() / temperatures[:, 0] for name, norm in norms.items()}, torch.cat(logits)

    def _go_by_image(self, reason: str) -> None:
        self.by_image = True
        message = f"The gradient score goes image by image, which is exact but slower, because {reason}."
        warnings.warn(message, stacklevel=3)


class Taps:
    """Hooks on layers: they keep the layers' inputs on the way forward, and take norms on the way back."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self._layers = layers
        self._inputs: dict[str, tuple[Tensor, int]] = {}
        self._squared: dict[str, Tensor] = {}
        self._again = False
        self._anchor = torch.zeros((), requires_grad=True)
        self._handles = [module.register_forward_hook(self._keep(name)) for name, module in layers.items()]

    def backward(self, logits: Tensor, slope: Tensor, *, again: bool = False) -> dict[str, Tensor]:
        """Norms ``[b]`` by layer of the gradients that a slope ``[b, classes]`` of the logits gives the weights.

        ``again`` says that another backward pass through the same graph will follow.
        """
        self._again = again
        self._squared = {name: logits.new_zeros(len(logits)) for name in self._layers}
        if logits.requires_grad:
            torch.autograd.backward(logits, slope, retain_graph=again)
        return {name: squared.sqrt() for name, squared in self._squared.items()}

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str) -> Any:
        rule = rule_of(self._layers[name])
        assert rule is not None  # a network with a part that has none is scored image by image

        def forward_hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in self._inputs:
                raise ParameterError(
                    f"The network uses the weights of {name!r} twice, so that they have no input of their own to "
                    "take a norm from; give every use a module of its own."
                )
            if not inputs:
                raise _NotByImageError(f"the input of {name!r} is not given by position")
            a = inputs[0].detach()
            self._inputs[name] = a, a._version
            if not output.requires_grad:  # the first weights: no gradient need go further back than here
                output = _Root.apply(output, self._anchor)

            def backward_hook(g: Tensor) -> None:
                a, version = self._inputs[name]
                if a._version != version:
                    raise InputError(
                        f"The network overwrites the input of {name!r} in place; make that step not in place."
                    )
                if len(a) != len(self._squared[name]):
                    raise _NotByImageError(f"the first dimension of the input of {name!r} is not the images")
                self._squared[name] = rule(layer, a, g)
                if not self._again:
                    del self._inputs[name]

            output.register_hook(backward_hook)
            return output

        return forward_hook


class _NotByImageError(Exception):
    """No rule can take apart the images of a batch in this layer."""


class _Root(torch.autograd.Function):
    """Let the graph begin at a layer's output, which may be overwritten in place afterwards (a leaf may not)."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


def _usable(x: Tensor) -> Tensor:
    """Inputs that a graph may keep; those that were made in inference mode may not be."""
    return x.clone() if x.is_inference() else x


def component_norm(scores: Tensor, confidences: Tensor, temperature: float) -> Tensor:
    """``||G|| = T g / S_c``, the part of the gradient score g that is not the confidence S_c.

    ``grad log S_c = -(S_c / T) G`` with ``G = sum_{j != c} exp((h_j - h_c) / T) grad (h_c - h_j)``: thesis, section
    5.1, where the factor 1/T is left out. The score grows with the confidence S_c, which ODIN's score falls with.
    """
    return temperature * scores / confidences


def total(norms: dict[str, Tensor]) -> Tensor:
    """The norm over all layers of norms ``[b]`` by layer."""
    return torch.stack(list(norms.values())).norm(dim=0)


@contextmanager
def _following(weights: Sequence[Tensor]) -> Iterator[None]:
    """Gradients of these weights; the caller has switched off those of all."""
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _weighted_modules(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """Modules with parameters of their own, by name; those at or below the named ones."""
    weighted = {
        name: module for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    if not weighted:
        raise ParameterError("The network has no weights, and without weights there is no gradient score.")
    if layers is None:
        return weighted
    if isinstance(layers, str) or not layers:
        raise ParameterError(f"layers is {layers!r} but must be a list of names of modules, or None for all.")
    known = dict(model.named_modules())
    chosen: dict[str, nn.Module] = {}
    for wanted in layers:
        if wanted not in known:
            near = difflib.get_close_matches(wanted, list(known), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ParameterError(f"The network has no module {wanted!r}.{hint}")
        below = {n: m for n, m in weighted.items() if not wanted or n == wanted or n.startswith(f"{wanted}.")}
        if not below:
            raise ParameterError(f"The module {wanted!r} has no weights.")
        chosen |= below
    return chosen


def _refuse_shared_weights(model: nn.Module) -> None:
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for kind, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            here = f"{name}.{kind}".lstrip(".")
            first = owners.setdefault(id(weight), here)
            if first != here:
                raise ParameterError(
                    f"{first} and {here} are one shared weight, whose gradient is a sum over both uses that "
                    "no layer sees alone; give every layer weights of its own."
                )
