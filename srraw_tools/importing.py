"""The stage from any folder of files to sequences: found, ordered by EXIF, copied with their hashes.

Planning reads and decides; importing copies. A sequence is begun with a sequence.json that says so, and is
complete when its last file is there, so that the same again finishes what was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError
from srraw_tools.exif import PICTURE_FORMATS, RAW_FORMATS, Exif, file_format, read_exif
from srraw_tools.files import replacing, sha256_of
from srraw_tools.sequence import (
    SEQUENCE_FILE,
    Sequence,
    read_sequence,
    shot_from_file,
    snapped,
    write_sequence,
)

GAP_S = 60.0  # between shots of two sequences; and at most between two devices' shots of one scene
JITTER_S = 20.0  # by which two devices' shots of a scene follow each other more or less quickly
MATCHES = ("name", "time")
MADE_BY = "srraw import"

Key = tuple[str, int, str | None]  # a file's name, bytes and time


@dataclass(frozen=True)
class Source:
    """A shot to be imported: a raw file with its JPEG, or a picture without a raw."""

    path: Path
    format: str
    exif: Exif
    taken: datetime | None
    jpeg: Path | None = None

    @property
    def key(self) -> Key:
        """By which an imported shot is known again."""
        return self.path.name, self.path.stat().st_size, self.exif.taken_at

    @property
    def lens_and_focal(self) -> tuple[str, str | None, float | None]:
        """What differs between the shots of a sequence."""
        focal = self.exif.focal_mm
        return self.exif.camera, self.exif.lens, focal and snapped(focal)


@dataclass(frozen=True)
class PlannedSequence:
    """A sequence to be made of `sources`, the longest focal length first.

    Attributes:
        status: "new", "begun" by an interrupted import, or "present" since an earlier one.
        notes: further keys of its sequence.json.
    """

    folder: Path
    sources: tuple[Source, ...]
    status: str = "new"
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportPlan:
    """What an import will do; `unplaced` says of every file that it leaves, why.

    Attributes:
        clock_offset_s: what is added to the times of the short focal length's device; None for one device.
    """

    sequences: tuple[PlannedSequence, ...]
    unplaced: tuple[tuple[Path, str], ...]
    clock_offset_s: float | None = None


@dataclass(frozen=True)
class ImportedShot:
    """A shot that is in its sequence; `problem` says why it, or the sequence, is not."""

    sequence: str
    source: Path
    file: str | None = None
    problem: UserError | None = None


def plan_import(
    sources: Iterable[Path] = (),
    *,
    out: Path,
    low: Path | None = None,
    high: Path | None = None,
    match: str = "time",
    clock_offset_s: float | None = None,
    gap_s: float = GAP_S,
) -> ImportPlan:
    """Decide which files make which sequences.

    One device: in every folder below `sources` a sequence ends where `gap_s` passes without a shot, or a
    focal length comes again; of one that was shot twice in a row the second counts. Two devices: every shot
    below `low` goes with the one below `high` of the same name, or with the nearest in time.

    Args:
        low: folders of the device with the short focal length.
        high: folders of the device with the long focal length.
        match: "name" or "time".
        clock_offset_s: what the clock of `high` is ahead of that of `low`; None finds it in the times.

    Raises:
        UserError: a folder is missing, there is nothing to import, or an option is impossible.
    """
    sources = list(sources)
    if (low is None) != (high is None) or bool(sources) == (low is not None):
        raise UserError("Give folders to import, or both --low and --high.", wrong_use=True)
    if match not in MATCHES or not 0 < gap_s < float("inf"):
        raise UserError(f"A match by {match!r} with a gap of {gap_s} s is not possible.", wrong_use=True)
    if clock_offset_s is not None and not abs(clock_offset_s) < float("inf"):
        raise UserError(f"A clock is not {clock_offset_s} s ahead.", "Give seconds.", wrong_use=True)
    if low is not None and high is not None:
        found, unplaced = zip(*(_scan([folder], out) for folder in (low, high)), strict=True)
        unplaced = [*unplaced[0], *unplaced[1]]
        groups, offset = _matched(*found, match, clock_offset_s, gap_s, unplaced)
    else:
        shots, unplaced = _scan(sources, out)
        groups, offset = _split(shots, gap_s, unplaced), None
    notes = {} if offset is None else {"clock_offset_s": offset}
    return ImportPlan(tuple(_placed(groups, out, notes, unplaced)), tuple(unplaced), offset)


def import_sequences(plan: ImportPlan) -> Iterator[ImportedShot]:
    """Copy the shots of a plan into its sequences, each verified by its hash; nothing is ever overwritten.

    Yields:
        A record per shot of the sequences that were not present; one that fails ends its sequence only.
    """
    for sequence in plan.sequences:
        if sequence.status == "present":
            continue
        source = sequence.sources[0]
        shots = []
        try:
            _begin(sequence)
            for number, source in enumerate(sequence.sources, 1):
                target = sequence.folder / f"{number:05d}.{source.format}"
                sha256 = _copied(source.path, target)
                jpeg = target.with_suffix(".JPG") if source.jpeg else None
                if source.jpeg and jpeg:
                    _copied(source.jpeg, jpeg)
                shots.append(shot_from_file(target, jpeg=jpeg and jpeg.name, sha256=sha256))
                if number == len(sequence.sources):
                    write_sequence(_described(sequence, shots, complete=True))
                yield ImportedShot(sequence.folder.name, source.path, target.name)
        except UserError as error:
            yield ImportedShot(sequence.folder.name, source.path, problem=error)


# --- which files there are --------------------------------------------------------------------------------


def _scan(folders: list[Path], out: Path) -> tuple[list[Source], list[tuple[Path, str]]]:
    """The shots below some folders, by folder and time; and the files that are none."""
    found: list[Source] = []
    unplaced: list[tuple[Path, str]] = []
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {problem}; a folder is needed.", wrong_use=True)
        for path in sorted(folder.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            real = path.resolve()
            if not path.is_file() or hidden or real in seen or out.resolve() in real.parents:
                continue
            seen.add(real)
            try:
                source = _source(path)
            except UserError as error:
                unplaced.append((path, error.message.removeprefix(f"{path} ").rstrip(".")))
                continue
            found.append(source)
    if not found:
        names = ", ".join(map(str, folders))
        raise UserError(
            f"There is nothing to import in {names}: no raw file, no JPEG, no PNG.", wrong_use=True
        )
    return _twins_joined(found), unplaced


def _source(path: Path) -> Source:
    kind = file_format(path)
    if kind not in (*RAW_FORMATS, *PICTURE_FORMATS):
        raise UserError(f"{path} is a {kind} file, and no raw file, JPEG or PNG.")
    exif = read_exif(path)
    try:
        taken = datetime.fromisoformat(exif.taken_at) if exif.taken_at else None
    except ValueError:  # a camera whose clock was never set writes zeros
        taken = None
    return Source(path, kind, exif, taken)


def _twins_joined(found: list[Source]) -> list[Source]:
    """Raws with the JPEG of the same name beside them, as one shot."""
    by_name = {(s.path.parent, s.path.stem.lower()): s for s in found if s.format in RAW_FORMATS}
    jpegs: dict[Path, Path] = {}
    alone = []
    for source in found:
        raw = by_name.get((source.path.parent, source.path.stem.lower()))
        if source.format == "JPG" and raw is not None and raw.path not in jpegs:
            jpegs[raw.path] = source.path
        else:
            alone.append(source)
    return [replace(source, jpeg=jpegs.get(source.path)) for source in alone]


# --- which of them belong together ------------------------------------------------------------------------


def _split(shots: list[Source], gap_s: float, unplaced: list[tuple[Path, str]]) -> list[list[Source]]:
    """The sequences of one device."""
    groups: list[list[Source]] = []
    for folder, inside in groupby(shots, key=lambda shot: shot.path.parent):
        timed = [shot for shot in inside if shot.taken]
        untimed = [shot for shot in shots if shot.path.parent == folder and not shot.taken]
        if timed:
            unplaced += [(shot.path, "states no time") for shot in untimed]
        # Of one moment the raw comes last, and so counts.
        timed.sort(key=lambda shot: (shot.taken, shot.format in RAW_FORMATS, shot.path.name))
        groups += [group for run in (timed or untimed,) for group in _runs(run, gap_s, unplaced)]
    for group in list(groups):
        if len(group) < 2:
            groups.remove(group)
            unplaced.append((group[0].path, f"stands alone: no other shot of its scene within {gap_s:g} s"))
    for group in groups:
        group.sort(key=lambda shot: -(shot.exif.focal_mm or 0))
    return groups


def _runs(shots: list[Source], gap_s: float, unplaced: list[tuple[Path, str]]) -> list[list[Source]]:
    runs: list[list[Source]] = []
    for shot in shots:
        last = runs[-1][-1] if runs else None
        far = last and last.taken and shot.taken and shot.taken - last.taken > timedelta(seconds=gap_s)
        if last is None or far:
            runs.append([shot])
        elif shot.exif.focal_mm and shot.lens_and_focal == last.lens_and_focal:
            unplaced.append((last.path, f"was shot again at once, as {shot.path.name}"))
            runs[-1][-1] = shot
        elif shot.exif.focal_mm and shot.lens_and_focal in [other.lens_and_focal for other in runs[-1]]:
            runs.append([shot])
        else:
            runs[-1].append(shot)
    return runs


def _matched(
    low: list[Source],
    high: list[Source],
    match: str,
    offset_s: float | None,
    gap_s: float,
    unplaced: list[tuple[Path, str]],
) -> tuple[list[list[Source]], float | None]:
    """Pairs [high, low] of two devices, and the offset of their clocks where times decided."""
    if match == "name":
        names = {shot.path.stem.lower(): shot for shot in high}
        partner = {shot.path: names.pop(shot.path.stem.lower(), None) for shot in low}
        why, offset_s = "no file of the other device has its name", None
    else:
        unplaced += [(shot.path, "states no time") for shot in (*low, *high) if not shot.taken]
        low, high = ([shot for shot in shots if shot.taken] for shots in (low, high))
        if offset_s is None:
            offset_s = clock_offset([s.taken for s in low], [s.taken for s in high])
        partner = _nearest(low, high, offset_s, gap_s)
        why = f"no shot of the other device lies within {gap_s:g} s of it"
    groups = [[other, shot] for shot in low if (other := partner[shot.path])]
    used = {shot.path for group in groups for shot in group}
    unplaced += [(shot.path, why) for shot in (*low, *high) if shot.path not in used]
    return groups, offset_s


def clock_offset(low: list[datetime], high: list[datetime]) -> float:
    """How many seconds the second clock is ahead of the first, by the times of shots of the same scenes.

    The offset on which most pairs of a time of each agree within JITTER_S, the smallest of equals.
    """
    differences = sorted((b - a).total_seconds() for a in low for b in high)
    if not differences:
        return 0.0
    best: tuple[int, float, float] = (0, 0.0, 0.0)
    first = 0
    for last, difference in enumerate(differences):
        while difference - differences[first] > JITTER_S:
            first += 1
        middle = differences[(first + last) // 2]
        best = max(best, (last - first + 1, -abs(middle), middle))
    return best[2]


def _nearest(
    low: list[Source], high: list[Source], offset_s: float, gap_s: float
) -> dict[Path, Source | None]:
    """The shot of the other device for each low one: nearest to it, and it to that one."""

    def apart(a: Source, b: Source) -> float:
        return abs((b.taken - a.taken).total_seconds() - offset_s)

    nearest_low = {b.path: min(low, key=lambda a: apart(a, b), default=None) for b in high}
    partner: dict[Path, Source | None] = {}
    for a in low:
        b = min(high, key=lambda b: apart(a, b), default=None)
        mutual = b is not None and nearest_low[b.path] is a and apart(a, b) <= gap_s
        partner[a.path] = b if mutual else None
    return partner


# --- where they go ----------------------------------------------------------------------------------------


def _placed(
    groups: list[list[Source]], out: Path, notes: dict[str, Any], unplaced: list[tuple[Path, str]]
) -> Iterator[PlannedSequence]:
    """Groups with their folders: those of an earlier import of the same files, else the next free numbers."""
    known = _imported(out)
    numbers = [int(path.name) for path in out.iterdir() if path.name.isdecimal()] if out.is_dir() else []
    number = max(numbers, default=0)
    for group in groups:
        keys = {source.key for source in group}
        before = next((sequence for sequence, theirs in known if theirs & keys), None)
        if before is None:
            number += 1
            yield PlannedSequence(out / f"{number:05d}", tuple(group), "new", notes)
            continue
        theirs = next(theirs for sequence, theirs in known if sequence is before)
        if theirs == keys:
            status = "present" if before.complete else "begun"
            yield PlannedSequence(before.folder, tuple(group), status, notes)
            continue
        why = f"belongs to {before.folder}, which was imported without it; remove that to import it anew"
        unplaced += [(source.path, why) for source in group if source.key not in theirs]


def _imported(out: Path) -> list[tuple[Sequence, set[Key]]]:
    """The sequences that were imported into a folder, and of which files."""
    found = []
    for path in sorted(out.glob(f"*/{SEQUENCE_FILE}")):
        sequence = read_sequence(path.parent)
        sources = sequence.notes.get("sources")
        if sequence.made_by == MADE_BY and isinstance(sources, list):
            found.append((sequence, {tuple(source) for source in sources}))
    return found


def _begin(sequence: PlannedSequence) -> None:
    """Make the folder, or go on in the one that an interrupted import of the same files began."""
    try:
        sequence.folder.mkdir(parents=True, exist_ok=sequence.status == "begun")
    except OSError as error:
        raise UserError(
            f"Cannot make {sequence.folder}: {error.strerror}.", "Choose another --out."
        ) from error
    if sequence.status == "new":
        write_sequence(_described(sequence, [], complete=False))


def _described(sequence: PlannedSequence, shots: list[Any], *, complete: bool) -> Sequence:
    notes = {**sequence.notes, "sources": [list(source.key) for source in sequence.sources]}
    folder = sequence.folder
    return Sequence(folder, folder.name, tuple(shots), (), complete, MADE_BY, notes)


def _copied(source: Path, target: Path) -> str:
    """Copy a file unless it is there, and give its SHA-256, which both have."""
    wanted = sha256_of(source)
    if target.exists():
        if sha256_of(target) != wanted:
            raise UserError(f"{target} is there, and is another file than {source}.", "Move it away.")
        return wanted
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        if sha256_of(temporary) != wanted:
            raise UserError(f"{source} changed while it was copied, or the disk fails.", "Import again.")
    return wanted
