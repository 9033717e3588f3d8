"""Pixel conventions, crops and 3x3 maps. Pure functions.

x runs to the right and y downwards, in pixels; the integer coordinate (0, 0) is the *centre* of the top-left
pixel. A map is a 3x3 matrix that acts on column vectors (x, y, 1) and is named a_to_b:
`low_to_high @ p_low = p_high`. Maps compose right to left: `low_to_high @ crop_to_low` is crop_to_high.
A crop is [x, y, width, height].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Crop = tuple[int, int, int, int]


def translation(x: float, y: float) -> Matrix:
    """The map that moves points by (x, y) pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(factor: float) -> Matrix:
    """The map to an image sampled `factor` times as finely: x' = s (x + 1/2) - 1/2 (areas, not centres)."""
    offset = (factor - 1.0) / 2.0
    return np.array([[factor, 0.0, offset], [0.0, factor, offset], [0.0, 0.0, 1.0]])


def crop_to_frame(crop: Crop) -> Matrix:
    """The map from the pixels of a crop to those of the frame it was cut from."""
    return translation(crop[0], crop[1])


def zoomed_crop_to_frame(crop: Crop, zoom: float) -> Matrix:
    """The map from a crop sampled `zoom` times as finely to the frame.

    Zoomed pixel X sees what pixel (X + 1/2)/zoom - 1/2 of the crop sees.
    """
    return crop_to_frame(crop) @ scaling(1.0 / zoom)


def similarity(scale: float, rotation_rad: float, x: float, y: float) -> Matrix:
    """Scale and rotate about the origin, then move by (x, y); positive rotation turns x towards y."""
    a, b = scale * math.cos(rotation_rad), scale * math.sin(rotation_rad)
    return np.array([[a, -b, x], [b, a, y], [0.0, 0.0, 1.0]])


def scale_and_rotation(matrix: npt.ArrayLike) -> tuple[float, float]:
    """Scale (square root of the area ratio) and rotation in radians of a map's linear part."""
    linear = np.asarray(matrix, np.float64)[:2, :2]
    scale = math.sqrt(abs(np.linalg.det(linear)))
    rotation = math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])
    return scale, rotation


def apply(matrix: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map points (..., 2) of (x, y) pixels by a 3x3 matrix."""
    m = np.asarray(matrix, np.float64)
    p = np.asarray(points, np.float64)
    mapped = p @ m[:2, :2].T + m[:2, 2]
    return mapped / (p @ m[2, :2] + m[2, 2])[..., None]


def frame_corners(size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The centres of the four corner pixels (4, 2) of a frame of (height, width)."""
    height, width = size
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)


def crop_corners(crop: Crop) -> npt.NDArray[np.float64]:
    """The centres of the four corner pixels (4, 2) of a crop, in the frame's pixels."""
    return frame_corners((crop[3], crop[2])) + np.array(crop[:2], np.float64)


def corner_error_px(estimated: npt.ArrayLike, true: npt.ArrayLike, crop: Crop) -> float:
    """Mean distance between two maps over the corners of a crop, in pixels of the frame mapped to."""
    corners = crop_corners(crop)
    return float(np.linalg.norm(apply(estimated, corners) - apply(true, corners), axis=-1).mean())


def even_crop_of_view(
    low_to_high: npt.ArrayLike, low_size: tuple[int, int], high_size: tuple[int, int]
) -> Crop:
    """The even-aligned rectangle that encloses the high frame as the low frame sees it, clipped to it.

    x, y, width and height are even, so that the CFA phase of a mosaic does not change.
    Sizes are (height, width). A frame reaches half a pixel beyond the centres of its outermost pixels.

    Raises:
        ValueError: the high frame lies outside the low frame.
    """
    outline = frame_corners(high_size) + 0.5 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    seen = apply(np.linalg.inv(np.asarray(low_to_high, np.float64)), outline)
    return even_crop_around(seen, low_size)


def even_crop_around(seen: npt.NDArray[np.float64], low_size: tuple[int, int]) -> Crop:
    """The even-aligned rectangle that encloses points (n, 2), clipped to a frame of (height, width).

    Raises:
        ValueError: all points lie outside the frame.
    """
    # Frame edges lie at -1/2 and size - 1/2; a tolerance keeps exact multiples from growing by two pixels.
    first = np.floor((seen.min(axis=0) + 0.5) / 2 + 1e-6) * 2
    last = np.ceil((seen.max(axis=0) + 0.5) / 2 - 1e-6) * 2
    limit = np.array([low_size[1] // 2 * 2, low_size[0] // 2 * 2])
    first, last = np.clip(first, 0, limit), np.clip(last, 0, limit)
    width, height = (int(v) for v in last - first)
    if width <= 0 or height <= 0:
        raise ValueError("the two frames do not see any common field")
    return int(first[0]), int(first[1]), width, height


def as_shot(upright: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """An upright image as it lay in the camera, which the orientation flag says: a view, to be written into.

    Args:
        upright: (H, W, ...); the view is (W, H, ...) from orientation 5 on.
        orientation: EXIF's tag 274, from 1 (the frame is upright) to 8; the frame of 6 needs a quarter turn
            clockwise to be upright, that of 8 the other, and 2, 4, 5 and 7 are mirrored.
    """
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    frame = upright[::rows, ::columns]
    return frame.swapaxes(0, 1) if orientation >= 5 else frame


def view_or_frame(low_to_high: npt.ArrayLike, low_size: tuple[int, ...], high_size: tuple[int, ...]) -> Crop:
    """As `even_crop_of_view`, and the whole low frame where the two frames do not meet."""
    try:
        return even_crop_of_view(low_to_high, (low_size[0], low_size[1]), (high_size[0], high_size[1]))
    except ValueError:
        return 0, 0, low_size[1], low_size[0]
