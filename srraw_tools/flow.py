"""What remains between the aligned shots of a pair: dense flow, and where it can be trusted.

No map of a whole frame follows parallax, distortion or things that moved. Dense inverse search (Kroeger,
Timofte, Dai, Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016) finds what it leaves, pixel
by pixel, at the low shot's sampling, which holds all the detail that both shots show. Nothing here is ever
applied: who wants pixel-wise losses reads it from its file.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.distortion import STRAIGHT, Lenses, warp
from srraw_tools.ecc import Image
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.geometry import Crop, Matrix

CONSISTENT_PX = 0.25  # of the low shot, that there and back again may miss the beginning by
STEP_PX = 1 / 64  # to which flow is rounded in its file: far below its accuracy, and half the bytes
LONGEST_PX = 32.0  # that can be: half-precision numbers resolve STEP_PX up to here
CLIPPED = 0.98  # of white; what is brighter is not compared
BRIGHTEST = 99.0, 240.0  # percentile of the low shot that becomes this grey level of 256


@dataclass(frozen=True)
class Flow:
    """Residual flow of a pair, at the low shot's sampling, over the pair's crop.

    Attributes:
        shift_px: (h, w, 2) float32 (dx, dy) in pixels of the low shot. What the crop's pixel (x, y) shows is
            seen at (x + dx, y + dy) in the long shot as `low_to_high` brings it onto the crop.
        mask: (h, w) bool, where both shots see the same and the flow there leads back again.
        about: what it was made of, as JSON holds it.
    """

    shift_px: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    about: dict[str, Any] = field(default_factory=dict)


def residual_flow(
    low: Image,
    high: Image,
    low_to_high: Matrix,
    grid_to_low: Matrix,
    *,
    gain: float = 1.0,
    lenses: Lenses = STRAIGHT,
) -> Flow:
    """Find the flow from the low shot to the aligned long one, and back.

    Flow forth and back again must end within CONSISTENT_PX of where it began (Sundaram, Brox & Keutzer,
    "Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow", ECCV 2010). What only one
    shot shows, such as what a nearer thing hides, fails that, and so does what came or went. A thing that
    moved and is found again keeps its flow.

    Args:
        low: linear luminance (h, w), float32, black 0 and white 1, of the field where the flow is wanted.
        high: likewise, the full frame (H, W).
        low_to_high: between the two full frames.
        grid_to_low: 3x3 from pixels of `low` to those of the low shot's full frame.
        gain: that brings the high shot to the low shot's exposure.
        lenses: distortions of the two shots.
    """
    aligned, inside = _at_low_sampling(high, low_to_high, lenses, grid_to_low, low.shape)
    seen = (inside > 0) & (low < CLIPPED) & (aligned < CLIPPED)
    percentile, level = BRIGHTEST
    white = max(float(np.percentile(low, percentile)) * (255 / level) ** 2, 1e-6)
    here, there = _grey(low / white), _grey(aligned * (gain / white))
    forth, missed_px = there_and_back(here, there)
    arrives_inside = _sampled(inside, forth) > 0.999
    mask = seen & arrives_inside & (missed_px < CONSISTENT_PX) & (np.abs(forth).max(-1) < LONGEST_PX)
    return Flow(forth, mask)


def there_and_back(
    here: npt.NDArray[np.uint8], there: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Dense flow between two grey pictures (h, w), and by how much that back again misses the beginning.

    Returns:
        (h, w, 2) and (h, w), in pixels: what `here` shows at (x, y), `there` shows at (x + dx, y + dy).
    """
    search = _dense_inverse_search()
    forth = search.calc(here, there, None)
    back = search.calc(there, here, None)
    return forth, np.linalg.norm(forth + _sampled(back, forth), axis=-1)


def flow_name(low: str, high: str) -> str:
    """The name of a pair's flow file, by the names of its shots."""
    return f"flow_{Path(low).stem}_{Path(high).stem}.npz"


def write_flow(path: Path, flow: Flow) -> None:
    """Write a flow file (docs/formats.md), whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    rounded = np.round(np.clip(flow.shift_px, -LONGEST_PX, LONGEST_PX) / STEP_PX) * STEP_PX
    arrays = {
        "flow": np.where(flow.mask[..., None], rounded, 0).astype(np.float16),
        "mask": flow.mask.astype(np.uint8),
        "about": np.array(json.dumps(flow.about, allow_nan=False)),
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_flow(path: Path, crop: Crop) -> Flow:
    """Read a flow file.

    Args:
        crop: of the pair that names the file, which the arrays must fit.

    Raises:
        UserError: the file is missing, damaged or of another pair.
    """
    hint = "Make it again with 'srraw align --flow --overwrite'."
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            shift_px, mask, about = arrays["flow"], arrays["mask"], json.loads(str(arrays["about"]))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.", hint) from error
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}.", hint) from error
    size = (crop[3], crop[2])
    if (shift_px.shape, shift_px.dtype, mask.shape) != ((*size, 2), np.float16, size):
        raise UserError(f"{path} does not fit its pair: it holds {shift_px.shape}, not {(*size, 2)}.", hint)
    return Flow(shift_px.astype(np.float32), mask > 0, about)


def _at_low_sampling(
    high: Image, low_to_high: Matrix, lenses: Lenses, grid_to_low: Matrix, size: tuple[int, ...]
) -> tuple[Image, Image]:
    """The high image averaged over the pixels of a low grid of (height, width); and 1 where it reaches."""
    scale, _ = geometry.scale_and_rotation(low_to_high @ grid_to_low)
    # A low pixel has its aperture (variance 1/12) and the luminance kernel's 1/2; so has a high pixel.
    variance = (1 / 12 + 1 / 2) * (scale**2 - 1)
    blurred = cv2.GaussianBlur(high, (0, 0), float(np.sqrt(variance))) if variance > 0 else high
    aligned = warp(blurred, low_to_high, lenses, size, grid_to_low=grid_to_low, border=cv2.BORDER_REPLICATE)
    inside = warp(np.ones_like(high), low_to_high, lenses, size, grid_to_low=grid_to_low)
    return aligned, (inside > 0.999).astype(np.float32)


def _grey(light: Image) -> npt.NDArray[np.uint8]:
    """Eight bits of the square root of light, white at 1: about as noisy in the shadows as in the lights."""
    return (255 * np.sqrt(np.clip(light, 0, 1)) + 0.5).astype(np.uint8)


def _dense_inverse_search() -> cv2.DISOpticalFlow:
    """DIS to full sampling, with larger patches and more refinement than OpenCV's presets have.

    On photographs with known displacements these halve the error of its medium preset.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    search.setPatchSize(12)
    search.setPatchStride(4)
    search.setVariationalRefinementIterations(10)
    return search


def _sampled(image: Image, flow: Image) -> Image:
    """An image (h, w) or (h, w, C) where the flow (h, w, 2) leads from each pixel."""
    y, x = np.indices(flow.shape[:2], np.float32)
    return cv2.remap(
        image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
