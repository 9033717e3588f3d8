"""Conventions of pixels, crops and maps (docs/formats.md), as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srraw_tools import geometry

finite = st.floats(-2000, 2000)
maps = st.builds(
    geometry.similarity,
    st.floats(0.1, 12),
    st.floats(-math.pi, math.pi),
    st.floats(-500, 500),
    st.floats(-500, 500),
)


@given(maps, maps, finite, finite)
def test_maps_compose_right_to_left(first, second, x, y):
    composed = geometry.apply(second @ first, (x, y))
    np.testing.assert_allclose(composed, geometry.apply(second, geometry.apply(first, (x, y))), atol=1e-6)


@given(maps, finite, finite)
def test_the_inverse_leads_back(a_to_b, x, y):
    back = geometry.apply(np.linalg.inv(a_to_b), geometry.apply(a_to_b, (x, y)))
    np.testing.assert_allclose(back, (x, y), atol=1e-6)


@given(st.integers(1, 8), st.integers(1, 200))
def test_scaling_keeps_areas(zoom, size):
    """The outer edges of an image, half a pixel beyond the outermost centres, stay its outer edges."""
    first, last = geometry.apply(geometry.scaling(zoom), [(-0.5, -0.5), (size - 0.5, size - 0.5)])
    np.testing.assert_allclose(first, (-0.5, -0.5), atol=1e-9)
    np.testing.assert_allclose(last, (zoom * size - 0.5, zoom * size - 0.5), atol=1e-9)


def test_a_target_pixel_sees_what_the_formats_say():
    crop = (10, 20, 30, 40)
    x, y = geometry.apply(geometry.zoomed_crop_to_frame(crop, 4), (5, 9))
    assert x == pytest.approx(10 + (5 + 0.5) / 4 - 0.5)
    assert y == pytest.approx(20 + (9 + 0.5) / 4 - 0.5)


@given(st.floats(0.1, 12), st.floats(-math.pi, math.pi), finite, finite)
def test_scale_and_rotation_are_read_back(scale, rotation, x, y):
    found_scale, found_rotation = geometry.scale_and_rotation(geometry.similarity(scale, rotation, x, y))
    assert found_scale == pytest.approx(scale)
    assert math.cos(found_rotation - rotation) == pytest.approx(1, abs=1e-9)


@given(st.floats(1.5, 8), st.floats(-0.09, 0.09), st.floats(-40, 40), st.floats(-40, 40))
def test_the_crop_is_even_and_encloses_the_high_frame(scale, rotation, dx, dy):
    low_size, high_size = (704, 1056), (704, 1056)
    turn = geometry.translation(527.5, 351.5) @ geometry.similarity(scale, rotation, dx, dy)
    low_to_high = turn @ geometry.translation(-527.5, -351.5)
    x, y, width, height = geometry.even_crop_of_view(low_to_high, low_size, high_size)
    assert x % 2 == y % 2 == width % 2 == height % 2 == 0
    assert min(x, y) >= 0
    assert x + width <= 1056
    assert y + height <= 704
    outline = geometry.frame_corners(high_size) + 0.5 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    seen = geometry.apply(np.linalg.inv(low_to_high), outline)
    for axis, (start, length, limit) in enumerate(((x, width, 1056), (y, height, 704))):
        lowest, highest = seen[:, axis].min(), seen[:, axis].max()
        # Enclosing, and no more than two pixels wider than needed, up to the low frame's border.
        assert start - 0.5 <= max(lowest, -0.5) + 1e-3
        assert start - 0.5 > max(lowest, -0.5) - 2.01
        assert start + length - 0.5 >= min(highest, limit - 0.5) - 1e-3
        assert start + length - 0.5 < min(highest, limit - 0.5) + 2.01


def test_frames_without_a_common_field_have_no_crop():
    with pytest.raises(ValueError, match="common field"):
        geometry.even_crop_of_view(geometry.translation(5000, 0), (100, 100), (100, 100))


def test_the_corner_error_is_a_distance_in_the_high_frame():
    crop = (100, 100, 200, 100)
    shifted = geometry.translation(3, 4) @ geometry.scaling(4)
    assert geometry.corner_error_px(shifted, geometry.scaling(4), crop) == pytest.approx(5)
