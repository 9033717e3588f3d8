"""How surely `srraw check` names what is wrong with a sequence, and how often it blames a good one.

    python benchmarks/checks.py --sequences 200 --jobs 2 --out checks.json --plot docs/images/checks.svg

Simulated sequences, every second one with one planted fault of nine kinds; magnitudes are drawn continuously
from the rig's threshold to five times that. Prints which share is named, by magnitude. The shots are cut from
larger ones, so that a slipped tripod has something to look at.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from srraw_tools.dng import write_dng
from srraw_tools.files import read_json, sha256_of, write_json
from srraw_tools.inspection import check_sequence
from srraw_tools.raw import read_raw
from srraw_tools.rig import find_rig
from srraw_tools.simulate.physics import Optics
from srraw_tools.simulate.shoot import simulate_sequence

FOCALS = (100.0, 70.0, 50.0, 35.0, 24.0)  # as the files are numbered
DRAWN, CUT = (440, 720), (352, 528)
BLACK, WHITE = 512, 16383
OPTICS = Optics(focal_error=0.01, shift_px=2, rotation_deg=0.1, drift_ev=0.02)
RIG = find_rig("sony-fe-24-240")
# The kinds, and the checks that name them.
KINDS = {
    "focal length": ("focal_mm",),
    "exposure": ("drift_ev",),
    "slipped tripod": ("shift",),
    "moved scene": ("moving", "scene"),
    "defocus": ("focus",),
    "clipped": ("clipped",),
    "ISO": ("iso",),
    "stale file": ("file",),
    "other camera": ("camera",),
}
WITHOUT_MAGNITUDE = ("stale file", "other camera")

Mosaic = npt.NDArray[np.uint16]


@dataclass
class Trial:
    """A sequence: what was planted, how much of it in units of the threshold, and what was found."""

    number: int
    kind: str | None
    magnitude: float
    shot: str
    found: list[str]
    named: bool


def trial(number: int) -> Trial:
    rng = np.random.default_rng([7, number])
    kind = list(KINDS)[number // 2 % len(KINDS)] if number % 2 else None
    magnitude = float(rng.uniform(1, 5))
    which = int(rng.integers(len(FOCALS)))
    if kind in ("slipped tripod", "moved scene") and which == len(FOCALS) - 1:
        which -= 1  # the shortest is what the next is compared with
    sign = 1 if rng.random() < 0.5 else -1
    true = list(FOCALS)
    if kind == "focal length":
        true[which] *= 1 + sign * RIG.focal_tolerance * magnitude
    with tempfile.TemporaryDirectory() as home:
        drawn = Path(home) / "drawn"
        order = sorted(true, reverse=True)
        simulate_sequence(
            Path(home), name="drawn", seed=99, index=number, focal_mm=tuple(order), size=DRAWN, optics=OPTICS
        )
        folder = Path(home) / "cut"
        folder.mkdir()
        files = [f"{order.index(focal) + 1:05d}.dng" for focal in true]
        mosaics = [tifffile.imread(drawn / name) for name in files]
        if kind == "stale file":
            which = max(which, 1)
            mosaics[which] = mosaics[which - 1]
        for i, (name, mosaic) in enumerate(zip(files, mosaics, strict=True)):
            planted = kind if i == which else None
            cut = _cut(mosaic, *_slip(planted, magnitude, sign, rng, i))
            cut = _changed(cut, planted, magnitude, sign, rng)
            _write(folder / f"{i + 1:05d}.dng", drawn / name, cut, FOCALS[i], planted, magnitude)
        if kind == "stale file":
            stale = folder / f"{which:05d}.dng"
            (folder / f"{which + 1:05d}.dng").write_bytes(stale.read_bytes())
        _describe(drawn, folder)
        _, findings = check_sequence(folder, RIG)
    found = [finding.check for finding in findings]
    named = kind is not None and any(check in KINDS[kind] for check in found)
    return Trial(number, kind, magnitude, f"{which + 1:05d}", found, named)


def _slip(kind: str | None, magnitude: float, sign: int, rng: np.random.Generator, i: int) -> tuple[int, int]:
    """By how much the window is cut aside, in whole CFA blocks: the share of the shorter shot's width."""
    if kind != "slipped tripod":
        return 0, 0
    length = RIG.checks["shift"] * magnitude * CUT[1] * FOCALS[i] / FOCALS[i + 1]
    down = min(length * 0.3 * rng.random(), 40.0)
    return round(sign * np.sqrt(length**2 - down**2) / 2) * 2, round(down / 2) * 2


def _cut(mosaic: Mosaic, x: int, y: int) -> Mosaic:
    """The middle of a shot, moved aside; a stop darker, so that nothing clips that was not planted."""
    y0, x0 = (DRAWN[0] - CUT[0]) // 4 * 2 + y, (DRAWN[1] - CUT[1]) // 4 * 2 + x
    cut = mosaic[y0 : y0 + CUT[0], x0 : x0 + CUT[1]].astype(np.float64)
    assert cut.shape == CUT
    return np.clip(np.round((cut - BLACK) / 2 + BLACK), 0, WHITE).astype(np.uint16)


