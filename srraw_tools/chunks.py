"""The chunks of an HDF5 dataset: written with checksums, read straight from the file, verified before use.

HDF5's own slicing costs more than the copying. What no filter has touched lies in the file as it lies in
memory, so the rows that a crop needs are read from where their chunk begins; of bitshuffle's blocks those are
decoded that hold them; anything else HDF5 decodes. The checksums are of bands of a chunk's rows, as they are
stored: a crop then verifies not much more than it reads.
"""

from __future__ import annotations

import ctypes
import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srraw_tools.errors import UserError

COMPRESSIONS = ("none", "gzip", "bitshuffle")
CHECKSUMS = "crc32"  # of a dataset: uint32 (chunk rows, bands, chunk columns), of each band's stored bytes
BAND_ROWS = "crc32_rows"  # of a dataset: rows of a band; the last one of a chunk may have fewer
# In mosaic pixels; a target's are N times as large, so that bands and chunks of both line up. Chunks are
# tall, so that a crop takes few reads, and narrow, so that few columns are read beside its own. Those of gzip
# are decoded whole.
CHUNK, GZIP_CHUNK = (512, 32), (32, 32)
BAND = 16
BITSHUFFLE_HEADER, BLOCK_HEADER = 12, 4  # bytes before the blocks of a chunk; before each block, its length
DECODED_BYTES = 64 << 20  # of whole decoded chunks that are kept

BITSHUFFLE_FILTER = 32008  # its number with HDF5

Rectangle = tuple[int, int, int, int]  # x, y, width, height
Chunk = tuple[int, int]  # row, column


class DamagedError(Exception):
    """Stored bytes are missing, or are not those that were written; says which, without the file's name."""


