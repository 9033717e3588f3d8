"""The rules of the house: who imports whom, one style, and defaults that are stated once."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]

COMMANDS = {"cli", "commands"}
STAGES = {"capture", "importing", "align", "pack", "describe", "simulate", "report", "calibration"} | {
    "verify",
    "stats",
    "export",
    "inspection",
    "noise",
    "doctor",
}
# What each module of srraw_tools may import of its own package; nothing looks upwards.
GROUND = {"errors"}
NOUNS = {
    "files",
    "exif",
    "geometry",
    "distortion",
    "raw",
    "isolation",
    "libraw",
    "picture",
    "sequence",
    "alignment",
    "starts",
    "ecc",
    "adjustment",
    "parallax",
    "registration",
    "joint",
    "gain",
    "flow",
    "comparison",
    "pages",
    "shards",
    "pairs",
    "chunks",
    "metadata",
    "new_shards",
    "target",
    "dng",
    "quality",
    "rig",
    "camera",
    "camera_process",
    "new_rig",
    "watched_folder",
    "pair_camera",
    "hook",
    "checks",
    "scene_checks",
    "scene_watch",
    "shot_facts",
    "live_focal",
    "camera_settings",
    "metering",
    "making",
    "keys",
}
AROUND = {"guided_screen", "parallel", "terminal"}  # what commands and stages show, and how they spread work
OF_THE_MODEL = {"ecc", "flow", "shards", "raw", "geometry", "pages", "errors", "files", "terminal", "exif"}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path):
    """Every module that a file names in an import, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_parts(path, package):
    """The modules of `package` that a file imports, by the first name below the package."""
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith(f"{package}.")}
    return {
        name for name in names if (ROOT / package / f"{name}.py").exists() or (ROOT / package / name).is_dir()
    }


def room_of(path, package):
    return path.relative_to(ROOT / package).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules("srraw_tools"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_tools_never_import_torch_or_the_model(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"torch", "torchvision", "srraw_model"}


@pytest.mark.parametrize("path", modules("srraw_tools"), ids=lambda p: str(p.relative_to(ROOT)))
def test_stages_do_not_import_each_other_and_nouns_do_not_look_up(path):
    room, used = room_of(path, "srraw_tools"), own_parts(path, "srraw_tools")
    if room in STAGES:
        assert not used & (STAGES | COMMANDS) - {room}
    if room in NOUNS:
        assert not used & (STAGES | COMMANDS | {"parallel", "terminal"})
    if room in GROUND:
        assert not used


def test_every_module_of_the_tools_has_its_place():
    places = [STAGES, NOUNS, GROUND, COMMANDS, AROUND]
    rooms = {room_of(path, "srraw_tools") for path in modules("srraw_tools")} - {"__init__"}
    assert rooms == set().union(*places)
    assert sum(map(len, places)) == len(rooms)


@pytest.mark.parametrize("package", ["srraw_tools", "srraw_model"])
def test_the_architecture_names_every_module(package):
    told = (ROOT / "docs/architecture.md").read_text()
    inside = told.split(f"{package}/")[1].split("tests/")[0]
    found = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert len(found) > 30
    assert {name for name in found if name not in inside} == set()


@pytest.mark.parametrize("path", modules("srraw_model"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_model_reaches_only_for_the_tools_nouns(path):
    used = own_parts(path, "srraw_tools")
    if path.name == "cli.py":
        assert "srraw_tools.commands.options" in imports_of(path)  # both command lines share their options
        used -= {"commands"}
    assert used <= OF_THE_MODEL


def test_the_command_line_loads_nothing_heavy():
    code = (
        "import sys, srraw_tools.cli, srraw_model.cli\n"
        "print(sorted({'torch', 'cv2', 'numpy', 'h5py', 'rawpy', 'gphoto2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ruff_is_content():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def commands():
    from srraw_model import cli as model
    from srraw_model.study.cli import study
    from srraw_tools.cli import main

    def below(name, command):
        if not isinstance(command, click.Group):
            return {name: command}
        inner = (below(f"{name} {word}", found) for word, found in command.commands.items())
        return {told: found for part in inner for told, found in part.items()}

    own = {"srraw": main, "srraw-study": study, "srraw-train": model.train}
    own |= {"srraw-eval": model.evaluate, "srraw-zoom": model.zoom}
    return {told: found for name, command in own.items() for told, found in below(name, command).items()}


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_itself_and_every_option(name):
    command = commands()[name]
    assert f"Example: {name}" in (command.help or ""), "an example that a user can type"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def stage_functions():
    from srraw_tools.align import align_sequences
    from srraw_tools.importing import plan_import
    from srraw_tools.pack import pack_sequences

    return {"srraw align": align_sequences, "srraw pack": pack_sequences, "srraw import": plan_import}


@pytest.mark.parametrize("name", stage_functions())
def test_the_command_lines_defaults_are_the_functions(name):
    signature = inspect.signature(stage_functions()[name]).parameters
    given = commands()[name].make_context(name, []).params  # what a user gets who gives nothing
    shared = set(signature) & set(given) - {"out", "split"}
    assert len(shared) >= 5
    for parameter in shared:
        assert given[parameter] == signature[parameter].default, parameter
