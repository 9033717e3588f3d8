"""Draws docs/images/matches.jpg: what CX, CoBi and the published code match on a shifted pair.

    python docs/cobi_pictures.py demo/srraw.h5

The source is the long shot of a pair, softened and noisy as an output may be; the target is the same
shot, 8 pixels farther. Every dot is a source, its line leads to the target that it chose: green where that
is the true place or at most 2 pixels beside it, red elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from srraw_model.cobi import match
from srraw_model.formulations import released_match
from srraw_model.pictures import middle_crop, target_picture
from srraw_tools import shards

SIDE, SHIFT = 160, 8  # pixels
PATCH, STRIDE = 10, 2
EVERY = 5  # of the sources, in rows and columns, are drawn
SCALE = 3  # pixels of the drawing for one of the picture
BLUR_PX, NOISE = 1.0, 0.02
GREEN, RED, WHITE = (60, 200, 60), (50, 60, 230), (255, 255, 255)  # BGR


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images/matches.jpg")
    arguments = parser.parse_args()
    with shards.open(arguments.data) as reader:
        pair = reader.select(split="test")[0]
        picture = target_picture(pair, reader.read(pair, middle_crop(pair, (SIDE + SHIFT) // pair.zoom)))
    source, target = picture[:SIDE, :SIDE], picture[:SIDE, SHIFT : SHIFT + SIDE]
    noise = np.random.default_rng(0).normal(0, 255 * NOISE, source.shape)
    source = (cv2.GaussianBlur(source, (0, 0), BLUR_PX) + noise).clip(0, 255).astype(np.uint8)
    chosen = _chosen(_tensor(source), _tensor(target))
    panels = [_drawn(target, name, index) for name, index in chosen.items()]
    gap = np.full((panels[0].shape[0], 12, 3), 255, np.uint8)
    cv2.imwrite(
        str(arguments.out),
        cv2.hconcat([panels[0], gap, panels[1], gap, panels[2]]),
        (cv2.IMWRITE_JPEG_QUALITY, 85),
    )


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def _chosen(source: Tensor, target: Tensor) -> dict[str, Tensor]:
    """By name, the target that each way chooses for every source."""
    options = {"patch": PATCH, "stride": STRIDE, "distance": "l2"}
    side = (SIDE - PATCH) // STRIDE + 1
    maps = [functional.unfold(p, PATCH, stride=STRIDE).view(1, -1, side, side) for p in (source, target)]
    return {
        "CX (Eq. 1)": match(source, target, weight_spatial=0, **options).index[0],
        "CoBi (Eq. 2), weight 0.1": match(source, target, weight_spatial=0.1, **options).index[0],
        "published code, weight 0.5": released_match(*maps, weight_spatial=0.5, distance="l2")[0],
    }


def _drawn(target: np.ndarray, name: str, chosen: Tensor) -> np.ndarray:
    """The target with the matches upon it, BGR."""
    side = (SIDE - PATCH) // STRIDE + 1
    own = torch.arange(len(chosen))
    pale = 255 - (255 - target[:, :, ::-1].astype(np.float32)) * 0.6
    canvas = cv2.resize(pale.astype(np.uint8), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)
    places = [torch.stack((at % side, at // side), dim=1) * STRIDE + (PATCH - 1) / 2 for at in (own, chosen)]
    true = places[0] - torch.tensor([SHIFT, 0])
    seen = true[:, 0] >= (PATCH - 1) / 2  # the others lie outside the target
    right = (places[1] - true).abs().amax(dim=1) <= STRIDE
    drawn = seen & (own % side % EVERY == 2) & (own // side % EVERY == 2)
    for i in drawn.nonzero()[:, 0].tolist():
        start, end = (tuple(int((v + 0.5) * SCALE) for v in at[i].tolist()) for at in places)
        color = GREEN if right[i] else RED
        cv2.line(canvas, start, end, color, 2, cv2.LINE_AA)
        cv2.circle(canvas, start, 3, color, -1, cv2.LINE_AA)
    title = np.full((44, canvas.shape[1], 3), 255, np.uint8)
    told = f"{name}: {right[seen].double().mean():.0%} right"
    cv2.putText(title, told, (4, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
    return cv2.vconcat([title, canvas])


if __name__ == "__main__":
    main()
