"""The stage from a set of pairs to numbers, a page with a contact sheet, and a data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import pages, parallel, quality, shards
from srraw_tools.comparison import webp
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.raw import to_uint8
from srraw_tools.shards import SPLITS, Pair, Reader, render_target

BLOCK = 64  # mosaic pixels of a side of the blocks that are measured
BLOCKS = 4  # along each side of a pair, at most
PICTURE_PX = 168  # of the longer side of a picture on the page; a multiple of 2, 4 and 8
MOST_PICTURED = 400  # pairs on the contact sheet
QUANTITIES = {  # of a pair, in the order of tables: attribute -> (name, unit, format)
    "iso": ("ISO", "", "{:g}"),
    "exposure_time": ("Exposure", "s", "{:.4g}"),
    "f_number": ("F-number", "", "{:.3g}"),
    "focal_low": ("Short focal length", "mm", "{:.4g}"),
    "focal_high": ("Long focal length", "mm", "{:.4g}"),
    "clipped": ("Clipped, short shot", "", "{:.2%}"),
    "target_clipped": ("Clipped, target", "", "{:.2%}"),
    "valid": ("Target shows the scene", "", "{:.1%}"),
    "sharpness": ("Sharpness", "", "{:.3f}"),
    "misalignment_px": ("Misalignment", "px", "{:.2f}"),
}


@dataclass(frozen=True)
class Picture:
    """A WebP picture, and (height, width) at which it is to be seen."""

    data: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class PairStats:
    """A pair in numbers; None is not known.

    Attributes:
        height, width: in mosaic pixels.
        clipped, target_clipped: share of the mosaic at or above white, and of the target's pixels with a
            colour there, or above where it clipped before it was warped.
        valid: share of the target that shows the scene.
        sharpness: median over blocks, as quality.sharpness.
        misalignment_px: median over blocks of how far the low shot lies off, in pixels of the target.
        pictures: "whole", and of the block with most contrast "low" and "target", where the pair is large
            enough for one; none where the pictures were not wanted.
    """

    name: str
    sequence: str
    split: str
    zoom: int
    height: int
    width: int
    camera: str | None
    target_camera: str | None
    target_space: str
    iso: float | None
    exposure_time: float | None
    f_number: float | None
    focal_low: float | None
    focal_high: float | None
    clipped: float
    target_clipped: float | None
    valid: float
    sharpness: float | None
    misalignment_px: float | None
    pictures: dict[str, Picture]

    def record(self) -> dict[str, Any]:
        """Plain values that JSON can hold, without the pictures."""
        return {name: value for name, value in vars(self).items() if name != "pictures"}


def measure_set(
    path: Path, *, jobs: int = 1, pictures: bool = True
) -> Iterator[tuple[str, PairStats | UserError]]:
    """Measure every pair of an srraw.h5.

    Args:
        jobs: processes.
        pictures: also make those of a contact sheet, of MOST_PICTURED pairs at most.

    Yields:
        (name of a pair, its numbers or what is wrong with it), with one job in order.

    Raises:
        UserError: `path` is no srraw.h5.
    """
    with shards.open(path) as reader:
        names = [pair.name for pair in reader.pairs]
    step = max(1, -(-len(names) // MOST_PICTURED))
    chosen = frozenset(names[::step]) if pictures else frozenset()
    yield from parallel.map_items(partial(measure_pair, path=path.absolute(), pictured=chosen), names, jobs)


def measure_pair(name: str, *, path: Path, pictured: frozenset[str] = frozenset()) -> PairStats:
    """Measure one pair; its target is read in blocks.

    Raises:
        UserError: the pair is damaged.
    """
    reader = shards.open_once(path)
    pair = next(pair for pair in reader.pairs if pair.name == name)
    data = reader.read(pair, arrays=("raw", "rgb", "valid"))
    blocks = [
        _measure_block(reader, pair, data, x, y) for x, y in _places(quality.seen_crop(data.valid, pair.zoom))
    ]
    shifts = [block.shift for block in blocks if block.shift is not None]
    sharp = [block.sharpness for block in blocks if block.sharpness is not None]
    return PairStats(
        name=name,
        sequence=pair.sequence,
        split=pair.split,
        zoom=pair.zoom,
        height=pair.size[0],
        width=pair.size[1],
        camera=pair.camera,
        target_camera=pair.target_camera,
        target_space=pair.target_space,
        iso=pair.iso,
        exposure_time=pair.exposure_time,
        f_number=pair.f_number,
        focal_low=pair.focal_low,
        focal_high=pair.focal_high,
        clipped=float((data.raw >= pair.white_level).mean()),
        target_clipped=float(np.mean([block.clipped for block in blocks])) if blocks else None,
        valid=float(data.valid.mean()),
        sharpness=median(sharp) if sharp else None,
        misalignment_px=median(float(np.hypot(*s)) for s in shifts) if shifts else None,
        pictures=_pictures(data.rgb, blocks) if name in pictured else {},
    )


def summary(found: Iterable[PairStats], path: Path) -> dict[str, Any]:
    """What a set comes to, as plain values that JSON can hold."""
    found = list(found)
    quantities = {}
    for name in QUANTITIES:
        values = sorted(value for pair in found if (value := getattr(pair, name)) is not None)
        if values:
            low, high = (values[int(q * (len(values) - 1))] for q in (0.05, 0.95))
            told = {"least": values[0], "5%": low, "median": median(values), "95%": high, "most": values[-1]}
            quantities[name] = {**told, "known": len(values)}
    return {
        "file": path.name,
        "pairs": len(found),
        "scenes": len({pair.sequence for pair in found}),
        "megapixels": round(sum(pair.height * pair.width for pair in found) / 1e6, 3),
        "splits": [
            {
                "zoom": zoom,
                "split": split,
                "pairs": len(group),
                "scenes": len({pair.sequence for pair in group}),
            }
            for zoom in sorted({pair.zoom for pair in found})
            for split in SPLITS
            if (group := [pair for pair in found if (pair.zoom, pair.split) == (zoom, split)])
        ],
        "cameras": _counts(_camera(pair) for pair in found),
        "focal_lengths": _counts(_focals(pair) for pair in found),
        "isos": _counts("unknown" if pair.iso is None else f"{pair.iso:g}" for pair in found),
        "quantities": quantities,
    }


def write_stats_page(out: Path, path: Path, found: list[PairStats], problems: list[str]) -> None:
    """Write the numbers and a contact sheet as one HTML file. Raises UserError where it cannot be written."""
    pictured = [pair for pair in found if pair.pictures]
    pages.write_page(
        out,
        "stats.html",
        summary=summary(found, path),
        rows=quantity_rows(summary(found, path)),
        pairs=[(pair, _told(pair)) for pair in sorted(pictured, key=_doubt)],
        problems=problems,
        splits=SPLITS,
    )


def quantity_rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a table of a summary's quantities: name, least, 5 %, median, 95 %, most."""
    rows = []
    for key, values in told["quantities"].items():
        name, unit, form = QUANTITIES[key]
        shown = (form.format(values[column]) for column in ("least", "5%", "median", "95%", "most"))
        rows.append((f"{name} ({unit})" if unit else name, *shown))
    return rows


