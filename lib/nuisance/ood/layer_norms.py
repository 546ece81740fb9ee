"""Norms of per-image weight gradients, layer by layer, without a backward pass for every image.

For a layer with input a and gradient g at its output, both of one image, the gradient of its weights is a
sum over positions of outer products of a and g. What is wanted is its squared norm alone, and there are two
exact ways to it:

- *direct*: form the gradient of every image (one grouped convolution for the whole batch), and sum squares;
- *Gram*: ``|sum_t g_t a_t'|^2 = sum_{t,u} <g_t, g_u> <a_t, a_u>``, which never forms it, and is the cheaper one
  where there are few positions and many channels.

Every rule takes the layer, its inputs ``[b, ...]`` and the gradients at its outputs ``[b, ...]``, and returns the
squared norms ``[b]`` of the gradients of its weights and biases. The Gram form for linear layers is Goodfellow 2015's
(https://arxiv.org/abs/1510.01799); for convolutions it is usually taken of unfolded patches (Rochette et al. 2019,
https://arxiv.org/abs/1912.06015), here of pixels, see `gram_of_patches`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]


def rule_of(module: nn.Module) -> Rule | None:
    """The rule for a module's own parameters; None where there is none.

    A subclass that computes in a way of its own, or has other parameters than weight and bias, is
    not the layer that it descends from.
    """
    if not {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}:
        return None
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return None  # it would normalise an image by the other images of its batch
    for kind, rule in RULES.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return rule
    return None


def linear(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    """``nn.Linear``: inputs ``[b, ..., in]``, gradients ``[b, ..., out]``."""
    if a.ndim == 2:
        return (_squares(a) + (layer.bias is not None)) * _squares(g)
    a, g = a.flatten(1, -2), g.flatten(1, -2)  # [b, positions, ...]
    positions = a.shape[1]
    if positions * (a.shape[2] + g.shape[2]) < a.shape[2] * g.shape[2]:
        squared = _inner(torch.bmm(a, a.mT), torch.bmm(g, g.mT))
    else:
        squared = _squares(torch.bmm(g.mT, a))
    return squared if layer.bias is None else squared + _squares(g.sum(1))


def convolution(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    """``nn.Conv2d``, of any geometry: inputs ``[b, in, h, w]``, gradients ``[b, out, h', w']``."""
    assert isinstance(layer, nn.Conv2d)
    padding = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str) or _by_rows(layer):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        a, padding = F.pad(a, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)
    assert isinstance(padding, tuple)
    if _gram_is_cheaper(layer, a, g):
        squared = _gram(layer, a, g, padding)
    else:
        squared = _squares(_weight_gradients(layer, a, g, padding))
    return squared if layer.bias is None else squared + _squares(g.sum((2, 3)))


def _weight_gradients(layer: nn.Conv2d, a: Tensor, g: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Gradients of the weights of every image, ``[b, out, in / groups * kernel]``."""
    images, groups = len(a), layer.groups
    if layer.kernel_size == (1, 1) and groups == 1 and padding == (0, 0):
        a = a[:, :, :: layer.stride[0], :: layer.stride[1]]
        return torch.bmm(g.flatten(2), a.flatten(2).mT)
    if _by_rows(layer):
        return torch.stack([_depthwise_by_rows(layer, *of_image) for of_image in zip(a, g, strict=True)])
    # Images become groups of one convolution: few calls where each has little to do. Large images overflow the
    # caches together, and channels last would have to be copied.
    at_once = images if a[0].numel() < 100_000 and a.is_contiguous() else 1
    found = []
    for some, of_some in zip(a.split(at_once), g.split(at_once), strict=True):
        copies = len(some)
        weight = (
            layer.weight if copies == 1 else layer.weight.repeat(copies, 1, 1, 1)
        )  # only its shape is used
        found.append(
            torch.ops.aten.convolution_backward(
                of_some.reshape(1, -1, *g.shape[2:]),
                some.reshape(1, -1, *a.shape[2:]),
                weight,
                None,
                layer.stride,
                padding,
                layer.dilation,
                False,
                (0, 0),
                copies * groups,
                (False, True, False),
            )[1].reshape(copies, layer.out_channels, -1)
        )
    return torch.cat(found)


