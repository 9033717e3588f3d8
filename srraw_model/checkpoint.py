"""A trained network in a file: weights, what they were trained on and how, and what it takes to go on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from srraw_model.variants import for_use, make_trained
from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.files import replacing

FORMAT = "srraw-model"
FORMAT_VERSION = 2
REMEDY = "Give the model.pt that srraw-train wrote."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors and plain values only.

    Attributes:
        label: name in tables, with the loss, such as "Ours: L1, then CoBi_RGB".
        network: name, zoom, variant and sizes, as `make_trained` takes them.
        weights: the network's, by name, as they are to be used: where their running mean is kept, that.
        step: training steps done.
        options: of the training run.
        trained_on: the file's name, the pairs' number and their hash.
        state: what else it takes to go on from `step`: the optimiser's state, the weights of the last step
            where they are others than `weights`, and a discriminator with its optimiser. The crops, and all
            noise in them, follow from the seed and the step, and nothing else is random.
        created_by: the version of srraw that wrote the file.
    """

    label: str
    network: dict[str, Any]
    weights: dict[str, Tensor]
    step: int
    options: dict[str, Any]
    trained_on: dict[str, Any]
    state: dict[str, Any]
    created_by: str = f"srraw {__version__}"

    @property
    def zoom(self) -> int:
        """N: the output has N times the mosaic's sampling."""
        return self.network["zoom"]

    def make_network(self) -> nn.Module:
        """The trained network, for evaluation, on the CPU: a raw network, as in `network`, or a Baseline."""
        with torch.random.fork_rng(devices=[]):  # the weights drawn first are of no use
            network = make_trained(**self.network)
        network.load_state_dict(self.weights)
        return for_use(network, self.network).eval().requires_grad_(False)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole, or leave the old one.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as temporary:
        try:
            torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **vars(checkpoint)}, temporary)
        except RuntimeError as error:  # torch's own word for a full disk
            raise UserError(
                f"Cannot write {path}: {str(error).splitlines()[0]}.", "Free some space; then --resume."
            ) from error


def load_checkpoint(path: Path, *, zoom: int | None = None) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Args:
        zoom: the zoom that is needed, if one is.

    Raises:
        UserError: the file is missing or cannot be opened, is not ours, damaged, of another version or of
            another zoom.
    """
    path = Path(path)
    try:
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(
                f"{path} {problem}; a checkpoint is needed.", "Train one with srraw-train.", wrong_use=True
            )
        with open(path, "rb") as file:
            contents = _contents(file, path)
    except OSError as error:  # of opening alone: torch's own mean damage
        raise UserError(
            f"Cannot read {path}: {error.strerror}.", "Allow reading it, or give another."
        ) from error
    if not isinstance(contents, dict) or contents.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not a checkpoint of srraw.", REMEDY)
    version = contents.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has checkpoint version {version}; srraw {__version__} reads version {FORMAT_VERSION}.",
            "Use the srraw that wrote it.",
        )
    try:
        checkpoint = Checkpoint(**contents)
        checkpoint.make_network()
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: its parts do not fit together.", REMEDY) from error
    if not all(torch.isfinite(values).all() for values in checkpoint.weights.values()):
        raise UserError(f"{path} is damaged: it holds values that are not finite.", REMEDY)
    if zoom not in (None, checkpoint.zoom):
        raise UserError(
            f"{path} was trained for {checkpoint.zoom}X, not for {zoom}X.",
            f"Give --zoom {checkpoint.zoom}, or a checkpoint of {zoom}X.",
            wrong_use=True,
        )
    return checkpoint


def _contents(file: BinaryIO, path: Path) -> Any:
    """What torch reads of a file, which is a zip, where its checksums hold: torch itself passes them over."""
    try:
        with zipfile.ZipFile(file) as archive:
            torn = archive.testzip()
        if torn is None:
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign or truncated file can fail anywhere in both readers
        raise UserError(f"{path} is not a checkpoint of srraw, or is damaged.", REMEDY) from error
    raise UserError(
        f"{path} is damaged: its bytes are not those that were written.", "Copy it again, or train again."
    )
