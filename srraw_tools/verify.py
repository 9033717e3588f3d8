"""The stage that reads everything a set holds, and names what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.metadata import seal_of


@dataclass(frozen=True)
class VerifiedPair:
    """A pair, the bytes that were read of it, and a sentence for everything that is wrong with it."""

    name: str
    bytes: int
    damages: tuple[str, ...]


def verify_pairs(path: Path) -> tuple[list[str], int, Iterator[VerifiedPair]]:
    """Read every chunk of every pair as it is stored, and compare its checksum.

    Returns:
        What cannot be read at all, a sentence for each file and pair; the number of the other pairs; and what
        was found, pair by pair, as it is read.

    Raises:
        UserError: `path` is no srraw.h5, or is damaged itself.
    """
    reader = shards.open(path)
    problems = list(reader.problems)
    told = " ".join(problems)
    problems += [
        f"{file} has lost its end: it was cut short, or changed by another program."
        for file in (path, *shards.shard_files(path))
        if str(file) not in told and seal_of(file) == "missing"
    ]
    return problems, len(reader.pairs), _verified(reader)


def _verified(reader: shards.Reader) -> Iterator[VerifiedPair]:
    with reader:
        for pair in reader.pairs:
            damages = reader.damages(pair)
            try:
                size = reader.stored_bytes(pair)
            except UserError:  # among the damages already
                size = 0
            yield VerifiedPair(pair.name, size, tuple(damages))
