"""The stage from a set of pairs to files that other toolboxes read.

    OUT/export.json                          what was exported, of which inputs
    basicsr  OUT/4x/meta_info_train.txt      a line for each pair, "name.png (height,width,3)" of gt
             OUT/4x/train/gt/<pair>.png      the target in sRGB, 8 bit
             OUT/4x/train/lq/<pair>.png      the low shot in sRGB, 8 bit, 1/4 of its size
    dng-png  OUT/4x/train/<pair>.dng, .png   the low mosaic as a DNG; the target in sRGB, 16 bit
    npz      OUT/4x/train/<pair>.npz         raw, rgb, target, valid as packed; about: the metadata as JSON

basicsr and dng-png hold the part of a pair in which the whole target shows the scene.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import parallel, shards
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, replacing, write_json
from srraw_tools.quality import seen_crop
from srraw_tools.shards import SPLITS, Pair, render_target

FORMATS = ("basicsr", "npz", "dng-png")
RECORD_FILE = "export.json"
SMALLEST = 32  # mosaic pixels of a side, below which a pair is left out


@dataclass(frozen=True)
class ExportedPair:
    """What became of a pair: `status` is "exported", "present", or with a `reason` "left out" or "failed"."""

    name: str
    status: str
    reason: str | None = None


def export_pairs(
    path: Path,
    out: Path,
    *,
    format: str,
    zoom: int | None = None,
    split: str | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> Iterator[ExportedPair]:
    """Write the pairs of an srraw.h5 as files of another format, into a folder.

    Pairs that the folder holds already are "present". A folder with an export of another format or of other
    inputs is refused unless `overwrite`, which removes what was exported before; one with anything else
    always is.

    Args:
        format: "basicsr" (which traiNNer-redux reads too), "npz" or "dng-png".
        zoom: of the pairs; None takes all.
        split: of the pairs; None takes all.
        jobs: processes.

    Yields:
        A record per pair, as it is done. The lists of pairs are written last.

    Raises:
        UserError: nothing fits, the folder is not free, or it cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"{format!r} is no format.", f"Choose among {', '.join(FORMATS)}.", wrong_use=True)
    with shards.open(path) as reader:
        pairs = reader.select(zoom, split)
    if not pairs:
        raise UserError(f"{path} holds no such pair.", "Leave out --zoom or --split.", wrong_use=True)
    files = {pair.name: _files(out, pair, format) for pair in pairs}
    if len({found[0] for found in files.values()}) < len(files):
        raise UserError(f"Two pairs of {path} would get the same name.", "Export them split by split.")
    record = {"format": "srraw-export", "version": 1, "kind": format}
    inputs = {pair.name: pair.input_hash for pair in pairs}
    before = _claim(out, record, inputs, overwrite)
    if overwrite:
        _remove_export(out)
    write_json(out / RECORD_FILE, record | {"pairs": before | inputs})
    done = [pair for pair in pairs if pair.name in before and all(f.exists() for f in files[pair.name])]
    yield from (ExportedPair(pair.name, "present") for pair in done)
    kept = {pair.name for pair in done}
    work = partial(export_pair, path=path.absolute(), out=out, format=format)
    for name, result in parallel.map_items(work, [p.name for p in pairs if p.name not in kept], jobs):
        failed = isinstance(result, UserError)
        yield ExportedPair(name, "failed", str(result)) if failed else ExportedPair(name, *result)
    if format == "basicsr":
        for listed in sorted({(pair.zoom, pair.split) for pair in pairs}):
            _write_list(out, *listed)