def _changed(
    mosaic: Mosaic, kind: str | None, magnitude: float, sign: int, rng: np.random.Generator
) -> Mosaic:
    if kind == "exposure":
        brighter = (mosaic - float(BLACK)) * 2 ** (sign * RIG.checks["drift_ev"] * magnitude) + BLACK
        return np.clip(np.round(brighter), 0, WHITE).astype(np.uint16)
    if kind == "moved scene":  # a square of the frame shows what is elsewhere in it
        side = np.sqrt(RIG.checks["moving"] * magnitude * CUT[0] * CUT[1])
        height, width = round(min(side, CUT[0]) / 2) * 2, round(side / 2) * 2
        y, x = (int(rng.integers(0, extent + 1)) // 2 * 2 for extent in (CUT[0] - height, CUT[1] - width))
        foreign = np.roll(mosaic[::-1, ::-1], (1, CUT[1] // 2 + 1), axis=(0, 1))  # the same CFA
        changed = mosaic.copy()
        changed[y : y + height, x : x + width] = foreign[y : y + height, x : x + width]
        return changed
    if kind == "defocus":  # in pixels of the small picture, which is half as large
        changed = mosaic.copy()
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            plane = mosaic[y::2, x::2].astype(np.float32)
            blurred = cv2.GaussianBlur(plane, (0, 0), RIG.checks["softer_px"] * magnitude)
            changed[y::2, x::2] = np.round(blurred).astype(np.uint16)
        return changed
    if kind == "clipped":
        changed = mosaic.copy()
        for y, x in ((0, 1), (1, 0)):  # green of RGGB
            plane = changed[y::2, x::2]
            plane[plane >= np.quantile(plane, 1 - RIG.checks["clipped"] * magnitude)] = WHITE
        return changed
    return mosaic


def _write(
    path: Path, source: Path, mosaic: Mosaic, focal_mm: float, kind: str | None, magnitude: float
) -> None:
    raw = read_raw(source)
    iso = 100 * (1 + RIG.setting_tolerance * magnitude) if kind == "ISO" else 100
    write_dng(
        path,
        mosaic,
        cfa=raw.cfa,
        camera_wb=raw.rgb_wb,
        camera_to_srgb=raw.color_matrix,
        camera_model="Another camera" if kind == "other camera" else "Simulated camera",
        focal_mm=focal_mm,
        exposure_s=0.02,
        iso=int(np.ceil(iso)),
    )


def _describe(drawn: Path, folder: Path) -> None:
    """sequence.json of the cut shots, with EXIF's word for everything."""
    from srraw_tools.sequence import Sequence, shot_from_file, write_sequence

    assert read_json(drawn / "sequence.json")["complete"]
    shots = tuple(
        shot_from_file(path, focal, sha256=sha256_of(path))
        for path, focal in zip(sorted(folder.glob("*.dng")), FOCALS, strict=True)
    )
    write_sequence(Sequence(folder, "cut", shots, FOCALS, True, "benchmark"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="JSON of every trial; trials that are there are not made again"
    )
    parser.add_argument("--plot", type=Path, help="SVG of what was named, by magnitude")
    arguments = parser.parse_args()
    done = read_json(arguments.out) if arguments.out and arguments.out.exists() else []
    trials = [Trial(**record) for record in done[: arguments.sequences]]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        trials += pool.map(trial, range(len(trials), arguments.sequences))
    if arguments.out:
        write_json(arguments.out, [asdict(one) for one in trials])
    _print(trials)
    if arguments.plot:
        arguments.plot.write_text(plot(trials), encoding="utf-8")


def plot(trials: list[Trial]) -> str:
    """An SVG with a row for each kind of fault and a dot for each fault: full where it was named."""
    left, width, row = 130, 480, 26

    def place(magnitude: float) -> float:
        return left + (magnitude - 1) / 4 * width

    height = row * len(KINDS) + 46
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {height}" role="img" '
        'aria-label="Planted faults by kind and magnitude; full dots were named" font-family="sans-serif" '
        'font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    bottom = row * len(KINDS) + 8
    for tick in (1, 1.5, 2, 3, 4, 5):
        x = place(tick)
        lines.append(f'<path d="M{x:.0f} 8V{bottom}" stroke="#c8c8c8"/>')
        lines.append(f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    lines.append(
        f'<text x="{place(3):.0f}" y="{bottom + 33}" text-anchor="middle">magnitude, in thresholds</text>'
    )
    for number, kind in enumerate(KINDS):
        y = 8 + row * (number + 0.5)
        lines.append(f'<text x="{left - 14}" y="{y + 4:.0f}" text-anchor="end">{kind}</text>')
        for one in trials:
            if one.kind == kind:
                fill = "#2563a8" if one.named else "#ffffff"
                x = place(1 if kind in WITHOUT_MAGNITUDE else one.magnitude)
                x += 9 * (one.number // (2 * len(KINDS))) if kind in WITHOUT_MAGNITUDE else 0
                lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="#2563a8"/>')
    return "\n".join([*lines, "</svg>", ""])


def _print(trials: list[Trial]) -> None:
    good = [one for one in trials if one.kind is None]
    blamed = [one for one in good if one.found]
    print(f"good sequences blamed: {len(blamed)} of {len(good)}", [one.found for one in blamed])
    beyond = [one for one in trials if one.kind and (one.magnitude > 1.5 or one.kind in WITHOUT_MAGNITUDE)]
    named = sum(one.named for one in beyond)
    print(f"faults beyond 1.5 times the threshold named: {named} of {len(beyond)}")
    table: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for one in trials:
        if one.kind:
            edges = ("1-1.5", 1.5), ("1.5-2", 2), ("2-3", 3), ("3-5", 5)
            band = next(name for name, upper in edges if one.magnitude <= upper)
            table[one.kind]["any" if one.kind in WITHOUT_MAGNITUDE else band].append(one.named)
    for kind, bands in table.items():
        print(f"{kind:>15}", {band: f"{sum(hits)}/{len(hits)}" for band, hits in sorted(bands.items())})
    for one in beyond:
        if not one.named:
            print("missed:", _facts(one))


def _facts(one: Trial) -> dict[str, Any]:
    return {"kind": one.kind, "magnitude": round(one.magnitude, 2), "shot": one.shot, "found": one.found}


if __name__ == "__main__":
    main()
