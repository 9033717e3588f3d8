"""The stage from sequences and alignments to the HDF5 file that a model learns from.

Workers make the pairs of a sequence, each in a part: a file of its own in <out>.parts/. One writer copies
the parts into shards, in the order of the sequences, whoever was done first. A part goes when the shard that
holds its pair is whole. So a run that is killed loses the pairs that it was making, and the next goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from srraw_tools import parallel, shards
from srraw_tools.alignment import ALIGNMENT_FILE, PairAlignment, aligned_inputs, read_alignment
from srraw_tools.errors import UserError
from srraw_tools.exif import is_picture
from srraw_tools.files import only_one, sha256_of
from srraw_tools.picture import Picture, read_picture
from srraw_tools.raw import RawImage, read_raw
from srraw_tools.sequence import SEQUENCE_FILE, ZOOMS, Sequence, changed_shots, read_sequence, sequence_name
from srraw_tools.shards import SPLITS
from srraw_tools.target import make_pair

SPLIT_SHARES = (80, 10, 10)
TARGETS = ("camera", "srgb")
SHARD_SIZE = 4_000_000_000  # bytes


@dataclass(frozen=True)
class PackedPair:
    """What became of a pair: `status` is "packed", "present" (there before), or with a `reason` "left out",
    where nothing can be packed of such a pair, or "failed".

    Attributes:
        notes: what had to be assumed because the raw files do not say it.
        bytes: that it takes on the disk; 0 unless it was packed.
        made_s: seconds that decoding, rendering and warping took; 0 where a killed run had made it.
    """

    name: str
    split: str
    zoom: int
    status: str
    reason: str | None = None
    notes: tuple[str, ...] = ()
    bytes: int = 0
    made_s: float = 0.0


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


@dataclass(frozen=True)
class _Work:
    """The pairs of a sequence: what one worker does at a time, so that it decodes each shot once."""

    tasks: tuple[_Task, ...]

    def __str__(self) -> str:
        return str(self.tasks[0].folder)


@dataclass(frozen=True)
class _Made:
    """What became of a sequence's pairs; `unwritable` says why no more can be written."""

    records: tuple[PackedPair, ...]
    unwritable: UserError | None = None


def pack_sequences(
    folders: Iterable[Path],
    *,
    out: Path,
    zooms: tuple[int, ...] = (4, 8),
    split: tuple[float, ...] = SPLIT_SHARES,
    split_file: Path | None = None,
    target: str = "camera",
    compression: str = "none",
    shard_size: int = SHARD_SIZE,
    alignments: Path | None = None,
    overwrite: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
) -> Iterator[PackedPair]:
    """Pack the aligned pairs of sequences into an HDF5 file (docs/formats.md).

    A file that is there already is kept: pairs that it holds are "present", further ones are added as new
    shards, and other options or inputs that have changed are refused unless `overwrite`. What a killed run
    has made is not made again. The same input and options give the same datasets, byte by byte, however many
    processes make them.

    Args:
        folders: of the sequences.
        zooms: 2, 4, 8; pairs of other zooms are left out.
        compression: "none", "gzip" or "bitshuffle".
        split: shares of train, val and test; sequences are assigned by a hash of their name.
        split_file: CSV of sequence,split that decides instead.
        target: "camera" (16-bit linear camera RGB) or "srgb" (8-bit sRGB, as in the paper). Pairs of two
            cameras, and those whose long shot is a JPEG or PNG, are packed in sRGB.
        shard_size: bytes that a shard may have, unless a single pair has more.
        alignments: folder of <sequence>/alignment.json where `srraw align --out` wrote them.
        jobs: processes to make pairs in.
        scheduler: address of a Dask cluster to make them on instead, as parallel.map_items.

    Yields:
        A record per pair, when it is made; the file holds it when its shard is whole.

    Raises:
        UserError: nothing is aligned, the file there is of other options or inputs, it cannot be written, or
            another process is writing it.
    """
    _check_options(zooms, split)
    _check_output(out, target, compression, shard_size)
    zooms = tuple(sorted(set(zooms)))
    chosen_split = _read_split_file(split_file) if split_file else [float(share) for share in split]
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
    if scheduler is not None:  # its workers are elsewhere
        tasks = [replace(task, folder=task.folder.absolute()) for task in tasks]
    with _alone(out) as parts:
        present, replaced = {}, []
        if not overwrite:
            shards.adopt_shards(out, options)
        if out.exists():
            if overwrite:
                replaced = shards.shard_files(out)
            else:
                present = _present(out, options)
        where = {"jobs": jobs, "scheduler": scheduler}
        yield from _compare_present([task for task in tasks if task.name in present], present, out, where)
        absent = [task for task in tasks if task.name not in present]
        if absent:
            with _Assembly(out, options, shard_size, fresh=not present) as assembly:
                yield from _pack(absent, assembly, parts.absolute() if scheduler else parts, options, where)
            if not assembly.pairs:
                raise UserError(
                    f"No pair could be packed; {out} is left as it was.", "See the failures above."
                )
        for shard in shards.orphaned_shards(out, replaced):
            shard.unlink()
        _remove_parts(parts)


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
    chosen_split = _read_split_file(split_file) if split_file else [float(share) for share in split]
    tasks, left_out = _collect(list(folders), zooms, chosen_split, alignments)
    return [*left_out, *(_record(task, "planned") for task in tasks)]


