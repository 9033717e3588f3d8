"""Our network's variants as evaluation uses them, and every network that is trained by its name.

Ours-png is a baseline: sRGB in, sRGB out. Ours-syn-raw has learnt from mosaics of sRGB pictures, so a real
mosaic is white-balanced and gamma-encoded for it, and what it puts out is taken for the same: it is decoded,
and the balance undone, so that matrix and curve follow as for any raw network. What lies between its colours
and sRGB, the camera's matrix, is not in its training: that is the weakness of such data.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from srraw_model.baselines import Baseline, JohnsonNet, LapSRN, ResNetGenerator, RRDBNet, ThenBicubic
from srraw_model.curve import decode_srgb, encode_srgb
from srraw_model.network import PaperNetwork, SmallNetwork, make_network

Network = PaperNetwork | SmallNetwork


class PngNetwork(Baseline):
    """Ours on 8-bit pictures: 2 x 2 pixels to 12 channels, then the same network."""

    def __init__(self, body: Network) -> None:
        super().__init__()
        self.body, self.zoom = body, body.zoom

    def forward(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, N h, N w); an odd side is continued by a repeated pixel, and cut again."""
        height, width = srgb.shape[-2:]
        return self.body(self.packed(srgb))[..., : self.zoom * height, : self.zoom * width]

    def packed(self, srgb: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 12, (h + 1) // 2, (w + 1) // 2), what the body takes."""
        height, width = srgb.shape[-2:]
        even = functional.pad(srgb, (0, width % 2, 0, height % 2), mode="replicate")
        return functional.pixel_unshuffle(even, 2)

    @property
    def reach(self) -> int:
        """The body's, in whole squares of 2 x 2 pixels, of which the pixel's own is one."""
        return 2 * (self.body.features_reach + self.body.output_reach + 1)


class EncodedNetwork(nn.Module):
    """Ours-syn-raw on real mosaics: a raw network for shots of one white balance.

    Takes and gives what the networks of `network` do, once `balanced_by` has said which balance.
    """

    def __init__(self, body: Network, rgb_wb: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.body, self.zoom, self.rgb_wb = body, body.zoom, rgb_wb

    def balanced_by(self, rgb_wb: tuple[float, ...]) -> EncodedNetwork:
        """This network for shots whose multipliers (R, G, B) are these."""
        return EncodedNetwork(self.body, tuple(rgb_wb)).train(self.training)

    def forward(self, packed: Tensor) -> Tensor:
        """(B, 4, h, w), linear -> (B, 3, 2Nh, 2Nw), linear camera RGB."""
        return self.output(self.features(packed), packed)

    def features(self, packed: Tensor) -> Tensor:
        """As the body's."""
        return self.body.features(self._encoded(packed))

    def output(self, features: Tensor, packed: Tensor) -> Tensor:
        """As the body's, decoded, and without white balance again."""
        srgb = self.body.output(features, self._encoded(packed))
        return decode_srgb(srgb.clamp(0, 1)) / self._balance(packed, "RGB")

    @property
    def features_reach(self) -> int:
        """The body's."""
        return self.body.features_reach

    @property
    def output_reach(self) -> int:
        """The body's."""
        return self.body.output_reach

    def _encoded(self, packed: Tensor) -> Tensor:
        return encode_srgb((packed * self._balance(packed, "RGGB")).clamp(0, 1))

    def _balance(self, like: Tensor, colours: str) -> Tensor:
        if self.rgb_wb is None:
            raise ValueError("an EncodedNetwork needs the shot's white balance: call balanced_by first")
        return like.new_tensor([self.rgb_wb["RGB".index(colour)] for colour in colours])[:, None, None]


def balanced_for(network: nn.Module, rgb_wb: tuple[float, ...]) -> nn.Module:
    """A raw network for a shot of this white balance: itself, unless it has to know."""
    return network.balanced_by(rgb_wb) if isinstance(network, EncodedNetwork) else network


def make_trained(name: str, zoom: int, variant: str = "raw", **sizes: int) -> nn.Module:
    """A network as it is trained, with weights drawn from torch's random state.

    Args:
        name: "paper" or "small", or a baseline: srresnet, srgan, esrgan, lapsrn, johnson.
        variant: of ours.
        sizes: blocks, channels, wide; `blocks` of lapsrn is the depth of a level.
    """
    if name in ("paper", "small"):
        if name == "small":
            sizes["encodes"] = variant in ("raw", "syn-calibrated")  # what the others see is encoded
        if variant == "png":
            return PngNetwork(make_network(name, zoom, inputs=12, **sizes))
        return make_network(name, zoom, **sizes)
    if name == "esrgan":
        # Its network enlarges 4 times; 8X is that, then bicubic, trained as a whole.
        network = RRDBNet(**sizes)
        return network if zoom == 4 else ThenBicubic(network, zoom)
    if name == "lapsrn":
        renamed = {"depth" if size == "blocks" else size: value for size, value in sizes.items()}
        return LapSRN(zoom, **renamed)
    return {"srresnet": ResNetGenerator, "srgan": ResNetGenerator, "johnson": JohnsonNet}[name](zoom, **sizes)


def for_use(trained: nn.Module, sizes: dict[str, Any]) -> nn.Module:
    """A trained network as evaluation takes it: a raw network or a Baseline."""
    encoded = sizes["name"] in ("paper", "small") and sizes.get("variant") == "syn-raw"
    return EncodedNetwork(trained) if encoded else trained
