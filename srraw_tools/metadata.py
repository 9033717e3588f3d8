"""A checksum of all that a file holds beside its chunks, at its end, where HDF5 does not look.

HDF5 has checksums of most of its metadata, but not of strings; a single wrong bit there can make it loop for
ever. So the metadata are verified before HDF5 sees them. Behind HDF5's last byte stand a line of JSON, with
the spans of the chunks and the CRC-32 of everything else, and TRAILER.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import h5py

MAGIC = b"srrawend"
TRAILER = struct.Struct("<II8s")  # CRC-32 and length of the JSON, MAGIC
PIECE = 1 << 20  # bytes that are read at a time

Span = tuple[int, int]  # of bytes, from the first up to but not the last


def chunk_spans(file: h5py.File) -> list[Span]:
    """Where the chunks of all pairs lie, those that touch as one."""
    found: list[Span] = []
    for group in file["pairs"].values():
        for dataset in group.values():
            dataset.id.chunk_iter(lambda c: found.append((c.byte_offset, c.byte_offset + c.size)))
    merged: list[Span] = []
    for start, end in sorted(found):
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    return merged


def seal(file: IO[bytes], chunks: list[Span]) -> None:
    """Append the checksum to a file that HDF5 has closed. Raises OSError."""
    end = file.seek(0, 2)
    crc = _checksum(file, list(_between(chunks, end)))
    told = json.dumps({"end": end, "crc32": crc, "chunks": chunks}).encode()
    file.seek(0, 2)
    file.write(told + TRAILER.pack(zlib.crc32(told), len(told), MAGIC))


def seal_of(path: Path) -> str:
    """What became of a file's seal: "whole"; "broken" where the metadata are not those that were sealed;
    "missing" where the file was cut short, or changed by another program.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size < TRAILER.size:
            return "missing"
        file.seek(-TRAILER.size, 2)
        crc, length, magic = TRAILER.unpack(file.read(TRAILER.size))
        if magic != MAGIC or length > size - TRAILER.size:
            return "missing"
        file.seek(size - TRAILER.size - length)
        told = file.read(length)
        if zlib.crc32(told) != crc:
            return "broken"
        sealed = json.loads(told)
        spans = list(_between([tuple(span) for span in sealed["chunks"]], sealed["end"]))
        same = sealed["end"] == size - TRAILER.size - length and _checksum(file, spans) == sealed["crc32"]
        return "whole" if same else "broken"


def _between(chunks: list[Span], end: int) -> Iterator[Span]:
    """What lies between the chunks, up to the end."""
    at = 0
    for start, stop in chunks:
        if start > at:
            yield at, start
        at = stop
    if end > at:
        yield at, end


def _checksum(file: IO[bytes], spans: list[Span]) -> int:
    crc = 0
    for start, end in spans:
        file.seek(start)
        while start < end:
            piece = file.read(min(PIECE, end - start))
            if not piece:
                break
            crc = zlib.crc32(piece, crc)
            start += len(piece)
    return crc
