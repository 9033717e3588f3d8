"""Radial distortion of a lens, and maps between two shots that are distorted.

A shot is seen at r' = r (1 + k1 r^2 + k2 r^4), r in units of the normaliser from the centre (Brown,
"Close-Range Camera Calibration", Photogrammetric Engineering 1971, radial terms). Between two such shots a
low_to_high maps undistorted coordinates: pixels of the low frame are undistorted, mapped, and distorted to
those of the high one. No image is resampled to undistort it; one is warped onto the other's grid, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.geometry import Crop, Matrix

Points = npt.NDArray[np.float64]

SQUARED_LIMIT = 1.9  # r^2 beyond which distortion grows no further
LEAST_SLOPE = 0.25  # of r' by r, likewise: further outside, barrel distortion would fold the plane back
NEWTON_STEPS = 20  # at most; five do within a frame
BORDER_POINTS = 65  # along a side of a frame, whose image is bent
FOCAL_REACH = 1.05  # by which a focal length may lie beyond those that were calibrated
BAND_ROWS = 256  # of a grid that are mapped at a time


@dataclass(frozen=True)
class Distortion:
    """Radial distortion of one shot.

    Attributes:
        k1, k2: of r' = r (1 + k1 r^2 + k2 r^4); negative is a barrel.
        centre: (x, y) of the distortion, in pixels.
        normaliser: the unit of r, in pixels.

    Raises:
        ValueError: a number is not finite, or within the unit circle two points would be seen at one place.
    """

    k1: float
    k2: float
    centre: tuple[float, float]
    normaliser: float

    def __post_init__(self) -> None:
        numbers = (self.k1, self.k2, *self.centre, self.normaliser)
        if len(self.centre) != 2 or not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{numbers} are not five finite numbers of a distortion")
        if self.normaliser <= 0:
            raise ValueError(f"a normaliser of {self.normaliser} px is not above 0")
        if self.squared_limit**0.5 * self._growth(self.squared_limit) < 1:
            raise ValueError(f"k1 = {self.k1:.4g} and k2 = {self.k2:.4g} fold the picture over itself")

    @property
    def squared_limit(self) -> float:
        """r^2 up to which the formula holds, undistorted; further outside the picture is magnified evenly."""
        a, b, c = 5 * self.k2, 3 * self.k1, 1 - LEAST_SLOPE  # slope(r^2) - LEAST_SLOPE, by powers of r^2
        inside = b * b - 4 * a * c
        if inside < 0:
            return SQUARED_LIMIT
        divisors = (-b - math.sqrt(inside), -b + math.sqrt(inside))
        return min([SQUARED_LIMIT, *(2 * c / divisor for divisor in divisors if divisor > 0)])

    def distort(self, points: npt.ArrayLike) -> Points:
        """Undistorted pixels (..., 2) to those at which they are seen."""
        offset = np.asarray(points, np.float64) - self.centre
        squared = np.sum(offset**2, axis=-1, keepdims=True) / self.normaliser**2
        return self.centre + offset * self._growth(np.minimum(squared, self.squared_limit))

    def undistort(self, points: npt.ArrayLike) -> Points:
        """Pixels (..., 2) to undistorted ones: the inverse of `distort`, by Newton's method on the radius."""
        offset = np.asarray(points, np.float64) - self.centre
        seen = np.linalg.norm(offset, axis=-1, keepdims=True) / self.normaliser
        limit = self.squared_limit
        growth = self._growth(limit)
        within = np.minimum(seen, math.sqrt(limit) * growth)
        radius = within.copy()
        for _ in range(NEWTON_STEPS):
            squared = radius * radius
            slope = 1 + squared * (3 * self.k1 + 5 * self.k2 * squared)
            step = (radius * self._growth(squared) - within) / np.maximum(slope, LEAST_SLOPE)
            radius -= step
            if np.abs(step).max(initial=0.0) < 1e-14:
                break
        ideal = radius + (seen - within) / growth
        return self.centre + offset * np.divide(ideal, seen, out=np.ones_like(seen), where=seen > 0)

    def at_sampling(self, factor: float) -> Distortion:
        """The same distortion in pixels of an image sampled `factor` times as finely."""
        x, y = geometry.apply(geometry.scaling(factor), self.centre)
        return Distortion(self.k1, self.k2, (float(x), float(y)), self.normaliser * factor)

    def _growth(self, squared: Any) -> Any:
        return 1 + squared * (self.k1 + self.k2 * squared)


Lenses = tuple[Distortion | None, Distortion | None]  # of a pair's low and high shot
STRAIGHT: Lenses = (None, None)
LensTable = tuple[tuple[float, float, float], ...]  # focal length in mm, k1, k2; r as in `of_frame`


def of_frame(k1: float, k2: float, size: tuple[int, int]) -> Distortion:
    """Distortion about the centre of a frame of (height, width), r in units of half its diagonal."""
    return Distortion(k1, k2, ((size[1] - 1) / 2, (size[0] - 1) / 2), math.hypot(*size) / 2)


