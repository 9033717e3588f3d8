"""The protocol `aligned` takes parallax and a colour cast off, and praises no result for what it lacks."""

from __future__ import annotations

import cv2
import numpy as np

from srraw_model.aligned import align_target, in_colours_of


def scene(seed=0, size=(200, 260)):
    random = np.random.default_rng(seed)
    picture = np.zeros((*size, 3), np.float32)
    for sigma in (2, 6, 18):  # detail of every size, as photographs have it
        noise = random.normal(0, 1, picture.shape).astype(np.float32)
        picture += sigma * cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.clip(128 + 40 * picture, 0, 255).astype(np.uint8)


def bent(picture, px=3.0):
    """Moved by up to `px` here and there, as no global map does."""
    y, x = np.indices(picture.shape[:2], np.float32)
    return cv2.remap(picture, x + px * np.sin(y / 25), y + px * np.cos(x / 30), cv2.INTER_CUBIC, borderMode=2)


def psnr(a, b, counts):
    return 10 * np.log10(255**2 / np.square(a[counts].astype(float) - b[counts]).mean())


EVERYWHERE = np.ones((200, 260), bool)


def test_a_local_displacement_is_taken_off():
    target = scene()
    result = bent(target)
    aligned = align_target(result, target, EVERYWHERE)
    assert aligned.counts.mean() > 0.8
    before = psnr(result, target, EVERYWHERE)
    assert psnr(aligned.picture, aligned.target, aligned.counts) > before + 8


def test_a_colour_cast_is_taken_off():
    target = scene(1)
    cast = np.clip(target * np.array([0.8, 1.0, 0.9]), 0, 255).astype(np.uint8)
    aligned = align_target(cast, target, EVERYWHERE)
    assert psnr(aligned.picture, aligned.target, aligned.counts) > 35


def test_a_blurred_result_stays_as_bad_as_it_is():
    target = scene(2)
    blurred = cv2.GaussianBlur(target, (0, 0), 3)
    aligned = align_target(blurred, target, EVERYWHERE)
    as_is = psnr(blurred, target, EVERYWHERE)
    assert abs(psnr(aligned.picture, aligned.target, aligned.counts) - as_is) < 1.5


def test_a_grey_result_is_not_praised():
    """Were the target fitted to the result instead, the two would agree."""
    target = scene(3)
    grey = np.repeat(cv2.cvtColor(target, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    fitted = in_colours_of(grey, target, EVERYWHERE)
    assert psnr(fitted, target, EVERYWHERE) < 25


def test_what_has_nothing_to_do_with_the_target_is_refused():
    assert align_target(scene(5), scene(6), EVERYWHERE) is None


def test_invalid_pixels_never_count():
    target = scene(7)
    valid = EVERYWHERE.copy()
    valid[:, :80] = False
    target[:, :80] = 0
    aligned = align_target(bent(scene(7)), target, valid)
    assert not aligned.counts[:, :74].any()
    assert (aligned.target[~aligned.counts] == aligned.picture[~aligned.counts]).all()
