"""A sequence folder: what was planned and what was shot; the published SR-RAW layout too.

sequences/00001/00001.ARW ... 00007.ARW    one raw file per focal length, 00001 the longest
sequences/00001/sequence.json              plan, settings and hashes; absent in the published layout

A shot is a raw file, or a JPEG or PNG where there is no raw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.exif import PICTURE_SUFFIXES, RAW_SUFFIXES, read_exif
from srraw_tools.files import read_json, write_json

SEQUENCE_FILE = "sequence.json"
NOMINAL_MM = (24.0, 35.0, 50.0, 70.0, 100.0, 150.0, 240.0)
SNAP_TOLERANCE = 0.08  # EXIF within 8 % of a nominal focal length is taken for it
RATIO_RANGE = (0.83, 1.21)  # optical ratio over target zoom that still makes a pair
ZOOMS = (2, 4, 8)


@dataclass(frozen=True)
class Shot:
    """One shot of a sequence, with its settings as EXIF states them (None where it does not).

    Attributes:
        file: name in the sequence's folder.
        focal_planned: in mm, as asked for.
        focal_mm: in mm, by EXIF.
        taken_at: local time, as ISO 8601 writes it.
        jpeg: name of the camera's own JPEG beside a raw file.
        sha256: of the file, as it was shot; hexadecimal.
    """

    file: str
    focal_planned: float | None = None
    focal_mm: float | None = None
    f_number: float | None = None
    exposure_s: float | None = None
    iso: float | None = None
    camera: str | None = None
    lens: str | None = None
    taken_at: str | None = None
    digital_zoom: float | None = None
    jpeg: str | None = None
    sha256: str | None = None

    @property
    def focal_nominal(self) -> float | None:
        """The focal length that was meant, in mm: planned, else EXIF snapped to the nearest usual one."""
        if self.focal_planned is not None or self.focal_mm is None:
            return self.focal_planned
        return snapped(self.focal_mm)


def snapped(focal_mm: float) -> float:
    """The nearest usual focal length, where one is near; else the same."""
    nearest = min(NOMINAL_MM, key=lambda nominal: abs(nominal / focal_mm - 1))
    return nearest if abs(focal_mm / nearest - 1) <= SNAP_TOLERANCE else focal_mm


@dataclass(frozen=True)
class Sequence:
    """The shots of one scene.

    Attributes:
        planned_mm: focal lengths that were asked for; empty where nothing was planned.
        complete: nothing of the plan is missing.
        made_by: the command; empty in the published layout.
        notes: further keys of sequence.json.
        closing_planned: the first focal length was to be shot once more at the end.
        closing: that shot; it is not one of `shots`, and no pair is made of it.
    """

    folder: Path
    name: str
    shots: tuple[Shot, ...]
    planned_mm: tuple[float, ...] = ()
    complete: bool = True
    made_by: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    closing_planned: bool = False
    closing: Shot | None = None


def sequence_name(folder: Path) -> str:
    """The name of a sequence: its folder's, with a published train, val or test parent before it."""
    folder = folder.resolve()
    parent = folder.parent.name
    return f"{parent}-{folder.name}" if parent in ("train", "val", "test") else folder.name


