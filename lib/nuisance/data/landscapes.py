"""Landscapes by formula: land and water, the two places of Waterbirds where its photos are not at hand.

Waterbirds (Sagawa et al. 2020) takes its backgrounds from Places: bamboo and broadleaf forests for
land, ocean and lakes for water. Here each is drawn. Land stands upright (trunks and stalks), water
lies flat (a horizon, waves that widen towards the viewer). The distance's colours, exposure, contrast and
white balance are drawn alike for both, so that no single pixel settles the place but the scene does.
Heights and widths are parts of the side: every size shows the same scenes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nuisance.errors import ParameterError

# Colours of one thing in different seasons and weathers, red, green, blue on [0, 1].
LEAVES = ((0.20, 0.42, 0.12), (0.09, 0.22, 0.10), (0.48, 0.60, 0.22), (0.66, 0.40, 0.12), (0.24, 0.36, 0.46))
GROUND = ((0.30, 0.24, 0.14), (0.24, 0.38, 0.12), (0.58, 0.46, 0.26), (0.14, 0.15, 0.11), (0.72, 0.73, 0.75))
BARK = ((0.26, 0.18, 0.11), (0.10, 0.08, 0.07), (0.46, 0.38, 0.30), (0.74, 0.72, 0.66), (0.28, 0.32, 0.42))
BAMBOO = ((0.38, 0.52, 0.16), (0.20, 0.40, 0.14), (0.62, 0.60, 0.26), (0.14, 0.26, 0.14))
ZENITH = ((0.22, 0.45, 0.80), (0.50, 0.55, 0.60), (0.28, 0.26, 0.42), (0.10, 0.13, 0.22), (0.62, 0.56, 0.44))
DISTANCE = (
    (0.72, 0.85, 0.95),
    (0.75, 0.77, 0.78),
    (0.98, 0.62, 0.32),
    (0.42, 0.38, 0.42),
    (0.95, 0.90, 0.74),
)
SEA = ((0.08, 0.26, 0.46), (0.10, 0.40, 0.42), (0.22, 0.30, 0.20), (0.36, 0.31, 0.22), (0.10, 0.13, 0.16))

TRUNKS = 14
"""The most trunks or stalks in a picture, drawn from the farthest to the nearest."""


def land(n: int, *, size: int, generator: torch.Generator) -> Tensor:
    """Forests and bamboo groves.

    A clearing's sky, leaves at three scales that thicken upwards, the ground, then trunks (few and
    wide, of any bark) or stalks (many and thin, green, with rings), the near ones clearer and lower on the ground,
    at last the leaves that hang before them.

    Parameters
    ----------
    n : how many.
    size : side in pixels, 8 or more.
    generator : of the CPU.

    Returns
    -------
    uint8 ``[n, 3, size, size]``.

    Raises
    ------
    ParameterError
        If there is nothing to draw or the size is too small.
    """
    down, right = _grid(n, size)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    def noise(rows: int, columns: int) -> Tensor:
        return _noise(n, size, rows, columns, generator)

    mist = _mixed(DISTANCE, n, generator)
    leaves = _mixed(LEAVES, n, generator)
    rough = noise(4, 5) + 0.8 * noise(9, 11) + 0.6 * noise(size, size)
    thick = torch.sigmoid(2.5 * (rough + draw(-2, 2) + draw(-1, 3) * (0.5 - down)))
    lit = (0.75 + 0.3 * noise(size // 2, size // 2)).clamp(0.2, 1.6)
    x = torch.lerp(mist, leaves * lit, thick)
    edge = draw(0.6, 1.0) + 0.03 * noise(1, 6)
    soil = _mixed(GROUND, n, generator) * (1 + 0.18 * noise(size // 2, size // 2) + 0.12 * noise(6, 6))
    x = torch.where(down > edge, soil * (0.7 + 0.5 * down), x)

    grove = torch.rand(n, 1, 1, 1, generator=generator) < 0.4
    wood = torch.where(grove, _mixed(BAMBOO, n, generator), _mixed(BARK, n, generator))
    number = torch.where(grove, draw(8, TRUNKS + 1), draw(3, 10))
    tilt = draw(-0.06, 0.06)
    side = draw(-1, 1)  # where the light comes from
    for i in range(TRUNKS):
        near = ((i + 1 - (TRUNKS - number)) / number).clamp(0, 1)
        middle = draw(-0.05, 1.05) + (tilt + draw(-0.06, 0.06)) * (down - 0.5)
        half = torch.where(grove, draw(0.012, 0.03), draw(0.02, 0.075)) * (0.4 + 0.8 * near)
        across = (right - middle) / half
        cover = ((1 - across.abs()) * half * size + 0.5).clamp(0, 1)  # a soft edge of one pixel
        cover = cover * (i >= TRUNKS - number) * (down < edge + 0.35 * near * (1 - edge))
        rings = grove & ((down / draw(0.12, 0.25) + draw(0, 1)) % 1 < 0.18)
        shade = (0.95 + 0.35 * side * across - 0.25 * rings.float()) * draw(0.7, 1.3)
        clear = 0.35 + 0.65 * near
        x = torch.lerp(x, torch.addcmul((1 - clear) * mist, clear * wood, shade), cover)

    hanging = noise(5, 6) + 0.7 * noise(size // 2, size // 2) + 5 * (draw(-0.25, 0.4) - down)
    x = torch.lerp(x, leaves * lit * draw(0.5, 1.3), torch.sigmoid(4 * hanging))
    return _developed(x, generator)


def water(n: int, *, size: int, generator: torch.Generator) -> Tensor:
    """Seas and lakes.

    A sky from its zenith to the horizon with clouds, sometimes a far shore, and water that takes on
    the sky's colour in the distance, with waves in perspective and the light's glitter below the sun.

    Parameters, returned images and errors as for `land`.
    """
    down, right = _grid(n, size)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    def noise(rows: int, columns: int) -> Tensor:
        return _noise(n, size, rows, columns, generator)

    horizon = draw(0.1, 0.6)
    far = _mixed(DISTANCE, n, generator)
    clouds = (noise(7, 3) + 0.6 * noise(14, 6)) * draw(0, 0.14)
    sky = torch.lerp(_mixed(ZENITH, n, generator), far, (down / horizon).clamp(0, 1)) + clouds
    there = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    top = horizon - draw(0.03, 0.16) * (0.6 + 0.5 * noise(1, 5)).clamp(0, 1.5) * there
    shore = torch.lerp(_mixed(LEAVES, n, generator) * (0.7 + 0.15 * noise(size, size)), far, draw(0, 0.6))
    sky = torch.where(down > top, shore, sky)

    depth = ((down - horizon) / (1 - horizon)).clamp(0, 1)  # 0 at the horizon, 1 at the viewer
    sea = torch.lerp(_mixed(SEA, n, generator), far, draw(0.2, 0.9) * (1 - depth) ** 1.5)
    # A flat plane at eye height 1 shows what lies at distance 1 / depth: equal waves widen as they come near.
    distance = 1 / (depth + 0.12)
    turns = draw(1.2, 3.5) * (distance + draw(0, 0.2) * noise(6, 3) * distance.sqrt())
    crests = torch.sin(2 * math.pi * turns) + 0.4 * noise(40, 4)
    sea = sea * (1 + draw(0.08, 0.4) * crests * (0.7 + 0.5 * noise(8, 4)))
    beam = torch.exp(-(((right - draw(0, 1)) / (draw(0.05, 0.4) * (0.4 + depth))) ** 2))
    glitter = (noise(size, size // 2) > 1) & (noise(size, size) > -0.5)
    sea = sea + draw(-0.4, 0.8).clamp_min(0) * beam * (glitter * 0.8 + 0.25) * far
    return _developed(torch.where(down > horizon, sea, sky), generator)


def _grid(n: int, size: int) -> tuple[Tensor, Tensor]:
    """How far down and right each pixel's centre lies, as parts of the side: ``[1, 1, size, 1]`` and its like."""
    if n < 1 or size < 8:
        raise ParameterError(
            f"{n} landscapes of {size} pixels are wanted; ask for 1 or more, of 8 or more pixels."
        )
    centres = (torch.arange(size) + 0.5) / size
    return centres.view(1, 1, size, 1), centres.view(1, 1, 1, size)


def _noise(n: int, size: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Normal noise on a coarse grid, smoothly enlarged to ``[n, 1, size, size]``."""
    coarse = torch.randn(n, 1, rows, columns, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


def _mixed(colors: tuple[tuple[float, float, float], ...], n: int, generator: torch.Generator) -> Tensor:
    """A colour for each picture ``[n, 3, 1, 1]``: mostly one of the palette, with some of the others."""
    weights = torch.softmax(2.5 * torch.randn(n, len(colors), generator=generator), 1)
    return (weights @ torch.tensor(colors)).view(n, 3, 1, 1)


def _developed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure, contrast, white balance and grain, drawn alike for both places; as bytes."""
    n = len(x)
    gamma = torch.exp(0.35 * torch.randn(n, 1, 1, 1, generator=generator))
    balance = torch.exp(0.12 * torch.randn(n, 3, 1, 1, generator=generator))
    contrast = 0.6 + 0.6 * torch.rand(n, 1, 1, 1, generator=generator)
    grain = 0.015 * torch.randn(x.shape, generator=generator)
    x = 0.5 + contrast * (balance * x.clamp(0, 1) ** gamma - 0.5) + grain
    return (x.clamp(0, 1) * 255).round().byte()
