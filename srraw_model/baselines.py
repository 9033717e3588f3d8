"""The networks that the paper compares with: sRGB in, sRGB at N times its sampling out.

All take (B, 3, h, w), sRGB in [0, 1], and give (B, 3, N h, N w) in that domain, not clipped: output pixel X
sees what input pixel (X + 1/2)/N - 1/2 sees. What range and channels a network works in is its own affair.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from srraw_model.network import upsampled
from srraw_model.ranks import BatchNorm

# ITU-R BT.601 of R'G'B' in [0, 1]: luma in [16, 235] / 255, colour differences about 128 / 255.
LUMA = (65.481, 128.553, 24.966)
BLUE_DIFFERENCE = (-37.797, -74.203, 112.0)
RED_DIFFERENCE = (112.0, -93.786, -18.214)
OFFSETS = (16.0, 128.0, 128.0)
YCBCR_TO_RGB = (np.linalg.inv([LUMA, BLUE_DIFFERENCE, RED_DIFFERENCE]) * 255).tolist()


class Baseline(nn.Module):
    """sRGB (B, 3, h, w) in [0, 1] to sRGB (B, 3, N h, N w). `zoom` is N."""

    zoom: int

    @property
    def reach(self) -> int:
        """How many input pixels around its own position, at most, an output depends on."""
        raise NotImplementedError


class ResNetGenerator(Baseline):
    """SRResNet, and SRGAN's generator (Ledig et al., CVPR 2017), at 2X, 4X or 8X.

    9x9 convolution and PReLU; residual blocks conv-BN-PReLU-conv-BN; convolution and long skip; for every
    factor of two a convolution, pixel shuffle and PReLU; 9x9. Every PReLU has one slope. It puts out [-1, 1].

    Args:
        zoom: a power of two.
        blocks: 16 in the paper.
        published: the form in which some public generators are: PReLU instead of batch normalisation before
            the long skip, and a tanh at the end.
    """

    def __init__(self, zoom: int, *, blocks: int = 16, channels: int = 64, published: bool = False) -> None:
        super().__init__()
        self.zoom = zoom
        self.published = published
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(*(_NormalisedBlock(channels) for _ in range(blocks)))
        after = nn.PReLU() if published else BatchNorm(channels)
        self.after_blocks = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), after)
        stages: list[nn.Module] = []
        for _ in range(_doublings(zoom)):
            stages += [nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.stages = nn.Sequential(*stages)
        self.to_rgb = _NineByNine(channels, 3)

    def forward(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, N h, N w)."""
        first = self.head(srgb)
        values = self.to_rgb(self.stages(first + self.after_blocks(self.blocks(first))))
        return ((values.tanh() if self.published else values) + 1) / 2

    @property
    def reach(self) -> int:
        """9x9; two 3x3 in every block and one after; the stages and the last 9x9."""
        first, last = -4, self.zoom - 1 + 4  # from an input pixel's outputs back through the 9x9
        for _ in range(_doublings(self.zoom)):
            first, last = first // 2 - 1, last // 2 + 1
        return 4 + 2 * len(self.blocks) + 1 + max(-first, last)


class _NormalisedBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = BatchNorm(channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = BatchNorm(channels)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(values)))))


