"""The format of an srraw.h5: its pairs, what describes them, and the links of an index (docs/formats.md).

    /                       format, format_version, created_by, zooms, options (JSON)
    /pairs/<name>/          one group per pair, its metadata as attributes
        raw     (h, w)          uint16   the low mosaic inside the crop, untouched sensor values
        rgb     (h, w, 3)       uint8    the low shot rendered to sRGB, same crop
        target  (N h, N w, 3)   uint16   the high shot, linear camera RGB, warped onto the crop at N times
                                its sampling (uint8 sRGB where target_space is "srgb")
        valid   (N h, N w)      uint8    1 where target was inside the high shot's frame

Target pixel (X, Y) sees what mosaic pixel ((X + 1/2)/N - 1/2, (Y + 1/2)/N - 1/2) of the crop sees.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srraw_tools import __version__
from srraw_tools.chunks import open_hdf5, write_array
from srraw_tools.errors import UserError
from srraw_tools.metadata import seal_of
from srraw_tools.raw import BAYER_PATTERNS, TARGET_WHITE, decode_srgb, render_srgb, wb_of_rgb

FORMAT = "srraw"
FORMAT_VERSION = 1
CREATED_BY = f"srraw {__version__}"
SPLITS = ("train", "val", "test")
ARRAYS = ("raw", "rgb", "target", "valid")
HDF5_ERRORS = (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError)  # of a damaged file
CHECKSUM = "checksum"  # attribute of the root and of every pair: CRC-32 of the other attributes


@dataclass(frozen=True)
class Pair:
    """A packed pair's metadata. Four-vectors are in the order of `cfa`, or of `target_cfa` for the target's.

    `color_matrix` and `target_color_matrix` map white-balanced camera RGB to linear sRGB.
    `gain` (R, G, B) multiplies the target to match the low shot's exposure. What is unknown is None;
    `target_cfa` is, where the long shot is a picture, whose target is sRGB. `distortion_low` and
    `distortion_high` are k1, k2, centre x, y and normaliser; `low_to_high` then maps undistorted coordinates.

    Attributes:
        split: "train", "val" or "test".
        zoom: N.
        size: (height, width) of the crop in mosaic pixels.
        black_level: four sensor values.
        white_level: the sensor value of saturation.
        camera_wb: four multipliers, green 1.
        crop: [x, y, width, height] in the low shot's frame.
        low_to_high: (3, 3), pixels of the low frame to those of the high frame.
        focal_low: in mm, by EXIF, as `focal_high`.
        exposure_time: in seconds.
        target_space: "camera" or "srgb".
    """

    name: str
    sequence: str
    split: str
    zoom: int
    size: tuple[int, int]
    cfa: str
    black_level: tuple[float, ...]
    white_level: int
    camera_wb: tuple[float, ...]
    color_matrix: npt.NDArray[np.float64]
    gain: tuple[float, ...]
    target_space: str
    target_cfa: str | None
    target_camera_wb: tuple[float, ...]
    target_color_matrix: npt.NDArray[np.float64]
    crop: tuple[int, int, int, int]
    low_to_high: npt.NDArray[np.float64]
    scale_offset: float
    focal_low: float | None = None
    focal_high: float | None = None
    iso: float | None = None
    exposure_time: float | None = None
    f_number: float | None = None
    camera: str | None = None
    target_iso: float | None = None
    target_exposure_time: float | None = None
    target_f_number: float | None = None
    target_camera: str | None = None
    distortion_low: tuple[float, ...] | None = None
    distortion_high: tuple[float, ...] | None = None
    input_hash: str = ""

    @property
    def rgb_wb(self) -> tuple[float, float, float]:
        """The low shot's white balance multipliers (R, G, B)."""
        return wb_of_rgb(self.cfa, self.camera_wb)

    @property
    def target_rgb_wb(self) -> tuple[float, float, float]:
        """The high shot's white balance multipliers (R, G, B)."""
        if self.target_cfa is None:
            return 1.0, 1.0, 1.0
        return wb_of_rgb(self.target_cfa, self.target_camera_wb)


