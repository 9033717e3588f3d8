"""Radial distortion: there and back again, crops that hold what is seen, one resampling."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srraw_tools import distortion, geometry
from srraw_tools.distortion import STRAIGHT, Distortion, map_points, of_frame

SIZE = (704, 1056)
k1s, k2s = st.floats(-0.12, 0.3), st.floats(-0.03, 0.1)


def lens_of(k1, k2, size=SIZE):
    try:
        return of_frame(k1, k2, size)
    except ValueError:
        return None


def frame_points(size=SIZE, count=41):
    x, y = np.meshgrid(np.linspace(-0.5, size[1] - 0.5, count), np.linspace(-0.5, size[0] - 0.5, count))
    return np.stack([x.ravel(), y.ravel()], axis=1)


@given(k1s, k2s, st.sampled_from([(704, 1056), (2832, 4240), (353, 531)]))
def test_distorting_undoes_undistorting_over_the_frame(k1, k2, size):
    lens = lens_of(k1, k2, size)
    assume(lens is not None)
    points = frame_points(size)
    np.testing.assert_allclose(lens.distort(lens.undistort(points)), points, rtol=0, atol=1e-9)
    np.testing.assert_allclose(lens.undistort(lens.distort(points)), points, rtol=0, atol=1e-9)


@given(k1s, k2s)
def test_the_radius_is_what_the_formula_says(k1, k2):
    lens = lens_of(k1, k2)
    assume(lens is not None)
    offset = np.array([0.6, -0.3])  # in half diagonals
    squared = 0.6**2 + 0.3**2
    seen = lens.distort(np.array(lens.centre) + offset * lens.normaliser)
    expected = offset * (1 + k1 * squared + k2 * squared**2)
    np.testing.assert_allclose((seen - lens.centre) / lens.normaliser, expected, atol=1e-12)


@given(k1s, k2s)
def test_farther_out_is_seen_farther_out_however_far(k1, k2):
    lens = lens_of(k1, k2)
    assume(lens is not None)
    x = np.linspace(0, 20 * lens.normaliser, 4001)
    seen = lens.distort(np.stack([lens.centre[0] + x, np.full_like(x, lens.centre[1])], axis=1))[:, 0]
    assert np.all(np.diff(seen) > 0)
    back = lens.undistort(np.stack([seen, np.full_like(x, lens.centre[1])], axis=1))[:, 0] - lens.centre[0]
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    "numbers",
    [
        (math.nan, 0, (1, 1), 2),
        (0, math.inf, (1, 1), 2),
        (0, 0, (1, 1), 0),
        (-0.4, 0, (1, 1), 2),
        (0, -0.5, (1, 1), 2),
    ],
)
def test_what_no_lens_does_is_refused(numbers):
    with pytest.raises(ValueError, match=r"numbers|normaliser|fold"):
        Distortion(*numbers)


@given(k1s, st.sampled_from([0.5, 2.0, 3.7]))
def test_another_sampling_shows_the_same_distortion(k1, factor):
    lens, finer = of_frame(k1, 0, SIZE), of_frame(k1, 0, SIZE).at_sampling(factor)
    points = frame_points()
    scaled = geometry.scaling(factor)
    np.testing.assert_allclose(
        finer.distort(geometry.apply(scaled, points)),
        geometry.apply(scaled, lens.distort(points)),
        atol=1e-8,
    )


@given(st.floats(1.2, 8), st.floats(-0.05, 0.05), st.floats(-20, 20), k1s, k1s)
def test_the_crop_is_even_and_holds_all_that_the_high_frame_sees(scale, rotation, shift, k1, other_k1):
    lenses = of_frame(k1, 0, SIZE), of_frame(other_k1, 0, SIZE)
    centre = np.array(lenses[0].centre)
    low_to_high = (
        geometry.translation(*centre)
        @ geometry.similarity(scale, rotation, shift, -shift)
        @ geometry.translation(*-centre)
    )
    x, y, width, height = distortion.even_crop_of_view(low_to_high, SIZE, SIZE, lenses)
    assert all(v % 2 == 0 for v in (x, y, width, height))
    seen = map_points(np.linalg.inv(low_to_high), lenses[::-1], frame_points())
    seen = seen[np.all((seen > -0.5) & (seen < np.array(SIZE[::-1]) - 0.5), axis=1)]
    assert np.all(seen >= np.array([x, y]) - 0.5 - 0.02)
    assert np.all(seen <= np.array([x + width, y + height]) - 0.5 + 0.02)
    assert min(width, height) >= 2


def test_without_distortion_everything_is_as_it_was():
    low_to_high = geometry.similarity(2.3, 0.02, -300, -200)
    image = np.random.default_rng(0).random((90, 120), np.float32)
    assert distortion.even_crop_of_view(low_to_high, SIZE, SIZE, STRAIGHT) == geometry.even_crop_of_view(
        low_to_high, SIZE, SIZE
    )
    straight = cv2.warpPerspective(
        image, low_to_high, (50, 40), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    np.testing.assert_array_equal(distortion.warp(image, low_to_high, STRAIGHT, (40, 50)), straight)


def test_a_distorted_picture_is_warped_to_where_the_map_says():
    """A ramp, whose value tells where it was sampled."""
    lenses = of_frame(-0.05, 0.0, (300, 400)), of_frame(0.02, 0.01, (600, 800))
    low_to_high = geometry.scaling(2.0)
    y, x = np.mgrid[0:600, 0:800].astype(np.float32)
    grid_to_low = geometry.zoomed_crop_to_frame((40, 60, 200, 100), 1.5)
    size = (150, 300)
    grid = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), axis=-1)
    expected = map_points(low_to_high, lenses, geometry.apply(grid_to_low, grid))
    got = distortion.warp(np.dstack([x, y]), low_to_high, lenses, size, grid_to_low=grid_to_low)
    assert np.abs(got - expected).max() < 1 / 32 + 1e-3  # OpenCV samples at 32nds of a pixel
