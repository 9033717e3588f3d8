"""Numbers that tell how good a pair is, measured on its pictures; pure functions."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.float32]

LEAST_SCORE = 0.6  # correlation of two blocks, below which nothing was found
REACH = 3  # pixels of the low shot that a shift is sought within
PIXEL_SIGMA = 0.4  # of the low shot: the blur of a pixel's area and its enlargement
LEAST_CONTRAST = 0.01  # of sRGB, standard deviation, below which a block shows nothing


def luminance(srgb: npt.NDArray[np.float32]) -> Grey:
    """(R + 2G + B)/4 of sRGB (H, W, 3) in [0, 1]."""
    return np.ascontiguousarray(srgb @ np.array([0.25, 0.5, 0.25], np.float32))


def area_mean(picture: Grey, factor: int) -> Grey:
    """Pixels `factor` times as large, each the mean over its area."""
    height, width = (side // factor for side in picture.shape)
    parts = picture[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return parts.mean(axis=(1, 3), dtype=np.float32)


def sharpness(target: Grey, zoom: int) -> float | None:
    """How much of a target's contrast is finer than the low shot's sampling, in [0, 1].

    The standard deviation of what is lost when the target is averaged over the low shot's pixels and enlarged
    again, over its own. None where the target shows nothing.
    """
    contrast = float(target.std())
    if contrast < LEAST_CONTRAST:
        return None
    coarse = cv2.resize(area_mean(target, zoom), target.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return min(1.0, float((target - coarse).std()) / contrast)


def shift(low: Grey, target: Grey, zoom: int) -> tuple[float, float] | None:
    """Where the low shot (h, w) lies beside its target (N h, N w), (x, y) in pixels of the target.

    The low shot is enlarged and the target blurred alike, and the best correlation sought within REACH pixels
    of the low shot. None where the block shows too little.
    """
    if min(float(low.std()), float(target.std())) < LEAST_CONTRAST:
        return None
    reach = zoom * REACH
    coarse = cv2.GaussianBlur(target, (0, 0), zoom * PIXEL_SIGMA)
    fine = cv2.resize(low, target.shape[::-1], interpolation=cv2.INTER_CUBIC)
    scores = cv2.matchTemplate(coarse, fine[reach:-reach, reach:-reach], cv2.TM_CCOEFF_NORMED)
    _, score, _, (x, y) = cv2.minMaxLoc(scores)
    if score < LEAST_SCORE:
        return None
    return x + _vertex(scores[y], x) - reach, y + _vertex(scores[:, x], y) - reach


def _vertex(values: npt.NDArray[np.float32], at: int) -> float:
    """Where the parabola through a peak and its neighbours has its vertex, from the peak on."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, peak, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * peak + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def seen_crop(valid: npt.NDArray[np.uint8], zoom: int) -> tuple[int, int, int, int]:
    """A large crop [x, y, width, height] of a pair, in mosaic pixels and even, all of whose target is valid.

    Args:
        valid: (N h, N w), of the whole pair.
        zoom: N.
    """
    height, width = (side // (2 * zoom) for side in valid.shape)
    blocks = valid[: height * 2 * zoom, : width * 2 * zoom].reshape(height, 2 * zoom, width, 2 * zoom)
    seen = blocks.min(axis=(1, 3)) > 0
    top, bottom, left, right = 0, height, 0, width
    while top < bottom and left < right:
        # The side of the rectangle that shows least goes first.
        part = seen[top:bottom, left:right]
        shares = [part[0].mean(), part[-1].mean(), part[:, 0].mean(), part[:, -1].mean()]
        worst = int(np.argmin(shares))
        if shares[worst] == 1:
            if part.all():
                break
            worst = _nearest_hole(part)
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return 2 * left, 2 * top, 2 * (right - left), 2 * (bottom - top)


def _nearest_hole(part: npt.NDArray[np.bool_]) -> int:
    """The side (top, bottom, left, right) that lies nearest to something that is not seen."""
    rows, columns = np.nonzero(~part)
    height, width = part.shape
    return int(np.argmin([rows.min(), height - 1 - rows.max(), columns.min(), width - 1 - columns.max()]))