def write_array(group: h5py.Group, name: str, array: npt.NDArray[Any], zoom: int, compression: str) -> None:
    """Write an array as a dataset of chunks with their checksums.

    Args:
        array: (H, W) or (H, W, 3).
        zoom: array pixels per mosaic pixel.
        compression: one of COMPRESSIONS.

    Raises:
        UserError: bitshuffle is not installed.
    """
    most = GZIP_CHUNK if compression == "gzip" else CHUNK
    sides = tuple(zoom * even_share(n // zoom, side) for n, side in zip(array.shape, most, strict=False))
    chunks = (*sides, *array.shape[2:])
    band = chunks[0] if compression == "gzip" else zoom * BAND
    filters = _filters(compression, band * math.prod(chunks[1:]))
    # No time stamps: the same input gives the same bytes.
    dataset = group.create_dataset(name, data=array, chunks=chunks, track_times=False, **filters)
    dataset.flush()  # before it, HDF5 does not know where a chunk lies that is the only one
    rows, columns = _grid(dataset)
    sums = np.zeros((rows, -(-chunks[0] // band), columns), np.uint32)
    for row, column in np.ndindex(rows, columns):
        place = (row * chunks[0], column * chunks[1], *(0 for _ in chunks[2:]))
        stored = dataset.id.read_direct_chunk(place)[1]
        if compression == "none":
            size = band * len(stored) // chunks[0]
            starts = [*range(0, len(stored), size), len(stored)]
        else:
            starts = [0, len(stored)] if compression == "gzip" else _block_starts(stored, sums.shape[1])
        for number in range(sums.shape[1]):
            sums[row, number, column] = zlib.crc32(stored[starts[number] : starts[number + 1]])
    dataset.attrs[CHECKSUMS], dataset.attrs[BAND_ROWS] = sums, band


def even_share(length: int, most: int) -> int:
    """The even side of chunks, at most `most`, that cover a length with the least left over."""
    count = -(-length // most)
    return -(-length // (2 * count)) * 2 if length > 1 else 1


def _grid(dataset: h5py.Dataset) -> tuple[int, int]:
    """Rows and columns of chunks; colours are never split."""
    return tuple(-(-n // side) for n, side in zip(dataset.shape[:2], dataset.chunks[:2], strict=True))


def _filters(compression: str, block: int) -> dict[str, Any]:
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    if compression == "bitshuffle":
        return dict(bitshuffle().Bitshuffle(nelems=block))
    return {}


def bitshuffle() -> Any:
    """The module that registers the filter with HDF5.

    Raises:
        UserError: it is not installed.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise UserError(
            "Bitshuffle needs hdf5plugin.",
            "Install it with: pip install 'srraw[compression]'.",
            wrong_use=True,
        ) from error
    return hdf5plugin


@cache
def _block_decoder() -> Callable[[int, int, int, int, int], int] | None:
    """Bitshuffle's own function that decodes blocks, (from, to, elements, bytes of one, elements of a block);
    None where the plugin's library does not show it."""
    try:
        decode = ctypes.CDLL(bitshuffle().get_config().registered_filters["bshuf"]).bshuf_decompress_lz4
    except (OSError, AttributeError, KeyError):
        return None
    decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_size_t] * 3]
    decode.restype = ctypes.c_int64
    return decode


def _block_starts(stored: bytes, count: int) -> list[int]:
    """Where the blocks of a chunk begin and the last one ends. Raises DamagedError."""
    starts = [BITSHUFFLE_HEADER]
    for _ in range(count - 1):
        head = stored[starts[-1] : starts[-1] + BLOCK_HEADER]
        starts.append(starts[-1] + BLOCK_HEADER + int.from_bytes(head, "big"))
        if starts[-1] >= len(stored):
            raise DamagedError("its blocks are not what was written")
    return [*starts, len(stored)]


def open_hdf5(path: Path, **how: Any) -> h5py.File:
    """Open a file for reading by HDF5, without its lock: shards never change, and some networks lack locks.

    Raises:
        OSError: it cannot be opened, or is damaged.
    """
    try:
        return h5py.File(path, "r", locking=False, **how)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r", **how)  # somebody else in this process has it open with the lock


Identity = tuple[int, ...]


def identity_of(path: Path) -> Identity:
    """What tells a file from another that takes its name later. Raises OSError."""
    return _identity(os.stat(path))


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class OpenFile:
    """A file of chunks, open for reading: by the system, and by HDF5 where that has to decode.

    Raises:
        DamagedError: it is not the file of this identity any more.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._hdf5: h5py.File | None = None
        if _identity(os.fstat(self._handle)) != identity:
            os.close(self._handle)
            raise DamagedError("the file has been replaced since it was opened first")

    @property
    def hdf5(self) -> h5py.File:
        """The file by HDF5, whose own cache of chunks would only be in the way."""
        if self._hdf5 is None:
            self._hdf5 = open_hdf5(self.path, rdcc_nbytes=0)
        return self._hdf5

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the file's bytes from an offset on. Raises DamagedError, OSError."""
        count = os.preadv(self._handle, (buffer,), offset)
        while count < len(buffer):  # rarely: a network, or a signal
            more = os.preadv(self._handle, (buffer[count:],), offset + count)
            if more == 0:
                raise DamagedError("the file ends before it should")
            count += more

    def close(self) -> None:
        """Close both handles."""
        os.close(self._handle)
        if self._hdf5 is not None:
            self._hdf5.close()


class Buffers:
    """What reading needs besides a file: places for a chunk, and the last chunks that HDF5 decoded.

    A reader has one; two threads must not read through the same.
    """

    def __init__(self) -> None:
        self._stored = bytearray()
        self._pixels: dict[tuple[Any, ...], tuple[npt.NDArray[Any], memoryview]] = {}
        self._decoded: OrderedDict[tuple[Any, ...], npt.NDArray[Any]] = OrderedDict()
        self._decoded_bytes = 0

    def stored(self, size: int) -> memoryview:
        """A place for so many bytes."""
        if len(self._stored) < size:
            self._stored = bytearray(size)
        return memoryview(self._stored)[:size]

    def pixels(self, sides: tuple[int, ...], dtype: np.dtype) -> tuple[npt.NDArray[Any], memoryview]:
        """A place for a chunk, as pixels and as bytes."""
        key = sides, dtype.num
        if key not in self._pixels:
            pixels = np.empty(sides, dtype)
            self._pixels[key] = pixels, memoryview(pixels).cast("B")
        return self._pixels[key]

    def decoded(self, key: tuple[Any, ...]) -> npt.NDArray[Any] | None:
        """A decoded chunk that is still there, or None."""
        chunk = self._decoded.get(key)
        if chunk is not None:
            self._decoded.move_to_end(key)
        return chunk

    def keep(self, key: tuple[Any, ...], chunk: npt.NDArray[Any]) -> None:
        """Keep a decoded chunk, and let those go that have not been used for the longest time."""
        self._decoded[key] = chunk
        self._decoded_bytes += chunk.nbytes
        while self._decoded_bytes > DECODED_BYTES:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes


class ChunkedArray:
    """Where the chunks of a dataset lie, their checksums, and which bands have been verified.

    Args:
        dataset: as write_array wrote it; it need not stay open.

    Raises:
        DamagedError: chunks or checksums are missing.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.place, self.name = dataset.name, dataset.name.rsplit("/", 1)[-1]
        self.shape, self.dtype, self.sides = dataset.shape, dataset.dtype, dataset.chunks
        if self.sides is None or not {CHECKSUMS, BAND_ROWS} <= set(dataset.attrs):
            raise DamagedError(f"{self.name} has no checksums, as an older srraw packed it")
        (rows, columns), (tall, wide) = _grid(dataset), self.sides[:2]
        self._filter = _filter_of(dataset)
        self._band = int(dataset.attrs[BAND_ROWS])
        self._sums = np.asarray(dataset.attrs[CHECKSUMS])
        self._offsets, self._sizes = np.zeros((2, rows, columns), np.int64)
        self._verified = np.zeros((rows, columns), np.uint64)  # a bit for each band of a chunk
        self._starts: dict[Chunk, list[int]] = {}  # of the blocks of chunks, by chunk

        def note(chunk: Any) -> None:
            at = chunk.chunk_offset[0] // tall, chunk.chunk_offset[1] // wide
            self._offsets[at], self._sizes[at] = chunk.byte_offset, chunk.size

        dataset.id.chunk_iter(note)
        size = math.prod(self.sides) * self.dtype.itemsize
        self._row_bytes = size // tall
        # What cannot be compressed grows, by much less than this.
        likely = (self._sizes == size) if self._filter == "none" else (self._sizes <= 2 * size + 4096)
        bands = -(-tall // self._band) if self._band > 0 else 0
        if self._sums.shape != (rows, bands, columns) or bands > 64 or not (likely & (self._sizes > 0)).all():
            raise DamagedError(f"chunks of {self.name} are missing")

    @property
    def stored_bytes(self) -> int:
        """Bytes that the chunks take in the file."""
        return int(self._sizes.sum())

    def read(self, file: OpenFile, buffers: Buffers, rectangle: Rectangle) -> npt.NDArray[Any]:
        """The pixels of a rectangle, which must lie inside the array.

        Raises:
            DamagedError: a chunk is not what was written.
            OSError: the file cannot be read.
        """
        x, y, width, height = rectangle
        out = np.empty((height, width, *self.shape[2:]), self.dtype)
        tall, wide = self.sides[:2]
        plain = self._filter == "none"
        pixels, place = buffers.pixels(self.sides, self.dtype)
        for row in range(y // tall, (y + height - 1) // tall + 1):
            top = row * tall
            first, last = max(y - top, 0), min(y + height - top, tall)
            into = out[top + first - y : top + last - y]
            wanted = (1 << -(-last // self._band)) - (1 << first // self._band)  # a bit for each band
            room, skipped = place[: (last - first) * self._row_bytes], first * self._row_bytes
            for column in range(x // wide, (x + width - 1) // wide + 1):
                left = column * wide
                begin, end = max(x - left, 0), min(x + width - left, wide)
                # Most reads are of this kind, so nothing stands between them and the system's.
                if plain and self._verified.item(row, column) & wanted == wanted:
                    file.read_into(room, self._offsets.item(row, column) + skipped)
                    rows = pixels
                else:
                    rows = self._rows(file, buffers, (row, column), first, last)
                into[:, left + begin - x : left + end - x] = rows[: last - first, begin:end]
        return out

    def damages(self, file: OpenFile, buffers: Buffers) -> Iterator[str]:
        """Read everything as it is stored, and yield in words what is wrong, by chunk."""
        for chunk in np.ndindex(self._offsets.shape):
            self._verified[chunk] = 0
            self._starts.pop(chunk, None)
            try:
                self._rows(file, buffers, chunk, 0, self.sides[0])
            except DamagedError as error:
                yield str(error)
            except OSError as error:
                yield f"chunk {chunk[0]}, {chunk[1]} of {self.name} cannot be read: {error.strerror or error}"

    def _rows(
        self, file: OpenFile, buffers: Buffers, chunk: Chunk, first: int, last: int
    ) -> npt.NDArray[Any]:
        """The rows [first, last) of a chunk; valid until the next call."""
        bands = first // self._band, -(-last // self._band)
        wanted = (1 << bands[1]) - (1 << bands[0])
        verified = self._verified.item(chunk) & wanted == wanted
        if self._filter == "none":
            rows = self._plain_bands(file, buffers, chunk, bands)
        elif self._filter == "bitshuffle" and _block_decoder() is not None:
            rows = self._unpacked_bands(file, buffers, chunk, bands, verified)
        else:
            return self._decoded(file, buffers, chunk, verified)[first:last]
        return rows[first - bands[0] * self._band : last - bands[0] * self._band]

    def _plain_bands(
        self, file: OpenFile, buffers: Buffers, chunk: Chunk, bands: tuple[int, int]
    ) -> npt.NDArray[Any]:
        """Bands of a chunk that no filter has touched, verified."""
        pixels, place = buffers.pixels(self.sides, self.dtype)
        band_bytes = self._band * self._row_bytes
        start, end = bands[0] * band_bytes, min(bands[1] * band_bytes, len(place))
        place = place[: end - start]
        file.read_into(place, self._offsets.item(chunk) + start)
        self._verify(place, [*range(0, len(place), band_bytes), len(place)], chunk, bands[0])
        return pixels

    def _unpacked_bands(
        self, file: OpenFile, buffers: Buffers, chunk: Chunk, bands: tuple[int, int], verified: bool
    ) -> npt.NDArray[Any]:
        """Bands of a chunk that bitshuffle packed, each a block, verified and decoded."""
        starts = self._starts.get(chunk) or self._find_starts(file, buffers, chunk)
        starts = starts[bands[0] : bands[1] + 1]
        stored = buffers.stored(starts[-1] - starts[0])
        file.read_into(stored, self._offsets.item(chunk) + starts[0])
        if not verified:
            self._verify(stored, [start - starts[0] for start in starts], chunk, bands[0])
        pixels, _ = buffers.pixels(self.sides, self.dtype)
        block = self._band * self._row_bytes // self.dtype.itemsize
        elements = min(bands[1] * block, pixels.size) - bands[0] * block
        source = np.frombuffer(stored, np.uint8)
        used = _block_decoder()(source.ctypes.data, pixels.ctypes.data, elements, self.dtype.itemsize, block)
        if used != len(stored):
            raise DamagedError(f"chunk {chunk[0]}, {chunk[1]} of {self.name} cannot be decoded")
        return pixels

    def _decoded(self, file: OpenFile, buffers: Buffers, chunk: Chunk, verified: bool) -> npt.NDArray[Any]:
        """A whole chunk, verified, and decoded by HDF5."""
        key = str(file.path), self.place, chunk
        found = buffers.decoded(key) if verified else None
        if found is None:
            if not verified:
                stored = buffers.stored(self._sizes.item(chunk))
                file.read_into(stored, self._offsets.item(chunk))
                one = self._sums.shape[1] == 1
                starts = [0, len(stored)] if one else self._find_starts(file, buffers, chunk)
                self._verify(buffers.stored(len(stored)), starts, chunk, 0)
            slices = tuple(
                slice(at * side, (at + 1) * side) for at, side in zip(chunk, self.sides, strict=False)
            )
            try:
                found = file.hdf5[self.place][slices]
            except (OSError, KeyError) as error:
                raise DamagedError(
                    f"chunk {chunk[0]}, {chunk[1]} of {self.name} cannot be decoded"
                ) from error
            buffers.keep(key, found)
        return found

    def _find_starts(self, file: OpenFile, buffers: Buffers, chunk: Chunk) -> list[int]:
        stored = buffers.stored(self._sizes.item(chunk))
        file.read_into(stored, self._offsets.item(chunk))
        try:
            starts = _block_starts(stored, self._sums.shape[1])
        except DamagedError as error:
            raise DamagedError(
                f"chunk {chunk[0]}, {chunk[1]} of {self.name} is not what was written"
            ) from error
        self._starts[chunk] = starts
        return starts

    def _verify(self, stored: memoryview, starts: list[int], chunk: Chunk, lowest: int) -> None:
        """Compare the checksums of bands, from the lowest on; they lie between the starts."""
        for number in range(len(starts) - 1):
            expected = self._sums.item(chunk[0], lowest + number, chunk[1])
            if zlib.crc32(stored[starts[number] : starts[number + 1]]) != expected:
                raise DamagedError(f"chunk {chunk[0]}, {chunk[1]} of {self.name} is not what was written")
        bits = (1 << (lowest + len(starts) - 1)) - (1 << lowest)
        self._verified[chunk] |= np.uint64(bits)


def _filter_of(dataset: h5py.Dataset) -> str:
    """ "none", "bitshuffle" where its blocks can be read, "other" for HDF5 to decode."""
    properties = dataset.id.get_create_plist()
    if properties.get_nfilters() == 0:
        return "none"
    one = properties.get_nfilters() == 1 and properties.get_filter(0)[0] == BITSHUFFLE_FILTER
    return "bitshuffle" if one else "other"
