"""The stage from sequences and alignments to the HDF5 file that a model learns from."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry, shards
from srraw_tools.alignment import ALIGNMENT_FILE, PairAlignment, aligned_inputs, read_alignment
from srraw_tools.distortion import STRAIGHT, Distortion, Lenses, warp
from srraw_tools.errors import UserError
from srraw_tools.exif import is_picture
from srraw_tools.files import sha256_of
from srraw_tools.geometry import Matrix
from srraw_tools.picture import Picture, linear_light, read_picture
from srraw_tools.raw import TARGET_WHITE, RawImage, read_raw, render_srgb, to_uint8
from srraw_tools.sequence import SEQUENCE_FILE, ZOOMS, Sequence, changed_shots, read_sequence, sequence_name
from srraw_tools.shards import SPLITS, Pair, PairData

SPLIT_SHARES = (80, 10, 10)
TARGETS = ("camera", "srgb")


@dataclass(frozen=True)
class PackedPair:
    """What became of a pair: `status` is "packed", "present" (there before), or with a `reason` "left out",
    where nothing can be packed of such a pair, or "failed".

    notes: what had to be assumed because the raw files do not say it.
    """

    name: str
    split: str
    zoom: int
    status: str
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """One pair to pack, and where it comes from."""

    name: str
    folder: Path
    sequence: str
    split: str
    alignment: PairAlignment
    aligned_inputs: dict[str, str]  # hashes of the files that were aligned, by name
    described: Sequence | None  # by its sequence.json, where it has one

    @property
    def files(self) -> tuple[Path, Path]:
        return self.folder / self.alignment.low, self.folder / self.alignment.high


def pack_sequences(
    folders: Iterable[Path],
    *,
    out: Path,
    zooms: tuple[int, ...] = (4, 8),
    split: tuple[float, ...] = SPLIT_SHARES,
    split_file: Path | None = None,
    target: str = "camera",
    compression: str = "none",
    alignments: Path | None = None,
    overwrite: bool = False,
) -> Iterator[PackedPair]:
    """Pack the aligned pairs of sequences into an HDF5 file (docs/formats.md).

    A file that is there already is kept: pairs that it holds are "present", further ones are added as a new
    shard, and other options or inputs that have changed are refused unless `overwrite`.

    Args:
        split: shares of train, val and test; sequences are assigned by a hash of their name.
        split_file: CSV of sequence,split that decides instead.
        target: "camera" (16-bit linear camera RGB) or "srgb" (8-bit sRGB, as in the paper). Pairs of two
            cameras, and those whose long shot is a JPEG or PNG, are packed in sRGB.
        alignments: folder of <sequence>/alignment.json where `srraw align --out` wrote them.

    Yields:
        A record per pair, after it was written; the file itself appears when the last one was.

    Raises:
        UserError: nothing is aligned, the file there is of other options or inputs, or it cannot be written.
    """
    _check_options(zooms, split)
    _check_output(out, target, compression)
    zooms = tuple(sorted(set(zooms)))
    chosen_split = _read_split_file(split_file) if split_file else list(split)
    options = {
        "zooms": list(zooms),
        "target": target,
        "compression": compression,
        "split": chosen_split,
    }
    tasks, left_out = _collect(list(folders), zooms, chosen_split, alignments)
    yield from left_out
    if not tasks:
        raise UserError(
            f"There is no aligned pair to pack for {_zoom_names(zooms)}.",
            "Run 'srraw align' and read its table.",
        )
    replaced: list[Path] = []
    if overwrite or not out.exists():
        writing, present = shards.new_shard, {}
        replaced = shards.shard_files(out) if out.exists() else []
    else:
        writing, present = shards.added_shard, _present(out, options)
    hashes: dict[str, str] = {}
    for task in list(tasks):
        try:
            hashes[task.name] = _input_hash(task)
        except UserError as error:
            tasks.remove(task)
            yield _record(task, "failed", str(error))
            continue
        if present.get(task.name, hashes[task.name]) != hashes[task.name]:
            raise UserError(
                f"{out} holds {task.name}, made of files or an alignment that have changed since.",
                "Give --overwrite to pack it anew.",
                wrong_use=True,
            )
    yield from (_record(task, "present") for task in tasks if task.name in present)
    tasks = [task for task in tasks if task.name not in present]
    if not tasks:
        return
    with writing(out, options) as add:
        packed = 0
        for record, pair, data in _packed(tasks, hashes, target):
            if pair is not None and data is not None:
                add(pair, data)
                packed += 1
            yield record
        if not packed:
            raise UserError(f"No pair could be packed; {out} is left as it was.", "See the failures above.")
    for shard in shards.orphaned_shards(out, replaced):
        shard.unlink()


def plan_packing(
    folders: Iterable[Path],
    *,
    zooms: tuple[int, ...] = (4, 8),
    split: tuple[float, ...] = SPLIT_SHARES,
    split_file: Path | None = None,
    alignments: Path | None = None,
) -> list[PackedPair]:
    """What `pack_sequences` with these arguments would pack, with the status "planned"; reads no raw file."""
    _check_options(zooms, split)
    chosen_split = _read_split_file(split_file) if split_file else list(split)
    tasks, left_out = _collect(list(folders), zooms, chosen_split, alignments)
    return [*left_out, *(_record(task, "planned") for task in tasks)]


def split_of(sequence: str, shares: tuple[float, ...] = SPLIT_SHARES) -> str:
    """The split of a sequence by a hash of its name, so that adding one moves no other."""
    fraction = int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8]) / 2**64
    limits = np.cumsum(shares) / np.sum(shares)
    return SPLITS[int(np.searchsorted(limits, fraction, side="right"))]


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


def _check_options(zooms: tuple[int, ...], split: tuple[float, ...]) -> None:
    if not zooms or any(zoom not in ZOOMS for zoom in zooms):
        raise UserError(f"A zoom of {list(zooms)} is not possible; choose among 2, 4 and 8.", wrong_use=True)
    if len(split) != 3 or not all(0 <= share <= 1e6 for share in split) or sum(split) <= 0:
        raise UserError("A split has three shares, such as 80:10:10.", wrong_use=True)


def _check_output(out: Path, target: str, compression: str) -> None:
    if target not in TARGETS or compression not in shards.COMPRESSIONS:
        raise UserError(f"Unknown target {target!r} or compression {compression!r}.", wrong_use=True)
    if out.is_dir() or not out.parent.is_dir():
        problem = "is a folder" if out.is_dir() else f"cannot be made: {out.parent} does not exist"
        raise UserError(f"{out} {problem}.", "Name a file such as srraw.h5.", wrong_use=True)


def _read_split_file(path: Path) -> dict[str, str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Cannot read the split file {path}: {error}.", wrong_use=True) from error
    rows = rows[1:] if rows and [cell.lower() for cell in rows[0]] == ["sequence", "split"] else rows
    splits: dict[str, str] = {}
    for row in rows:
        if len(row) != 2 or row[1] not in SPLITS:
            raise UserError(
                f"{path}: the line {','.join(row)!r} is not of the form sequence,split.",
                "The split is train, val or test.",
                wrong_use=True,
            )
        if splits.setdefault(row[0], row[1]) != row[1]:
            raise UserError(f"{path} puts {row[0]} into two splits.", "Leave one of them.", wrong_use=True)
    return splits


def _collect(
    folders: list[Path],
    zooms: tuple[int, ...],
    split: list[float] | dict[str, str],
    alignments: Path | None,
) -> tuple[list[_Task], list[PackedPair]]:
    """The pairs to pack, and the sequences and pairs that cannot be."""
    tasks: list[_Task] = []
    left_out = []
    for folder in folders:
        sequence = sequence_name(folder)
        if isinstance(split, dict) and sequence not in split:
            raise UserError(
                f"The split file does not name the sequence {sequence}.",
                f"Add a line such as {sequence},train to it.",
                wrong_use=True,
            )
        published = folder.resolve().parent.name
        if isinstance(split, dict):
            chosen = split[sequence]
        else:
            chosen = published if published in SPLITS else split_of(sequence, tuple(split))
        path = (alignments / sequence if alignments else folder) / ALIGNMENT_FILE
        try:
            pairs, inputs = read_alignment(path), aligned_inputs(path)
            described = read_sequence(folder) if (folder / SEQUENCE_FILE).exists() else None
        except UserError as error:
            left_out.append(PackedPair(sequence, chosen, 0, "failed", str(error)))
            continue
        for pair in pairs:
            if pair.zoom in zooms and pair.status == "ok":
                name = f"{sequence}_{pair.zoom}x_{Path(pair.low).stem}_{Path(pair.high).stem}"
                task = _Task(name, folder, sequence, chosen, pair, inputs, described)
                low = task.files[0]
                if low.is_file() and is_picture(low):
                    why = f"{low} is a picture: there is no mosaic to pack"
                    left_out.append(_record(task, "left out", why))
                else:
                    tasks.append(task)
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"Two sequences have the same name: {twice[0]} comes twice.", "Rename one of the folders."
        )
    return tasks, left_out


def _present(out: Path, options: dict[str, Any]) -> dict[str, str]:
    """The pairs that a file holds, which must have been packed by the same options: name -> input hash."""
    with shards.open(out) as reader:
        theirs, present = reader.options, {pair.name: pair.input_hash for pair in reader.pairs}
    if isinstance(options["split"], dict) and isinstance(theirs.get("split"), dict):
        # A longer split file is the same option, so long as it moves no sequence.
        moved = {k for k, v in theirs["split"].items() if options["split"].get(k, v) != v}
        same_split = not moved
    else:
        same_split = theirs.get("split") == options["split"]
    if not same_split or any(theirs.get(k) != v for k, v in options.items() if k != "split"):
        raise UserError(
            f"{out} was packed with other options.", "Give --overwrite to pack it anew.", wrong_use=True
        )
    return present


def _input_hash(task: _Task) -> str:
    """What identifies the inputs of a pair: the two files' bytes and their alignment.

    Raises:
        UserError: a file cannot be read, or is not the one that was shot or aligned.
    """
    hashes = [_sha256(path, path.stat().st_mtime_ns if path.exists() else 0) for path in task.files]
    found_by_name = {path.name: found for path, found in zip(task.files, hashes, strict=True)}
    if task.described:
        for error in changed_shots(task.described, found_by_name).values():
            raise error
    for path, found in zip(task.files, hashes, strict=True):
        if task.aligned_inputs.get(path.name, found) != found:
            raise UserError(
                f"{path} has changed since it was aligned.", "Run 'srraw align --overwrite' on it."
            )
    alignment = task.alignment.record()
    del alignment["flow"]  # it changes nothing that is packed
    made_of = [*hashes, alignment]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, modified_ns: int) -> str:
    """A file's hash; a sequence's shots belong to several pairs, and are read once."""
    return sha256_of(path)


def _packed(
    tasks: list[_Task], hashes: dict[str, str], target: str
) -> Iterator[tuple[PackedPair, Pair | None, PairData | None]]:
    """Make the pairs, sequence by sequence; each raw is decoded once."""
    decoded: dict[Path, RawImage | Picture | UserError] = {}
    for task in tasks:
        decoded = {path: raw for path, raw in decoded.items() if path.parent == task.folder}
        for path in task.files:
            if path not in decoded:
                decoded[path] = _decode(path)
        low, high = (decoded[path] for path in task.files)
        failure = next((str(raw) for raw in (low, high) if isinstance(raw, UserError)), None)
        if failure is None and not _is_inside(task.alignment.crop, low.size):
            failure = f"the crop {task.alignment.crop} lies outside {low.path}"
        if failure is None:
            pair, data = _make_pair(task, hashes[task.name], low, high, target)
            notes = tuple(sorted({*low.notes, *high.notes}))
            yield replace(_record(task, "packed"), notes=notes), pair, data
        else:
            yield _record(task, "failed", failure), None, None


def _is_inside(crop: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    return crop[0] + crop[2] <= size[1] and crop[1] + crop[3] <= size[0]


def _decode(path: Path) -> RawImage | Picture | UserError:
    try:
        return read_picture(path) if is_picture(path) else read_raw(path, demosaic=True)
    except UserError as error:
        return error


def _make_pair(
    task: _Task, input_hash: str, low: RawImage, high: RawImage | Picture, target: str
) -> tuple[Pair, PairData]:
    alignment, zoom = task.alignment, task.alignment.zoom
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
        name=task.name,
        sequence=task.sequence,
        split=task.split,
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


def _record(task: _Task, status: str, reason: str | None = None) -> PackedPair:
    return PackedPair(task.name, task.split, task.alignment.zoom, status, reason)


def _zoom_names(zooms: tuple[int, ...]) -> str:
    return " and ".join(f"{zoom}X" for zoom in zooms)
