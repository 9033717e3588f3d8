"""The HDF5 file of pairs: write, read. `srraw.h5` is a shard itself, or an index of numbered shards.

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

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.files import replacing, sync_folder
from srraw_tools.raw import BAYER_PATTERNS, TARGET_WHITE, decode_srgb, render_srgb, wb_of_rgb

FORMAT = "srraw"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
RAW_CHUNK = 64  # mosaic pixels; target chunks are N times as large, so that chunks of both line up
COMPRESSIONS = ("none", "gzip", "bitshuffle")


@dataclass(frozen=True)
class Pair:
    """A packed pair's metadata. Four-vectors are in the order of `cfa`, or of `target_cfa` for the target's.

    `color_matrix` and `target_color_matrix` map white-balanced camera RGB to linear sRGB.
    `gain` (R, G, B) multiplies the target to match the low shot's exposure. What is unknown is None;
    `target_cfa` is, where the long shot is a picture, whose target is sRGB. `distortion_low` and
    `distortion_high` are k1, k2, centre x, y and normaliser; `low_to_high` then maps undistorted coordinates.
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
    """A pair's arrays, or the same crop of all four; shapes and domains as in the module's docstring."""

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


class Reader:
    """Pairs of an srraw.h5, read crop by crop. Use it as a context manager or call close()."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open_checked(path)
        try:
            self.zooms: tuple[int, ...] = tuple(int(z) for z in self._file.attrs["zooms"])
            self.options: dict[str, Any] = dict(json.loads(self._file.attrs["options"]))
            self.created_by = str(self._file.attrs["created_by"])
        except (KeyError, TypeError, ValueError) as error:
            self._file.close()
            raise UserError(f"{path} is damaged: {error}.", "Remove it and pack again.") from error
        if self.options.get("compression") == "bitshuffle":
            _bitshuffle()  # registers the filter with HDF5
        self.pairs: tuple[Pair, ...] = tuple(_read_pair(self._group(name)) for name in self._file["pairs"])

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the reader cannot be used after."""
        self._file.close()

    def select(self, zoom: int | None = None, split: str | None = None) -> list[Pair]:
        """The pairs of a zoom and of a split ("train", "val", "test"); None takes all."""
        return [p for p in self.pairs if zoom in (None, p.zoom) and split in (None, p.split)]

    def read(self, pair: Pair, crop: tuple[int, int, int, int] | None = None) -> PairData:
        """Read a pair, or a crop [x, y, width, height] of it in mosaic pixels of the pair.

        Raises:
            ValueError: the crop does not lie inside the pair.
            UserError: the data on the disk are damaged.
        """
        height, width = pair.size
        x, y, w, h = crop or (0, 0, width, height)
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > width or y + h > height:
            raise ValueError(f"crop {crop} does not lie inside {pair.name}, {width} x {height}")
        low = np.s_[y : y + h, x : x + w]
        n = pair.zoom
        high = np.s_[n * y : n * (y + h), n * x : n * (x + w)]
        group = self._group(pair.name)
        try:
            return PairData(group["raw"][low], group["rgb"][low], group["target"][high], group["valid"][high])
        except (OSError, KeyError) as error:
            raise UserError(
                f"{self.path}: pair {pair.name} is damaged ({error}).", "Pack it again."
            ) from error

    def _group(self, name: str) -> h5py.Group:
        return _group_of(self._file, name, self.path)


def open(path: Path | str) -> Reader:
    """Open an srraw.h5 for reading.

    Raises:
        UserError: the file is missing, no HDF5, not ours, or of another version.
    """
    return Reader(Path(path))


Add = Callable[[Pair, PairData], None]


@contextmanager
def new_shard(path: Path, options: dict[str, Any]) -> Iterator[Add]:
    """Write a new shard, whole or not at all: inside the block, call what it gives once for each pair.

    Args:
        options: what was asked of `srraw pack`; must hold "zooms" and "compression".

    Raises:
        UserError: the file cannot be written.
    """
    with (
        replacing(path) as temporary,
        _Disk(temporary) as disk,
        h5py.File(disk, "w", libver="latest") as file,
    ):
        _write_root(file, options)

        def add(pair: Pair, data: PairData) -> None:
            _write_pair(file, pair, data, options["compression"])
            file.flush()
            disk.raise_failure()

        yield add


class _Disk(io.FileIO):
    """A file for HDF5 to write to, which outlives a full disk.

    HDF5 cannot close a file whose writes fail: the process may end in a segmentation fault. So the first
    failure is kept, what follows it is not written, and `raise_failure` raises it as the operating system's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        super().__exit__(kind, *rest)
        if kind is None:
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: Any) -> int:
        """Write all of `data`, or nothing more after a failure."""
        view = memoryview(data).cast("B")
        written = 0
        while self._failure is None and written < len(view):
            try:
                written += super().write(view[written:])
            except OSError as error:
                self._failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length, unless a write has failed."""
        try:
            return self.tell() if self._failure else super().truncate(size)
        except OSError as error:
            self._failure = error
            return self.tell()


