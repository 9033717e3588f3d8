"""A pair's arrays and metadata, of two decoded shots and their alignment."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.alignment import PairAlignment
from srraw_tools.distortion import STRAIGHT, Distortion, Lenses, warp
from srraw_tools.geometry import Matrix
from srraw_tools.pairs import Pair, PairData
from srraw_tools.picture import Picture, linear_light
from srraw_tools.raw import TARGET_WHITE, RawImage, render_srgb, to_uint8


def make_pair(
    name: str,
    low: RawImage,
    high: RawImage | Picture,
    alignment: PairAlignment,
    *,
    sequence: str,
    split: str,
    target: str,
    input_hash: str,
) -> tuple[Pair, PairData]:
    """Cut the mosaic, render it, and warp the long shot's light onto it.

    Args:
        name: of the pair, as `sequence`, `split` and `input_hash`, which are kept with it.
        low: the short shot, with its demosaiced light.
        high: the long shot, likewise.
        alignment: of the two; its crop lies inside the low shot.
        target: "camera" or "srgb"; of two cameras, or of a picture, it is always "srgb".
    """
    zoom = alignment.zoom
    x, y, width, height = crop = alignment.crop
    low_to_high = np.asarray(alignment.low_to_high, np.float64)
    target_to_low = geometry.zoomed_crop_to_frame(crop, zoom)
    high_light, high_cfa, high_wb, high_matrix = _light_of(high)
    light, valid = warp_target(
        high_light, low_to_high, target_to_low, (zoom * height, zoom * width), alignment.lenses
    )
    if high_cfa is None or low.exif.camera != high.exif.camera:
        target = "srgb"  # two cameras' own colours cannot be compared, their renderings can
    if target == "srgb":
        balance = (1.0, 1.0, 1.0) if high_cfa is None else high.rgb_wb
        light = to_uint8(render_srgb(light * np.float32(1 / TARGET_WHITE), balance, high_matrix))
    view = low.camera_rgb[y : y + height, x : x + width] * np.float32(1 / TARGET_WHITE)
    data = PairData(
        raw=low.mosaic[y : y + height, x : x + width],
        rgb=to_uint8(render_srgb(view, low.rgb_wb, low.color_matrix)),
        target=light,
        valid=valid,
    )
    pair = Pair(
        name=name,
        sequence=sequence,
        split=split,
        zoom=zoom,
        size=(height, width),
        cfa=low.cfa,
        black_level=low.black_level,
        white_level=low.white_level,
        camera_wb=low.camera_wb,
        color_matrix=low.color_matrix,
        gain=tuple(alignment.gain),
        target_space=target,
        target_cfa=high_cfa,
        target_camera_wb=high_wb,
        target_color_matrix=high_matrix,
        crop=tuple(crop),
        low_to_high=low_to_high,
        scale_offset=alignment.scale_offset,
        focal_low=alignment.focal_low,
        focal_high=alignment.focal_high,
        iso=low.exif.iso,
        exposure_time=low.exif.exposure_s,
        f_number=low.exif.f_number,
        camera=low.exif.camera,
        target_iso=high.exif.iso,
        target_exposure_time=high.exif.exposure_s,
        target_f_number=high.exif.f_number,
        target_camera=high.exif.camera,
        distortion_low=_terms(alignment.distortion_low),
        distortion_high=_terms(alignment.distortion_high),
        input_hash=input_hash,
    )
    return pair, data


def _light_of(
    high: RawImage | Picture,
) -> tuple[npt.NDArray[np.uint16], str | None, tuple[float, ...], npt.NDArray[np.float64]]:
    """A long shot's linear light, pattern, balance and matrix; a picture's light is balanced sRGB already."""
    if isinstance(high, Picture):
        return linear_light(high), None, (1.0,) * 4, np.eye(3)
    return high.camera_rgb, high.cfa, high.camera_wb, high.color_matrix


def _terms(lens: Distortion | None) -> tuple[float, ...] | None:
    return None if lens is None else (lens.k1, lens.k2, *lens.centre, lens.normaliser)


def warp_target(
    camera_rgb: npt.NDArray[np.uint16],
    low_to_high: Matrix,
    target_to_low: Matrix,
    size: tuple[int, int],
    lenses: Lenses = STRAIGHT,
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Resample demosaiced light once onto the target's grid, by Lanczos's kernel.

    OpenCV's cubic kernel (a = -0.75) moves what it samples by up to 0.05 pixel, its Lanczos kernel by 0.015.

    Args:
        camera_rgb: (H, W, 3) uint16, linear.
        low_to_high: the map between the full frames; with `lenses`, of undistorted coordinates.
        target_to_low: the map from target pixels to those of the low frame.
        size: (height, width) of the target.

    Returns:
        The target (height, width, 3) uint16, and valid (height, width) uint8, 1 inside the high frame.
    """
    scale, _ = geometry.scale_and_rotation(low_to_high @ target_to_low)
    source = camera_rgb
    if scale > 1:  # fewer samples than there were: keep what they cannot hold from folding over
        source = cv2.GaussianBlur(source, (0, 0), 0.5 * float(np.sqrt(scale**2 - 1)))
    target = warp(
        source,
        low_to_high,
        lenses,
        size,
        grid_to_low=target_to_low,
        interpolation=cv2.INTER_LANCZOS4,
        border=cv2.BORDER_REPLICATE,
    )
    inside = np.ones(camera_rgb.shape[:2], np.float32)
    seen = warp(inside, low_to_high, lenses, size, grid_to_low=target_to_low)
    return target, (seen > 0.99).astype(np.uint8)
