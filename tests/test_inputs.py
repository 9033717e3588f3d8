"""What networks are shown: each source in its own domain, at the target's place, the same for a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import BLACK, CFAS, WHITE, make_pair, write_set

from srraw_model.curve import decode_srgb, encode_srgb
from srraw_model.dataset import Crops
from srraw_model.inputs import (
    SOURCES,
    SRGB_NOISE,
    area_mean,
    bicubic_input,
    calibrated_mosaic,
    encoded_mosaic,
)
from srraw_model.losses import render_srgb
from srraw_model.metrics import psnr
from srraw_model.network import bilinear_demosaic, make_network, upsampled
from srraw_model.variants import EncodedNetwork, PngNetwork, balanced_for
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.raw import render_srgb as render_array

NOISELESS = ({"camera": None, "iso": None, "a": [0.0] * 3, "b": [0.0] * 3},)
NOISY = ({"camera": None, "iso": None, "a": [2.0, 3.0, 4.0], "b": [100.0, 25.0, 400.0]},)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=4, size=(64, 80), noise=0.0)


def smooth_scene(side=64):
    """(N c, N c, 3) sRGB that changes linearly: nothing that a blur or an enlargement would change."""
    y, x = np.mgrid[:side, :side] / side
    return np.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.7 - 0.3 * x], axis=-1).astype(np.float32)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_shows_the_targets_place_and_the_same_crop_for_a_number(data, source):
    crops = Crops(data, zoom=4, crop=32, seed=3, source=source, noise=NOISY)
    raw = Crops(data, zoom=4, crop=32, seed=3)
    for number in (0, 1, 2, 3, 11):
        sample, again = crops[number], crops[number]
        assert torch.equal(sample.input, again.input), "noise follows from the number too"
        assert torch.equal(sample.target, raw[number].target), "all variants see the same crops"
        if source in ("png", "bicubic"):
            shown = sample.input[None]
            assert sample.input.shape == (3, 32, 32)
            assert torch.allclose(shown * 255, (shown * 255).round(), atol=1e-4), "8 bits"
        else:
            assert sample.input.shape == (4, 16, 16)
            shown = bilinear_demosaic(sample.input[None])
            if source != "syn-raw":
                wb, matrix = sample.camera_wb[None], sample.color_matrix[None]
                shown = render_srgb(shown, wb, matrix, for_loss=False)
        enlarged = upsampled(shown, 4).clamp(0, 1)
        here = psnr(enlarged, sample.target[None]).item()
        turned = psnr(enlarged.flip(-1), sample.target[None]).item()
        assert here > turned + 2
        # A shift by a pixel of the low shot would show.
        assert here > psnr(enlarged.roll(8, -1), sample.target[None]).item() + 1


def test_syn_raw_is_an_encoded_mosaic_of_8_bit_areas():
    scene = smooth_scene()
    clean = area_mean(np.round(scene * 255) / 255, 4)
    deviations = []
    for seed in range(40):
        packed = encoded_mosaic(scene, 4, np.random.default_rng(seed))
        wanted = (clean[::2, ::2, 0], clean[::2, 1::2, 1], clean[1::2, ::2, 1], clean[1::2, 1::2, 2])
        deviations.append(np.std(packed - np.stack(wanted)))
    assert max(deviations) < SRGB_NOISE * 1.1
    # The variance is even between 0 and the greatest, so half of the deviations lie above 0.71 of it.
    assert 0.5 < np.median(deviations) / SRGB_NOISE < 0.9
    assert encoded_mosaic(np.zeros((64, 64, 3), np.float32), 4, np.random.default_rng(0)).min() == 0


@pytest.mark.parametrize("cfa", CFAS)
def test_a_calibrated_mosaic_is_the_targets_light_in_the_low_shots_camera(cfa):
    """Rendered with the low shot's own metadata it is the target; its noise is the model's."""
    pair, _ = make_pair("00001_4x_00006_00002", cfa=cfa)
    scene = smooth_scene(256)
    packed = torch.from_numpy(calibrated_mosaic(scene, pair, NOISELESS, np.random.default_rng(0)))
    camera_rgb = bilinear_demosaic(packed[None])[0].permute(1, 2, 0).numpy()
    shown = render_array(camera_rgb, pair.rgb_wb, pair.color_matrix)[4:-4, 4:-4]
    # Light, not its encoding, is averaged: over a slope the two differ by little.
    np.testing.assert_allclose(shown, area_mean(scene, 4)[4:-4, 4:-4], atol=6e-3)

    # A mosaic is a whole number of sensor values.
    values = packed.numpy() * (WHITE - BLACK)
    np.testing.assert_allclose(values, np.round(values), atol=1e-2)


def test_calibrated_noise_has_the_models_variance():
    pair, _ = make_pair("00001_4x_00006_00002")
    grey = np.full((512, 512, 3), 0.5, np.float32)
    clean = calibrated_mosaic(grey, pair, NOISELESS, np.random.default_rng(1)) * (WHITE - BLACK)
    noisy = calibrated_mosaic(grey, pair, NOISY, np.random.default_rng(1)) * (WHITE - BLACK)
    for channel, colour in enumerate((0, 1, 1, 2)):
        variance = NOISY[0]["a"][colour] * clean[channel].mean() + NOISY[0]["b"][colour]
        assert np.var(noisy[channel] - clean[channel]) == pytest.approx(variance, rel=0.06)


def test_a_camera_whose_noise_is_not_known_is_named(data):
    models = ({"camera": "Other", "iso": 100.0, "a": [1.0] * 3, "b": [1.0] * 3},)
    with pytest.raises(UserError, match="an unknown camera at ISO unknown is noisy"):
        Crops(data, zoom=4, crop=32, source="syn-calibrated", noise=models)


def test_bicubic_inputs_are_bicubic_of_8_bits():
    scene = smooth_scene()
    small = bicubic_input(scene, 4)
    np.testing.assert_allclose(
        small[:, 2:-2, 2:-2], area_mean(scene, 4).transpose(2, 0, 1)[:, 2:-2, 2:-2], atol=5e-3
    )
    np.testing.assert_allclose(small * 255, np.round(small * 255), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sizes"), [("paper", {"channels": 8, "blocks": 1, "wide": 8}), ("small", {})]
)
def test_ours_png_takes_pictures_of_any_size(name, sizes):
    torch.manual_seed(0)
    network = PngNetwork(make_network(name, 4, inputs=12, **sizes))
    assert network(torch.rand(2, 3, 9, 14)).shape == (2, 3, 36, 56)
    if name == "small":  # before training it is an enlargement that keeps areas in their place
        y, x = np.mgrid[:40, :40]
        ramp = torch.from_numpy(np.stack([x, y, x + y]).astype(np.float32) / 100)[None]
        torch.testing.assert_close(
            network(ramp)[..., 40:-40, 40:-40], upsampled(ramp, 4)[..., 40:-40, 40:-40], atol=2e-4, rtol=0
        )


def test_a_network_that_learnt_from_srgb_sees_real_raw_balanced_and_encoded(data):
    """What it is given for a grey card is grey, and a perfect one gives the camera's colours back."""

    class Demosaic(torch.nn.Module):
        zoom, features_reach, output_reach = 4, 0, 1

        def features(self, packed):
            self.seen = packed
            return packed

        def output(self, features, packed):
            return upsampled(bilinear_demosaic(features), 4)

    body, wb = Demosaic(), (2.0, 1.0, 1.5)
    network = balanced_for(EncodedNetwork(body), wb)
    light = torch.tensor([0.1, 0.2, 0.2, 0.2 / 1.5]).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    camera_rgb = network(light)
    torch.testing.assert_close(body.seen, encode_srgb(torch.full((1, 4, 8, 8), 0.2)))
    torch.testing.assert_close(camera_rgb[0, :, 16, 16], torch.tensor([0.1, 0.2, 0.2 / 1.5]))
    with pytest.raises(ValueError, match="balanced_by"):
        EncodedNetwork(body)(light)
    raw = make_network("small", 4)
    assert balanced_for(raw, wb) is raw


def test_the_curve_and_its_inverse_agree_with_the_tools():
    values = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(decode_srgb(encode_srgb(values)), values)
    from srraw_tools.raw import encode_srgb as encode_array

    np.testing.assert_allclose(encode_srgb(values).numpy(), encode_array(values.numpy()), atol=1e-6)


def test_sources_read_no_more_than_they_need(data, monkeypatch):
    asked = []
    read = shards.Reader.read

    def listening(self, pair, crop=None, arrays=shards.ARRAYS):
        asked.extend(arrays)
        return read(self, pair, crop, arrays)

    monkeypatch.setattr(shards.Reader, "read", listening)
    Crops(data, zoom=4, crop=32, source="bicubic")[0]
    assert set(asked) == {"valid", "target"}