class RRDBNet(Baseline):
    """ESRGAN's generator (Wang et al., ECCV workshops 2018), 4X: residual-in-residual dense blocks.

    Slopes of 0.2 below zero, residuals scaled by 0.2, enlarged by repetition of pixels. Names of layers are
    those of its newest public layout.
    """

    zoom = 4

    def __init__(self, *, blocks: int = 23, channels: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(_ResidualInResidual(channels, growth) for _ in range(blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4)
        )
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, 4 h, 4 w)."""
        values = self.conv_first(srgb)
        values = values + self.conv_body(self.body(values))
        for enlarge in (self.conv_up1, self.conv_up2):
            values = _leaky(enlarge(functional.interpolate(values, scale_factor=2, mode="nearest")))
        return self.conv_last(_leaky(self.conv_hr(values)))

    @property
    def reach(self) -> int:
        """3x3; fifteen in every block and one after; those after the enlarging: 349 with 23 blocks."""
        first, last = -2, self.zoom - 1 + 2  # from an input pixel's outputs back through the last two
        for _ in range(_doublings(self.zoom)):
            first, last = (first - 1) // 2, (last + 1) // 2
        return 1 + 15 * len(self.body) + 1 + max(-first, last)


class _ResidualInResidual(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(channels, growth) for _ in range(3))

    def forward(self, values: Tensor) -> Tensor:
        return values + 0.2 * self.rdb3(self.rdb2(self.rdb1(values)))


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and what all before it put out."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            seen, out = channels + (number - 1) * growth, growth if number < 5 else channels
            setattr(self, f"conv{number}", nn.Conv2d(seen, out, 3, padding=1))

    def forward(self, values: Tensor) -> Tensor:
        seen = [values]
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen.append(_leaky(convolution(torch.cat(seen, dim=1))))
        return values + 0.2 * self.conv5(torch.cat(seen, dim=1))


class LapSRN(Baseline):
    """LapSRN (Lai et al., CVPR 2017) at 2X, 4X or 8X: luma by a pyramid of residuals, colour by bicubic.

    A level doubles the sampling: convolutions and a transposed one on features; their residual is added to
    the picture, which another transposed convolution has doubled. Slopes of 0.2 below zero.

    Args:
        zoom: a power of two.
        depth: convolutions in a level: the authors' have 10 at 2X and 4X, 5 at 8X.
    """

    def __init__(self, zoom: int, *, depth: int | None = None, channels: int = 64) -> None:
        super().__init__()
        self.zoom = zoom
        depth = (10 if zoom < 8 else 5) if depth is None else depth
        self.input = nn.Conv2d(1, channels, 3, padding=1)
        self.levels = nn.ModuleList(_PyramidLevel(channels, depth) for _ in range(_doublings(zoom)))

    def forward(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, N h, N w)."""
        luma_and_colour = rgb_to_ycbcr(srgb)
        luma = self.pyramid(luma_and_colour[:, :1])[-1]
        return ycbcr_to_rgb(torch.cat([luma, upsampled(luma_and_colour[:, 1:], self.zoom)], dim=1))

    def pyramid(self, luma: Tensor) -> list[Tensor]:
        """(B, 1, h, w) -> the luma at every level, 2X first: what is trained."""
        features, found = _leaky(self.input(luma)), []
        for level in self.levels:
            features, luma = level(features, luma)
            found.append(luma)
        return found

    @property
    def reach(self) -> int:
        """3x3; in every level its depth; the finest residual's. Colour and the doubled luma see less."""
        first, last = -1, self.zoom  # from an input pixel's outputs back through the residual's 3x3
        for level in reversed(self.levels):
            # Transposed sample 2i sees samples i - 1 and i, and 2i + 1 sees i.
            first, last = (first - 1) // 2 - len(level.convs), last // 2 + len(level.convs)
        return 1 + max(-first, last)


class _PyramidLevel(nn.Module):
    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.upconv = nn.ConvTranspose2d(channels, channels, 3, stride=2)
        self.residual = nn.Conv2d(channels, 1, 3, padding=1)
        self.image_up = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4  # bilinear, to begin with
        self.image_up.weight.data[0, 0] = line[:, None] * line

    def forward(self, features: Tensor, luma: Tensor) -> tuple[Tensor, Tensor]:
        for convolution in self.convs:
            features = _leaky(convolution(features))
        features = _leaky(self.upconv(features)[:, :, :-1, :-1])
        return features, self.image_up(luma) + self.residual(features)


