"""A photograph as a scene: linear light on a plane, area-averaged for shots that see it small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.errors import UserError
from srraw_tools.geometry import Matrix
from srraw_tools.raw import decode_srgb

FILLS_MM = 50.0  # the photograph fills the frame of this focal length where it has pixels enough


@dataclass(frozen=True)
class Photograph:
    """Linear sRGB light in a pyramid, and where it hangs.

    Attributes:
        levels: (h, w, 3) uint16 each, 65535 is white; every level averages 2x2 of the one before.
        scene_to_photo: tangent coordinates to pixels of the first level.
        outline: (4, 2) its corners in tangent coordinates.
    """

    levels: tuple[npt.NDArray[np.uint16], ...]
    scene_to_photo: Matrix
    outline: npt.NDArray[np.float64]


def hang_photograph(
    path: Path, rng: np.random.Generator, *, longest_focal_px: float, frame_px: tuple[int, int]
) -> Photograph:
    """Read a photograph and place it so that the longest focal length sees at most one pixel per sample.

    Args:
        longest_focal_px: the longest focal length in pixels, with its tolerance.
        frame_px: (height, width) that the frame of FILLS_MM would have in pixels of the longest one.

    Raises:
        UserError: as `read_linear`.
    """
    pixels = read_linear(path)
    height, width = pixels.shape[:2]
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    # Photo pixels per pixel of the longest focal length: at least one, more where the photo is large.
    density = max(1.0, min(height / frame_px[0], width / frame_px[1]))
    room = np.array([width, height]) / density / 2
    # Off its centre, so that sequences of one photograph differ, the axis still well inside.
    axis = np.array([width, height]) / 2 + rng.uniform(-0.4, 0.4, 2) * room * density
    scale = longest_focal_px * density
    scene_to_photo = geometry.similarity(scale, rng.uniform(-0.05, 0.05), *(axis - 0.5))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    levels = [np.ascontiguousarray(pixels)]
    while min(levels[-1].shape[:2]) > 64:
        h, w = (n // 2 for n in levels[-1].shape[:2])
        levels.append(cv2.resize(levels[-1][: 2 * h, : 2 * w], (w, h), interpolation=cv2.INTER_AREA))
    return Photograph(tuple(levels), scene_to_photo, geometry.apply(np.linalg.inv(scene_to_photo), corners))


def read_linear(path: Path) -> npt.NDArray[np.uint16]:
    """Read an sRGB picture as linear light, (H, W, 3) uint16 in the order R, G, B.

    Raises:
        UserError: the file is missing or no picture.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; --scene needs a photograph.", wrong_use=True)
    try:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # a header that states more pixels than OpenCV takes
        picture = None
    if picture is None:
        raise UserError(
            f"{path} is not a picture that can be read.", "Give a JPEG, PNG or TIFF.", wrong_use=True
        )
    curve = np.rint(decode_srgb(np.arange(256) / 255) * 65535).astype(np.uint16)
    return curve[picture[..., ::-1]]


def covers(photograph: Photograph, points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the photograph hangs before points (n, 2) in tangent coordinates."""
    place = geometry.apply(photograph.scene_to_photo, points)
    height, width = photograph.levels[0].shape[:2]
    return ((place > -0.5) & (place < (width - 0.5, height - 0.5))).all(axis=1)


def sample(
    photograph: Photograph, samples_to_scene: Matrix, shape: tuple[int, int]
) -> npt.NDArray[np.uint16]:
    """Light (h, w, 3) uint16 at the samples of a band, averaged over about a sample's area; 0 outside."""
    to_photo = photograph.scene_to_photo @ samples_to_scene
    level = _level_for(photograph, geometry.scale_and_rotation(to_photo)[0])
    to_level = geometry.scaling(0.5**level) @ to_photo
    return cv2.warpAffine(
        photograph.levels[level],
        to_level[:2],
        shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def sample_at(
    photograph: Photograph, points: npt.NDArray[np.float64], pitch: float
) -> npt.NDArray[np.uint16]:
    """Light (h, w, 3) uint16 at tangent coordinates (h, w, 2), averaged over about `pitch`."""
    pixel_per_unit = geometry.scale_and_rotation(photograph.scene_to_photo)[0]
    level = _level_for(photograph, pitch * pixel_per_unit)
    to_level = geometry.scaling(0.5**level) @ photograph.scene_to_photo
    places = geometry.apply(to_level, points).astype(np.float32)
    return cv2.remap(
        photograph.levels[level],
        np.ascontiguousarray(places[..., 0]),
        np.ascontiguousarray(places[..., 1]),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _level_for(photograph: Photograph, photo_pixels_per_sample: float) -> int:
    level = round(math.log2(max(photo_pixels_per_sample, 1)))
    return min(level, len(photograph.levels) - 1)