@dataclass(frozen=True)
class PairData:
    """A pair's arrays, or the same crop of all four; None for those that were not asked for.

    Attributes:
        raw: (h, w) uint16, sensor values of the short shot, untouched.
        rgb: (h, w, 3) uint8, the short shot rendered to sRGB.
        target: (N h, N w, 3) uint16, the long shot in linear camera RGB before white balance, white 65535;
            uint8 sRGB where `target_space` of the pair is "srgb".
        valid: (N h, N w) uint8, 1 where the target shows the scene.
    """

    raw: npt.NDArray[np.uint16]
    rgb: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]
    valid: npt.NDArray[np.uint8]


def render_target(pair: Pair, target: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A target (H, W, 3) as packed, rendered to sRGB in [0, 1] at the low shot's exposure (target x gain)."""
    gain = np.asarray(pair.gain, np.float32)
    if pair.target_space == "srgb":
        # Already rendered: the exposure is matched in linear light and the curve applied again.
        linear = decode_srgb(target.astype(np.float32) / 255) * gain
        return render_srgb(linear, (1.0, 1.0, 1.0), np.eye(3))
    light = target.astype(np.float32) * (gain / TARGET_WHITE)
    return render_srgb(light, pair.target_rgb_wb, pair.target_color_matrix)


def open_checked(path: Path) -> h5py.File:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}.", "Make it with 'srraw pack --out srraw.h5'.", wrong_use=True)
    try:
        if seal_of(path) == "broken":
            raise UserError(f"{path} is damaged: its metadata are not what was written.", "Pack it again.")
        file = open_hdf5(path)
    except OSError as error:
        if error.errno:  # the system's own
            raise UserError(f"{path} cannot be read: {os.strerror(error.errno)}.") from error
        raise UserError(
            f"{path} is not an HDF5 file, or is damaged.", "Remove it and make it anew with 'srraw pack'."
        ) from error
    try:
        found, version = (_plain(file.attrs.get(name)) for name in ("format", "format_version"))
        whole = isinstance(file.get("pairs"), h5py.Group)
    except HDF5_ERRORS as error:
        file.close()
        raise UserError(f"{path} is damaged: {words(error)}.", "Remove it and pack again.") from error
    if found == FORMAT and version == FORMAT_VERSION and whole:
        return file
    file.close()
    if found != FORMAT:
        raise UserError(f"{path} is an HDF5 file, but not one that srraw packed.", "Give the srraw.h5.")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, and srraw {__version__} reads version {FORMAT_VERSION}.",
            "Remove it and pack again, or use the srraw that wrote it.",
        )
    raise UserError(f"{path} holds no pairs group; it is damaged.", "Pack it again.")


def links_of(path: Path) -> dict[str, h5py.ExternalLink]:
    """The links of an index by the names of their pairs; none where the file is a shard itself.

    Raises:
        UserError: it links to anything but a pair of a shard beside it, or is not ours.
    """
    with open_checked(path) as file:
        try:
            links = {name: file["pairs"].get(name, getlink=True) for name in file["pairs"]}
        except HDF5_ERRORS as error:
            raise UserError(f"{path} is damaged: {words(error)}.", "Remove it and pack again.") from error
    outward = {name: link for name, link in links.items() if isinstance(link, h5py.ExternalLink)}
    for name, link in outward.items():
        if Path(link.filename).name != link.filename or link.filename in ("", ".", ".."):
            raise UserError(f"{path} links to {link.filename}, outside its own folder; it is not ours.")
        if link.path != f"/pairs/{name}":
            raise UserError(f"{path} links pair {name} to {link.path}; it is not ours.")
    return outward


