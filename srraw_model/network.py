"""The networks: a packed mosaic in, linear camera RGB at N times the mosaic's sampling out.

Both take (B, 4, h, w), channels as in `packing`, black 0 and white 1, and give (B, 3, 2Nh, 2Nw): output pixel
(X, Y) sees what mosaic pixel ((X + 1/2)/N - 1/2, (Y + 1/2)/N - 1/2) sees. White balance and colour matrix are
applied after. With `inputs=12` both take instead an RGB picture, packed alike: 2 x 2 pixels of red, then of
green, of blue. Neither normalises by statistics of the batch or of the image, so that tiles and whole agree.

A network is called in one piece, or in two: `features`, at the packed sampling, and `output`, which takes
most of the memory and sees little around it. Each has its reach: how many packed pixels around its own
position a result depends on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from srraw_model.curve import decode_srgb, encode_srgb

ZOOMS = (2, 4, 8)
MEAN_SIDE = 9  # of the local mean, in packed pixels
FAINT = 0.01  # light, added to the local mean
PRELU_START = 0.25  # slope below zero before training


def make_network(name: str, zoom: int, **sizes: int) -> PaperNetwork | SmallNetwork:
    """A network by its name, "paper" or "small", with weights drawn from torch's random state.

    Both map a packed mosaic (B, 4, h, w), linear, black 0 and white 1, to camera RGB (B, 3, 2Nh, 2Nw),
    linear, before white balance.

    Args:
        name: "paper" or "small".
        zoom: N; 2, 4 or 8.
        sizes: `channels`, `blocks` and the other arguments of `PaperNetwork` or `SmallNetwork`.
    """
    return {"paper": PaperNetwork, "small": SmallNetwork}[name](zoom, **sizes)


class PaperNetwork(nn.Module):
    """The network of Zhang et al. (CVPR 2019) as released, but without batch normalisation.

    9x9 convolution and PReLU; 16 residual blocks and a long skip; for every factor of two, and one more for
    the packing, a 3x3 convolution to 256 channels, a 3x3 deconvolution of stride 2 and PReLU; 9x9 to RGB,
    linear.

    Without normalisation the 16 blocks train stably because each begins as the identity: its last convolution
    starts at zero. All other weights have the deviation of He et al. (2015) for the taps that an output
    really sums, which in a deconvolution of stride 2 is a quarter of the kernel, so that the signal keeps its
    size.

    Args:
        zoom: N.
        inputs: channels, 4 of a mosaic or 12 of RGB.
        on_demosaic: add the output to an upsampled bilinear demosaicing, where training then begins. Short
            training needs it: by the paper's network colour alone takes thousands of steps.
    """

    def __init__(
        self,
        zoom: int,
        *,
        inputs: int = 4,
        channels: int = 64,
        blocks: int = 16,
        wide: int = 256,
        on_demosaic: bool = False,
    ) -> None:
        super().__init__()
        self.zoom = _known(zoom)
        self.on_demosaic = on_demosaic
        self.head = nn.Sequential(nn.Conv2d(inputs, channels, 9, padding=4), nn.PReLU(channels, PRELU_START))
        self.blocks = nn.Sequential(*(_PaperBlock(channels, number % 2) for number in range(blocks)))
        self.after_blocks = nn.Conv2d(channels, channels, 3, padding=1)
        stages: list[nn.Module] = []
        for before in [channels] + [wide] * int(math.log2(zoom)):
            stages += [
                nn.Conv2d(before, wide, 3, padding=1),
                _Deconvolution(wide),
                nn.PReLU(wide, PRELU_START),
            ]
        self.stages = nn.Sequential(*stages)
        self.to_rgb = nn.Conv2d(wide, 3, 9, padding=4)
        self._set_start()

    def forward(self, packed: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 2Nh, 2Nw)."""
        return self.output(self.features(packed), packed)

    def features(self, packed: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, channels, h, w)."""
        first = self.head(packed)
        return first + self.after_blocks(self.blocks(first))

    def output(self, features: Tensor, packed: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, 2Nh, 2Nw)."""
        rgb = self.to_rgb(self.stages(features))
        return rgb + upsampled(_picture(packed), self.zoom) if self.on_demosaic else rgb

    @property
    def features_reach(self) -> int:
        """9x9; in every block 3x3, and 4x4 whose longer side alternates; 3x3."""
        blocks = len(self.blocks)
        return 4 + blocks + (3 * blocks + 1) // 2 + 1

    @property
    def output_reach(self) -> int:
        """From the outputs of one packed pixel back through the 9x9 and the stages."""
        first, last = -4, 2 * self.zoom - 1 + 4
        for _ in range(len(self.stages) // 3):
            # Deconvolved sample 2i sees sample i, and 2i + 1 sees i and i + 1; then comes the 3x3.
            first, last = first // 2 - 1, (last + 1) // 2 + 1
        return max(-first, last)

    def _set_start(self) -> None:
        activated = {self.head[0], *(block.first for block in self.blocks)}
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                taps = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
                before_prelu = layer in activated or isinstance(layer, nn.ConvTranspose2d)
                power = 2 / (1 + PRELU_START**2) if before_prelu else 1.0
                nn.init.normal_(layer.weight, std=math.sqrt(power / taps))
                nn.init.zeros_(layer.bias)
        for block in self.blocks:
            nn.init.zeros_(block.second.weight)
        with torch.no_grad():
            # Begin near black, or at the demosaicing: far outside the gamut a step would lead anywhere.
            self.to_rgb.weight.mul_(0.0 if self.on_demosaic else 0.1)


class _PaperBlock(nn.Module):
    """4x4 convolution, PReLU, 3x3 convolution, added to the input.

    An even kernel has no centre: its longer side is right and below, or left and above, in turns, so that the
    whole network looks to all sides alike.
    """

    def __init__(self, channels: int, turn: int) -> None:
        super().__init__()
        self.margins = (2, 1, 2, 1) if turn else (1, 2, 1, 2)
        self.first = nn.Conv2d(channels, channels, 4)
        self.prelu = nn.PReLU(channels, PRELU_START)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.second(self.prelu(self.first(functional.pad(values, self.margins))))


class _Deconvolution(nn.ConvTranspose2d):
    """A 3x3 deconvolution of stride 2: (B, C, h, w) -> (B, C, 2h, 2w).

    On the CPU torch's own sums in an order that depends on the size, so that a tile would differ from its
    place in the whole. There a trained network takes a convolution for each of the four phases.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1, output_padding=1)

    def forward(self, values: Tensor) -> Tensor:
        if values.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(values)
        height = values.shape[-2]
        ahead = functional.pad(values, (0, 1, 0, 1))
        # Sample 2i sees sample i by the middle tap, 2i + 1 sees i and i + 1 by the outer ones. The zero makes
        # no kernel 1x1, which torch sums like the deconvolution.
        kernel = functional.pad(self.weight.transpose(0, 1), (0, 1))
        zero = 3
        phases = torch.stack(
            [
                functional.conv2d(
                    ahead[..., : height + len(rows) - 1, :], kernel[:, :, rows][..., columns], self.bias
                )
                for rows in ([1], [2, 0])
                for columns in ([1, zero], [2, 0])
            ],
            dim=2,
        )
        return functional.pixel_shuffle(phases.flatten(1, 2), 2)


class SmallNetwork(nn.Module):
    """A network that learns in minutes on two cores: what it adds to an upsampled rendering of the input.

    3x3 convolutions at the packed sampling with residual blocks, then one to all 2N x 2N samples of each
    packed pixel. It sees and puts out contrast: the difference of each channel from its local mean, relative
    to that mean, and it has no biases. So a flat area of any colour stays flat, and neither the exposure nor
    a sensor's balance of red, green and blue matters: what few scenes of one camera teach holds for other
    colours and cameras. The blocks and the last convolution start at zero: before training the output is a
    bilinear demosaicing, upsampled.

    Args:
        inputs: channels, 4 of a mosaic or 12 of RGB.
        encodes: work on the sRGB curve of the input, and decode the output: for input in linear light. What
            is judged are rendered pictures, and in linear light the dark side of an edge hardly counts.
    """

    def __init__(
        self, zoom: int, *, inputs: int = 4, channels: int = 48, blocks: int = 6, encodes: bool = True
    ) -> None:
        super().__init__()
        self.zoom = _known(zoom)
        self.encodes = encodes
        self.head = nn.Sequential(_conv3x3(inputs, channels), nn.PReLU(channels, PRELU_START))
        self.blocks = nn.Sequential(*(_SmallBlock(channels) for _ in range(blocks)))
        self.to_samples = _conv3x3(channels, 3 * (2 * zoom) ** 2)
        nn.init.zeros_(self.to_samples.weight)

    def forward(self, packed: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 2Nh, 2Nw)."""
        return self.output(self.features(packed), packed)

    def features(self, packed: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, channels, h, w)."""
        packed = encode_srgb(packed) if self.encodes else packed
        mean = _local_mean(packed)
        return self.blocks(self.head((packed - mean) / _not_dark(mean)))

    def output(self, features: Tensor, packed: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, 2Nh, 2Nw)."""
        packed = encode_srgb(packed) if self.encodes else packed
        if packed.shape[1] == 4:
            red, green_of_red, green_of_blue, blue = _local_mean(packed).unbind(1)
            mean = torch.stack((red, (green_of_red + green_of_blue) / 2, blue), dim=1)
        else:
            mean = _local_mean(packed).unflatten(1, (3, 4)).mean(dim=2)
        contrast = functional.pixel_shuffle(self.to_samples(features), 2 * self.zoom)
        picture = contrast * upsampled(_not_dark(mean), 2 * self.zoom) + upsampled(
            _picture(packed), self.zoom
        )
        return decode_srgb(picture) if self.encodes else picture

    @property
    def features_reach(self) -> int:
        """The local mean, 3x3, and two more in every block."""
        return MEAN_SIDE // 2 + 1 + 2 * len(self.blocks)

    @property
    def output_reach(self) -> int:
        """The local mean and the cubic around it; the 3x3 and the demosaicing see less."""
        return MEAN_SIDE // 2 + 2


class _SmallBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv3x3(channels, channels)
        self.prelu = nn.PReLU(channels, PRELU_START)
        self.second = _conv3x3(channels, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.second(self.prelu(self.first(values)))


def _local_mean(packed: Tensor) -> Tensor:
    """Mean over a square around each packed pixel, at the borders over what of it lies inside."""
    return functional.avg_pool2d(packed, MEAN_SIDE, 1, MEAN_SIDE // 2, count_include_pad=False)


def _not_dark(mean: Tensor) -> Tensor:
    """What contrast is relative to: noise around black must not be taken for contrast."""
    return mean.clamp(min=0) + FAINT


def _picture(packed: Tensor) -> Tensor:
    """(B, 4 or 12, h, w) -> RGB (B, 3, 2h, 2w): a mosaic demosaiced, RGB unpacked."""
    return bilinear_demosaic(packed) if packed.shape[1] == 4 else functional.pixel_shuffle(packed, 2)


def bilinear_demosaic(packed: Tensor) -> Tensor:
    """(B, 4, h, w) -> camera RGB (B, 3, 2h, 2w): each channel by [1 2 1] x [1 2 1] over its sites."""
    red, green_of_red, green_of_blue, blue = packed[:, :, None].unbind(1)
    none = torch.zeros_like(red)
    planes = (red, none, none, none), (none, green_of_red, green_of_blue, none), (none, none, none, blue)
    sparse = functional.pixel_shuffle(torch.cat([torch.cat(plane, dim=1) for plane in planes], dim=1), 2)
    square = packed.new_tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    # Green is twice as dense: half the weight. That blurs it where it was measured as much as where it was
    # not, and so leaves no zipper along its edges.
    kernels = torch.stack((square, square / 2, square))[:, None]
    # Reflection about the outermost pixel continues the Bayer pattern.
    return functional.conv2d(functional.pad(sparse, (1, 1, 1, 1), mode="reflect"), kernels, groups=3)


def upsampled(image: Tensor, zoom: int) -> Tensor:
    """Bicubic upsampling (Keys, a = -1/2) of (B, C, H, W) that keeps areas: X' = (X + 1/2)/N - 1/2."""
    # With antialias=True torch takes a = -1/2, which keeps linear ramps, and not -3/4; it filters nothing
    # here.
    return functional.interpolate(image, scale_factor=zoom, mode="bicubic", antialias=True)


def downsampled(image: Tensor, factor: int) -> Tensor:
    """Bicubic downsampling (Keys, a = -1/2, its support `factor` times as wide) of (B, C, H, W), by areas."""
    return functional.interpolate(image, scale_factor=1 / factor, mode="bicubic", antialias=True)


def _conv3x3(before: int, after: int) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, PRELU_START)
    return layer


def _known(zoom: int) -> int:
    if zoom not in ZOOMS:
        raise ValueError(f"there is no network for a zoom of {zoom}; there are {ZOOMS}")
    return zoom
