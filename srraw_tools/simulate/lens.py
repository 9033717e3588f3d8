"""A zoom lens on a tripod: where it images a direction, how it blurs and how it darkens the corners.

The scene lies in tangent-plane coordinates (x, y) = (X/Z, Y/Z) of the optical axis, y downwards. A shot maps
them to its pixels by scale (focal length), rotation and shift, then by radial distortion about the frame's
centre. An `Imaging` holds the numbers of one shot; everything here is a pure function of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.distortion import Distortion, distorted, of_frame, undistorted
from srraw_tools.geometry import Matrix
from srraw_tools.simulate.physics import Optics

SENSOR_WIDTH_MM = 36.0  # full frame
WAVELENGTH_MM = (600e-6, 540e-6, 460e-6)  # where the red, green and blue filters pass most
# Objects 5 m apart at 56.4 m shift by one pixel at the corner of a 4240 x 2832 frame between the ends of the
# zoom range (paper, section 3.1): 1 = r t (1/56.4 - 1/61.4) with r = 2549 px gives t.
PUPIL_TRAVEL_M = 0.272
SHIFT_FRAME_PX = 1056  # the frame width to which `shift_px` refers


@dataclass(frozen=True)
class Imaging:
    """One shot's geometry and light.

    Attributes:
        size: (height, width) of the frame in pixels.
        focal_mm: the true focal length.
        shift_px: (x, y) displacement of the optical axis's image from the frame's centre, undistorted.
        k1: radial distortion, in units of the half diagonal: r' = r (1 + k1 r^2).
        pupil_m: how far the entrance pupil has moved back.
        corner_ev: light lost in the corner.
        drift_ev: exposure against the other shots.
    """

    size: tuple[int, int]
    focal_mm: float
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    k1: float = 0.0
    pupil_m: float = 0.0
    corner_ev: float = 0.0
    drift_ev: float = 0.0

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """The frame's centre, (x, y)."""
        return np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2])

    @property
    def half_diagonal_px(self) -> float:
        return math.hypot(*self.size) / 2

    @property
    def distortion(self) -> Distortion | None:
        return of_frame(self.k1, 0.0, self.size) if self.k1 else None

    @property
    def focal_px(self) -> float:
        return self.focal_mm * self.size[1] / SENSOR_WIDTH_MM


def draw_imaging(
    optics: Optics, nominal_mm: tuple[float, ...], size: tuple[int, int], rng: np.random.Generator
) -> list[Imaging]:
    """Draw the geometry of every shot of a sequence.

    Args:
        nominal_mm: focal lengths asked for, in any order; the shots come in the same order.
    """
    shortest, longest = min(nominal_mm), max(nominal_mm)
    shots = []
    for nominal in nominal_mm:
        # How far the ring is turned, 0 at the shortest and 1 at the longest focal length.
        turned = math.log(nominal / shortest) / math.log(longest / shortest) if longest > shortest else 0.0
        focal = nominal * (1 + optics.focal_error * rng.uniform(-1, 1))
        shift = optics.shift_px * size[1] / SHIFT_FRAME_PX * rng.standard_normal(2)
        shots.append(
            Imaging(
                size=size,
                focal_mm=float(focal),
                rotation_deg=float(optics.rotation_deg * rng.standard_normal()),
                shift_px=(float(shift[0]), float(shift[1])),
                k1=optics.distortion * (1 - 1.4 * turned) + 0.0,  # no negative zero
                pupil_m=PUPIL_TRAVEL_M * turned,
                corner_ev=optics.vignetting_ev * (1 - turned * 2 / 3),
                drift_ev=float(optics.drift_ev * rng.standard_normal()),
            )
        )
    return shots


def scene_to_ideal(shot: Imaging, distance_m: float = math.inf) -> Matrix:
    """The map of a plane's tangent coordinates to undistorted pixels.

    A plane at a finite distance looks smaller when the entrance pupil has moved back from it.
    """
    nearness = 1.0 if math.isinf(distance_m) else distance_m / (distance_m + shot.pupil_m)
    x, y = shot.centre + shot.shift_px
    return geometry.similarity(shot.focal_px * nearness, math.radians(shot.rotation_deg), x, y)


def scene_to_pixels(
    shot: Imaging, points: npt.ArrayLike, distance_m: float = math.inf
) -> npt.NDArray[np.float64]:
    """Image points (..., 2) of a plane, given in tangent coordinates: exact."""
    return distorted(shot.distortion, geometry.apply(scene_to_ideal(shot, distance_m), points))


def pixels_to_scene(
    shot: Imaging, points: npt.ArrayLike, distance_m: float = math.inf
) -> npt.NDArray[np.float64]:
    """The tangent coordinates of a plane that pixels (..., 2) see: the inverse of `scene_to_pixels`."""
    return geometry.apply(
        np.linalg.inv(scene_to_ideal(shot, distance_m)), undistorted(shot.distortion, points)
    )


def jacobian(
    shot: Imaging, points: npt.NDArray[np.float64], distance_m: float = math.inf
) -> npt.NDArray[np.float64]:
    """The linear part (n, 2, 2) of `scene_to_pixels` at points (n, 2); (1, 2, 2) where it is one for all."""
    matrix = scene_to_ideal(shot, distance_m)
    linear = matrix[None, :2, :2]
    if shot.k1 == 0:
        return linear
    offset = (geometry.apply(matrix, points) - shot.centre) / shot.half_diagonal_px
    outer = offset[:, :, None] * offset[:, None, :]
    growth = 1 + shot.k1 * np.sum(offset**2, axis=1)
    return (growth[:, None, None] * np.eye(2) + 2 * shot.k1 * outer) @ linear


def transmission(shot: Imaging, rows: slice) -> npt.NDArray[np.float32]:
    """Relative illumination (h, W) of some rows of the frame: vignetting and exposure drift."""
    y = np.arange(rows.start, rows.stop)[:, None] - shot.centre[1]
    x = np.arange(shot.size[1])[None, :] - shot.centre[0]
    squared = (x**2 + y**2) / shot.half_diagonal_px**2
    return (2.0 ** (shot.drift_ev - shot.corner_ev * squared)).astype(np.float32)


def blur_sigma_px(optics: Optics, shot: Imaging, distance_m: float, channel: int) -> float:
    """Standard deviation of a Gaussian as wide as the optical blur of a plane, in pixels.

    Diffraction: the Gaussian nearest to an Airy disc has sigma = 0.42 lambda N. Defocus: a disc of diameter
    c = f^2 / (N d) with the focus at infinity has the standard deviation c / 4 per axis.
    """
    px_per_mm = shot.size[1] / SENSOR_WIDTH_MM
    variance = optics.blur_px**2
    if optics.diffraction:
        variance += (0.42 * WAVELENGTH_MM[channel] * optics.f_number * px_per_mm) ** 2
    if optics.depth_of_field and math.isfinite(distance_m):
        disc_mm = shot.focal_mm**2 / (optics.f_number * 1000 * distance_m)
        variance += (disc_mm / 4 * px_per_mm) ** 2
    return math.sqrt(variance)
