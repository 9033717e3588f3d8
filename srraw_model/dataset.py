"""Training crops out of an srraw.h5: the n-th crop of a run depends on the seed and n alone.

So a run's place in the data is one integer: it resumes exactly, in the middle of a round too, and any number
of processes or machines share it by taking turns (`crop_numbers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srraw_model.inputs import (
    SOURCES,
    bicubic_input,
    calibrated_mosaic,
    encoded_mosaic,
    noise_of,
    rendered_input,
)
from srraw_model.packing import pack, red_origin
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.raw import mosaic_light
from srraw_tools.shards import Pair, Reader, render_target
from srraw_tools.terminal import counted

MIN_VALID = 0.98  # share of a crop's target that must show the scene
TRIES = 100  # crops drawn from a pair before the next pair is tried


class Sample(NamedTuple):
    """A crop, or a batch of them along a first dimension more; c is its side in mosaic pixels.

    Attributes:
        input: what the network is shown, of one of `inputs.SOURCES`: a mosaic (4, c/2, c/2), linear light as
            in `packing` (syn-raw: gamma-encoded), or a picture (3, c, c), sRGB in [0, 1].
        target: (3, N c, N c), sRGB in [0, 1], at the low shot's exposure.
        valid: (1, N c, N c), 1 where the target shows the scene.
        camera_wb: (3,), the low shot's multipliers (R, G, B).
        color_matrix: (3, 3), the low shot's, balanced camera RGB to linear sRGB.
    """

    input: Tensor
    target: Tensor
    valid: Tensor
    camera_wb: Tensor
    color_matrix: Tensor


class Crops(Dataset[Sample]):
    """Random crops of the pairs of a zoom and a split, every pair once in each round, flipped and transposed.

    The n-th crop shows the same place whatever the source: variants see the same data.

    A crop whose target does not show the scene is drawn again. Each process opens the file for itself, after
    a fork as after a spawn, and gets the list of pairs from its parent.

    Args:
        path: the srraw.h5.
        crop: side in mosaic pixels, even.
        seed: at least 0.
        source: of the input, one of `inputs.SOURCES`.
        noise: the sensor's models of noise, which "syn-calibrated" needs.

    Raises:
        UserError: the file cannot be read, holds no pair of this zoom, split and size, or one of a camera and
            ISO whose noise is needed and not known.
    """

    def __init__(
        self,
        path: Path,
        *,
        zoom: int,
        split: str = "train",
        crop: int = 64,
        seed: int = 0,
        source: str = "raw",
        noise: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.path, self.split, self.crop, self.seed = Path(path), split, crop, seed
        self.source, self.noise = source, tuple(noise)
        self.reader = shards.open(path)
        pairs = pairs_of(self.reader, zoom=zoom, split=split)
        # A crop begins at any of the four places in the pattern, one pixel further at most.
        self.pairs = [pair for pair in pairs if min(pair.size) > crop]
        self.left_out = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise UserError(
                f"No {zoom}X pair of the split '{split}' of {path} is larger than a crop of {crop} x {crop} "
                "mosaic pixels.",
                "Give a smaller --crop.",
                wrong_use=True,
            )
        if source == "syn-calibrated":
            try:
                for pair in self.pairs:
                    noise_of(self.noise, pair)
            except KeyError as error:
                raise UserError(
                    f"Nothing says how the sensor of {error.args[0]} is noisy, which {path} was shot with.",
                    "Give --noise what 'srraw calibrate noise' finds in its sequences.",
                    wrong_use=True,
                ) from error

    @property
    def note(self) -> str:
        """What the split holds and no crop is of, and why; nothing where that is nothing."""
        if not self.left_out:
            return ""
        pairs = counted(self.left_out + len(self.pairs), "pair")
        return (
            f"{self.left_out} of {pairs} of the split '{self.split}' {'is' if self.left_out == 1 else 'are'} "
            f"not larger than a crop of {self.crop} x {self.crop} mosaic pixels, and left out."
        )

    def __getitem__(self, number: int) -> Sample:
        """The crop of a number, from 0 on without end."""
        round_number, place = divmod(number, len(self.pairs))
        order = _order(len(self.pairs), self.seed, round_number)
        rng = np.random.default_rng((self.seed, 1, number))
        for further in range(len(order)):
            pair = self.pairs[order[(place + further) % len(order)]]
            for _ in range(TRIES):
                sample = self._cut(pair, rng)
                if sample is not None:
                    return sample
        raise UserError(
            f"No crop of {self.crop} x {self.crop} mosaic pixels in {self.path} has a target for "
            f"{MIN_VALID:.0%} of it.",
            "Give a smaller --crop.",
        )

    def _cut(self, pair: Pair, rng: np.random.Generator) -> Sample | None:
        """A random crop of a pair; None where its target does not show enough of the scene."""
        flip_x, flip_y, transpose = (int(v) for v in rng.integers(2, size=3))
        # A crop that will be flipped begins beside a red pixel, and so ends at one, since its sides are even.
        start = [(red + flip) % 2 for red, flip in zip(red_origin(pair.cfa), (flip_x, flip_y), strict=True)]
        rooms = [range(s, side - self.crop + 1, 2) for s, side in zip(start, pair.size[::-1], strict=True)]
        x, y = (room[int(rng.integers(len(room)))] for room in rooms)
        rectangle = x, y, self.crop, self.crop
        valid = self.reader.read(pair, rectangle, ("valid",)).valid
        if valid.mean() < MIN_VALID:
            return None
        data = self.reader.read(pair, rectangle, SOURCES[self.source])

        def turned(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
            plane = plane[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
            return plane.swapaxes(0, 1) if transpose else plane

        target, valid = turned(render_target(pair, data.target)), turned(valid)
        if self.source == "raw":
            shown = pack(turned(mosaic_light(data.raw, pair.black_level, pair.white_level, origin=(x, y))))
        elif self.source == "png":
            shown = rendered_input(turned(data.rgb))
        elif self.source == "bicubic":
            shown = bicubic_input(target, pair.zoom)
        elif self.source == "syn-raw":
            shown = encoded_mosaic(target, pair.zoom, rng)
        else:
            shown = calibrated_mosaic(target, pair, self.noise, rng)
        return Sample(
            input=torch.from_numpy(shown),
            target=torch.from_numpy(np.ascontiguousarray(target.transpose(2, 0, 1))),
            valid=torch.from_numpy(valid.astype(np.float32)[None]),
            camera_wb=torch.tensor(pair.rgb_wb, dtype=torch.float32),
            color_matrix=torch.from_numpy(pair.color_matrix.astype(np.float32)),
        )


@lru_cache(maxsize=2)
def _order(count: int, seed: int, round_number: int) -> list[int]:
    """The order in which a round takes the pairs."""
    return np.random.default_rng((seed, 0, round_number)).permutation(count).tolist()


def crop_numbers(first: int, last: int, *, rank: int = 0, ranks: int = 1) -> range:
    """The numbers of the crops from `first` up to but not `last` that one of several ranks takes: a sampler.

    All ranks together take each crop once, in the order of one rank alone; a run that stopped before `first`,
    with any number of ranks, goes on as if it had not.

    Args:
        first: the first number; a multiple of `ranks`, so that all take the same number.
        last: the number after the last one; a multiple of `ranks`.
        rank: from 0 on.

    Raises:
        ValueError: there is no such rank, or the crops cannot be shared evenly.
    """
    if not 0 <= rank < ranks or first % ranks or last % ranks:
        raise ValueError(f"rank {rank} of {ranks} has no even share of the crops {first} to {last}")
    return range(first + rank, last, ranks)


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
