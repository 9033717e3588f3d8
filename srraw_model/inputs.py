"""What a network is shown in training: the raw mosaic, or what stands in for it.

raw             the low shot's mosaic, linear: Ours
png             the low shot's 8-bit rendering: Ours-png, and baselines on the real pairs (row b)
syn-raw         the target's 8-bit rendering, gamma-encoded as it is, made smaller by areas, as a mosaic
                with Gaussian noise of random variance, after Gharbi et al., "Deep Joint Demosaicking and
                Denoising", SIGGRAPH Asia 2016: Ours-syn-raw
syn-calibrated  a linear mosaic of the target's light, blurred by a lens, with the sensor's own noise, in
                whole sensor values: Ours-syn-calibrated
bicubic         the target's 8-bit rendering, made smaller by bicubic interpolation: baselines as published
                (row a)

Every function here is pure: an array and a random generator in, an array out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from srraw_model.network import downsampled
from srraw_model.packing import pack
from srraw_tools.raw import decode_srgb, mosaic_light, to_uint8
from srraw_tools.shards import Pair

Image = npt.NDArray[np.float32]

# The arrays of a pair that each is made of.
SOURCES = {
    "raw": ("raw", "target"),
    "png": ("rgb", "target"),
    "syn-raw": ("target",),
    "syn-calibrated": ("target",),
    "bicubic": ("target",),
}
SRGB_NOISE = 10 / 255  # greatest deviation of the noise of syn-raw; its variance is drawn evenly below
LENS_BLUR_PX = (0.2, 0.6)  # deviation of a lens's point spread in mosaic pixels, of syn-calibrated
COLOURS = "RGB"


def encoded_mosaic(srgb: Image, zoom: int, rng: np.random.Generator) -> Image:
    """The input of syn-raw.

    Args:
        srgb: (N c, N c, 3), the target in [0, 1]; it is rounded to 8 bits first.

    Returns:
        (4, c/2, c/2), gamma-encoded values in [0, 1], packed from red on.
    """
    small = area_mean(to_uint8(srgb).astype(np.float32) / 255, zoom)
    mosaic = bayer(small)
    deviation = np.sqrt(rng.uniform(0, SRGB_NOISE**2))
    noise = rng.standard_normal(mosaic.shape, np.float32) * np.float32(deviation)
    return pack(np.clip(mosaic + noise, 0, 1))


def calibrated_mosaic(
    srgb: Image, pair: Pair, models: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> Image:
    """The input of syn-calibrated: what the low shot's sensor would have seen of the target's light.

    Rendered with the low shot's balance and matrix, its light is the target's rendering.

    Args:
        srgb: (N c, N c, 3), the target in [0, 1], not rounded.
        models: variances of the sensor's noise, as `read_noise` gives them.

    Returns:
        (4, c/2, c/2), linear light as of a real mosaic, packed from red on.
    """
    import cv2

    to_camera = np.linalg.inv(pair.color_matrix) / np.asarray(pair.rgb_wb)[:, None]
    light = np.clip(decode_srgb(srgb) @ to_camera.T.astype(np.float32), 0, 1)
    sigma = pair.zoom * rng.uniform(*LENS_BLUR_PX)
    light = cv2.GaussianBlur(light, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    light = area_mean(light, pair.zoom)
    model = noise_of(models, pair)
    black = np.array([pair.black_level[pair.cfa.index(colour)] for colour in COLOURS])
    signal = light * (pair.white_level - black)  # sensor values above black
    variance = np.maximum(np.asarray(model["a"]) * signal + np.asarray(model["b"]), 0)
    values = signal + np.sqrt(variance) * rng.standard_normal(signal.shape)
    mosaic = np.clip(np.rint(bayer(values + black)), 0, pair.white_level)
    black_level = tuple(black["RGB".index(colour)] for colour in "RGGB")
    return pack(mosaic_light(mosaic.astype(np.uint16), black_level, pair.white_level))


def bicubic_input(srgb: Image, zoom: int) -> Image:
    """(N c, N c, 3), the target in [0, 1], to (3, c, c): bicubic of its 8 bits, in 8 bits again."""
    planes = torch.from_numpy(to_uint8(srgb).transpose(2, 0, 1).astype(np.float32) / 255)
    small = downsampled(planes[None], zoom)[0].numpy()
    return to_uint8(small).astype(np.float32) / 255


def rendered_input(rgb: npt.NDArray[np.uint8]) -> Image:
    """A low shot's rendering (c, c, 3) uint8 as (3, c, c) sRGB in [0, 1]."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) / 255


def area_mean(image: Image, factor: int) -> Image:
    """(H, W, 3) with pixels `factor` times as large, each the mean over its area."""
    height, width = (side // factor for side in image.shape[:2])
    return image.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))


def bayer(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, 3) RGB under a colour filter array that begins at red: (H, W)."""
    mosaic = image[:, :, 1].copy()
    mosaic[::2, ::2] = image[::2, ::2, 0]
    mosaic[1::2, 1::2] = image[1::2, 1::2, 2]
    return mosaic


def noise_of(models: Sequence[Mapping[str, Any]], pair: Pair) -> Mapping[str, Any]:
    """The model of a pair's camera and ISO; KeyError where there is none."""
    for model in models:
        if (model["camera"], model["iso"]) == (pair.camera, pair.iso):
            return model
    raise KeyError(f"{pair.camera or 'an unknown camera'} at ISO {pair.iso or 'unknown'}")
