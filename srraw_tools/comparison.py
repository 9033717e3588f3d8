"""Pictures that let a person judge how a pair lies: short shot, aligned long shot, difference and flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import distortion, geometry, picture, raw, starts
from srraw_tools.alignment import PairAlignment
from srraw_tools.distortion import STRAIGHT, Lenses
from srraw_tools.exif import is_picture
from srraw_tools.flow import Flow, residual_flow
from srraw_tools.geometry import Crop, Matrix
from srraw_tools.raw import TARGET_WHITE, decode_srgb, render_srgb, to_uint8

WHOLE_PX = 344  # of the longer side of a picture of the whole field
DETAIL_PX = 168  # of a side of a detail, in pixels of the target; a multiple of 2, 4 and 8
PLACES = ("left", "middle", "right")  # a detail of each third: a wrong scale or rotation shows at the sides
CONTRAST = 4.0  # by which differences are enlarged
SMOOTH_PX = 0.7  # of the low shot, sigma by which they are smoothed
FULL_COLOUR_PX = 4.0  # flow, in pixels of the long shot, from which on its colour is full
FLOW_SIDE = 640  # pixels of the longer side at which flow is computed for a picture alone
UNKNOWN = 128  # the grey of what cannot be compared
QUALITIES = (85, 70, 50, 30)  # of WebP; the first that keeps a pair within its budget
BUDGET_BYTES = 90_000  # of all pictures of a pair

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Light:
    """A shot's light, whatever kind of file it came from.

    Attributes:
        rgb: (H, W, 3) uint16, linear, white 65535; without white balance where it is a camera's.
        luminance: (H, W) float32, linear, as flow.residual_flow takes it.
        balance, color_matrix: as raw.render_srgb takes them.
        colors: whose colours `rgb` are: a camera's, or "sRGB".
    """

    rgb: npt.NDArray[np.uint16]
    luminance: npt.NDArray[np.float32]
    balance: tuple[float, float, float]
    color_matrix: npt.NDArray[np.float64]
    colors: str


@dataclass(frozen=True)
class Figure:
    """One place of a pair: WebP pictures of it by what they show, all to be seen (height, width) large."""

    place: str
    size: tuple[int, int]
    pictures: dict[str, bytes]


@dataclass(frozen=True)
class Comparison:
    """The figures of a pair; its flow's median length in pixels of the long shot, and where that is known."""

    figures: tuple[Figure, ...]
    flow_px: float | None = None
    flow_share: float | None = None


def read_light(path: Path) -> Light:
    """Read a raw file, a JPEG or a PNG.

    Raises:
        UserError: as read_raw and read_picture.
    """
    if is_picture(path):
        shot = picture.read_picture(path)
        return Light(picture.linear_light(shot), picture.luminance(shot), (1, 1, 1), np.eye(3), "sRGB")
    shot = raw.read_raw(path, demosaic=True)
    return Light(shot.camera_rgb, raw.luminance(shot), shot.rgb_wb, shot.color_matrix, shot.exif.camera)