class JohnsonNet(Baseline):
    """The network of Johnson, Alahi, Fei-Fei (ECCV 2016) for super-resolution at 2X, 4X or 8X.

    9x9 convolution; four residual blocks; for every factor of two a transposed convolution of stride 2; all
    but the last layer with batch normalisation and ReLU; 9x9 and a tanh whose range is that of pictures.
    """

    def __init__(self, zoom: int, *, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.zoom = zoom
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 9, padding=4), BatchNorm(channels), nn.ReLU()]
        layers += [_JohnsonBlock(channels) for _ in range(blocks)]
        for _ in range(_doublings(zoom)):
            layers += [
                nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1),
                BatchNorm(channels),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, _NineByNine(channels, 3))

    def forward(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, N h, N w)."""
        return (self.layers(srgb).tanh() + 1) / 2

    @property
    def reach(self) -> int:
        """9x9; two 3x3 in every block; the transposed convolutions and the last 9x9."""
        first, last = -4, self.zoom - 1 + 4  # from an input pixel's outputs back through the 9x9
        for _ in range(_doublings(self.zoom)):
            # Transposed sample 2i sees sample i, and 2i + 1 sees i and i + 1.
            first, last = first // 2, (last + 1) // 2
        return 4 + 2 * sum(isinstance(layer, _JohnsonBlock) for layer in self.layers) + max(-first, last)


class _JohnsonBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            BatchNorm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            BatchNorm(channels),
        )

    def forward(self, values: Tensor) -> Tensor:
        return values + self.layers(values)


class _NineByNine(nn.Conv2d):
    """A 9x9 convolution to few channels: (B, C, h, w) -> (B, D, h, w), at the same sampling.

    As nine convolutions of 9x1, one per row of the kernel, in one, and a sum of their shifted results:
    libraries fill D up to what a vector register holds, and 9 D fill it by themselves.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 9, padding=4)

    def forward(self, values: Tensor) -> Tensor:
        rows = self.weight.permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)
        by_row = functional.pad(functional.conv2d(values, rows, padding=(0, 4)), (0, 0, 4, 4)).chunk(9, dim=1)
        moved = (row[:, :, n : n + values.shape[2]] for n, row in enumerate(by_row))
        return sum(moved, self.bias[:, None, None])


class ThenBicubic(Baseline):
    """A network at a greater zoom than its own: what is missing is done by bicubic interpolation."""

    def __init__(self, network: Baseline, zoom: int) -> None:
        super().__init__()
        if zoom % network.zoom:
            raise ValueError(f"{zoom}X is no multiple of {network.zoom}X.")
        self.network, self.zoom = network, zoom

    def forward(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, N h, N w)."""
        return upsampled(self.network(srgb), self.zoom // self.network.zoom)

    @property
    def reach(self) -> int:
        """The network's, and two of its outputs, which the cubic sees."""
        return self.network.reach + math.ceil(2 / self.network.zoom)


def rgb_to_ycbcr(srgb: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] to Y'CbCr of BT.601 with its foot- and headroom, as fractions of 255."""
    rows = srgb.new_tensor([LUMA, BLUE_DIFFERENCE, RED_DIFFERENCE]) / 255
    return _mixed(srgb, rows) + srgb.new_tensor(OFFSETS)[:, None, None] / 255


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`."""
    return _mixed(ycbcr - ycbcr.new_tensor(OFFSETS)[:, None, None] / 255, ycbcr.new_tensor(YCBCR_TO_RGB))


def _mixed(image: Tensor, rows: Tensor) -> Tensor:
    return (rows[:, :, None, None] * image[:, None]).sum(dim=2)


def _leaky(values: Tensor) -> Tensor:
    return functional.leaky_relu(values, 0.2)


def _doublings(zoom: int) -> int:
    if zoom not in (2, 4, 8):
        raise ValueError(f"there is no baseline for a zoom of {zoom}; there are 2, 4 and 8")
    return int(math.log2(zoom))
