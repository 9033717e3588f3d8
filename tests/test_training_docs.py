"""docs/training.md: its commands are accepted as written, and its table is that of the presets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from synthetic import make_pair

from srraw_model import cli, features
from srraw_model.noise_models import NOISE_FORMAT
from srraw_model.options import DECIDING, PRESETS, new_options
from srraw_model.train import prepare_training, train
from srraw_tools import shards
from srraw_tools.files import sha256_of, write_json

PAGE = (Path(__file__).parents[1] / "docs/training.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("srraw-train ", "torchrun "))
]
VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


def preset_table():
    """Markdown of the options that are not the same in all presets."""
    presets = {name: new_options({"preset": name}) for name in PRESETS}
    rows = [f"| | {' | '.join(presets)} |", "|---" * (1 + len(presets)) + "|"]
    for name in DECIDING[1:]:
        values = [getattr(options, name) for options in presets.values()]
        if any(value != values[0] for value in values):
            rows.append(f"| `--{name.replace('_', '-')}` | {' | '.join(map(shown, values))} |")
    return "\n".join(rows) + "\n"


def shown(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def test_the_table_is_that_of_the_presets():
    (table,) = re.findall(r"<!-- made by .* -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert table == preset_table()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with all files that the page names."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("srraw.h5", "other.h5"):
        with shards.new_shard(folder / name, {"zooms": [4, 8], "compression": "none"}) as add:
            for zoom in (4, 8):
                add(*make_pair(f"00001_{zoom}x_00006_00002", zoom=zoom, size=(72, 80)))
    weights, before = {}, 3
    widths = [64, 64, 128, 128, *[256] * 4, *[512] * 8]
    for number, width in zip(VGG19_CONVOLUTIONS, widths, strict=True):
        weights[f"features.{number}.weight"] = torch.zeros(width, before, 3, 3)
        weights[f"features.{number}.bias"] = torch.zeros(width)
        before = width
    torch.save(weights, folder / "vgg19.pth")
    noise = {"camera": None, "iso": None, "a": [1.0] * 3, "b": [1.0] * 3}
    write_json(folder / "noise.json", {"format": NOISE_FORMAT, "models": [noise]})
    small = {"preset": "demo", "channels": 8, "blocks": 1, "crop": 16, "batch": 1, "l1_steps": 1}
    steps = train(prepare_training(folder / "srraw.h5", out=folder / "run", steps=2, device="cpu", **small))
    next(steps)
    steps.close()
    return folder


def test_the_page_has_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_accepted(files, monkeypatch, command):
    """All is looked at and nothing trained: --dry-run; --overwrite, since the page's `run` is there."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("TORCH_HOME", str(files / "cache"))
    public = files / f"vgg19-{sha256_of(files / 'vgg19.pth')[:8]}.pth"
    if not public.exists():
        public.symlink_to(files / "vgg19.pth")
    monkeypatch.setattr(features, "VGG19_URL", public.as_uri())
    command, _, into = command.partition(" > ")
    arguments = shlex.split(
        command.split("srraw_model.train " if "torchrun" in command else "srraw-train ")[1]
    )
    if "--resume" not in command and "--print-config" not in command:
        arguments.append("--overwrite")
    result = CliRunner().invoke(cli.train, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    if into:
        Path(into).write_text(result.output, encoding="utf-8")