def write_data_card(out: Path, path: Path, told: dict[str, Any]) -> None:
    """Write a datasheet in Markdown to publish with the set: what is known filled in, the rest asked for.

    Its headings are those of Gebru and others, Datasheets for Datasets (2021).

    Raises:
        UserError: it cannot be written.
    """
    splits = "".join(
        f"| {row['zoom']}X | {row['split']} | {row['scenes']} | {row['pairs']} |\n" for row in told["splits"]
    )
    quantities = "".join(f"| {' | '.join(row)} |\n" for row in quantity_rows(told))
    card = CARD.format(
        name=path.stem,
        file=path.name,
        pairs=told["pairs"],
        scenes=told["scenes"],
        megapixels=told["megapixels"],
        cameras=_listed(told["cameras"]),
        focal_lengths=_listed(told["focal_lengths"]),
        isos=_listed(told["isos"]),
        splits=splits,
        quantities=quantities,
    )
    with replacing(out) as temporary:
        temporary.write_text(card, encoding="utf-8")


# --- a pair -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """A block of a pair: sRGB of both shots in [0, 1], and what was measured on them."""

    low: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]
    zoom: int
    contrast: float
    clipped: float
    sharpness: float | None
    shift: tuple[float, float] | None


def _places(crop: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """Top-left corners (x, y) of blocks, spread evenly over a crop; none where it is smaller than a block."""
    starts = []
    for start, side in ((crop[0], crop[2]), (crop[1], crop[3])):
        room = side - BLOCK
        starts.append(range(start, start + room + 1, max(2, room // BLOCKS // 2 * 2)) if room >= 0 else ())
    return [(x, y) for y in starts[1] for x in starts[0]]


def _measure_block(reader: Reader, pair: Pair, data: shards.PairData, x: int, y: int) -> _Block:
    n = pair.zoom
    light = reader.read(pair, (x, y, BLOCK, BLOCK), ("target",)).target
    target = render_target(pair, light)
    low = data.rgb[y : y + BLOCK, x : x + BLOCK].astype(np.float32) / 255
    grey_low, grey = quality.luminance(low), quality.luminance(target)
    white = np.iinfo(light.dtype).max
    return _Block(
        low=low,
        target=target,
        zoom=n,
        contrast=float(grey.std()),
        clipped=float((light >= white).any(axis=-1).mean()),
        sharpness=quality.sharpness(grey, n),
        shift=quality.shift(grey_low, grey, n),
    )


def _pictures(rgb: npt.NDArray[np.uint8], blocks: list[_Block]) -> dict[str, Picture]:
    factor = min(1.0, PICTURE_PX / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    pictures = {"whole": _picture(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))}
    if blocks:
        block = max(blocks, key=lambda b: b.contrast)
        n, side = block.zoom, min(BLOCK, PICTURE_PX // block.zoom)
        start = (BLOCK - side) // 2
        low = block.low[start : start + side, start : start + side]
        target = block.target[n * start : n * (start + side), n * start : n * (start + side)]
        pictures["low"] = _picture(to_uint8(low), enlarged=n)
        pictures["target"] = _picture(to_uint8(target))
    return pictures


def _picture(rgb: npt.NDArray[np.uint8], enlarged: int = 1) -> Picture:
    """As WebP, whose chroma is half as fine: what the page enlarges is kept without loss."""
    quality = 80 if enlarged == 1 else 101
    return Picture(webp(rgb, quality), (rgb.shape[0] * enlarged, rgb.shape[1] * enlarged))


# --- words ------------------------------------------------------------------------------------------------


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _camera(pair: PairStats) -> str:
    cameras = [camera or "unknown" for camera in (pair.camera, pair.target_camera)]
    return cameras[0] if cameras[0] == cameras[1] else f"{cameras[0]} beside {cameras[1]}"


def _focals(pair: PairStats) -> str:
    low, high = ("?" if focal is None else f"{focal:.0f}" for focal in (pair.focal_low, pair.focal_high))
    return f"{low}-{high} mm"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _told(pair: PairStats) -> str:
    shown = [_focals(pair)]
    for key in ("clipped", "sharpness", "misalignment_px"):
        value = getattr(pair, key)
        name, unit, form = QUANTITIES[key]
        if value is not None:
            shown.append(f"{name.split(',')[0].lower()} {form.format(value)} {unit}".strip())
    return ", ".join(shown)


def _doubt(pair: PairStats) -> tuple[bool, float]:
    """The pairs that lie worst come first."""
    return pair.misalignment_px is not None, -(pair.misalignment_px or 0.0)


CARD = """# Data card: {name}

*Headings: Gebru and others, Datasheets for Datasets, 2021. Numbers: `srraw stats {file} --card`. What stands
in [brackets] is for the people who made the set to fill in.*

## Motivation

Pairs of raw mosaics at a short focal length and optically zoomed photographs at a long one, to train and test
raw-to-RGB super-resolution (Zhang, Chen, Ng, Koltun, *Zoom to Learn, Learn to Zoom*, CVPR 2019).
[Who made it, for what, funded by whom?]

## Composition

{pairs} pairs of {scenes} scenes, {megapixels} megapixels of mosaic.

| zoom | split | scenes | pairs |
|---|---|---|---|
{splits}
Splits are by scene: no scene is in two of them.

- Cameras (pairs): {cameras}
- Focal lengths (pairs): {focal_lengths}
- ISO (pairs): {isos}

| over the pairs | least | 5 % | median | 95 % | most |
|---|---|---|---|---|---|
{quantities}
Clipped: share of sensor values at white. Sharpness: share of the target's contrast that is finer than the
short shot's sampling. Misalignment: median over blocks, by correlation, in pixels of the target.

[What do the scenes show: indoors, outdoors, day, night? People, number plates, works of art? Is anything
missing that one would expect?]

## Collection

[When and where was it shot, by whom, on what tripod, with what release? Who agreed to be shown?]

## Preprocessing

Shots were registered and packed by srraw: the mosaic is untouched; the target is demosaiced, linear and
warped once onto the short shot. Pairs that could not be registered were left out. The file holds the options,
and for every pair the map, the exposure and a hash of its inputs. [Are the raw files kept? Where?]

## Uses

[What was it used for? What should it not be used for? Lenses, sensors, distances and light that it does not
cover?]

## Distribution

[Under which licence, from where, since when?]
`srraw verify {file}` tells whether a copy is whole.

## Maintenance

[Who answers questions? Will it grow? How are errors reported and versions told apart?]
"""
