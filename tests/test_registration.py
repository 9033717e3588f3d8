"""Registration against maps that are known, on a scene whose pixels can be integrated exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srraw_tools import geometry, registration, starts
from srraw_tools.gain import fit_gain
from srraw_tools.geometry import similarity, translation

SIZE = (352, 528)


class Waves:
    """A scene of many plane waves, amplitude falling with frequency as in nature."""

    def __init__(self, seed: int, count: int = 300) -> None:
        rng = np.random.default_rng(seed)
        self.frequency = np.exp(rng.uniform(np.log(0.004), np.log(0.45), count))  # cycles per high pixel
        angle = rng.uniform(0, 2 * math.pi, count)
        self.k = self.frequency[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        self.phase = rng.uniform(0, 2 * math.pi, count)
        self.amplitude = 0.012 * (self.frequency / 0.05) ** -0.5

    def shot(self, scene_to_shot, size=SIZE):
        """Light integrated over the luminance kernel and square pixels, exactly: each wave is attenuated."""
        shot_to_scene = np.linalg.inv(scene_to_shot)
        origin = geometry.apply(shot_to_scene, (0.0, 0.0))
        linear = shot_to_scene[:2, :2]
        x, y = np.arange(size[1]), np.arange(size[0])
        kx, ky = (self.k @ linear).T  # cycles per pixel of this shot
        seen = self.amplitude * np.sinc(kx) * np.sinc(ky)
        seen *= np.cos(np.pi * kx) ** 2 * np.cos(np.pi * ky) ** 2  # [1 2 1] / 4
        start = 2 * np.pi * (self.k @ origin) + self.phase
        columns = np.exp(2j * np.pi * np.outer(kx, x))
        rows = np.exp(2j * np.pi * np.outer(y, ky)) * (seen * np.exp(1j * start))
        image = 0.4 + (rows @ columns).real
        return np.clip(image, 0, 1).astype(np.float32)


def centred(scale, rotation_deg=0.0, dx=0.0, dy=0.0, size=SIZE):
    """Scene to shot: scaled and turned about the optical axis at the scene's origin, then shifted."""
    centre = translation((size[1] - 1) / 2 + dx, (size[0] - 1) / 2 + dy)
    return centre @ similarity(scale, math.radians(rotation_deg), 0, 0)


def error_px(found, low_map, high_map):
    true = high_map @ np.linalg.inv(low_map)
    return geometry.corner_error_px(found, true, geometry.even_crop_of_view(true, SIZE, SIZE))


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([24 / 100, 35 / 150, 50 / 240, 35 / 240]),
    st.floats(-0.015, 0.015),
    st.floats(-1, 1),
    st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
)
def test_scale_rotation_and_shift_are_found(seed, ratio, focal_error, rotation, shift):
    scene = Waves(seed)
    low_map = centred(ratio * (1 + focal_error), rotation, *shift)
    high_map = centred(1.0, -0.3, 5, -8)
    expected = starts.centred_start(SIZE, SIZE, 1 / ratio)
    found = registration.register(scene.shot(low_map), scene.shot(high_map), expected)
    assert found.reason is None
    # A sixteenth of a pixel of the short shot, in whose 77 x 52 pixels the whole view lies at 8X.
    assert error_px(found.low_to_high, low_map, high_map) * ratio < 1 / 16


@pytest.mark.parametrize(("shift", "rotation"), [((79, 0), 0), ((0, 52), 5), ((-40, 30), -5)])
def test_a_shift_of_15_percent_and_5_degrees_start_correctly(shift, rotation):
    scene = Waves(7)
    low_map, high_map = centred(35 / 150, rotation, *shift), centred(1.0)
    expected = starts.centred_start(SIZE, SIZE, 150 / 35)
    found = registration.register(scene.shot(low_map), scene.shot(high_map), expected)
    assert found.reason is None
    assert error_px(found.low_to_high, low_map, high_map) < 0.3


