"""Public weights of the baselines, from their authors' files: one function per network.

Each tells the layout by its names, takes the network's size from the shapes, and refuses a file that does not
fill the network exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from srraw_model.baselines import Baseline, LapSRN, ResNetGenerator, RRDBNet
from srraw_model.features import read_weights
from srraw_tools.errors import UserError

ESRGAN_HINT = "Pass RRDB_ESRGAN_x4.pth of github.com/xinntao/ESRGAN, or another RRDBNet of 4X."
SRGAN_HINT = "Pass a generator in the layout of github.com/leftthomas/SRGAN, such as netG_epoch_4_100.pth."
LAPSRN_HINT = "Pass the authors' LapSRN_x4.mat or LapSRN_x8.mat (github.com/phoenix104104/LapSRN)."

Patterns = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

# Of the older layouts, the names that differ from the newest: pattern and replacement.
OLD_ESRGAN = (
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    (r"model\.3\.", "conv_up1."),
    (r"model\.6\.", "conv_up2."),
    (r"model\.8\.", "conv_hr."),
    (r"model\.10\.", "conv_last."),
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv([12])\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
)


def load_esrgan(path: Path) -> RRDBNet:
    """ESRGAN from any of its three public layouts.

    Returns:
        The network, from sRGB (B, 3, h, w) in [0, 1] to (B, 3, 4 h, 4 w).

    Raises:
        UserError: the file is not one of them.
    """
    weights = _bare(read_weights(path, ESRGAN_HINT, within=("params_ema", "params")))
    renamed = {_renamed(name, OLD_ESRGAN): values for name, values in weights.items()}
    numbers = [int(name.split(".")[1]) for name in renamed if name.startswith("body.")]
    if not numbers or "conv_first.weight" not in renamed or "body.0.rdb1.conv1.weight" not in renamed:
        raise _not_it(path, "an RRDBNet", ESRGAN_HINT)
    channels, growth = renamed["conv_first.weight"].shape[0], renamed["body.0.rdb1.conv1.weight"].shape[0]
    return _filled(
        lambda: RRDBNet(blocks=max(numbers) + 1, channels=channels, growth=growth), renamed, path, ESRGAN_HINT
    )


def load_srgan(path: Path) -> ResNetGenerator:
    """An SRGAN generator in the layout block1 to block8, of any number of blocks, at 2X, 4X or 8X.

    Returns:
        The network, from sRGB (B, 3, h, w) in [0, 1] to (B, 3, N h, N w).

    Raises:
        UserError: the file is not one.
    """
    weights = _bare(read_weights(path, SRGAN_HINT))
    numbers = [int(match[1]) for name in weights if (match := re.match(r"block(\d+)\.conv1\.weight", name))]
    stages = [match[1] for name in weights if (match := re.match(r"block\d+\.(\d+)\.conv\.weight", name))]
    if not numbers or not stages or "block1.0.weight" not in weights:
        raise _not_it(path, "an SRGAN generator", SRGAN_HINT)
    last = max(numbers)  # of the residual blocks; the head stands before them, and two more blocks after
    patterns = (
        (r"block1\.", "head."),
        (rf"block{last + 1}\.", "after_blocks."),
        (rf"block{last + 2}\.(\d+)\.conv\.", lambda m: f"stages.{3 * int(m[1])}."),
        (rf"block{last + 2}\.(\d+)\.prelu\.", lambda m: f"stages.{3 * int(m[1]) + 2}."),
        (rf"block{last + 2}\.\d+\.", "to_rgb."),
        (r"block(\d+)\.", lambda m: f"blocks.{int(m[1]) - 2}."),
    )
    renamed = {_renamed(name, patterns): values for name, values in weights.items()}
    channels = weights["block1.0.weight"].shape[0]
    return _filled(
        lambda: ResNetGenerator(2 ** len(stages), blocks=len(numbers), channels=channels, published=True),
        renamed,
        path,
        SRGAN_HINT,
    )


def load_lapsrn(path: Path) -> LapSRN:
    """LapSRN from the authors' MATLAB file.

    Returns:
        The network, from sRGB (B, 3, h, w) in [0, 1] to (B, 3, N h, N w).

    Raises:
        UserError: the file is not one, or SciPy is not installed.
    """
    parameters = _matlab_parameters(path)
    levels = {int(match[1]) for name in parameters if (match := re.fullmatch(r"level(\d+)_upconv_f", name))}
    depths = [int(match[1]) for name in parameters if (match := re.fullmatch(r"level1_conv(\d+)_f", name))]
    if not levels or not depths or "input_conv_f" not in parameters:
        raise _not_it(path, "LapSRN", LAPSRN_HINT)
    renamed = {}
    for name, values in parameters.items():
        kind = "weight" if name.endswith("_f") else "bias"
        # The authors count levels from the finest.
        place = re.sub(r"^level(\d+)_", lambda m: f"levels.{len(levels) - int(m[1])}.", name[:-2])
        place = re.sub(r"\.conv(\d+)$", lambda m: f".convs.{int(m[1]) - 1}", place)
        place = place.replace("input_conv", "input").replace("residual_conv", "residual")
        renamed[f"{place.replace('img_up', 'image_up')}.{kind}"] = values
    channels = parameters["input_conv_f"].shape[0]
    return _filled(
        lambda: LapSRN(2 ** len(levels), depth=max(depths), channels=channels), renamed, path, LAPSRN_HINT
    )


# By the name that commands take.
LOADERS: dict[str, Callable[[Path], Baseline]] = {
    "esrgan": load_esrgan,
    "lapsrn": load_lapsrn,
    "srgan": load_srgan,
}


def _matlab_parameters(path: Path) -> dict[str, Tensor]:
    """Kernels (out, in, rows, columns), or (in, out, ...) of transposed convolutions, and biases, by name."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            "LapSRN's weights are a MATLAB file, which needs SciPy.", "pip install 'srraw[baselines]'."
        ) from None
    try:
        with open(path, "rb") as file:  # by a name it would also try others
            contents = loadmat(file)
        found = {}
        for parameter in contents["net"]["params"][0, 0].reshape(-1):
            name, values = str(parameter["name"].item()), torch.from_numpy(parameter["value"]).float()
            if name.endswith("_f"):  # (rows, columns, in, out); MATLAB drops trailing ones
                found[name] = values.reshape(*values.shape, *(1,) * (4 - values.ndim)).permute(3, 2, 0, 1)
            else:
                found[name] = values.reshape(-1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", LAPSRN_HINT, wrong_use=True) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder.", LAPSRN_HINT, wrong_use=True) from None
    except Exception as error:  # a foreign or truncated file can fail anywhere in SciPy's reader
        raise _not_it(path, "LapSRN", LAPSRN_HINT) from error
    return found