@contextmanager
def added_shard(path: Path, options: dict[str, Any]) -> Iterator[Add]:
    """Add pairs to an existing set as one more numbered shard; `path` becomes, or stays, the index.

    The shards that exist keep their bytes: a set of one gets a second, numbered name, and a new index takes
    the place of `path` in one rename. No file that is there already is ever taken for a shard's name.
    """
    shards = shard_files(path)
    first = None if shards else _free_name(path, 1)
    added = _free_name(path, 1 if shards else int(first.stem[-4:]) + 1)
    with new_shard(added, options) as add:
        yield add
    if first is not None:
        _give_second_name(path, first)
        shards = [first]
    with replacing(path) as temporary, _Disk(temporary) as disk, h5py.File(disk, "w") as index:
        _write_root(index, options)
        for shard in [*shards, added]:
            with h5py.File(shard, "r") as file:
                for name in file["pairs"]:
                    index["pairs"][name] = h5py.ExternalLink(shard.name, f"/pairs/{name}")


def orphaned_shards(path: Path, before: list[Path]) -> list[Path]:
    """Of the shards that `path` was the index of `before` it was replaced, those that nothing needs any more:
    named after it, and linked from no other file of the folder."""
    used = set(shard_files(path))
    for other in path.parent.glob(f"*{path.suffix}"):
        with suppress(UserError):
            used |= set(shard_files(other))
    return [shard for shard in before if shard not in used and shard.stem[:-5] == path.stem]


def _free_name(path: Path, number: int) -> Path:
    """The first <stem>-NNNN from a number on that is not there yet."""
    while (name := path.with_name(f"{path.stem}-{number:04d}{path.suffix}")).exists():
        if path.exists() and os.path.samefile(name, path):
            return name  # the second name of `path` itself, left by an interrupted run
        number += 1
    return name


def _give_second_name(path: Path, name: Path) -> None:
    if name.exists():
        return
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        with replacing(name) as temporary:
            shutil.copyfile(path, temporary)
    sync_folder(path.parent)


def shard_files(path: Path) -> list[Path]:
    """The numbered shards that an index names, in order; none where the file is a shard itself."""
    with _open_checked(path) as file:
        links = [file["pairs"].get(name, getlink=True) for name in file["pairs"]]
    names = sorted({link.filename for link in links if isinstance(link, h5py.ExternalLink)})
    return [path.with_name(Path(name).name) for name in names]


def _open_checked(path: Path) -> h5py.File:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}.", "Make it with 'srraw pack --out srraw.h5'.", wrong_use=True)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"{path} is not an HDF5 file, or is damaged.", "Remove it and make it anew with 'srraw pack'."
        ) from error
    found, version = (_plain(file.attrs.get(name)) for name in ("format", "format_version"))
    if found == FORMAT and version == FORMAT_VERSION and isinstance(file.get("pairs"), h5py.Group):
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


def _write_root(file: h5py.File, options: dict[str, Any]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["created_by"] = f"srraw {__version__}"
    file.attrs["zooms"] = np.array(options["zooms"], np.int64)
    file.attrs["options"] = json.dumps(options, sort_keys=True)
    file.create_group("pairs")


def _write_pair(file: h5py.File, pair: Pair, data: PairData, compression: str) -> None:
    group = file["pairs"].create_group(pair.name)
    chunk, zoomed = RAW_CHUNK, RAW_CHUNK * pair.zoom
    for name, side in (("raw", chunk), ("rgb", chunk), ("target", zoomed), ("valid", zoomed)):
        array = getattr(data, name)
        chunks = (min(side, array.shape[0]), min(side, array.shape[1]), *array.shape[2:])
        # No time stamps: the same input gives the same bytes.
        group.create_dataset(name, data=array, chunks=chunks, track_times=False, **_filters(compression))
    for name, value in vars(pair).items():
        if name not in ("name", "size") and value is not None:
            group.attrs[name] = value


def _filters(compression: str) -> dict[str, Any]:
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    if compression == "bitshuffle":
        return dict(_bitshuffle().Bitshuffle())
    return {}


def _bitshuffle() -> Any:
    try:
        import hdf5plugin
    except ImportError as error:
        raise UserError(
            "Bitshuffle needs hdf5plugin.",
            "Install it with: pip install 'srraw[compression]'.",
            wrong_use=True,
        ) from error
    return hdf5plugin


def _group_of(file: h5py.File, name: str, path: Path) -> h5py.Group:
    link = file["pairs"].get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink) and Path(link.filename).name != link.filename:
        raise UserError(f"{path} links to {link.filename}, outside its own folder; it is not ours.")
    try:
        return file["pairs"][name]
    except (KeyError, OSError) as error:
        shard = getattr(link, "filename", path.name)
        raise UserError(
            f"{path}: the shard {shard} is missing or damaged.", "Put it beside the index, or pack again."
        ) from error


def _read_pair(group: h5py.Group) -> Pair:
    name = group.name.rsplit("/", 1)[-1]
    try:
        values: dict[str, Any] = {key: _plain(value) for key, value in group.attrs.items()}
        known = {k: v for k, v in values.items() if k in Pair.__dataclass_fields__}
        pair = Pair(**{"name": name, "size": group["raw"].shape, "target_cfa": None, **known})
        _check_pair(pair, group)
        return pair
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise UserError(f"{group.file.filename}: pair {name} is damaged ({error}).", "Pack again.") from error


def _check_pair(pair: Pair, group: h5py.Group) -> None:
    """Raises ValueError where a pair is not what the format says."""
    h, w = pair.size
    zoomed = (pair.zoom * h, pair.zoom * w)
    shapes = {"rgb": (h, w, 3), "target": (*zoomed, 3), "valid": zoomed}
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


def _plain(value: Any) -> Any:
    """HDF5 attributes as Python values: scalars, tuples for vectors, arrays for matrices."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) if value.ndim == 1 else value
    return value.item() if isinstance(value, np.generic) else value
