"""A sequence registered together: scenes at two distances, and what else the neighbours know better."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from test_registration import SIZE, Waves, centred

from srraw_tools import geometry, joint

FOCALS = {"1": 35.0, "2": 50.0, "3": 70.0, "4": 100.0, "5": 150.0}
PAIR = ("1", "5")
GROWTH = -0.004  # of the nearer plane against the farther one, for each unit of the logarithm of zoom


@pytest.fixture(scope="module")
def planes():
    """Every shot's view of the farther and the nearer plane, and of a number in [0, 1] for every spot."""
    scene, rng = Waves(11), np.random.default_rng(11)
    spots = rng.random((24, 36)).astype(np.float32)
    views = {}
    for shot, focal in FOCALS.items():
        far = centred(focal / 150, rng.normal(0, 0.3), *rng.normal(0, 4, 2))
        near = far @ np.diag([1 + GROWTH * math.log(focal / 35)] * 2 + [1])
        # A spot is 120 pixels of the longest shot wide; it belongs to the nearer plane.
        to_spots = geometry.translation(18, 12) @ np.diag([1 / 120, 1 / 120, 1]) @ np.linalg.inv(near)
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        seen = cv2.warpPerspective(spots, to_spots, SIZE[::-1], flags=flags)
        views[shot] = far, scene.shot(far), scene.shot(near @ geometry.translation(400, 300)), seen
    return views


def registered(planes, share):
    """The pair as it is found, and its true error, where some share of the spots lies on the nearer plane."""
    images = {shot: np.where(seen < share, near, far) for shot, (_, far, near, seen) in planes.items()}
    neighbours = joint.link_neighbours(images, FOCALS, motion="similarity")
    found = joint.register_pairs(images, {PAIR: 150 / 35}, neighbours, motion="similarity")[PAIR]
    low, high = (planes[shot][0] for shot in PAIR)
    true = high @ np.linalg.inv(low)
    crop = geometry.even_crop_of_view(true, SIZE, SIZE)
    return found, geometry.corner_error_px(found.low_to_high, true, crop)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_nearer_things_before_a_scene_do_not_draw_it_away(planes, share):
    found, error = registered(planes, share)
    assert found.reason is None
    assert error < min(0.5, 2 * found.expected_error_px)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_what_nearer_things_do_to_a_map_is_expected_of_it(planes, share):
    found, error = registered(planes, share)
    assert error < max(0.5, 2 * found.expected_error_px)
    assert found.reason is None or "parallax" in found.reason
