"""A set of pairs on the disk: open it, read crops of it. `srraw.h5` is a shard itself, or an index of shards.

`pairs` tells what lies in a file, `chunks` how its arrays do, `new_shards` how files come to be.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py

from srraw_tools.chunks import (
    COMPRESSIONS,
    Buffers,
    ChunkedArray,
    DamagedError,
    Identity,
    OpenFile,
    bitshuffle,
    identity_of,
    open_hdf5,
)
from srraw_tools.errors import UserError
from srraw_tools.new_shards import NewShard, added_shard, links_into, new_shard, second_name, write_index
from srraw_tools.pairs import (
    ARRAYS,
    CREATED_BY,
    HDF5_ERRORS,
    SPLITS,
    Pair,
    PairData,
    links_of,
    open_checked,
    read_pair,
    read_root,
    render_target,
    words,
)

__all__ = [
    "ARRAYS",
    "COMPRESSIONS",
    "CREATED_BY",
    "SPLITS",
    "NewShard",
    "Pair",
    "PairData",
    "Reader",
    "added_shard",
    "adopt_shards",
    "new_shard",
    "open",
    "open_once",
    "orphaned_shards",
    "render_target",
    "shard_files",
]

OPEN_FILES = 32  # shards that a reader keeps open at a time
INDEXED_PAIRS = 1024  # of which a reader remembers where chunks lie and which were verified


class Reader:
    """Pairs of an srraw.h5, read crop by crop. Use it as a context manager or call close().

    Every chunk is verified against its checksum before its first use in a process. Between calls no HDF5
    handle is open but for compressed data, and those are not used after a fork; a reader that is pickled
    opens its files anew. Two threads must not share one.

    Attributes:
        pairs: what can be read, in the order of their names.
        problems: sentences that name the shards that are missing or truncated, and pairs whose metadata are
            damaged. They are not among `pairs`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_checked(path) as file:
            about = read_root(file, path)
            self.zooms: tuple[int, ...] = tuple(int(zoom) for zoom in about["zooms"])
            self.options: dict[str, Any] = dict(json.loads(about["options"]))
            self.created_by = str(about["created_by"])
            if self.options.get("compression") == "bitshuffle":
                bitshuffle()
            places = _places(file, path)
            found, problems = _read_pairs(path, places, file)
        self.pairs: tuple[Pair, ...] = tuple(found.values())
        self.problems: tuple[str, ...] = tuple(problems)
        used = {places[name] for name in found}
        self._identities: dict[Path, Identity] = {shard: identity_of(shard) for shard in used}
        self._places = {name: places[name] for name in found}
        self._forget()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "zooms", "options", "created_by", "pairs", "problems", "_identities", "_places")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.options.get("compression") == "bitshuffle":
            bitshuffle()  # registers the filter with HDF5, in this process too
        self._forget()

    def close(self) -> None:
        """Close the files. Reading opens them again."""
        if self._process == os.getpid():
            for file in self._files.values():
                file.close()
        self._forget()

    def select(self, zoom: int | None = None, split: str | None = None) -> list[Pair]:
        """The pairs of a zoom and of a split ("train", "val", "test"); None takes all."""
        return [p for p in self.pairs if zoom in (None, p.zoom) and split in (None, p.split)]

    def read(
        self,
        pair: Pair,
        crop: tuple[int, int, int, int] | None = None,
        arrays: tuple[str, ...] = ARRAYS,
    ) -> PairData:
        """Read a pair, or a crop [x, y, width, height] of it in mosaic pixels of the pair.

        Args:
            arrays: those that are wanted; the others are None.

        Raises:
            ValueError: the crop does not lie inside the pair.
            UserError: the data on the disk are damaged, or cannot be read.
        """
        height, width = pair.size
        x, y, w, h = crop or (0, 0, width, height)
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > width or y + h > height:
            raise ValueError(f"crop {crop} does not lie inside {pair.name}, {width} x {height}")
        n = pair.zoom
        low, high = (x, y, w, h), (n * x, n * y, n * w, n * h)
        read = dict.fromkeys(ARRAYS)
        try:
            chunks, file = self._chunks(pair), self._file(self._places[pair.name])
            for name in arrays:
                rectangle = low if name in ("raw", "rgb") else high
                read[name] = chunks[name].read(file, self._buffers, rectangle)
        except (DamagedError, OSError) as error:
            raise self._told(pair, error) from error
        return PairData(**read)

    def damages(self, pair: Pair) -> list[str]:
        """Read everything of a pair as it is stored; what is damaged, a sentence each."""
        shard = self._places[pair.name]
        try:
            chunks, file = self._chunks(pair), self._file(shard)
        except (DamagedError, OSError) as error:
            return [self._told(pair, error).message]
        wrong = [text for array in chunks.values() for text in array.damages(file, self._buffers)]
        return [f"{shard}: pair {pair.name} is damaged: {text}." for text in wrong]

    def stored_bytes(self, pair: Pair) -> int:
        """Bytes that a pair's arrays take in their file. Raises UserError as `read`."""
        try:
            return sum(array.stored_bytes for array in self._chunks(pair).values())
        except (DamagedError, OSError) as error:
            raise self._told(pair, error) from error

    def _told(self, pair: Pair, error: DamagedError | OSError) -> UserError:
        """What went wrong while a pair was read, in a sentence."""
        shard = self._places[pair.name]
        if isinstance(error, DamagedError):
            return UserError(
                f"{shard}: pair {pair.name} is damaged: {error}.",
                f"'srraw verify {self.path}' names all that is; pack it again.",
            )
        return UserError(
            f"{shard}: pair {pair.name} cannot be read ({error.strerror or error}).",
            "Put the shard back beside the index, or pack again.",
        )

    def _forget(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[Path, OpenFile] = OrderedDict()
        self._index: OrderedDict[str, dict[str, ChunkedArray]] = OrderedDict()
        self._buffers = Buffers()

    def _file(self, shard: Path) -> OpenFile:
        if self._process != os.getpid():  # after a fork: the parent's handles are left alone
            self._forget()
        if shard not in self._files:
            self._files[shard] = OpenFile(shard, self._identities[shard])
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _chunks(self, pair: Pair) -> dict[str, ChunkedArray]:
        """Where the chunks of a pair lie; the file is opened by HDF5 for so long as it takes to find out."""
        if pair.name not in self._index:
            shard = self._places[pair.name]
            self._file(shard)  # it must still be the same
            try:
                with open_hdf5(shard) as file:
                    group = file["pairs"][pair.name]
                    self._index[pair.name] = {name: ChunkedArray(group[name]) for name in ARRAYS}
            except HDF5_ERRORS as error:
                raise DamagedError(words(error)) from error
            if len(self._index) > INDEXED_PAIRS:
                self._index.popitem(last=False)
        self._index.move_to_end(pair.name)
        return self._index[pair.name]


def open(path: Path | str) -> Reader:
    """Open an srraw.h5 for reading.

    Raises:
        UserError: the file is missing, no HDF5, not ours, or of another version.
    """
    return Reader(Path(path))


@lru_cache(maxsize=1)
def open_once(path: Path) -> Reader:
    """This process's own reader of a set, for one pair after another; raises as `open`."""
    return open(path)


def _places(file: h5py.File, path: Path) -> dict[str, Path]:
    """The file that holds each pair."""
    links = links_of(path)
    return {name: path.with_name(links[name].filename) if name in links else path for name in file["pairs"]}


def _read_pairs(path: Path, places: dict[str, Path], index: h5py.File) -> tuple[dict[str, Pair], list[str]]:
    """The pairs that can be read, by name; and sentences about the others. Opens each shard once."""
    found: dict[str, Pair] = {}
    problems = []
    for shard in dict.fromkeys(places.values()):
        names = [name for name, place in places.items() if place == shard]
        try:
            with nullcontext(index) if shard == path else open_checked(shard) as file:
                for name in names:
                    try:
                        found[name] = read_pair(file["pairs"], name)
                    except UserError as error:
                        problems.append(f"{shard}: {error.message}")
        except UserError as error:
            count = "1 pair" if len(names) == 1 else f"{len(names)} pairs"
            problems.append(f"{error.message} {count} of {path} cannot be read.")
    return {name: found[name] for name in places if name in found}, problems


def adopt_shards(path: Path, options: dict[str, Any]) -> list[Path]:
    """Put shards into the index that a killed run wrote and could not put there any more.

    They bear the next numbers of `path`, were packed by the same options, and hold other pairs than the
    index. What else bears such a name is left alone.

    Returns:
        The shards that are in the index now, and were not before.
    """
    links = links_of(path) if path.exists() else {}
    single = path.exists() and not links
    names = set(links_into(path)) if single else set(links)
    known, adopted = {link.filename for link in links.values()}, []
    for shard in sorted(path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9]{path.suffix}")):
        if shard.name in known:
            continue
        try:
            with open(shard) as reader:
                ours = reader.options == options and not reader.problems and not shard_files(shard)
        except UserError:
            continue  # not ours
        more = links_into(shard) if ours else {}
        if more and not more.keys() & names:
            links |= more
            names |= more.keys()
            adopted.append(shard)
    if adopted and single:
        links |= links_into(second_name(path))
    if adopted:
        write_index(path, options, links)
    return adopted


def orphaned_shards(path: Path, before: list[Path]) -> list[Path]:
    """Of the shards that `path` was the index of `before` it was replaced, those that nothing needs any more:
    named after it, and linked from no other file of the folder."""
    used = set(shard_files(path))
    for other in path.parent.glob(f"*{path.suffix}"):
        with suppress(UserError):
            used |= set(shard_files(other))
    return [shard for shard in before if shard not in used and shard.stem[:-5] == path.stem]


def shard_files(path: Path) -> list[Path]:
    """The numbered shards that an index names, in order; none where the file is a shard itself."""
    return sorted({path.with_name(link.filename) for link in links_of(path).values()})
