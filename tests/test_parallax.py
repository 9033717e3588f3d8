"""What tells planes of other distances from what moved and from a lens's distortion."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from srraw_tools import geometry
from srraw_tools.adjustment import LocalShifts, adjust, fit_link
from srraw_tools.parallax import depths

SIZE = (704, 1056)
CENTRE = (527.5, 351.5)
FOCALS = (24, 35, 50, 70, 100, 150)
SIGMA_PX = 0.05
GROWTH = -0.003  # of a nearer plane against a farther one, for each unit of the logarithm of zoom


def links(seed, change):
    """Neighbours' links of a sequence whose shots lie on one axis; `change` moves blocks once found.

    change(points, found, log_zoom, rng): where the blocks are found instead.
    """
    rng, found = np.random.default_rng(seed), []
    about = geometry.translation(*CENTRE)
    for low, high in pairwise(FOCALS):
        low_to_high = about @ np.diag([high / low, high / low, 1]) @ np.linalg.inv(about)
        x, y, w, h = geometry.even_crop_of_view(low_to_high, SIZE, SIZE)
        rows, columns = np.mgrid[0:12, 0:12]
        points = np.stack([x + (columns.ravel() + 0.5) * w / 12, y + (rows.ravel() + 0.5) * h / 12], axis=1)
        there = geometry.apply(low_to_high, points) + rng.normal(0, SIGMA_PX, points.shape)
        shifts = LocalShifts(
            points,
            change(points, there, math.log(high / low), rng),
            np.tile(np.eye(2) * SIGMA_PX**2, (len(points), 1, 1)),
            np.stack([rows.ravel(), columns.ravel()], axis=1),
        )
        found.append(fit_link(str(low), str(high), low_to_high, shifts, "similarity", SIZE))
    return found


def nearer(share):
    """A patchwork, of whose blocks some lie on a nearer plane."""

    def change(points, found, log_zoom, rng):
        near = rng.random(len(points)) < share
        return found + near[:, None] * (found - CENTRE) * GROWTH * log_zoom

    return change


def error_px(found):
    adjustment = adjust(found, dict.fromkeys(map(str, FOCALS), SIZE), "similarity")
    low_to_high = adjustment.low_to_high("24", "100")
    corners = geometry.crop_corners(geometry.even_crop_of_view(low_to_high, SIZE, SIZE))
    return depths(found, adjustment, dict.fromkeys(map(str, FOCALS), SIZE)).error_px(
        low_to_high, corners, CENTRE
    )


@pytest.mark.parametrize("share", [0.7, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_a_farther_plane_behind_what_fills_the_picture_is_the_error_to_expect(seed, share):
    apart = -GROWTH * math.log(100 / 24) * math.hypot(*CENTRE)
    assert error_px(links(seed, nearer(share))) == pytest.approx(apart, rel=0.25)


@pytest.mark.parametrize("share", [0, 0.1, 0.2])
def test_nearer_things_before_the_plane_that_the_maps_follow_cost_nothing(share):
    assert error_px(links(1, nearer(share))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_what_moved_is_no_parallax(seed):
    def change(points, found, log_zoom, rng):
        moved = rng.random(len(points)) < 0.25
        return found + moved[:, None] * rng.uniform(-2, 2, points.shape)

    assert error_px(links(seed, change)) == 0


def test_the_distortion_of_a_lens_is_no_parallax():
    def change(points, found, log_zoom, rng):
        from_centre = (found - CENTRE) / math.hypot(*CENTRE)
        return found + log_zoom * from_centre * (from_centre**2).sum(axis=1, keepdims=True)

    assert error_px(links(2, change)) < 0.3