def of_focal(table: LensTable, focal_mm: float, size: tuple[int, int]) -> Distortion | None:
    """Distortion of a frame of (height, width) shot at a focal length, interpolated over its logarithm.

    None where the table does not reach: by more than FOCAL_REACH below its shortest or above its longest.
    """
    focals, k1, k2 = np.array(sorted(table), np.float64).T
    if not focals[0] / FOCAL_REACH <= focal_mm <= focals[-1] * FOCAL_REACH:
        return None
    at = np.log(focal_mm)
    return of_frame(float(np.interp(at, np.log(focals), k1)), float(np.interp(at, np.log(focals), k2)), size)


def undistorted(distortion: Distortion | None, points: npt.ArrayLike) -> Points:
    """Pixels (..., 2) undistorted; the same where there is no distortion."""
    return np.asarray(points, np.float64) if distortion is None else distortion.undistort(points)


def distorted(distortion: Distortion | None, points: npt.ArrayLike) -> Points:
    """Undistorted pixels (..., 2) as they are seen; the same where there is no distortion."""
    return np.asarray(points, np.float64) if distortion is None else distortion.distort(points)


def map_points(low_to_high: npt.ArrayLike, lenses: Lenses, points: npt.ArrayLike) -> Points:
    """Pixels (..., 2) of the low frame to those of the high frame that see the same."""
    return distorted(lenses[1], geometry.apply(low_to_high, undistorted(lenses[0], points)))


def even_crop_of_view(
    low_to_high: npt.ArrayLike, low_size: tuple[int, ...], high_size: tuple[int, ...], lenses: Lenses
) -> Crop:
    """As geometry.even_crop_of_view, of a high frame whose borders the lenses bend.

    Raises:
        ValueError: the high frame lies outside the low frame.
    """
    if lenses == STRAIGHT:
        return geometry.even_crop_of_view(low_to_high, low_size, high_size)
    high_to_low = np.linalg.inv(np.asarray(low_to_high, np.float64))
    return geometry.even_crop_around(
        map_points(high_to_low, lenses[::-1], _border(high_size)), (low_size[0], low_size[1])
    )


def view_or_frame(
    low_to_high: npt.ArrayLike, low_size: tuple[int, ...], high_size: tuple[int, ...], lenses: Lenses
) -> Crop:
    """As `even_crop_of_view`, and the whole low frame where the two frames do not meet."""
    try:
        return even_crop_of_view(low_to_high, low_size, high_size, lenses)
    except ValueError:
        return 0, 0, low_size[1], low_size[0]


def warp(
    image: npt.NDArray[Any],
    low_to_high: Matrix,
    lenses: Lenses,
    size: tuple[int, ...],
    *,
    grid_to_low: Matrix | None = None,
    high_to_image: Matrix | None = None,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_CONSTANT,
) -> npt.NDArray[Any]:
    """Resample what the high shot shows onto a grid in the low frame, once.

    Args:
        image: (H, W) or (H, W, C), of the high shot.
        size: (height, width) of the grid.
        grid_to_low: 3x3 from the grid's pixels to those of the low frame; the frame itself by default.
        high_to_image: 3x3 from pixels of the high frame to those of `image`; the frame itself by default.
        interpolation: OpenCV's flag, cv2.INTER_...
        border: OpenCV's flag, cv2.BORDER_...
    """
    grid_to_low = np.eye(3) if grid_to_low is None else grid_to_low
    high_to_image = np.eye(3) if high_to_image is None else high_to_image
    if lenses == STRAIGHT:
        return cv2.warpPerspective(
            image,
            high_to_image @ low_to_high @ grid_to_low,
            size[1::-1],
            flags=interpolation | cv2.WARP_INVERSE_MAP,
            borderMode=border,
        )
    places = sampling_places(low_to_high, lenses, size, grid_to_low, high_to_image)
    return cv2.remap(image, places, None, interpolation, borderMode=border)


def sampling_places(
    low_to_high: Matrix, lenses: Lenses, size: tuple[int, ...], grid_to_low: Matrix, high_to_image: Matrix
) -> npt.NDArray[np.float32]:
    """Where in an image of the high shot each pixel of a grid in the low frame lies, (height, width, 2).

    Args as `warp`.
    """
    places = np.empty((*size[:2], 2), np.float32)
    for first in range(0, size[0], BAND_ROWS):
        rows = slice(first, min(size[0], first + BAND_ROWS))
        x, y = np.meshgrid(np.arange(size[1], dtype=np.float64), np.arange(rows.start, rows.stop))
        seen = map_points(low_to_high, lenses, geometry.apply(grid_to_low, np.stack([x, y], axis=-1)))
        places[rows] = geometry.apply(high_to_image, seen)
    return places


def _border(size: tuple[int, ...]) -> Points:
    """Points (n, 2) along the outer border of a frame, half a pixel outside the centres of its pixels."""
    along = np.linspace(0, 1, BORDER_POINTS)
    none, one = np.zeros_like(along), np.ones_like(along)
    x = np.concatenate([along, along, none, one])
    y = np.concatenate([none, one, along, along])
    return np.stack([x * size[1], y * size[0]], axis=1) - 0.5
