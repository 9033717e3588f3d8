"""How a run is doing on pairs that it does not learn from: PSNR of fixed crops, and strips to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from srraw_model.baselines import Baseline
from srraw_model.dataset import Crops, Sample
from srraw_model.losses import render_srgb
from srraw_model.metrics import psnr
from srraw_model.pictures import (
    Picture,
    bicubic_picture,
    middle_crop,
    output_picture,
    side_by_side,
    target_picture,
)
from srraw_model.ranks import Ranks
from srraw_model.variants import balanced_for
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.raw import to_uint8
from srraw_tools.shards import Pair, PairData

SEED = 0  # of the crops: the same whatever the run's
SAMPLES, SAMPLE_SIDE_PX = 3, 64  # pairs shown, mosaic pixels of each


def validation_crops(path: Path, *, zoom: int, crop: int, network: nn.Module) -> tuple[Crops | None, str]:
    """Crops of the split "val" as the network is given them in use, and which pairs these leave out.

    Where there are none: None, and why.
    """
    source = "png" if isinstance(network, Baseline) else "raw"
    try:
        crops = Crops(path, zoom=zoom, split="val", crop=crop, seed=SEED, source=source)
    except UserError as error:
        return None, f"{error.message.removesuffix('.')}: only the loss is logged."
    return crops, crops.note


@torch.inference_mode()
def validation_psnr(
    network: nn.Module, crops: Crops, count: int, ranks: Ranks, device: torch.device
) -> float:
    """Mean PSNR in dB of the first `count` crops, as evaluation takes it: 8-bit sRGB, valid pixels, as is.

    Args:
        network: as it is used, on `device`. The crops are shared by the ranks, and all get the mean.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for number in range(ranks.rank, count, ranks.count):
        sample = Sample(*(values[None].to(device) for values in crops[number]))
        srgb = _used(network, sample)
        images = ((picture.clamp(0, 1) * 255 + 0.5).floor() / 255 for picture in (srgb, sample.target))
        total += psnr(*images, valid=sample.valid)[0]
    return (ranks.total(total) / count).item()


def write_sample(path: Path, network: nn.Module, data: Path, zoom: int, device: torch.device) -> None:
    """Strips of the first pairs of val, or of train where val is empty: input, bicubic, output, target."""
    import cv2

    strips = []
    with shards.open(data) as reader:
        pairs = reader.select(zoom=zoom, split="val") or reader.select(zoom=zoom, split="train")
        for pair in pairs[:SAMPLES]:
            read = reader.read(pair, middle_crop(pair, SAMPLE_SIDE_PX))
            shown = read.rgb.repeat(zoom, axis=0).repeat(zoom, axis=1)
            output = _output(network, pair, read, device)
            strips.append(
                side_by_side([shown, bicubic_picture(pair, read), output, target_picture(pair, read)])
            )
    width = max(strip.shape[1] for strip in strips)
    padded = [
        cv2.copyMakeBorder(s, 0, 8, 0, width - s.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)
        for s in strips
    ]
    with replacing(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", cv2.vconcat(padded)[:, :, ::-1])[1])


def _used(network: nn.Module, crop: Sample) -> Tensor:
    """sRGB (1, 3, N c, N c) of a crop (1, ...)."""
    if isinstance(network, Baseline):
        return network(crop.input)
    camera_rgb = balanced_for(network, tuple(crop.camera_wb[0].tolist()))(crop.input)
    return render_srgb(camera_rgb, crop.camera_wb, crop.color_matrix, for_loss=False)


@torch.inference_mode()
def _output(network: nn.Module, pair: Pair, read: PairData, device: torch.device) -> Picture:
    if not isinstance(network, Baseline):
        return output_picture(network, pair, read)
    srgb = torch.from_numpy(read.rgb.transpose(2, 0, 1).astype(np.float32) / 255)
    return to_uint8(network(srgb[None].to(device))[0].permute(1, 2, 0).cpu().numpy())
