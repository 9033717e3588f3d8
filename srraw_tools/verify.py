"""The stage that reads everything a set holds, and names what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from srraw_tools import shards
from srraw_tools.errors import UserError


@dataclass(frozen=True)
class VerifiedPair:
    """A pair, the bytes that were read of it, and a sentence for everything that is wrong with it."""

    name: str
    bytes: int
    damages: tuple[str, ...]


def verify_pairs(path: Path) -> tuple[shards.Reader, Iterator[VerifiedPair]]:
    """Read every chunk of every pair as it is stored, and compare its checksum.

    Returns:
        The opened set, whose `problems` name shards and pairs that cannot be read at all; and what was found,
        pair by pair, as it is read.

    Raises:
        UserError: `path` is no srraw.h5, or is damaged itself.
    """
    reader = shards.open(path)
    return reader, _verified(reader)


def _verified(reader: shards.Reader) -> Iterator[VerifiedPair]:
    with reader:
        for pair in reader.pairs:
            damages = reader.damages(pair)
            try:
                size = reader.stored_bytes(pair)
            except UserError:  # among the damages already
                size = 0
            yield VerifiedPair(pair.name, size, tuple(damages))