def compare(low: Light, high: Light, pair: PairAlignment, flow: Flow | None = None) -> Comparison:
    """Make the pictures of a pair: the whole field, and a detail of each of its thirds.

    Args:
        flow: of the pair's own file; computed at a modest size where there is none.
    """
    size = low.luminance.shape
    if pair.crop is None or pair.crop[0] + pair.crop[2] > size[1] or pair.crop[1] + pair.crop[3] > size[0]:
        return Comparison(_encoded({"whole frames, not aligned": _whole_frames(low, high)}))
    crop_to_low = geometry.crop_to_frame(pair.crop)
    flow = flow or _modest_flow(low, high, pair)
    scale, _ = geometry.scale_and_rotation(pair.low_to_high)
    known = flow_colours(flow.shift_px * (scale / FULL_COLOUR_PX), flow.mask)
    difference, detail_of_field = _difference(low, high, pair)
    at_low_sampling = {
        "difference": difference,
        "flow": cv2.resize(known, pair.crop[2:], interpolation=cv2.INTER_NEAREST),
    }
    _, _, width, height = pair.crop
    step = max(max(width, height) / WHOLE_PX, 1 / pair.zoom)  # low pixels of a pixel of the whole picture
    places = {}
    windows = {"whole field": ((0, 0, width, height), 1 / step)}
    for place, window in zip(PLACES, _telling_windows(detail_of_field, DETAIL_PX // pair.zoom), strict=True):
        windows[f"detail, {place}"] = window, float(pair.zoom)
    for place, (window, sampling) in windows.items():
        x, y, w, h = window
        shown = (max(1, round(h * sampling)), max(1, round(w * sampling)))
        view_to_low = crop_to_low @ geometry.zoomed_crop_to_frame(window, sampling)
        places[place] = {
            "short": to_uint8(_rendered(low, _seen(low.rgb, view_to_low, shown))),
            "long": to_uint8(_as_low(low, high, _seen_through(high.rgb, pair, view_to_low, shown), pair)),
        }
        for name, image in at_low_sampling.items():
            part = image[y : y + h, x : x + w]
            if sampling < 1:
                part = cv2.resize(part, shown[::-1], interpolation=cv2.INTER_AREA)
            places[place][name] = part
    lengths = np.linalg.norm(flow.shift_px, axis=-1)[flow.mask]
    flow_px = float(np.median(lengths)) * scale if lengths.size else None
    return Comparison(_encoded(places), flow_px, float(flow.mask.mean()))


def flow_colours(flow: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> Rgb:
    """Flow (h, w, 2) as colours (h, w, 3): hue for direction, full at length 1; grey outside the mask."""
    length = np.minimum(np.linalg.norm(flow, axis=-1), 1)
    hue = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    hsv = np.stack([hue.astype(np.float32), length.astype(np.float32), np.ones_like(hue, np.float32)], -1)
    colours = to_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    colours[~mask] = UNKNOWN
    return colours


def webp(rgb: Rgb, quality: int) -> bytes:
    """A picture (h, w, 3) or (h, w) as WebP of a quality up to 100; 101 keeps every value."""
    bgr = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _encoded(places: dict[str, dict[str, Rgb]]) -> tuple[Figure, ...]:
    for quality in QUALITIES:
        figures = tuple(
            Figure(
                place, views["short"].shape[:2], {name: webp(view, quality) for name, view in views.items()}
            )
            for place, views in places.items()
        )
        if sum(len(data) for figure in figures for data in figure.pictures.values()) <= BUDGET_BYTES:
            break
    return figures


def _whole_frames(low: Light, high: Light) -> dict[str, Rgb]:
    """Both whole frames at the same size, where nothing is known of how they lie."""
    size = low.luminance.shape
    shown = tuple(max(1, round(side * WHOLE_PX / max(size))) for side in size)
    return {
        name: cv2.resize(to_uint8(_rendered(light, light.rgb)), shown[::-1], interpolation=cv2.INTER_AREA)
        for name, light in (("short", low), ("long", high))
    }


def _seen(light: npt.NDArray[Any], view_to_frame: Matrix, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Light on the grid of a view of (height, width), averaged where that is coarser; black outside."""
    return _resampled(light, np.eye(3), STRAIGHT, view_to_frame, size)


def _seen_through(
    light: npt.NDArray[Any], pair: PairAlignment, view_to_low: Matrix, size: tuple[int, int]
) -> npt.NDArray[Any]:
    """Light of the high shot, likewise, on the grid of a view of the low one."""
    return _resampled(light, np.asarray(pair.low_to_high, np.float64), pair.lenses, view_to_low, size)


def _resampled(
    light: npt.NDArray[Any],
    low_to_high: Matrix,
    lenses: Lenses,
    view_to_low: Matrix,
    size: tuple[int, int],
) -> npt.NDArray[Any]:
    scale, _ = geometry.scale_and_rotation(low_to_high @ view_to_low)
    frame_to_light = np.eye(3)
    if scale > 1.5:
        light, frame_to_light = starts.resized(light, 1 / scale)
    return distortion.warp(
        light,
        low_to_high,
        lenses,
        size,
        grid_to_low=view_to_low,
        high_to_image=frame_to_light,
        interpolation=cv2.INTER_CUBIC,
    )


def _rendered(light: Light, rgb: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return render_srgb(rgb * np.float32(1 / TARGET_WHITE), light.balance, light.color_matrix)


def _as_low(low: Light, high: Light, rgb: npt.NDArray[Any], pair: PairAlignment) -> npt.NDArray[np.float32]:
    """The high shot's light rendered at the low shot's exposure, as a packed target is."""
    gain = np.asarray(pair.gain, np.float32)
    if low.colors == high.colors:
        return _rendered(high, rgb * gain)
    return render_srgb(decode_srgb(_rendered(high, rgb)) * gain, (1, 1, 1), np.eye(3))


def _difference(low: Light, high: Light, pair: PairAlignment) -> tuple[Rgb, npt.NDArray[np.float32]]:
    """How much brighter the long shot is than the short one, at the low sampling, about grey (h, w); and the
    detail in view.

    Both are brought to one brightness, and their difference is smoothed, so that it shows what has shifted
    rather than what is sharper.
    """
    x, y, width, height = pair.crop
    crop_to_low = geometry.crop_to_frame(pair.crop)
    short = _rendered(low, low.rgb[y : y + height, x : x + width]).mean(axis=2)
    long = _as_low(low, high, _seen_through(high.rgb, pair, crop_to_low, (height, width)), pair).mean(axis=2)
    inside = _seen_through(np.ones_like(high.luminance), pair, crop_to_low, (height, width)) > 0.99
    brightness = [
        max(float(np.median(image[inside])), 0.01) if inside.any() else 1 for image in (short, long)
    ]
    less = np.where(inside, long * np.float32(brightness[0] / brightness[1]) - short, 0)
    less = cv2.GaussianBlur(less, (0, 0), SMOOTH_PX)
    difference = np.clip(UNKNOWN + 255 * CONTRAST * less, 0, 255).astype(np.uint8)
    gx, gy = cv2.spatialGradient(to_uint8(long))
    return difference, (gx.astype(np.float32) ** 2 + gy.astype(np.float32) ** 2) * inside


def _telling_windows(detail: npt.NDArray[np.float32], side: int) -> list[Crop]:
    """A square of each third of the field, where there is most to compare; crops of the field."""
    height, width = detail.shape
    side = min(side, height, width // len(PLACES))
    sums = cv2.boxFilter(detail, cv2.CV_32F, (side, side), normalize=False, anchor=(0, 0))
    windows = []
    for third in range(len(PLACES)):
        first = third * width // len(PLACES)
        last = max(first, (third + 1) * width // len(PLACES) - side)
        places = sums[: height - side + 1, first : last + 1]
        y, x = np.unravel_index(int(np.argmax(places)), places.shape)
        windows.append((first + int(x), int(y), side, side))
    return windows


def _modest_flow(low: Light, high: Light, pair: PairAlignment) -> Flow:
    """The flow that remains, at the low sampling or a whole fraction of it; in low pixels all the same."""
    x, y, width, height = pair.crop
    k = -(-max(width, height) // FLOW_SIDE)
    columns, rows = max(1, width // k), max(1, height // k)
    region = low.luminance[y : y + rows * k, x : x + columns * k]
    small = cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA)
    small_to_low = geometry.zoomed_crop_to_frame(pair.crop, 1 / k)
    red, green, blue = pair.gain
    flow = residual_flow(
        small,
        high.luminance,
        np.asarray(pair.low_to_high, np.float64),
        small_to_low,
        gain=(red + 2 * green + blue) / 4,
        lenses=pair.lenses,
    )
    return Flow(flow.shift_px * k, flow.mask)
