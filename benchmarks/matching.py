"""What the contextual loss (CX) and CoBi match, on a trained network's output beside a shifted target.

    python benchmarks/matching.py srraw.h5 --checkpoint run/model.pt --vgg-weights vgg_normalised.pth

As the paper counts them: targets that exactly one source chose, over all targets, every source free to choose
any. Beside it two shares of the sources: that chose the target of their own place, which is wrong by the
shift, and that chose the true place, by no more than a pixel (of the layer).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srraw_model.checkpoint import load_checkpoint
from srraw_model.cobi import match, matching_statistics
from srraw_model.features import FeatureNetwork, load_vgg19
from srraw_model.losses import PATCH_BY_ZOOM
from srraw_model.pictures import middle_crop, output_picture, target_picture
from srraw_tools import shards

SIDE = 192  # pixels that are compared, of every pair
MARGIN = 16  # around them, for the shift
SHIFTS = (2, 8)
WEIGHTS = {0.0: "CX", 0.1: "CoBi, 0.1", 1.0: "CoBi, 1"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--vgg-weights", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    features = load_vgg19(arguments.vgg_weights)
    pairs = list(_pairs(arguments.data, arguments.checkpoint, arguments.pairs))
    print(f"{len(pairs)} pairs, {SIDE} x {SIDE}; medians\n")
    print("                 shift         one-to-one   own place   true place")
    for layer in ("RGB patches", *features.taps.values()):
        for shift in SHIFTS:
            for weight, name in WEIGHTS.items():
                found = [_shares(layer, features, *pair, shift, weight) for pair in pairs]
                shares = [statistics.median(share) for share in zip(*found, strict=True)]
                told = "".join(f"{share:13.1%}" for share in shares)
                print(f"{layer:14s}{shift:5d} px   {name:10s}{told}", flush=True)


def _pairs(data: Path, checkpoint: Path, count: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Output, target (1, 3, SIDE + 2 MARGIN, ...) and the patch of the zoom, of pairs of the test split."""
    trained = load_checkpoint(checkpoint)
    network = trained.make_network()
    zoom = trained.network["zoom"]
    with shards.open(data) as reader:
        for pair in reader.select(zoom=zoom, split="test")[:count]:
            read = reader.read(pair, middle_crop(pair, (SIDE + 2 * MARGIN) // zoom))
            pictures = output_picture(network, pair, read), target_picture(pair, read)
            output, target = (
                torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]
                for picture in pictures
            )
            yield output, target, PATCH_BY_ZOOM[zoom]


def _shares(
    layer: str,
    features: FeatureNetwork,
    output: Tensor,
    target: Tensor,
    patch: int,
    shift: int,
    weight: float,
) -> tuple[float, float, float]:
    ends = slice(MARGIN, MARGIN + SIDE), slice(MARGIN + shift, MARGIN + shift + SIDE)
    source, moved = (
        picture[..., end, end].contiguous() for picture, end in zip((output, target), ends, strict=True)
    )
    if layer == "RGB patches":
        options = {"patch": patch, "weight_spatial": weight, "distance": "l2"}
    else:
        patch, options = 1, {"weight_spatial": weight}
        with torch.no_grad():
            source, moved = features(source)[layer], features(moved)[layer]
        shift = shift * source.shape[3] / SIDE
    statistic = matching_statistics(source, moved, **options)
    columns = source.shape[3] - patch + 1
    index = match(source, moved, **options).index[0]
    own = torch.arange(len(index))
    off = torch.stack((index // columns - own // columns, index % columns - own % columns)) + shift
    true = (off.abs().amax(dim=0) <= 1).double().mean().item()
    return statistic.one_to_one, statistic.identity, true


if __name__ == "__main__":
    main()
