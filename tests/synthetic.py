"""A small srraw.h5 of drawn scenes, sampled at both scales from one fine picture, for the model's tests."""

from __future__ import annotations

import os

import cv2
import numpy as np
import torch

from srraw_model.checkpoint import Checkpoint, save_checkpoint
from srraw_model.network import make_network
from srraw_tools import shards
from srraw_tools.raw import render_srgb, to_uint8
from srraw_tools.shards import Pair, PairData

# Tensors are small here: a second thread gains little, and loses much where other work shares the cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start

BLACK, WHITE = 512, 16383
WB = (2.0, 1.0, 1.5)
COLOR_MATRIX = np.array([[1.5, -0.4, -0.1], [-0.2, 1.4, -0.2], [0.0, -0.5, 1.5]])
CFAS = ("RGGB", "GRBG", "GBRG", "BGGR")


def draw_scene(size, seed):
    """A picture (H, W, 3) float32 of discs, lines and text in [0.02, 0.9], with edges everywhere."""
    rng = np.random.default_rng(seed)
    height, width = size
    scene = np.full((height, width, 3), int(rng.integers(40, 150)), np.uint8)
    for number in range(height * width // 2500):
        colour = np.clip(rng.integers(5, 230) + rng.normal(0, 25, 3), 5, 230).tolist()
        x, y = int(rng.integers(width)), int(rng.integers(height))
        if number % 3 == 0:
            cv2.circle(scene, (x, y), int(rng.integers(4, 40)), colour, -1)
        elif number % 3 == 1:
            end = (x + int(rng.integers(-90, 90)), y + int(rng.integers(-90, 90)))
            cv2.line(scene, (x, y), end, colour, int(rng.integers(2, 10)))
        else:
            text = "".join(chr(c) for c in rng.integers(65, 91, 4))
            cv2.putText(scene, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.6, 2.0), colour, 3)
    return scene.astype(np.float32) / 255


def area_mean(picture, factor):
    """Pixels `factor` times as large, each the mean over its area."""
    height, width = (side // factor for side in picture.shape[:2])
    return picture.reshape(height, factor, width, factor, 3).mean(axis=(1, 3), dtype=np.float32)


def mosaic_of(camera_rgb, cfa, noise=0.0, seed=0):
    """Camera RGB (H, W, 3) in [0, 1] as sensor values under a colour filter array."""
    rng = np.random.default_rng(seed)
    light = np.empty(camera_rgb.shape[:2], np.float32)
    for position, colour in enumerate(cfa):
        y, x = divmod(position, 2)
        light[y::2, x::2] = camera_rgb[y::2, x::2, "RGB".index(colour)]
    values = BLACK + (WHITE - BLACK) * (light + rng.normal(0, noise, light.shape))
    return np.clip(np.round(values), 0, WHITE).astype(np.uint16)


def in_cfa_order(cfa, rgb):
    return tuple(float(rgb["RGB".index(colour)]) for colour in cfa)


def demosaiced(mosaic, cfa):
    """Camera RGB (H, W, 3) in [0, 1], by OpenCV."""
    code = {"RGGB": "BG", "GRBG": "GB", "GBRG": "GR", "BGGR": "RG"}[cfa]  # OpenCV names the second row
    rgb = cv2.cvtColor(mosaic, getattr(cv2, f"COLOR_Bayer{code}2RGB"))
    return (rgb.astype(np.float32) - BLACK) / (WHITE - BLACK)


def make_pair(name, *, zoom=4, size=(96, 112), cfa="RGGB", split="train", seed=0, noise=0.002):
    """A pair of one drawn scene, perfectly aligned; `size` is (height, width) in mosaic pixels."""
    fine = 2 * zoom
    balanced = draw_scene((size[0] * fine, size[1] * fine), seed)
    scene = balanced / np.asarray(WB, np.float32)
    low, high = area_mean(scene, fine), area_mean(scene, 2)
    mosaic = mosaic_of(low, cfa, noise, seed)
    valid = np.ones(high.shape[:2], np.uint8)
    valid[:, : 2 * zoom] = 0  # what a warp leaves at the side
    pair = Pair(
        name=name,
        sequence=name[:5],
        split=split,
        zoom=zoom,
        size=size,
        cfa=cfa,
        black_level=(float(BLACK),) * 4,
        white_level=WHITE,
        camera_wb=in_cfa_order(cfa, WB),
        color_matrix=COLOR_MATRIX,
        gain=(0.8, 0.8, 0.8),
        target_space="camera",
        target_cfa="RGGB",
        target_camera_wb=in_cfa_order("RGGB", WB),
        target_color_matrix=COLOR_MATRIX,
        crop=(0, 0, size[1], size[0]),
        low_to_high=np.diag([float(zoom), float(zoom), 1.0]),
        scale_offset=1.0,
    )
    data = PairData(
        raw=mosaic,
        rgb=to_uint8(render_srgb(demosaiced(mosaic, cfa), WB, COLOR_MATRIX)),
        target=np.round(high / 0.8 * 65535).clip(0, 65535).astype(np.uint16),
        valid=valid,
    )
    return pair, data


def write_set(path, *, train=4, val=1, test=1, zoom=4, seed=0, compression="none", **of_pair):
    """An srraw.h5 with so many pairs in each split, over all phases of the colour filter array."""
    with shards.new_shard(path, {"zooms": [zoom], "compression": compression}) as add:
        splits = ["train"] * train + ["val"] * val + ["test"] * test
        for number, split in enumerate(splits):
            name = f"{number + 1:05d}_{zoom}x_00006_00002"
            cfa = CFAS[number % 4]
            add(*make_pair(name, zoom=zoom, cfa=cfa, split=split, seed=seed + number, **of_pair))
    return path


def write_untrained(path, *, zoom=4, label="untrained", seed=0):
    """A checkpoint of a small network with random weights, some in its last layer too."""
    sizes = {"name": "small", "zoom": zoom, "channels": 8, "blocks": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make_network(**sizes)
        torch.nn.init.normal_(network.to_samples.weight, std=0.02)
    weights = network.state_dict()
    save_checkpoint(path, Checkpoint(label, sizes, weights, 0, {}, {}, {}))
    return path
