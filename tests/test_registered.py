"""The protocol `registered` takes a known displacement off, and nothing that is a real difference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from srraw_model.registered import register_result
from srraw_tools.geometry import translation

MARGIN = 20


def scene(seed=0, size=(240, 320)):
    random = np.random.default_rng(seed)
    picture = np.zeros((*size, 3), np.float32)
    for sigma in (2, 6, 18):  # detail of every size, as photographs have it
        noise = random.normal(0, 1, picture.shape).astype(np.float32)
        picture += sigma * cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.clip(128 + 60 * picture, 0, 255).astype(np.uint8)


def cut(picture):
    return np.ascontiguousarray(picture[MARGIN:-MARGIN, MARGIN:-MARGIN])


def moved(picture, matrix):
    """The cut of the scene after `matrix`, a map between cuts: no border is made up."""
    matrix = translation(MARGIN, MARGIN) @ matrix @ translation(-MARGIN, -MARGIN)
    return cut(cv2.warpPerspective(picture, matrix, picture.shape[1::-1], flags=cv2.INTER_CUBIC))


def error(a, b, valid):
    return np.square(a[valid].astype(float) - b[valid]).mean()


def all_valid(picture):
    return np.ones(picture.shape[:2], bool)


@pytest.mark.parametrize("shift", [(0.4, -0.7), (3.3, 1.6), (-6.0, 4.5)])
def test_a_known_shift_is_found_despite_a_colour_cast(shift):
    whole = scene()
    target = cut(whole)
    matrix = np.array([[1.002, 0, shift[0]], [0, 1.002, shift[1]], [0, 0, 1]])
    result = np.clip(moved(whole, matrix) * np.array([0.8, 0.9, 1.0]), 0, 255).astype(np.uint8)
    found = register_result(result, target, all_valid(target))
    np.testing.assert_allclose(found.target_to_result[:2, 2], shift, atol=0.1)
    assert not found.valid.all()
    assert found.valid.mean() > 0.85


def test_a_blurred_result_stays_worse_than_a_sharp_one():
    whole = scene()
    target = cut(whole)
    matrix = np.array([[1, 0, 2.5], [0, 1, -1.5], [0, 0, 1.0]])
    sharp, soft = (moved(p, matrix) for p in (whole, cv2.GaussianBlur(whole, (0, 0), 2)))
    errors = []
    for result in (sharp, soft):
        found = register_result(result, target, all_valid(target))
        assert error(found.picture, target, found.valid) < error(result, target, found.valid)
        errors.append(error(found.picture, target, found.valid))
    assert errors[0] < 0.5 * errors[1]


def test_a_result_without_detail_keeps_its_pixels_and_says_so():
    target = scene()
    flat = np.full_like(target, 90)
    found = register_result(flat, target, all_valid(target))
    assert found.target_to_result is None
    assert found.picture is flat
    assert found.valid.all()


def test_a_result_that_lies_right_stays_and_is_no_failure():
    target = scene()
    found = register_result(target.copy(), target, all_valid(target))
    assert found.target_to_result is not None
    np.testing.assert_array_equal(found.picture[20:-20, 20:-20], target[20:-20, 20:-20])


def test_a_result_of_another_scene_is_a_failure():
    result = scene(1)
    assert register_result(result, scene(2), all_valid(result)).target_to_result is None