def test_a_euclidean_motion_keeps_the_scale_it_was_given():
    scene = Waves(3)
    low_map, high_map = centred(0.25 * 1.01, 0.5, 4, 2), centred(1.0)
    expected = starts.centred_start(SIZE, SIZE, 4.0)
    found = registration.register(
        scene.shot(low_map), scene.shot(high_map), expected, motion="euclidean", keep_scale=True
    )
    assert geometry.scale_and_rotation(found.low_to_high)[0] == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("motion", ["affine", "homography"])
def test_larger_groups_of_motions_contain_the_similarity(motion):
    scene = Waves(5)
    low_map, high_map = centred(0.25 * 1.01, 0.5, 4, 2), centred(1.0)
    expected = starts.centred_start(SIZE, SIZE, 4.0)
    found = registration.register(scene.shot(low_map), scene.shot(high_map), expected, motion=motion)
    assert error_px(found.low_to_high, low_map, high_map) < 0.5


def test_a_wrong_ratio_is_found_by_features_that_are_asked_for_only_then():
    low_map, high_map = centred(0.25, 1.0, 6, -4), centred(1.0)
    scene, asked = Waves(6), []
    low, high = scene.shot(low_map), scene.shot(high_map)

    def features():
        asked.append(True)
        return starts.wide_features(low), starts.wide_features(high)

    for ratio in (4.0, 15.0):
        assert not asked
        expected = starts.centred_start(SIZE, SIZE, ratio)
        found = registration.register(low, high, expected, features=features)
        assert found.reason is None
        assert error_px(found.low_to_high, low_map, high_map) < 0.3
    assert asked == [True]


def two_scenes():
    return Waves(1).shot(centred(0.25)), Waves(2).shot(centred(1.0))


def blank():
    return np.full(SIZE, 0.5, np.float32), np.full(SIZE, 0.5, np.float32)


def black():
    return Waves(1).shot(centred(0.25)), np.zeros(SIZE, np.float32)


def noise():
    rng = np.random.default_rng(0)
    return tuple(np.clip(rng.normal(0.4, 0.1, SIZE), 0, 1).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize("images", [two_scenes, blank, black, noise])
def test_what_does_not_match_is_rejected_with_a_reason(images):
    low, high = images()
    found = registration.register(low, high, starts.centred_start(SIZE, SIZE, 4.0))
    assert found.reason


def test_the_residual_tells_a_moved_part():
    scene = Waves(9)
    low_map, high_map = centred(0.25), centred(1.0)
    low, high = scene.shot(low_map), scene.shot(high_map)
    expected = starts.centred_start(SIZE, SIZE, 4.0)
    still = registration.register(low, high, expected).residual_px
    # The right half of the high shot moves by six of its pixels.
    moved = high.copy()
    moved[:, SIZE[1] // 2 :] = scene.shot(translation(6, 0) @ high_map)[:, SIZE[1] // 2 :]
    assert registration.register(low, moved, expected).residual_px > 3 * still


def test_the_gain_is_the_ratio_of_light_per_channel():
    rng = np.random.default_rng(1)
    scene = Waves(4)
    low_map, high_map = centred(0.25), centred(1.0)
    low = np.repeat(scene.shot(low_map)[..., None], 3, -1)
    high = np.repeat(scene.shot(high_map)[..., None], 3, -1) * np.float32([0.8, 0.9, 1.1])
    high += rng.normal(0, 0.01, high.shape).astype(np.float32)
    gain = fit_gain(low, high, high_map @ np.linalg.inv(low_map))
    np.testing.assert_allclose(gain, 1 / np.array([0.8, 0.9, 1.1]), rtol=0.01)
    low[..., 0] = high[..., 0] = 0.001  # no red in this light: the exposures differ there as elsewhere
    dim = fit_gain(low, high, high_map @ np.linalg.inv(low_map))
    assert dim[1:] == gain[1:]
    assert dim[0] == pytest.approx(np.median(gain[1:]))