def _bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that torch's wrappers put before every name."""
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): values for name, values in weights.items()}


def _renamed(name: str, patterns: Patterns) -> str:
    """A name with its beginning replaced by the first pattern that fits."""
    for pattern, replacement in patterns:
        new, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return new
    return name


def _filled(make: Callable[[], Baseline], weights: Mapping[str, Tensor], path: Path, hint: str) -> Baseline:
    try:
        network = make()
        network.load_state_dict(dict(weights), strict=False)
        missing = {
            name for name in network.state_dict() if not name.endswith("num_batches_tracked")
        } - weights.keys()
        surplus = weights.keys() - network.state_dict().keys()
    except (RuntimeError, ValueError) as error:
        raise _not_it(path, type(error).__name__, hint) from error
    if missing or surplus:
        raise UserError(
            f"{path} does not fill {type(network).__name__}: {min(missing | surplus)} is "
            f"{'missing' if missing else 'too much'}.",
            hint,
        )
    if not all(torch.isfinite(values).all() for values in network.state_dict().values()):
        raise UserError(f"{path} is damaged: it holds values that are not finite.", hint)
    return network.eval().requires_grad_(False)


def _not_it(path: Path, what: str, hint: str) -> UserError:
    return UserError(f"{path} is not {what}, or is damaged.", hint)