def find_sequences(paths: Iterable[Path]) -> list[Path]:
    """The sequence folders at or below the given folders (two levels, as in SR-RAW's train/00134), sorted.

    Raises:
        UserError: a folder is missing, or holds no sequence.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            problem = "is a file" if path.exists() else "does not exist"
            raise UserError(
                f"{path} {problem}; a folder of sequences is needed.",
                "Shoot one with 'srraw capture' or make one with 'srraw simulate'.",
                wrong_use=True,
            )
        children = _subfolders(path)
        below = [*children, *(inner for child in children for inner in _subfolders(child))]
        here = [path] if _is_sequence(path) else [folder for folder in below if _is_sequence(folder)]
        if not here and len(_picture_files(path)) > 1:
            here = [path]
        if not here:
            raise UserError(
                f"{path} holds no sequence: no folder with raw files or a {SEQUENCE_FILE}.",
                "Expected is a folder per scene, such as sequences/00001/00001.ARW.",
                wrong_use=True,
            )
        known = {folder.resolve() for folder in found}
        found += [folder for folder in here if folder.resolve() not in known]
    return found


def read_sequence(folder: Path) -> Sequence:
    """Read a sequence from its sequence.json, or from the EXIF of its raw files where there is none.

    Raises:
        UserError: sequence.json is damaged, of another version, or names a file outside the folder.
    """
    path = folder / SEQUENCE_FILE
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of a sequence.", wrong_use=True)
    if not path.exists():
        return _published_sequence(folder)
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != "srraw-sequence":
        raise UserError(
            f"{path} is not a description of a sequence.", "Remove it to read the settings from EXIF."
        )
    if record.get("version") != 1:
        raise UserError(
            f"{path} has version {record.get('version')!r}, and srraw {__version__} reads version 1.",
            "Use the srraw that wrote it, or a newer one.",
        )
    try:
        shots = tuple(map(_shot_of, record["shots"]))
        closing = None if record.get("closing") is None else _shot_of(record["closing"])
        planned = tuple(float(focal) for focal in record["planned_mm"])
        if not all(0 < focal < float("inf") for focal in planned):
            raise ValueError(f"planned_mm is {list(planned)}")
        complete = record["complete"] is True
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: {error!r}.", "Remove it to read the settings from EXIF."
        ) from error
    for shot in filter(None, (*shots, closing)):
        problem = _problem_of(shot)
        if problem:
            raise UserError(f"{path} is damaged: {problem}.", "Remove it to read the settings from EXIF.")
    notes = {k: v for k, v in record.items() if k not in _OWN_KEYS}
    return Sequence(
        folder,
        sequence_name(folder),
        shots,
        planned,
        complete,
        str(record.get("made_by", "")),
        notes,
        closing_planned="closing" in record,
        closing=closing,
    )


def _shot_of(record: dict[str, Any]) -> Shot:
    return Shot(**{key: value for key, value in record.items() if key in Shot.__dataclass_fields__})


def _problem_of(shot: Shot) -> str | None:
    """What is impossible about a shot that was read from a file, in words."""
    for name in (shot.file, shot.jpeg):
        if name is not None and (not isinstance(name, str) or not name or Path(name).name != name):
            return f"{name!r} is no file of its own folder"
    if shot.file is None:
        return "a shot has no file"
    for key in ("focal_planned", "focal_mm", "f_number", "exposure_s", "iso", "digital_zoom"):
        value = getattr(shot, key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < float("inf")):
            return f"{key} of {shot.file} is {value!r}"
    for key in ("camera", "lens", "taken_at", "sha256"):
        value = getattr(shot, key)
        if value is not None and not isinstance(value, str):
            return f"{key} of {shot.file} is {value!r}"
    return None


_OWN_KEYS = (
    "format",
    "version",
    "name",
    "made_by",
    "created_by",
    "planned_mm",
    "complete",
    "shots",
    "closing",
)


def write_sequence(sequence: Sequence) -> None:
    """Write sequence.json into the sequence's folder, whole or not at all. `notes` are added as further keys.

    Raises:
        UserError: it cannot be written.
    """
    record = {
        "format": "srraw-sequence",
        "version": 1,
        "name": sequence.name,
        "made_by": sequence.made_by,
        "created_by": f"srraw {__version__}",
        "planned_mm": list(sequence.planned_mm),
        "complete": sequence.complete,
        "shots": [asdict(shot) for shot in sequence.shots],
        **sequence.notes,
    }
    if sequence.closing_planned:
        record["closing"] = None if sequence.closing is None else asdict(sequence.closing)
    write_json(sequence.folder / SEQUENCE_FILE, record)


def shot_from_file(
    path: Path, focal_planned: float | None = None, *, equivalent: bool = False, **known: Any
) -> Shot:
    """Describe a raw file or picture by its EXIF; `known` sets further fields of the Shot.

    Args:
        equivalent: take the focal length that EXIF states for a frame of 36 x 24 mm, not the lens's own.
    """
    exif = read_exif(path)
    return Shot(
        file=path.name,
        focal_planned=focal_planned,
        focal_mm=exif.focal_35mm if equivalent else exif.focal_mm,
        f_number=exif.f_number,
        exposure_s=exif.exposure_s,
        iso=exif.iso,
        camera=exif.camera,
        lens=exif.lens,
        taken_at=exif.taken_at,
        digital_zoom=exif.digital_zoom,
        **known,
    )


def changed_shots(sequence: Sequence, hashes: dict[str, str]) -> dict[str, UserError]:
    """What to say of the files with these SHA-256 sums that are not what was shot, by file name.

    A shot whose sum was not recorded, as in the published layout, is taken as it is.
    """
    return {
        shot.file: UserError(
            f"{sequence.folder / shot.file} has changed since it was shot: its SHA-256 is not the one in "
            f"{SEQUENCE_FILE}.",
            "Put the original back, or correct the sum where the change is wanted.",
        )
        for shot in sequence.shots
        if shot.sha256 is not None and hashes.get(shot.file, shot.sha256) != shot.sha256
    }


def foreign_shots(sequence: Sequence) -> set[str]:
    """The shots whose focal lengths by EXIF cannot be compared with the others': not planned, and of another
    body or lens than most (than the first, where it is a draw). How many pixels an angle takes differs there.
    """
    lenses = Counter((shot.camera, shot.lens) for shot in sequence.shots if shot.focal_mm)
    if len(lenses) < 2:
        return set()
    ours, _ = lenses.most_common(1)[0]
    return {
        shot.file
        for shot in sequence.shots
        if shot.focal_planned is None and shot.focal_mm and (shot.camera, shot.lens) != ours
    }


def choose_pairs(sequence: Sequence, zoom: int) -> list[tuple[Shot, Shot]]:
    """The (low, high) shots that make pairs for a target zoom, chosen on nominal focal lengths.

    Each low takes the high whose ratio is nearest to the zoom, if ratio/zoom lies within RATIO_RANGE;
    a high that two lows claim goes to the shorter low. With the seven focal lengths of the paper this gives
    24-100, 35-150, 50-240 at 4X and 35-240 at 8X (paper, section 3.2). Foreign shots make none.
    """
    foreign = foreign_shots(sequence)
    known = (s for s in sequence.shots if s.focal_nominal and s.file not in foreign)
    shots = sorted(known, key=lambda s: (s.focal_nominal, s.file))
    claimed: set[str] = set()
    pairs = []
    for low in shots:
        high = min(shots, key=lambda s: abs(s.focal_nominal / low.focal_nominal / zoom - 1))
        ratio = high.focal_nominal / low.focal_nominal
        if RATIO_RANGE[0] <= ratio / zoom <= RATIO_RANGE[1] and high.file not in claimed:
            claimed.add(high.file)
            pairs.append((low, high))
    return pairs


def _published_sequence(folder: Path) -> Sequence:
    """A folder of raw files, or of pictures, without sequence.json, in the order of their names."""
    raws = _raw_files(folder)
    shots = [shot_from_file(path) for path in _picture_files(folder)] if not raws else []
    for path in raws:
        jpeg = next(
            (p.name for p in sorted(folder.glob(path.stem + ".*")) if p.suffix.lower() in (".jpg", ".jpeg")),
            None,
        )
        shots.append(shot_from_file(path, jpeg=jpeg))
    return Sequence(folder, sequence_name(folder), tuple(shots))


def _is_sequence(folder: Path) -> bool:
    """Pictures make one where they bear a shot's number: other pictures lie about anywhere."""
    if (folder / SEQUENCE_FILE).exists() or _raw_files(folder):
        return True
    return sum(path.stem.isdecimal() for path in _picture_files(folder)) > 1


def _raw_files(folder: Path) -> list[Path]:
    return _files_named(folder, RAW_SUFFIXES)


def _picture_files(folder: Path) -> list[Path]:
    return _files_named(folder, PICTURE_SUFFIXES)


def _files_named(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(p for p in _entries(folder) if p.suffix.lower() in suffixes and not p.name.startswith("."))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in _entries(folder) if p.is_dir() and not p.name.startswith("."))
