"""New shards: written whole or not at all, alone or beside others under an index."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from srraw_tools.chunks import open_hdf5
from srraw_tools.files import replacing, sync_folder
from srraw_tools.metadata import chunk_spans, seal
from srraw_tools.pairs import Pair, PairData, links_of, write_pair, write_root

HDF5_VERSION = ("v110", "v110")  # the oldest whose metadata carry checksums throughout; HDF5 1.10 reads it


class NewShard:
    """A shard that is being written. Call it with a pair and its data, once for each pair."""

    def __init__(self, file: h5py.File, disk: _Disk, compression: str) -> None:
        self.file, self._disk, self._compression = file, disk, compression

    def __call__(self, pair: Pair, data: PairData) -> None:
        """Write a pair."""
        write_pair(self.file, pair, data, self._compression)
        self._flush()

    def copy(self, part: Path) -> None:
        """Copy the pairs of another shard, chunks and checksums as they are stored there."""
        with open_hdf5(part) as file:
            for name in file["pairs"]:
                file.copy(f"/pairs/{name}", self.file["pairs"])
        self._flush()

    def _flush(self) -> None:
        self.file.flush()
        self._disk.raise_failure()


@contextmanager
def new_shard(path: Path, options: dict[str, Any], *, durable: bool = True) -> Iterator[NewShard]:
    """Write a new shard, whole or not at all: inside the block, call what it gives once for each pair.

    Args:
        options: what was asked of `srraw pack`; must hold "zooms" and "compression".
        durable: as files.replacing.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path, durable=durable) as temporary, _Disk(temporary) as disk:
        with h5py.File(disk, "w", libver=HDF5_VERSION) as file:
            write_root(file, options)
            yield NewShard(file, disk, options["compression"])
            disk.raise_failure()
            chunks = chunk_spans(file)
        seal(disk, chunks)


class _Disk(io.FileIO):
    """A file for HDF5 to write to, which outlives a full disk.

    HDF5 cannot close a file whose writes fail: the process may end in a segmentation fault. So the first
    failure is kept, what follows it is not written, and `raise_failure` raises it as the operating system's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        super().__exit__(kind, *rest)
        if kind is None:
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: Any) -> int:
        """Write all of `data`, or nothing more after a failure."""
        view = memoryview(data).cast("B")
        written = 0
        while self._failure is None and written < len(view):
            try:
                written += super().write(view[written:])
            except OSError as error:
                self._failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length, unless a write has failed."""
        try:
            return self.tell() if self._failure else super().truncate(size)
        except OSError as error:
            self._failure = error
            return self.tell()


@contextmanager
def added_shard(path: Path, options: dict[str, Any]) -> Iterator[NewShard]:
    """Add pairs to an existing set as one more numbered shard; `path` becomes, or stays, the index.

    The shards that exist keep their bytes: a set of one gets a second, numbered name, and a new index takes
    the place of `path` in one rename. No file that is there already is ever taken for a shard's name.
    """
    links = links_of(path)
    taken = [Path(link.filename) for link in links.values()] or [free_name(path, 1)]
    added = free_name(path, max(_number(shard) for shard in taken) + 1)
    with new_shard(added, options) as add:
        yield add
    links = links or links_into(second_name(path))
    write_index(path, options, links | links_into(added))


def write_index(path: Path, options: dict[str, Any], links: dict[str, h5py.ExternalLink]) -> None:
    with replacing(path) as temporary, _Disk(temporary) as disk:
        with h5py.File(disk, "w", libver=HDF5_VERSION) as index:
            write_root(index, options)
            for name, link in sorted(links.items()):
                index["pairs"][name] = link
        seal(disk, [])


def links_into(shard: Path) -> dict[str, h5py.ExternalLink]:
    with open_hdf5(shard) as file:
        return {name: h5py.ExternalLink(shard.name, f"/pairs/{name}") for name in file["pairs"]}


def free_name(path: Path, number: int) -> Path:
    """The first <stem>-NNNN from a number on that is not there yet."""
    while (name := path.with_name(f"{path.stem}-{number:04d}{path.suffix}")).exists():
        if path.exists() and os.path.samefile(name, path):
            return name  # the second name of `path` itself, left by an interrupted run
        number += 1
    return name


def _number(shard: Path) -> int:
    digits = shard.stem.rsplit("-", 1)[-1]
    return int(digits) if digits.isdecimal() else 0


def second_name(path: Path) -> Path:
    """Give a shard that is a set by itself its number, so that an index can take its place."""
    name = free_name(path, 1)
    if not name.exists():
        try:
            os.link(path, name)
        except OSError:  # a file system without hard links
            with replacing(name) as temporary:
                shutil.copyfile(path, temporary)
        sync_folder(path.parent)
    return name
