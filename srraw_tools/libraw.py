"""A raw file through LibRaw, in the process of isolation.py: values, levels, pattern, balance, matrix."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rawpy

from srraw_tools.errors import UserError
from srraw_tools.exif import Exif, file_format, read_exif
from srraw_tools.raw import BAYER_PATTERNS, TARGET_WHITE, matrix_from_xyz, wb_of_rgb


def decode(path: Path, *, demosaic: bool) -> tuple[dict[str, Any], list[npt.NDArray[np.uint16]]]:
    """Decode a raw file in this process, which a malformed one may end.

    Returns:
        The plain fields of raw.RawImage by name; and the mosaic, and demosaiced light if it was asked for.

    Raises:
        UserError: the file is no raw, truncated or damaged, or its pattern is not a 2x2 Bayer one.
    """
    try:
        with rawpy.imread(str(path)) as raw:
            return _decoded(raw, path, demosaic)
    except (rawpy.LibRawFileUnsupportedError, rawpy.LibRawNotImplementedError) as error:
        raise UserError(*_not_raw(path)) from error
    except (rawpy.LibRawError, OSError) as error:  # LibRaw passes the system's errors on
        if not _is_image(path):
            raise UserError(*_not_raw(path)) from error
        raise UserError(
            f"{path} is truncated or damaged: LibRaw says '{_text(error)}'.", "Copy it from the card again."
        ) from error


def _decoded(raw: rawpy.RawPy, path: Path, demosaic: bool) -> tuple[dict[str, Any], list[Any]]:
    # Read everything before postprocess(), which changes the pattern.
    indices = _bayer_indices(raw, path)
    cfa = "".join(chr(raw.color_desc[i]) for i in indices)
    if cfa not in BAYER_PATTERNS:
        raise UserError(f"{path} has the colour pattern {cfa}; only 2x2 Bayer patterns are supported.")
    notes: list[str] = []
    balance = _balance([raw.camera_whitebalance[i] for i in indices], cfa, notes)
    matrix = _color_matrix(raw, notes)
    arrays = [raw.raw_image_visible.copy()]
    black = tuple(float(raw.black_level_per_channel[i]) for i in indices)
    white = int(raw.white_level)
    if white <= max(black):
        raise UserError(f"{path} states a white level of {white}, not above its black level; it is damaged.")
    if demosaic:
        if len(set(black)) > 1:
            _even_out(raw.raw_image_visible, black, white)
        arrays.append(_demosaic(raw, wb_of_rgb(cfa, balance), int(min(black))))
        if arrays[1].shape[:2] != arrays[0].shape:
            raise UserError(f"{path} has pixels that are not square; such cameras are not supported.")
    values = {
        "cfa": cfa,
        "black_level": black,
        "white_level": white,
        "camera_wb": balance,
        "color_matrix": matrix.tolist(),
        "exif": asdict(_exif_of(raw, path)),
        "notes": notes,
    }
    return values, arrays


def _bayer_indices(raw: rawpy.RawPy, path: Path) -> list[int]:
    """LibRaw's colour indices of the visible frame's top-left 2x2 block."""
    try:
        pattern = raw.raw_pattern
    except NotImplementedError:  # rawpy's word for a pattern that repeats after other than 2 or 6 pixels
        pattern = None
    if raw.raw_type != rawpy.RawType.Flat or pattern is None or pattern.shape != (2, 2):
        kind = "X-Trans" if pattern is not None and pattern.shape == (6, 6) else "no Bayer mosaic"
        raise UserError(
            f"{path} is not supported: its sensor pattern is {kind}, and only 2x2 Bayer patterns are packed.",
            "Use a camera with a Bayer sensor.",
        )
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    return [int(raw.raw_color(top + y, left + x)) for y in (0, 1) for x in (0, 1)]


def _balance(values: list[float], cfa: str, notes: list[str]) -> tuple[float, ...]:
    """White balance in CFA order, divided by green; a zero second green means the first."""
    greens = [v for v, colour in zip(values, cfa, strict=True) if colour == "G" and v > 0]
    if not greens or min(v for v, colour in zip(values, cfa, strict=True) if colour != "G") <= 0:
        notes.append("no white balance in the file; none is applied")
        return (1.0, 1.0, 1.0, 1.0)
    green = greens[0]
    return tuple(float(v / green) if v > 0 else 1.0 for v in values)


def _color_matrix(raw: rawpy.RawPy, notes: list[str]) -> npt.NDArray[np.float64]:
    """White-balanced camera RGB to linear sRGB: of the file, else of LibRaw's table, else identity."""
    own = np.asarray(raw.color_matrix, np.float64)[:, :3]
    if np.any(own):
        return own
    xyz_to_camera = np.asarray(raw.rgb_xyz_matrix, np.float64)[:3]
    if np.any(xyz_to_camera):
        return matrix_from_xyz(xyz_to_camera)
    notes.append("no colour matrix for this camera; colours are the sensor's own")
    return np.eye(3)


def _even_out(mosaic: npt.NDArray[np.uint16], black: tuple[float, ...], white: int) -> None:
    """Give all positions of a mosaic the smallest black, in place, and the same range up to white.

    LibRaw scales every colour by the range above the smallest black, and both greens alike.
    """
    least = int(min(black))
    for position, level in enumerate(black):
        plane = mosaic[position // 2 :: 2, position % 2 :: 2]
        even = (plane - np.float32(level)) * np.float32((white - least) / (white - level)) + least
        plane[:] = np.clip(np.round(even), 0, TARGET_WHITE)


def _demosaic(raw: rawpy.RawPy, balance: tuple[float, float, float], black: int) -> npt.NDArray[np.uint16]:
    """LibRaw's AHD on balanced values, scaled so that no channel clips, and the balance undone."""
    rgb = raw.postprocess(
        demosaic_algorithm=rawpy.DemosaicAlgorithm.AHD,
        user_wb=[*balance, balance[1]],
        user_black=black,
        user_cblack=[0, 0, 0, 0],
        output_color=rawpy.ColorSpace.raw,
        output_bps=16,
        gamma=(1, 1),
        no_auto_bright=True,
        highlight_mode=rawpy.HighlightMode.Ignore,
        adjust_maximum_thr=0.0,
        user_flip=0,
    )
    undo = (max(balance) / np.array(balance)).astype(np.float32)
    out = np.empty_like(rgb)
    for channel in range(3):  # one plane at a time keeps the peak memory low
        out[..., channel] = np.minimum(rgb[..., channel] * undo[channel] + 0.5, TARGET_WHITE)
    return out


def _exif_of(raw: rawpy.RawPy, path: Path) -> Exif:
    """EXIF by exifread; where its container is unknown to that (CR3), LibRaw's own reading."""
    exif = read_exif(path)
    if exif != Exif():
        return exif
    other = raw.other
    return Exif(
        focal_mm=other.focal_length or None,
        f_number=other.aperture or None,
        exposure_s=other.shutter_speed or None,
        iso=other.iso_speed or None,
    )


def _is_image(path: Path) -> bool:
    try:
        file_format(path)
    except UserError:
        return False
    return True


def _not_raw(path: Path) -> tuple[str, str]:
    kind = f"a {file_format(path)} file" if _is_image(path) else "of no known image format"
    return f"{path} is not a raw file that LibRaw can read: it is {kind}.", "Give a camera's raw file."


def _text(error: Exception) -> str:
    value = error.args[0] if error.args else error
    value = value[-1] if isinstance(value, tuple) else value  # (errno, text), as rawpy raises it
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
