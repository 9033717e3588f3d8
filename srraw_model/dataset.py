"""Training crops out of an srraw.h5: the n-th crop of a run depends on the seed and n alone.

So a run's place in the data is one integer; it resumes exactly, in any number of processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srraw_model.packing import pack, red_origin
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.raw import mosaic_light
from srraw_tools.shards import Pair, Reader, render_target

MIN_VALID = 0.98  # share of a crop's target that must show the scene
TRIES = 100  # crops drawn from a pair before the next pair is tried


class Sample(NamedTuple):
    """A crop, or a batch of them along a first dimension more; c is its side in mosaic pixels.

    Attributes:
        packed: (4, c/2, c/2), linear light as in `packing`.
        target: (3, N c, N c), sRGB in [0, 1], at the low shot's exposure.
        valid: (1, N c, N c), 1 where the target shows the scene.
        camera_wb: (3,), the low shot's multipliers (R, G, B).
        color_matrix: (3, 3), the low shot's, balanced camera RGB to linear sRGB.
    """

    packed: Tensor
    target: Tensor
    valid: Tensor
    camera_wb: Tensor
    color_matrix: Tensor


class Crops(Dataset[Sample]):
    """Random crops of the pairs of a zoom and a split, every pair once in each round, flipped and transposed.

    Args:
        path: the srraw.h5.
        crop: side in mosaic pixels, even.
        seed: at least 0.

    Raises:
        UserError: the file cannot be read, or holds no pair of this zoom, split and size.
    """

    def __init__(self, path: Path, *, zoom: int, split: str = "train", crop: int = 64, seed: int = 0) -> None:
        self.path, self.crop, self.seed = Path(path), crop, seed
        with shards.open(path) as reader:
            pairs = pairs_of(reader, zoom=zoom, split=split)
        # A crop begins at any of the four places in the pattern, one pixel further at most.
        self.pairs = [pair for pair in pairs if min(pair.size) > crop]
        if not self.pairs:
            raise UserError(
                f"No {zoom}X pair of {path} is larger than a crop of {crop} x {crop} mosaic pixels.",
                "Give a smaller --crop.",
                wrong_use=True,
            )
        self._opened: tuple[int, Reader] | None = None

    def __getitem__(self, number: int) -> Sample:
        """The crop of a number, from 0 on without end."""
        round_number, place = divmod(number, len(self.pairs))
        order = np.random.default_rng((self.seed, 0, round_number)).permutation(len(self.pairs))
        rng = np.random.default_rng((self.seed, 1, number))
        for index in np.roll(order, -place):
            for _ in range(TRIES):
                sample = self._cut(self.pairs[index], rng)
                if sample.valid.mean() >= MIN_VALID:
                    return sample
        raise UserError(
            f"No crop of {self.crop} x {self.crop} mosaic pixels in {self.path} has a target for "
            f"{MIN_VALID:.0%} of it.",
            "Give a smaller --crop.",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # a file handle does not travel to another process

    def _cut(self, pair: Pair, rng: np.random.Generator) -> Sample:
        flip_x, flip_y, transpose = (int(v) for v in rng.integers(2, size=3))
        # A crop that will be flipped begins beside a red pixel, and so ends at one, since its sides are even.
        start = [(red + flip) % 2 for red, flip in zip(red_origin(pair.cfa), (flip_x, flip_y), strict=True)]
        rooms = [range(s, side - self.crop + 1, 2) for s, side in zip(start, pair.size[::-1], strict=True)]
        x, y = (room[int(rng.integers(len(room)))] for room in rooms)
        data = self._reader().read(pair, (x, y, self.crop, self.crop))
        light = mosaic_light(data.raw, pair.black_level, pair.white_level, origin=(x, y))
        turned = []
        for plane in (light, render_target(pair, data.target), data.valid):
            plane = plane[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
            turned.append(plane.swapaxes(0, 1) if transpose else plane)
        light, target, valid = turned
        return Sample(
            packed=torch.from_numpy(pack(light)),
            target=torch.from_numpy(np.ascontiguousarray(target.transpose(2, 0, 1))),
            valid=torch.from_numpy(valid.astype(np.float32)[None]),
            camera_wb=torch.tensor(pair.rgb_wb, dtype=torch.float32),
            color_matrix=torch.from_numpy(pair.color_matrix.astype(np.float32)),
        )

    def _reader(self) -> Reader:
        """This process's own reader: HDF5 handles must not be shared across a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), shards.open(self.path)
        return self._opened[1]


def pairs_of(reader: Reader, *, zoom: int, split: str) -> list[Pair]:
    """The pairs of a zoom and a split; never none.

    Raises:
        UserError: there are none; says what there is and how to get some.
    """
    of_zoom = reader.select(zoom=zoom)
    if not of_zoom:
        found = ", ".join(f"{z}X" for z in sorted({pair.zoom for pair in reader.pairs})) or "none at all"
        raise UserError(
            f"{reader.path} holds no {zoom}X pairs; it holds {found}.",
            "Give another --zoom, or run 'srraw align' and 'srraw pack' with it.",
            wrong_use=True,
        )
    pairs = [pair for pair in of_zoom if pair.split == split]
    if not pairs:
        raise UserError(
            f"The split '{split}' of {reader.path} holds no {zoom}X pair.",
            "Add sequences, or decide the splits yourself with 'srraw pack --split-file FILE'.",
            wrong_use=True,
        )
    return pairs
