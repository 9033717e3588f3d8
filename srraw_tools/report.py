"""The stage from alignments to a page that a person judges them by."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from srraw_tools import pages, parallel
from srraw_tools.alignment import ALIGNMENT_FILE, PairAlignment, read_alignment
from srraw_tools.comparison import (
    CONTRAST,
    FULL_COLOUR_PX,
    Comparison,
    Light,
    compare,
    flow_colours,
    read_light,
    webp,
)
from srraw_tools.errors import UserError
from srraw_tools.flow import read_flow
from srraw_tools.sequence import sequence_name

ERRORS_PX = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)  # between the rows of the summary
LEGEND_PX = 96  # side of the wheel of flow's colours


@dataclass(frozen=True)
class PairReport:
    """A pair as the page shows it; `problem` says why there are no pictures, where there are none."""

    pair: PairAlignment
    comparison: Comparison | None
    problem: str | None = None


@dataclass(frozen=True)
class SequenceReport:
    """The pairs of a sequence, with their pictures."""

    name: str
    pairs: tuple[PairReport, ...]


def report_alignments(
    folders: Iterable[Path],
    *,
    out: Path,
    alignments: Path | None = None,
    failures: Iterable[str] = (),
    jobs: int = 1,
    scheduler: str | None = None,
) -> Iterator[tuple[Path, SequenceReport | UserError]]:
    """Write an HTML page of every pair of the sequences: pictures and numbers, the rejected first.

    Args:
        out: the page; one file that needs no other.
        alignments: folder of <sequence>/alignment.json where `srraw align --out` wrote them.
        failures: sentences about what could not be aligned, to be told on the page.
        jobs, scheduler: where the pictures are made, as parallel.map_items.

    Yields:
        (folder, its report or what is wrong with it) when its pictures are made. The page is written last.

    Raises:
        UserError: the page cannot be written.
    """
    pages.check_page(out)
    done, failed = [], list(failures)
    task = partial(picture_sequence, alignments=alignments)
    for folder, result in parallel.map_items(task, folders, jobs, scheduler):
        if isinstance(result, UserError):
            failed.append(str(result))
        else:
            done.append(result)
        yield folder, result
    done.sort(key=lambda sequence: sequence.name)
    rows = [(sequence.name, shown) for sequence in done for shown in sequence.pairs]
    rows.sort(key=lambda row: _doubt(row[1].pair), reverse=True)
    errors = error_counts([shown.pair for _, shown in rows])
    pages.write_page(
        out,
        "alignment.html",
        sequences=len(done),
        rows=[(name, shown, numbers(shown)) for name, shown in rows],
        failures=failed,
        zooms=sorted({shown.pair.zoom for _, shown in rows}),
        errors=errors,
        peak=max(1, *(ok + bad for _, ok, bad in errors)),
        reasons=reason_counts([shown.pair for _, shown in rows]),
        median_error=median(_errors(shown.pair for _, shown in rows) or [float("nan")]),
        wheel=webp(_wheel(), 90),
        contrast=CONTRAST,
        full_colour_px=FULL_COLOUR_PX,
    )


def picture_sequence(folder: Path, *, alignments: Path | None = None) -> SequenceReport:
    """Make the pictures of a sequence's pairs; at most two shots are held at once.

    Raises:
        UserError: its alignment cannot be read.
    """
    name = sequence_name(folder)
    path = (alignments / name if alignments else folder) / ALIGNMENT_FILE
    lights: dict[str, Light] = {}
    shown = []
    for pair in sorted(read_alignment(path), key=lambda pair: (pair.low, pair.high)):
        lights = {file: light for file, light in lights.items() if file in (pair.low, pair.high)}
        try:
            for file in (pair.low, pair.high):
                if file not in lights:
                    lights[file] = read_light(folder / file)
            flow = read_flow(path.parent / pair.flow, pair.crop) if pair.flow and pair.crop else None
            shown.append(PairReport(pair, compare(lights[pair.low], lights[pair.high], pair, flow)))
        except UserError as error:
            shown.append(PairReport(pair, None, str(error)))
    return SequenceReport(name, tuple(shown))


def numbers(shown: PairReport) -> list[tuple[str, str]]:
    """What the page tells of a pair, in words: (name, value)."""
    pair, comparison = shown.pair, shown.comparison
    offset = f"{pair.scale_offset:.4f}"
    if pair.scale_offset_nominal is not None:
        offset += f" (by EXIF {pair.scale_offset_nominal:.4f})"
    told = [
        ("Expected error", _px(pair.expected_error_px)),
        ("Residual", _px(pair.residual_px)),
        ("Score", f"{pair.score:.3f}"),
        ("Scale offset", offset),
        ("Motion", pair.motion),
        ("Gain of R, G, B", ", ".join(f"{gain:.3f}" for gain in pair.gain)),
    ]
    if pair.crop is not None:
        x, y, width, height = pair.crop
        told.append(("Crop", f"{width} x {height} at {x}, {y}"))
    if comparison is not None and comparison.flow_share is not None:
        told.append(("Flow, median", f"{_px(comparison.flow_px)}, known on {comparison.flow_share:.0%}"))
    return told


def error_counts(pairs: Iterable[PairAlignment]) -> list[tuple[str, int, int]]:
    """Rows of the table of expected errors: (range in pixels, pairs that are ok, rejected ones)."""
    lowest = (0.0, *ERRORS_PX)
    names = [f"{a:g}–{b:g} px" for a, b in zip(lowest, ERRORS_PX, strict=False)]
    names += [f"{ERRORS_PX[-1]:g} px or more", "not known"]
    counts: Counter[tuple[int, bool]] = Counter()
    for pair in pairs:
        error = pair.expected_error_px
        row = len(names) - 1 if error is None else bisect_right(ERRORS_PX, error)
        counts[row, pair.status == "ok"] += 1
    return [(name, counts[row, True], counts[row, False]) for row, name in enumerate(names)]


def reason_counts(pairs: Iterable[PairAlignment]) -> list[tuple[str, int]]:
    """Why pairs were rejected, the most frequent first; reasons that differ in their numbers are one."""
    reasons = Counter(re.sub(r"\d+(\.\d+)?", "…", pair.reason) for pair in pairs if pair.reason)
    return reasons.most_common()


def _doubt(pair: PairAlignment) -> tuple[bool, float]:
    error = pair.expected_error_px
    return pair.status != "ok", float("inf") if error is None else error


def _errors(pairs: Iterable[PairAlignment]) -> list[float]:
    return [p.expected_error_px for p in pairs if p.status == "ok" and p.expected_error_px is not None]


def _px(length: float | None) -> str:
    return "not known" if length is None else f"{length:.3f} px"


def _wheel() -> np.ndarray:
    """The colours of flow by direction and length, in a disc."""
    y, x = np.indices((LEGEND_PX, LEGEND_PX), np.float32) / (LEGEND_PX - 1) * 2 - 1
    return flow_colours(np.stack([x, y], -1), x * x + y * y <= 1)