def split_of(sequence: str, shares: tuple[float, ...] = SPLIT_SHARES) -> str:
    """The split of a sequence by a hash of its name, so that adding one moves no other."""
    fraction = int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8]) / 2**64
    limits = np.cumsum(shares) / np.sum(shares)
    return SPLITS[int(np.searchsorted(limits, fraction, side="right"))]


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """The folder of the parts, while no other process writes this file.

    Raises:
        UserError: another one does, or nothing can be written there.
    """
    parts = out.with_name(f"{out.name}.parts")
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot write {out}: {error.strerror}.", "Choose another folder, or mend its permissions."
        ) from error
    try:
        with only_one(parts / "lock", f"Another 'srraw pack' is writing {out}."):
            yield parts
    finally:
        with suppress(OSError):  # parts are in it, for the next run
            parts.rmdir()


def _remove_parts(parts: Path) -> None:
    """Remove what this program put there, and nothing else."""
    for part in parts.glob("*/*.h5"):
        part.unlink()
    for folder in parts.iterdir():
        with suppress(OSError):
            folder.rmdir()


def _compare_present(
    tasks: list[_Task], present: dict[str, str], out: Path, where: dict[str, Any]
) -> Iterator[PackedPair]:
    """A record for each pair that the file holds; its inputs must be those that it was packed of."""
    for work, hashes in parallel.map_items(_input_hashes, _works(tasks), **where):
        found = [hashes] * len(work.tasks) if isinstance(hashes, UserError) else hashes
        for task, value in zip(work.tasks, found, strict=True):
            if isinstance(value, UserError):
                yield _record(task, "failed", str(value))
            elif value == present[task.name]:
                yield _record(task, "present")
            else:
                raise UserError(
                    f"{out} holds {task.name}, made of files or an alignment that have changed since.",
                    "Give --overwrite to pack it anew.",
                    wrong_use=True,
                )


def _pack(
    tasks: list[_Task], assembly: _Assembly, parts: Path, options: dict[str, Any], where: dict[str, Any]
) -> Iterator[PackedPair]:
    """Make the parts wherever, and put them into shards in the order of the tasks."""
    waiting = deque(tasks)
    done: dict[str, PackedPair] = {}
    make = partial(_make_parts, parts=parts, options=options)
    for work, made in parallel.map_items(make, _works(tasks), **where):
        if isinstance(made, UserError):
            made = _Made(tuple(_record(task, "failed", str(made)) for task in work.tasks))
        done |= {record.name: record for record in made.records}
        while waiting and waiting[0].name in done:
            task = waiting.popleft()
            if done.pop(task.name).status == "packed":
                assembly.add(_part_of(task, parts))
        yield from made.records
        if made.unwritable is not None:
            raise made.unwritable


class _Assembly:
    """Shards of a set, filled with parts one after another; a part goes when its shard is whole."""

    def __init__(self, out: Path, options: dict[str, Any], shard_size: int, *, fresh: bool) -> None:
        self.pairs = 0
        self._out, self._options, self._limit, self._fresh = out, options, shard_size, fresh
        self._shard = ExitStack()
        self._parts: list[Path] = []
        self._bytes = 0

    def __enter__(self) -> _Assembly:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self._finish()
        else:
            self._shard.__exit__(kind, *rest)

    def add(self, part: Path) -> None:
        """Copy a part into the shard that is open, or into the next one."""
        size = part.stat().st_size
        if self._parts and self._bytes + size > self._limit:
            self._finish()
        if not self._parts:
            writing = shards.new_shard if self._fresh else shards.added_shard
            self._add = self._shard.enter_context(writing(self._out, self._options))
            self._fresh = False
        self._add.copy(part)
        self._parts.append(part)
        self._bytes += size
        self.pairs += 1

    def _finish(self) -> None:
        self._shard.close()
        for part in self._parts:
            part.unlink()
        self._parts, self._bytes = [], 0


