"""The pictures that tables compare: a network's tiles show what it makes of the whole."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch as replaced

import numpy as np
import pytest
import torch
from torch import nn

from srraw_model import pictures
from srraw_model.baselines import Baseline, JohnsonNet, LapSRN, ResNetGenerator, RRDBNet, ThenBicubic
from srraw_model.pictures import baseline_picture
from srraw_model.variants import make_trained

LAST = {"paper": 3e-5, "small": 0.002}  # deviation of the last layer's weights: few values clip


def shown(height, width):
    rng = np.random.default_rng(0)
    return SimpleNamespace(rgb=rng.integers(0, 256, (height, width, 3)).astype(np.uint8))


def random_png(name, zoom, **sizes):
    """Ours-png with weights by which far pixels count."""
    torch.manual_seed(0)
    network = make_trained(name, zoom, "png", **sizes)
    for block in network.body.blocks:
        nn.init.kaiming_normal_(block.second.weight)
    last = network.body.to_rgb if name == "paper" else network.body.to_samples
    nn.init.normal_(last.weight, std=LAST[name])
    return network.eval()


def in_tiles(network, data, tile):
    with replaced.object(pictures, "TILE", tile):
        return baseline_picture(network, data)


def in_one_piece(network, data):
    srgb = torch.from_numpy(data.rgb.transpose(2, 0, 1).astype(np.float32) / 255)
    with torch.inference_mode():
        return pictures.to_uint8(network(srgb[None])[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [(40, 260), (33, 71)])
@pytest.mark.parametrize(
    ("name", "sizes"), [("paper", {"blocks": 16, "channels": 8, "wide": 8}), ("small", {"blocks": 6})]
)
def test_tiles_of_ours_png_are_the_whole_bit_for_bit(name, sizes, size):
    network, data = random_png(name, 4, **sizes), shown(*size)
    whole = in_one_piece(network, data)
    assert 20 < whole.std() < 90, "a picture of one colour, or of black and white, would prove nothing"
    for tile in (20, 64):
        np.testing.assert_array_equal(in_tiles(network, data, tile), whole)


class Farther(Baseline):
    """Puts out what lies so many pixels to the left."""

    zoom = 2

    def __init__(self, reach):
        super().__init__()
        self.far, self.scale = reach, nn.Parameter(torch.ones(()))

    @property
    def reach(self):
        return self.far

    def forward(self, srgb):
        left = nn.functional.pad(srgb, (self.far, 0, 0, 0))[..., : srgb.shape[-1]]
        return self.scale * left.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def test_a_tile_is_computed_with_all_that_the_network_sees():
    data = shown(30, 150)
    np.testing.assert_array_equal(in_tiles(Farther(50), data, 32), in_one_piece(Farther(50), data))


def test_what_a_tile_is_computed_with_is_bounded():
    """A network of far reach, as ESRGAN's, does not see the whole picture for every tile."""
    seen = []
    network = Farther(349)
    network.register_forward_hook(lambda _module, given, _out: seen.append(given[0].shape[-2:]))
    in_tiles(network, shown(600, 600), 256)
    assert max(max(size) for size in seen) == 256 + 2 * 64


@pytest.mark.parametrize(
    "network",
    [
        ResNetGenerator(4, blocks=2, channels=8),
        RRDBNet(blocks=2, channels=8, growth=4),
        LapSRN(4, depth=3, channels=8),
        JohnsonNet(2, channels=8),
        ThenBicubic(LapSRN(2, depth=3, channels=8), 8),
    ],
)
def test_tiles_of_baselines_are_the_whole_but_for_rounding(network):
    data = shown(50, 91)
    whole = in_one_piece(network.eval(), data)
    assert np.abs(whole.astype(int) - in_tiles(network, data, 24)).max() <= 1