def _by_rows(layer: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise with a large kernel."""
    return layer.groups == layer.in_channels == layer.out_channels and max(layer.kernel_size) > 3


def _depthwise_by_rows(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
    """Weight gradients ``[c, kernel]`` of a depthwise convolution without padding, of one image.

    The libraries' kernels for this are made for 3 x 3. For a larger one it is cheaper to take, column by column of
    the kernel, the inner products of *all* rows of a with all of g in one batched matrix product, and of these
    the sum over those pairs of rows that the convolution pairs.
    """
    (channels, height, width), (k, m) = g.shape, layer.kernel_size
    (s, t), (d, e) = layer.stride, layer.dilation
    rows = s * (height - 1) + d * (k - 1) + 1
    a, g = a[:, :rows].contiguous(), g.contiguous()
    last = t * (width - 1) + 1
    columns = torch.stack([a[:, :, e * j : e * j + last : t] for j in range(m)], 1)  # [c, m, rows, width]
    products = torch.bmm(columns.reshape(channels, m * rows, width), g.mT)
    paired = (m * rows * height, d * height, rows * height, s * height + 1)  # [c, k, m, height]
    return products.as_strided((channels, k, m, height), paired).sum(3).flatten(1)


def _gram(layer: nn.Conv2d, a: Tensor, g: Tensor, padding: tuple[int, ...]) -> Tensor:
    a_gram = gram_of_patches(a, g.shape[2:], layer.kernel_size, layer.stride, layer.dilation, padding)
    g = g.flatten(2)
    return _inner(a_gram, torch.bmm(g.mT, g))


def gram_of_patches(
    a: Tensor,
    outputs: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """Inner products ``[b, positions, positions]`` of the patches that a convolution sees, without unfolding them.

    Two patches' inner product is the sum, over the offsets (i, j) in the kernel, of the inner products of the
    *pixels* there. So the Gram matrix of the pixels is computed once, over channels, and summed along k
    diagonals for rows and again for columns: k^2 times fewer products than unfolded patches need.
    """
    images, _, height, width = a.shape
    a = a.flatten(2)
    gram = torch.bmm(a.mT, a)
    if max(*kernel, *stride) > 1 or any(padding):
        gram = gram.view(images, height, width, height, width)
        gram = _diagonals(gram, kernel[0], stride[0], dilation[0], padding[0], outputs[0])
        gram = _diagonals(
            gram.permute(0, 2, 1, 4, 3), kernel[1], stride[1], dilation[1], padding[1], outputs[1]
        )
        gram = gram.permute(0, 2, 1, 4, 3)
    positions = outputs[0] * outputs[1]
    return gram.reshape(images, positions, positions)


def _diagonals(gram: Tensor, kernel: int, stride: int, dilation: int, padding: int, outputs: int) -> Tensor:
    """``sum_i gram[b, s o + d i - p, r, s o' + d i - p, r']``, zero outside, as ``[b, o, r, o', r']``."""
    images, size, rest = gram.shape[:3]
    total = gram.new_zeros(images, outputs, rest, outputs, rest)
    for i in range(kernel):
        offset = dilation * i - padding
        first = max(0, -(offset // stride))
        end = min(outputs, (size - 1 - offset) // stride + 1)
        if first < end:
            inside = slice(stride * first + offset, stride * (end - 1) + offset + 1, stride)
            total[:, first:end, :, first:end] += gram[:, inside, :, inside]
    return total


def _gram_is_cheaper(layer: nn.Conv2d, a: Tensor, g: Tensor) -> bool:
    """Which form costs fewer multiplications; moving a number counts as 50 to 75 (fitted on a CPU)."""
    if layer.groups > 1:
        return False
    inputs, outputs, weights = a[0, 0].numel(), g[0, 0].numel(), layer.weight.numel()
    if max(inputs, outputs) > 1600:  # a Gram matrix of a larger image would not fit the caches
        return False
    kernel = sum(layer.kernel_size)
    moved = outputs**2 if kernel == 2 else kernel * (inputs**2 + outputs**2) / 2
    gram = inputs**2 * layer.in_channels + outputs**2 * layer.out_channels + 50 * moved
    return gram < outputs * weights + 75 * weights


def batch_norm(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    """Batch norm in eval mode, an affine map: inputs and gradients ``[b, c, ...]``.

    The running statistics are no weights. The sums over positions of g and of g times the normalised input come
    from the backward pass of a batch norm over b * c channels, the one kernel that reads its inputs once.
    """
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    images = len(a)
    variance = layer.running_var + layer.eps

    def sums(some: Tensor, of_some: Tensor, copies: int) -> Tensor:
        shape = (1, copies * a.shape[1], *a.shape[2:])
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            of_some.reshape(shape),
            some.reshape(shape),
            None,
            layer.running_mean.repeat(copies),  # type: ignore[union-attr]
            variance.repeat(copies),
            a.new_empty(0),
            a.new_empty(0),
            False,
            0.0,
            [False, True, True],
        )
        return torch.stack([of_weight, of_bias], -1).view(copies, -1)

    if a.ndim == 4 and not a.is_contiguous() and a.is_contiguous(memory_format=torch.channels_last):
        # A reshape would copy. The kernel is wrong where one of the two has another format, as g has behind a pooling.
        g = g.contiguous(memory_format=torch.channels_last)
        return _squares(torch.cat([sums(a[i : i + 1], g[i : i + 1], 1) for i in range(images)]))
    return _squares(sums(a.contiguous(), g.contiguous(), images))


def group_norm(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    """``nn.GroupNorm``: inputs and gradients ``[b, c, ...]``."""
    assert isinstance(layer, nn.GroupNorm)
    normalised = F.group_norm(a, layer.num_groups, eps=layer.eps)
    a, g = (t.reshape(*t.shape[:2], -1).sum(2) for t in (normalised * g, g))
    return _squares(a) + (_squares(g) if layer.bias is not None else 0)


def layer_norm(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    """``nn.LayerNorm``: inputs and gradients ``[b, ..., *normalized_shape]``."""
    assert isinstance(layer, nn.LayerNorm)
    shape = layer.normalized_shape
    normalised = F.layer_norm(a, shape, eps=layer.eps)
    a, g = ((t.reshape(len(g), -1, *shape)).sum(1) for t in (normalised * g, g))
    return _squares(a) + (_squares(g) if layer.bias is not None else 0)


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
}
"""The rule for every kind of layer that has one."""


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Inner products ``[b]`` of Gram matrices: never negative, but for rounding."""
    return (one * other).sum((1, 2)).clamp(min=0)


def _squares(t: Tensor) -> Tensor:
    """Sums of squares ``[b]`` of ``[b, ...]``: by rows first, for one float32 sum over millions is off by 1e-4."""
    return torch.linalg.vector_norm(t, dim=-1).flatten(1).square().sum(1) if t.ndim > 2 else t.square().sum(1)