def _works(tasks: list[_Task]) -> list[_Work]:
    by_folder: dict[Path, list[_Task]] = {}
    for task in tasks:
        by_folder.setdefault(task.folder, []).append(task)
    return [_Work(tuple(found)) for found in by_folder.values()]


def _input_hashes(work: _Work) -> list[str | UserError]:
    return [_input_hash_or_error(task) for task in work.tasks]


def _input_hash_or_error(task: _Task) -> str | UserError:
    try:
        return _input_hash(task)
    except UserError as error:
        return error


def _check_options(zooms: tuple[int, ...], split: tuple[float, ...]) -> None:
    if not zooms or any(zoom not in ZOOMS for zoom in zooms):
        raise UserError(f"A zoom of {list(zooms)} is not possible; choose among 2, 4 and 8.", wrong_use=True)
    if len(split) != 3 or not all(0 <= share <= 1e6 for share in split) or sum(split) <= 0:
        raise UserError("A split has three shares, such as 80:10:10.", wrong_use=True)


def _check_output(out: Path, target: str, compression: str, shard_size: int) -> None:
    if shard_size < 1:
        raise UserError(f"A shard of {shard_size} bytes is not possible.", wrong_use=True)
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


def _part_of(task: _Task, parts: Path) -> Path:
    return parts / task.sequence / f"{task.name}.h5"


def _make_parts(work: _Work, *, parts: Path, options: dict[str, Any]) -> _Made:
    """Make the pairs of a sequence, each into its part; a part that a killed run left is taken as it is."""
    records = []
    decoded: dict[Path, RawImage | Picture | UserError] = {}
    for number, task in enumerate(work.tasks):
        needed = {path for later in work.tasks[number:] for path in later.files}
        decoded = {path: raw for path, raw in decoded.items() if path in needed}
        input_hash = _input_hash_or_error(task)
        if isinstance(input_hash, UserError):
            records.append(_record(task, "failed", str(input_hash)))
            continue
        part = _part_of(task, parts)
        notes, seconds, failure = (), 0.0, None
        if not _is_made(part, task, input_hash, options):
            started = time.perf_counter()
            for path in task.files:
                if path not in decoded:
                    decoded[path] = _decode(path)
            low, high = (decoded[path] for path in task.files)
            failure = next((str(raw) for raw in (low, high) if isinstance(raw, UserError)), None)
            if failure is None and not _is_inside(task.alignment.crop, low.size):
                failure = f"the crop {task.alignment.crop} lies outside {low.path}"
            if failure is None:
                pair, data = make_pair(
                    task.name,
                    low,
                    high,
                    task.alignment,
                    sequence=task.sequence,
                    split=task.split,
                    target=options["target"],
                    input_hash=input_hash,
                )
                seconds, notes = time.perf_counter() - started, tuple(sorted({*low.notes, *high.notes}))
                try:
                    part.parent.mkdir(exist_ok=True)
                    # Not flushed to the disk: after a power cut its checksums tell whether it got there.
                    with shards.new_shard(part, options, durable=False) as add:
                        add(pair, data)
                except UserError as error:
                    return _Made(tuple(records), error)
                except OSError as error:
                    return _Made(tuple(records), UserError(f"Cannot write {part}: {error.strerror}."))
        if failure is None:
            size = part.stat().st_size
            records.append(
                replace(_record(task, "packed"), notes=notes, bytes=size, made_s=round(seconds, 3))
            )
        else:
            records.append(_record(task, "failed", failure))
    return _Made(tuple(records))


def _is_made(part: Path, task: _Task, input_hash: str, options: dict[str, Any]) -> bool:
    """Whether a part holds this pair, whole, of these inputs and options."""
    if not part.exists():
        return False
    with suppress(UserError), shards.open(part) as reader:
        return (
            reader.options == options
            and reader.created_by == shards.CREATED_BY
            and [(p.name, p.split, p.input_hash) for p in reader.pairs]
            == [(task.name, task.split, input_hash)]
            and not reader.damages(reader.pairs[0])
        )
    return False


def _is_inside(crop: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    return crop[0] + crop[2] <= size[1] and crop[1] + crop[3] <= size[0]


def _decode(path: Path) -> RawImage | Picture | UserError:
    try:
        return read_picture(path) if is_picture(path) else read_raw(path, demosaic=True)
    except UserError as error:
        return error


def _record(task: _Task, status: str, reason: str | None = None) -> PackedPair:
    return PackedPair(task.name, task.split, task.alignment.zoom, status, reason)


def _zoom_names(zooms: tuple[int, ...]) -> str:
    return " and ".join(f"{zoom}X" for zoom in zooms)
