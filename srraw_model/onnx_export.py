"""A trained network as an ONNX file, for programs without torch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from srraw_model.baselines import Baseline
from srraw_model.checkpoint import load_checkpoint
from srraw_model.variants import EncodedNetwork
from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.files import replacing

SMALLEST, LARGEST = 4, 8192  # sides of an input
TRACED = (24, 32)  # rows and columns of the input that the network is traced with
PACKED = (
    "linear light of a Bayer mosaic, black 0 and white 1, packed from red on: red, green right of red, green "
    "below red, blue; (1, 4, h, w)"
)


def export_onnx(checkpoint: Path, out: Path, *, zoom: int | None = None) -> dict[str, str]:
    """Write the network of a checkpoint as ONNX, for inputs of any height and width.

    A raw network takes `packed` (1, 4, h, w) and gives `camera_rgb` (1, 3, 2Nh, 2Nw), linear and not white-
    balanced; one that has learnt from pictures takes `srgb` (1, 3, h, w) in [0, 1] and gives
    `zoomed_srgb` (1, 3, Nh, Nw).

    Args:
        zoom: what the checkpoint must be for; None takes what it is.

    Returns:
        What the file's metadata tell: of input, output, zoom, label and srraw's version.

    Raises:
        UserError: no such checkpoint, a network that needs each shot's white balance inside, or ONNX missing.
    """
    if not out.parent.is_dir():
        raise UserError(f"The folder {out.parent} does not exist.", "Make it first.", wrong_use=True)
    trained = load_checkpoint(checkpoint, zoom=zoom)
    network = trained.make_network()
    if isinstance(network, EncodedNetwork):
        raise UserError(
            f"{checkpoint} is of the variant syn-raw, which works on each shot's own balance inside.",
            "Export another variant.",
        )
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(
            "ONNX files need the packages onnx and onnxscript.", "pip install 'srraw[onnx]'"
        ) from error
    on_pictures = isinstance(network, Baseline)
    names = ("srgb", "zoomed_srgb") if on_pictures else ("packed", "camera_rgb")
    sides = {2: torch.export.Dim("height", min=SMALLEST, max=LARGEST)}
    sides[3] = torch.export.Dim("width", min=SMALLEST, max=LARGEST)
    example = torch.rand(1, 3 if on_pictures else 4, *TRACED)
    metadata = {
        "software": f"srraw {__version__}",
        "label": trained.label,
        "zoom": str(trained.zoom),
        "input": "sRGB in [0, 1]; (1, 3, h, w)" if on_pictures else PACKED,
        "output": "sRGB" if on_pictures else "linear camera RGB, not white-balanced",
    }
    with replacing(out) as temporary:
        with _in_silence():
            torch.onnx.export(
                network,
                (example,),
                temporary,
                input_names=names[:1],
                output_names=names[1:],
                dynamic_shapes=(sides,),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        onnx.save(model, temporary)
    return metadata


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Without what the exporter says about itself and about torchvision, which is not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