def write_root(file: h5py.File, options: dict[str, Any]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["created_by"] = CREATED_BY
    file.attrs["zooms"] = np.array(options["zooms"], np.int64)
    file.attrs["options"] = json.dumps(options, sort_keys=True)
    file.attrs[CHECKSUM] = _checksum(_attributes(file))
    file.create_group("pairs")


def write_pair(file: h5py.File, pair: Pair, data: PairData, compression: str) -> None:
    group = file["pairs"].create_group(pair.name)
    for name in ARRAYS:
        zoom = 1 if name in ("raw", "rgb") else pair.zoom
        write_array(group, name, getattr(data, name), zoom, compression)
    write_attributes(group, pair)


def write_attributes(group: h5py.Group, pair: Pair) -> None:
    """Write a pair's metadata, with their checksum."""
    for name, value in vars(pair).items():
        if name not in ("name", "size") and value is not None:
            group.attrs[name] = value
    group.attrs[CHECKSUM] = _checksum(_attributes(group))


def _attributes(group: h5py.Group) -> dict[str, Any]:
    """All attributes but the checksum. Raises OSError, KeyError or others where they are damaged."""
    return {name: group.attrs[name] for name in list(group.attrs) if name != CHECKSUM}


def _checksum(attributes: dict[str, Any]) -> np.uint32:
    """CRC-32 of attributes, by name: HDF5 has checksums of its metadata, but not of its strings."""
    told = [
        [name, value if isinstance(value, str) else [np.asarray(value).dtype.str, np.asarray(value).tolist()]]
        for name, value in sorted(attributes.items())
    ]
    return np.uint32(zlib.crc32(json.dumps(told).encode()))


def _verified_attributes(group: h5py.Group) -> dict[str, Any]:
    """The attributes of the root or a pair. Raises ValueError where they are not what was written."""
    attributes = _attributes(group)
    if group.attrs.get(CHECKSUM) != _checksum(attributes):
        raise ValueError("its metadata are not what was written")
    return attributes


def read_root(file: h5py.File, path: Path) -> dict[str, Any]:
    try:
        about = _verified_attributes(file)
        json.loads(about["options"])
        tuple(int(zoom) for zoom in about["zooms"])
        str(about["created_by"])
        return about
    except HDF5_ERRORS as error:
        raise UserError(f"{path} is damaged: {words(error)}.", "Remove it and pack again.") from error


def read_pair(pairs: h5py.Group, name: str) -> Pair:
    try:
        group = pairs[name]
        values = {key: _plain(value) for key, value in _verified_attributes(group).items()}
        known = {k: v for k, v in values.items() if k in Pair.__dataclass_fields__}
        pair = Pair(**{"name": name, "size": group["raw"].shape, "target_cfa": None, **known})
        _check_pair(pair, group)
        return pair
    except HDF5_ERRORS as error:
        raise UserError(f"Pair {name} is damaged: {words(error)}.", "Pack again.") from error


def words(error: Exception) -> str:
    """An error's text without the full stop; HDF5's own tell more than a sentence can hold."""
    return str(error).strip("'\"").split(" (")[0].rstrip(".")


def _check_pair(pair: Pair, group: h5py.Group) -> None:
    """Raises ValueError where a pair is not what the format says."""
    h, w = pair.size
    zoomed = (pair.zoom * h, pair.zoom * w)
    shapes = {"raw": (h, w), "rgb": (h, w, 3), "target": (*zoomed, 3), "valid": zoomed}
    for name, shape in shapes.items():
        if group[name].shape != shape:
            raise ValueError(f"{name} is {group[name].shape} and not {shape}")
    for cfa in (pair.cfa, pair.target_cfa):
        if cfa not in BAYER_PATTERNS and not (cfa is None and pair.target_space == "srgb"):
            raise ValueError(f"{cfa!r} is no Bayer pattern")
    if pair.split not in SPLITS or pair.target_space not in ("camera", "srgb"):
        raise ValueError(f"split {pair.split!r} or target_space {pair.target_space!r} is unknown")
    for name, length in (("black_level", 4), ("camera_wb", 4), ("target_camera_wb", 4), ("gain", 3)):
        if np.shape(getattr(pair, name)) != (length,):
            raise ValueError(f"{name} has not {length} values")
    for name in ("color_matrix", "target_color_matrix", "low_to_high"):
        matrix = np.asarray(getattr(pair, name))
        if matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)):
            raise ValueError(f"{name} is not a finite 3x3 matrix")
    factors = np.array([*pair.camera_wb, *pair.target_camera_wb, *pair.gain])
    possible = np.all(np.isfinite(factors)) and np.all(factors >= 0)
    if not possible or not max(pair.black_level) < pair.white_level:
        raise ValueError("its levels, balances or gains are not possible")


def _plain(value: Any) -> Any:
    """HDF5 attributes as Python values: scalars, tuples for vectors, arrays for matrices."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) if value.ndim == 1 else value
    return value.item() if isinstance(value, np.generic) else value