def export_pair(name: str, *, path: Path, out: Path, format: str) -> tuple[str, str | None]:
    """Write one pair.

    Returns:
        "exported", or "left out" and why.

    Raises:
        UserError: the pair is damaged, or a file cannot be written.
    """
    reader = shards.open_once(path)
    pair = next(pair for pair in reader.pairs if pair.name == name)
    files = _files(out, pair, format)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    files[-1].parent.mkdir(parents=True, exist_ok=True)
    if format == "npz":
        data = reader.read(pair)
        with replacing(files[0]) as temporary:
            np.savez(temporary, **vars(data), about=np.array(json.dumps(about(pair))))
        return "exported", None
    crop = seen_crop(reader.read(pair, arrays=("valid",)).valid, pair.zoom)
    if min(crop[2:]) < SMALLEST:
        return "left out", f"its target shows the scene on {crop[2]} x {crop[3]} mosaic pixels only"
    data = reader.read(pair, crop)
    shown = render_target(pair, data.target)
    if format == "basicsr":
        _write_png(files[1], data.rgb)
        _write_png(files[0], np.round(shown * 255).astype(np.uint8))
    else:
        write_dng(files[1], data.raw, **_dng_values(pair))
        _write_png(files[0], np.round(shown * 65535).astype(np.uint16))
    return "exported", None


def about(pair: Pair) -> dict[str, Any]:
    """A pair's metadata as plain values that JSON can hold."""
    plain = {key: np.asarray(value).tolist() for key, value in vars(pair).items() if value is not None}
    return plain | {"size": list(pair.size)}


def _files(out: Path, pair: Pair, format: str) -> list[Path]:
    """The files of a pair, the first of which tells it from others."""
    name = "_".join(pair.name.split())  # a list of names has them up to the first space
    folder = out / f"{pair.zoom}x" / pair.split
    if format == "basicsr":
        return [folder / "gt" / f"{name}.png", folder / "lq" / f"{name}.png"]
    ends = ("npz",) if format == "npz" else ("png", "dng")
    return [folder / f"{name}.{end}" for end in ends]


def _claim(out: Path, record: dict[str, Any], inputs: dict[str, str], overwrite: bool) -> dict[str, str]:
    """Make the folder, or take it as an export of the same; the pairs that were exported before."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        empty = not any(out.iterdir())
    except OSError as error:
        raise UserError(f"Cannot write into {out}: {error.strerror}.", "Choose another folder.") from error
    if empty:
        return {}
    if not (out / RECORD_FILE).is_file():
        raise UserError(f"{out} holds other files.", "Choose a folder that is new or empty.", wrong_use=True)
    before = read_json(out / RECORD_FILE)
    pairs = before.pop("pairs", None) if isinstance(before, dict) else None
    same = before == record and isinstance(pairs, dict)
    if same and all(inputs.get(name, value) == value for name, value in pairs.items()):
        return {} if overwrite else pairs
    if not overwrite:
        raise UserError(
            f"{out} holds an export of another format or of other inputs.",
            "Choose another folder, or give --overwrite.",
            wrong_use=True,
        )
    return {}


def _remove_export(out: Path) -> None:
    for folder in out.glob("[248]x"):
        lists = folder.glob("meta_info_*.txt")
        files = (path for split in SPLITS for path in (folder / split).rglob("*"))
        for path in (*lists, *(path for path in files if path.suffix in (".png", ".dng", ".npz"))):
            path.unlink()


def _write_list(out: Path, zoom: int, split: str) -> None:
    folder = out / f"{zoom}x"
    lines = []
    for path in sorted((folder / split / "gt").glob("*.png")):
        with open(path, "rb") as file:
            head = file.read(24)
        width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
        lines.append(f"{path.name} ({height},{width},3)\n")
    with replacing(folder / f"meta_info_{split}.txt") as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _write_png(path: Path, rgb: npt.NDArray[Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1])


def _dng_values(pair: Pair) -> dict[str, Any]:
    known = {
        "camera_model": pair.camera,
        "f_number": pair.f_number,
        "exposure_s": pair.exposure_time,
        "iso": None if pair.iso is None else min(round(pair.iso), 65535),  # as EXIF has it
    }
    return {
        "cfa": pair.cfa,
        "black_level": tuple(round(level) for level in pair.black_level),
        "white_level": pair.white_level,
        "camera_wb": pair.rgb_wb,
        "camera_to_srgb": pair.color_matrix,
        "camera_make": (pair.camera or "unknown").split()[0],
        "focal_mm": pair.focal_low,
        "software": "srraw export",
        **{name: value for name, value in known.items() if value is not None},
    }
