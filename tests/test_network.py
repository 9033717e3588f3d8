"""Packing keeps the geometry for every colour filter array; the networks see what they say they see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import CFAS

from srraw_model import packing
from srraw_model.network import PaperNetwork, SmallNetwork, bilinear_demosaic, make_network, upsampled
from srraw_tools.raw import mosaic_light

RGB = {"R": 0, "G": 1, "B": 2}


def ramp(height, width, zoom=1):
    """Camera RGB (zoom*h, zoom*w, 3): a slope of its own for each colour, at mosaic coordinates."""
    y = (np.arange(zoom * height) + 0.5) / zoom - 0.5
    x = (np.arange(zoom * width) + 0.5) / zoom - 0.5
    planes = [0.2 + 0.004 * x + 0.002 * y[:, None], 0.5 - 0.003 * x + 0.001 * y[:, None]]
    return np.stack([*planes, 0.3 + 0.001 * x - 0.002 * y[:, None]], axis=-1)


def mosaic_of(rgb, cfa, black, white):
    """Sensor values of camera RGB; black is in the order of the CFA."""
    out = np.empty(rgb.shape[:2], np.uint16)
    for position, colour in enumerate(cfa):
        y, x = divmod(position, 2)
        light = rgb[y::2, x::2, RGB[colour]]
        out[y::2, x::2] = np.round(black[position] + (white - black[position]) * light)
    return out


@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("size", [(24, 32), (23, 31)])
def test_a_ramp_comes_out_as_a_ramp_at_the_right_place(cfa, size):
    """Packing, the small network before training and the crop, at each phase and for odd sides too."""
    (height, width), zoom, black, white = size, 4, (500.0, 510.0, 520.0, 530.0), 65000
    grown = packing.reach_red(mosaic_of(ramp(height, width), cfa, black, white), cfa)
    left, top = packing.red_origin(cfa)
    packed = packing.pack(mosaic_light(grown, black, white, origin=(left, top)))
    with torch.no_grad():
        out = SmallNetwork(zoom)(torch.from_numpy(packed)[None])[0].numpy()
    out = out[:, zoom * top : zoom * (top + height), zoom * left : zoom * (left + width)]
    assert out.shape == (3, zoom * height, zoom * width)
    inner = slice(zoom * 4, -zoom * 4)
    expected = ramp(height, width, zoom).transpose(2, 0, 1)
    np.testing.assert_allclose(out[:, inner, inner], expected[:, inner, inner], atol=3e-5)


@pytest.mark.parametrize("cfa", CFAS)
def test_channels_are_always_red_two_greens_and_blue(cfa):
    names = np.array(list(cfa)).reshape(2, 2)
    values = np.tile(np.vectorize({"R": 100, "G": 200, "B": 300}.get)(names), (3, 4)).astype(np.uint16)
    grown = packing.reach_red(values, cfa)
    packed = packing.pack(mosaic_light(grown, (0.0,) * 4, 1000))
    for channel, value in zip(packed, (0.1, 0.2, 0.2, 0.3), strict=True):
        np.testing.assert_allclose(channel, value, atol=1e-6)


def test_black_is_subtracted_by_its_place_in_the_pattern_and_nothing_is_clipped():
    mosaic = np.array([[90, 210], [310, 390]], np.uint16)
    black = (100.0, 200.0, 300.0, 400.0)
    light = mosaic_light(mosaic, black, 1100)
    np.testing.assert_allclose(light, [[-10 / 1000, 10 / 900], [10 / 800, -10 / 700]], rtol=1e-6)
    shifted = mosaic_light(mosaic[:, ::-1].copy(), black, 1100, origin=(1, 0))
    np.testing.assert_allclose(shifted, light[:, ::-1], rtol=1e-6)


def test_a_mosaic_with_an_odd_side_is_not_packed_unasked():
    with pytest.raises(ValueError, match="even"):
        packing.pack(np.zeros((4, 5), np.float32))


@pytest.mark.parametrize(("zoom", "count"), [(4, 4_860_355), (8, 6_040_771)])
def test_the_papers_network_has_the_papers_parameters(zoom, count):
    assert sum(p.numel() for p in PaperNetwork(zoom).parameters()) == count


@pytest.mark.parametrize("zoom", [2, 4, 8])
@pytest.mark.parametrize("name", ["paper", "small"])
def test_the_output_is_sampled_n_times_as_finely_as_the_mosaic(name, zoom):
    sizes = {"channels": 4, "blocks": 1} | ({"wide": 6} if name == "paper" else {})
    with torch.no_grad():
        out = make_network(name, zoom, **sizes)(torch.rand(2, 4, 5, 7))
    assert out.shape == (2, 3, 10 * zoom, 14 * zoom)


def test_there_is_no_network_for_another_zoom():
    with pytest.raises(ValueError, match="zoom of 3"):
        SmallNetwork(3)


@pytest.mark.parametrize("zoom", [2, 4, 8])
@pytest.mark.parametrize("name", ["paper", "small"])
def test_the_reach_is_what_the_output_really_depends_on(name, zoom):
    """With all weights positive no dependence cancels, so the gradient shows every one."""
    sizes = {"channels": 2, "blocks": 3} | ({"wide": 2} if name == "paper" else {})
    network = make_network(name, zoom, **sizes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)

    def seen(function, side, size):
        """Distance, in packed pixels, to the furthest input that the middle of the output depends on."""
        values = torch.rand(1, *size, requires_grad=True)
        out = function(values)
        scale = out.shape[2] // size[1]
        middle = side * scale
        out[:, :, middle : middle + scale, middle : middle + scale].sum().backward()
        rows, columns = (values.grad != 0).any(dim=1)[0].nonzero(as_tuple=True)
        return max(side - int(rows.min()), int(rows.max()) - side, int(columns.max()) - side)

    assert seen(network.features, 20, (4, 41, 41)) == network.features_reach
    features = torch.rand(1, 2, 41, 41)
    reaches = [seen(lambda values: network.output(values, torch.rand(1, 4, 41, 41)), 20, (2, 41, 41))]
    if name == "small":
        reaches.append(seen(lambda packed: network.output(features, packed), 20, (4, 41, 41)))
    assert max(reaches) == network.output_reach


def test_sixteen_blocks_start_with_a_signal_of_sound_size():
    """Neither vanishing nor exploding, forwards and backwards, without normalisation."""
    torch.manual_seed(0)
    network = PaperNetwork(4)
    packed = torch.rand(1, 4, 12, 12)
    features = network.features(packed)
    assert 0.1 < features.std() / packed.std() < 10
    assert 0.1 < network.stages(features).std() / packed.std() < 10
    out = network(packed)
    assert out.abs().max() < 1
    (out - torch.rand_like(out)).square().mean().backward()
    norms = [block.second.weight.grad.norm() for block in network.blocks]
    assert max(norms) < 10 * min(norms)


def test_the_papers_network_learns():
    torch.manual_seed(0)
    network = PaperNetwork(2)
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)
    packed = torch.rand(1, 4, 8, 8)
    target = upsampled(bilinear_demosaic(packed), 2)
    losses = []
    for _ in range(12):
        loss = (network(packed) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def trained_small_network():
    torch.manual_seed(0)
    network = SmallNetwork(2, channels=8, blocks=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.requires_grad_(False)


def test_the_papers_network_on_a_demosaicing_begins_there():
    packed = torch.rand(1, 4, 8, 10, generator=torch.Generator().manual_seed(1))
    network = make_network("paper", zoom=4, blocks=1, on_demosaic=True)
    torch.testing.assert_close(network(packed), upsampled(bilinear_demosaic(packed), 4))


def test_exposure_and_sensitivity_of_the_sensor_hardly_matter_to_the_small_network():
    network, packed = trained_small_network(), 0.5 + 0.5 * torch.rand(1, 4, 12, 12)
    gains = torch.tensor([0.5, 0.8, 0.8, 1.3]).view(1, 4, 1, 1)
    expected = network(packed) * gains[:, [0, 1, 3]]
    torch.testing.assert_close(network(packed * gains), expected, rtol=0.02, atol=0.01)


def test_a_flat_area_of_any_colour_stays_flat_in_the_small_network():
    colour = torch.tensor([0.6, 0.05, 0.05, 0.3]).view(1, 4, 1, 1)
    out = trained_small_network()(colour.expand(1, 4, 20, 20))
    torch.testing.assert_close(out, colour[:, [0, 1, 3]].expand_as(out))


def test_demosaicing_keeps_the_red_and_blue_that_were_measured():
    packed = torch.rand(1, 4, 5, 6)
    rgb = bilinear_demosaic(packed)
    for channel, (colour, y, x) in ((0, (0, 0, 0)), (3, (2, 1, 1))):
        torch.testing.assert_close(rgb[:, colour, y::2, x::2], packed[:, channel])


def test_an_edge_of_green_has_no_zipper():
    """Green that changes from column to column only comes out alike in every row, whatever its sites."""
    green = torch.rand(12)
    packed = torch.zeros(1, 4, 5, 6)
    packed[:, 1], packed[:, 2] = green[1::2], green[0::2]
    rows = bilinear_demosaic(packed)[0, 1]
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))


def test_bicubic_upsampling_agrees_with_an_independent_one():
    """Keys's kernel with a = -1/2, written out in one dimension."""
    values = np.random.default_rng(0).random(12)

    def kernel(t):
        t = abs(t)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        return near if t <= 1 else far if t < 2 else 0.0

    expected = []
    for fine in range(12, 36):  # away from the borders
        at = (fine + 0.5) / 4 - 0.5
        expected.append(sum(values[i] * kernel(at - i) for i in range(12)))
    rows = torch.from_numpy(values).expand(1, 1, 12, 12)
    torch.testing.assert_close(upsampled(rows, 4)[0, 0, 0, 12:36].numpy(), np.array(expected))
