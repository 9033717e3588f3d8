"""A trained network as an ONNX file, for programs without torch; they render what it puts out themselves."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from srraw_model.baselines import Baseline
from srraw_model.checkpoint import Checkpoint
from srraw_model.variants import EncodedNetwork, PngNetwork
from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.files import replacing

OPSET = 18  # the first that resizes with torch's a = -1/2
LEAST, EXAMPLE = 8, (24, 40)  # side of the input, least and as the exporter sees it
PACKED = "1 x 4 x height/2 x width/2: the mosaic from red on, 2 x 2 pixels to (R, G beside R, G beside B, B)"


def check_onnx(out: Path) -> None:
    """Check all that can be said of an export before the network is there.

    Raises:
        UserError: the name is no ONNX file's, its folder does not exist, or a package is not installed.
    """
    out = Path(out)
    if out.suffix.lower() != ".onnx":
        raise UserError(f"{out} is no ONNX file name.", "Name it with .onnx at the end.", wrong_use=True)
    if not out.parent.is_dir():
        raise UserError(f"The folder {out.parent} does not exist.", "Make it first.", wrong_use=True)
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it and says so less clearly
    except ImportError as error:
        raise UserError(
            "The package onnxscript is not installed, which an ONNX file needs.",
            "Install srraw[onnx].",
            wrong_use=True,
        ) from error


def onnx_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What a network's ONNX file says of itself: zoom, what goes in and comes out, label, steps."""
    return {
        "zoom": str(checkpoint.zoom),
        "label": checkpoint.label,
        "steps": str(checkpoint.step),
        "created_by": f"srraw {__version__}",
        **_conventions(checkpoint.make_network()),
    }


def export_onnx(checkpoint: Checkpoint, out: Path) -> dict[str, str]:
    """Write a network as ONNX: one input, `input`, and one output, `output`, of any height and width.

    Our raw networks take a packed mosaic, black 0 and white 1, and put out linear camera RGB without white
    balance. Syn-raw takes and puts out white-balanced values on the sRGB curve. A network of pictures takes
    and puts out sRGB in [0, 1]; Ours-png needs even sides.

    Returns:
        What the file says of itself in its metadata: `onnx_metadata`.

    Raises:
        UserError: as `check_onnx`, or the file cannot be written.
    """
    out = Path(out)
    check_onnx(out)
    says = onnx_metadata(checkpoint)
    network = checkpoint.make_network()
    body = network.body if isinstance(network, EncodedNetwork) else network
    channels, unit = (
        (3 if isinstance(network, Baseline) else 4),
        (2 if isinstance(network, PngNetwork) else 1),
    )
    sides = [unit * torch.export.Dim(name, min=LEAST, max=1 << 15) for name in ("rows", "columns")]
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)  # that torchvision is missing is no news
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            program = torch.onnx.export(
                body,
                (_example(channels),),
                dynamo=True,
                dynamic_shapes=({2: sides[0], 3: sides[1]},),
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
            program.model.metadata_props.update(says)
            with replacing(out) as temporary:
                program.save(temporary)
    finally:
        logger.setLevel(before)
    return says


def _conventions(network: nn.Module) -> dict[str, str]:
    """What goes into a network and comes out."""
    if isinstance(network, Baseline):
        even = ", sides even" if isinstance(network, PngNetwork) else ""
        picture = "sRGB in [0, 1], red first"
        return {
            "input": f"1 x 3 x height x width: {picture}{even}",
            "output": picture,
            "white_balance": "applied before",
        }
    if isinstance(network, EncodedNetwork):
        encoded = "white-balanced, clipped to [0, 1], on the sRGB curve"
        return {
            "input": f"{PACKED}; {encoded}",
            "output": f"RGB, {encoded}",
            "white_balance": "needed before",
        }
    return {
        "input": f"{PACKED}; linear, black 0, white 1",
        "output": "linear camera RGB, black 0, white 1",
        "white_balance": "needed after",
    }


def _example(channels: int) -> torch.Tensor:
    return torch.rand(1, channels, *EXAMPLE, generator=torch.Generator().manual_seed(0))
