"""Draws the pictures of tutorial.md from what `make demo` left.

    python docs/tutorial_pictures.py demo docs/images

shots.jpg: the seven shots of a sequence. pair.jpg: a short shot with the field of its long one, that part of
it enlarged, and the target.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import shards
from srraw_tools.pairs import render_target
from srraw_tools.raw import half_size_rgb, read_raw, render_srgb
from srraw_tools.sequence import read_sequence

SEQUENCE, GAP, QUALITY = "00014", 6, 88
Picture = npt.NDArray[np.uint8]


def main(demo: Path, out: Path) -> None:
    sequence = read_sequence(demo / "sequences" / SEQUENCE)
    shots = sorted(sequence.shots, key=lambda shot: shot.focal_planned)
    pictures = [rendered(sequence.folder / shot.file) for shot in shots]
    write(out / "shots.jpg", beside([resized(picture, 190) for picture in pictures]))
    with shards.open(demo / "srraw.h5") as reader:
        pair = next(p for p in reader.select(zoom=4) if p.sequence == SEQUENCE and p.focal_low == 35)
        data = reader.read(pair)
    low = pictures[[shot.focal_planned for shot in shots].index(35)].copy()
    x, y, width, height = (value // 2 for value in pair.crop)
    cv2.rectangle(low, (x, y), (x + width, y + height), (255, 210, 0), 2)
    target = np.rint(render_target(pair, data.target) * 255).astype(np.uint8)
    enlarged = cv2.resize(data.rgb, target.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    top, left = (side // 3 for side in target.shape[:2])
    detail = (slice(top, top + 260), slice(left, left + 400))
    shown = [resized(low, 390), enlarged[detail], target[detail]]
    write(out / "pair.jpg", beside([resized(picture, 390) for picture in shown]))


def rendered(path: Path) -> Picture:
    """A raw file at half its size, sRGB."""
    raw = read_raw(path)
    return np.rint(render_srgb(half_size_rgb(raw), (1.0, 1.0, 1.0), raw.color_matrix) * 255).astype(np.uint8)


def resized(picture: Picture, width: int) -> Picture:
    height = round(picture.shape[0] * width / picture.shape[1])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def beside(pictures: list[Picture]) -> Picture:
    """Pictures in a row, with white between them."""
    height = min(picture.shape[0] for picture in pictures)
    row = []
    for picture in pictures:
        row += [picture[:height], np.full((height, GAP, 3), 255, np.uint8)]
    return np.concatenate(row[:-1], axis=1)


def write(path: Path, picture: Picture) -> None:
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
