"""alignment.json: how the pairs of a sequence lie on each other."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srraw_tools import __version__
from srraw_tools.distortion import Distortion, Lenses
from srraw_tools.errors import UserError
from srraw_tools.files import read_json
from srraw_tools.sequence import ZOOMS

ALIGNMENT_FILE = "alignment.json"
OPTIONAL = dict.fromkeys(  # keys that may be absent
    (
        "scale_offset_nominal",
        "residual_px",
        "expected_error_px",
        "reason",
        "flow",
        "distortion_low",
        "distortion_high",
    )
)


@dataclass(frozen=True)
class PairAlignment:
    """One pair of a sequence, as it stands in alignment.json (docs/formats.md).

    Attributes:
        low: file name of the short shot.
        high: file name of the long shot.
        focal_low: in mm, by EXIF; None where that is silent.
        focal_high: likewise.
        zoom: N, the target zoom: 2, 4 or 8.
        scale_offset: scale of `low_to_high` over N.
        scale_offset_nominal: the same by EXIF.
        crop: [x, y, width, height] of the low mosaic, even; what the long shot sees.
        motion: translation, euclidean, similarity, affine or homography.
        low_to_high: 3 x 3, row by row: pixels of the low frame to those of the high frame. Where there is a
            distortion, it maps undistorted coordinates (distortion.map_points).
        gain: (R, G, B) that bring the long shot to the short one's exposure.
        score: correlation coefficient of what both see, locally normalised.
        residual_px: median shift that remains in blocks, in pixels of the long shot.
        expected_error_px: root mean square over the crop's corners, in pixels of the long shot; None where
            nothing could be measured.
        status: "ok" or "rejected".
        reason: why it was rejected, in words.
        flow: file name of the flow that remains, where it was asked for.
        distortion_low: of the short shot, where a rig tells it.
        distortion_high: of the long shot.
    """

    low: str
    high: str
    focal_low: float | None
    focal_high: float | None
    zoom: int
    scale_offset: float
    scale_offset_nominal: float | None
    crop: tuple[int, int, int, int] | None
    motion: str
    low_to_high: list[list[float]]
    gain: tuple[float, float, float]
    score: float
    residual_px: float | None
    expected_error_px: float | None
    status: str
    reason: str | None
    flow: str | None = None
    distortion_low: Distortion | None = None
    distortion_high: Distortion | None = None

    @property
    def lenses(self) -> Lenses:
        return self.distortion_low, self.distortion_high

    def record(self) -> dict[str, Any]:
        """The pair as alignment.json holds it; distortions only where there are any."""
        everything = asdict(self)
        return {k: v for k, v in everything.items() if v is not None or not k.startswith("distortion_")}


def read_alignment(path: Path) -> tuple[PairAlignment, ...]:
    """The pairs of an alignment.json; keys that are not known are ignored.

    Raises:
        UserError: the file is missing, damaged, not an alignment or of another version.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.", "Make it with 'srraw align'.", wrong_use=True)
    return pairs_of(read_record(path), path)


def aligned_inputs(path: Path) -> dict[str, str]:
    """The hashes of the files that were aligned, by name; empty where the alignment does not say."""
    inputs = read_record(path).get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def read_record(path: Path) -> dict[str, Any]:
    """The whole of an alignment.json, its format and version checked; raises as `read_alignment`."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != "srraw-alignment":
        raise UserError(f"{path} is not an alignment of srraw.", "Make one with 'srraw align'.")
    if record.get("version") != 1:
        raise UserError(
            f"{path} has version {record.get('version')!r}, and srraw {__version__} reads version 1.",
            "Align again with --overwrite.",
        )
    return record


def pairs_of(record: dict[str, Any], path: Path) -> tuple[PairAlignment, ...]:
    """The pairs of a record that was read from `path`; raises as `read_alignment`."""
    pairs = []
    try:
        for entry in record["pairs"]:
            known = {k: v for k, v in entry.items() if k in PairAlignment.__dataclass_fields__}
            for key in ("crop", "gain"):
                known[key] = None if known[key] is None else tuple(known[key])
            for key in ("distortion_low", "distortion_high"):
                known[key] = None if known.get(key) is None else _distortion(known[key])
            pair = PairAlignment(**{**OPTIONAL, **known})
            _check(pair)
            pairs.append(pair)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}.", "Align again with --overwrite.") from error
    return tuple(pairs)


def _distortion(entry: dict[str, Any]) -> Distortion:
    """Raises ValueError or TypeError for what is none."""
    x, y = entry["centre"]
    return Distortion(entry["k1"], entry["k2"], (x, y), entry["normaliser"])


def _check(pair: PairAlignment) -> None:
    """Raises ValueError or TypeError for what no alignment can say."""
    for name in (pair.low, pair.high, *([] if pair.flow is None else [pair.flow])):
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is no file of the sequence's own folder")
    if pair.flow is not None and not (pair.flow.startswith("flow_") and pair.flow.endswith(".npz")):
        raise ValueError(f"{pair.flow!r} is no file of a flow")  # such a file is deleted with its alignment
    if pair.zoom not in ZOOMS or isinstance(pair.zoom, bool):
        raise ValueError(f"a zoom of {pair.zoom!r} does not exist")
    matrix = np.asarray(pair.low_to_high, np.float64)
    if matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)) or abs(np.linalg.det(matrix)) < 1e-9:
        raise ValueError("low_to_high is not an invertible 3x3 matrix")
    if len(pair.gain) != 3 or not all(math.isfinite(g) and g > 0 for g in pair.gain):
        raise ValueError(f"a gain of {pair.gain} is not three positive numbers")
    for name in ("focal_low", "focal_high", "scale_offset_nominal", "residual_px", "expected_error_px"):
        value = getattr(pair, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is not a number")
    if not isinstance(pair.motion, str) or pair.status not in ("ok", "rejected"):
        raise ValueError(f"a status of {pair.status!r} by {pair.motion!r} does not exist")
    if not math.isfinite(pair.score) or not math.isfinite(pair.scale_offset):
        raise ValueError("score or scale_offset is not a number")
    if pair.status == "ok" or pair.crop is not None:
        _check_crop(pair.crop)


def _check_crop(crop: tuple[int, ...] | None) -> None:
    if crop is None or len(crop) != 4 or not all(type(v) is int and v >= 0 and v % 2 == 0 for v in crop):
        raise ValueError(f"the crop {crop} is not four even numbers")
    if min(crop[2:]) == 0:
        raise ValueError(f"the crop {crop} is empty")
