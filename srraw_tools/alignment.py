"""alignment.json: how the pairs of a sequence lie on each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.files import read_json

ALIGNMENT_FILE = "alignment.json"


@dataclass(frozen=True)
class PairAlignment:
    """One pair of a sequence, as it stands in alignment.json (docs/formats.md)."""

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
    status: str
    reason: str | None


def read_alignment(path: Path) -> tuple[PairAlignment, ...]:
    """The pairs of an alignment.json; keys that are not known are ignored.

    Raises:
        UserError: the file is missing, damaged, not an alignment or of another version.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.", "Make it with 'srraw align'.", wrong_use=True)
    return pairs_of(read_record(path), path)


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
    optional = {"scale_offset_nominal": None, "residual_px": None, "reason": None}
    pairs = []
    try:
        for entry in record["pairs"]:
            known = {k: v for k, v in entry.items() if k in PairAlignment.__dataclass_fields__}
            for key in ("crop", "gain"):
                known[key] = None if known[key] is None else tuple(known[key])
            pair = PairAlignment(**{**optional, **known})
            if any(Path(name).name != name for name in (pair.low, pair.high)):
                raise ValueError(f"{pair.low} or {pair.high} is no file of the sequence's own folder")
            if np.shape(pair.low_to_high) != (3, 3) or not np.all(np.isfinite(pair.low_to_high)):
                raise ValueError("low_to_high is not a 3x3 matrix")
            pairs.append(pair)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}.", "Align again with --overwrite.") from error
    return tuple(pairs)
