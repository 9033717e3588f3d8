"""Every command in the documentation: run as it stands where that can be, else accepted by its program.

The `sh` and `python` blocks of a page are run in order, in one shell, in a folder that is empty at first.
CONTRIBUTING.md tells the comments by which a page says what has to be there, what is made smaller for the
test, and what is not run.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from documents import PAGES, ROOT, blocks_of, name_of, prose_of

from srraw_model.noise_models import NOISE_FORMAT
from srraw_tools.files import write_json
from srraw_tools.rig import with_distortion

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = {
    name_of(page): [b for b in blocks_of(page) if b.language in ("sh", "python") and b.not_run is None]
    for page in PAGES
}
NOT_RUN = [block for block in BLOCKS if block.language == "sh" and block.not_run is not None]
# Programs of others that the pages name, and may not be here.
OTHERS = {"pip", "git", "gphoto2", "tensorboard", "dask", ".", "cd", "ls", "cat", "mkdir", "export"}
LIMIT_S = 300


PROGRAMS = runpy.run_path(str(ROOT / "docs/make_commands.py"))["PROGRAMS"]
OF_OTHERS = {"--auto-detect", "--list-config", "--nthreads"}  # options of libgphoto2's and Dask's programs


def options_of(command: click.Command) -> set[str]:
    """The options of a command, without those below it."""
    options = {option for p in command.params for option in [*p.opts, *p.secondary_opts]}
    return options | {"--help", "-h"}


def all_options(command: click.Command) -> set[str]:
    """The options of a command and of those below it."""
    return options_of(command).union(*map(all_options, getattr(command, "commands", {}).values()))


OPTIONS = set().union(*map(all_options, PROGRAMS.values()))


@pytest.fixture(scope="session")
def prepared(simulated, tmp_path_factory) -> Path:
    """A folder with what `with: NAME` may name.

    sequences, aligned; srraw.h5 of them; photo.dng; mine.toml, a rig; run, of a training; ours.pt, syn.pt;
    vgg19.pth; noise.json; out/ours, out/esrgan and in, pictures of two methods and of their inputs.

    The sequences are 00001, 00002 and 00008, whose names fall into train, train and test.
    """
    import torch
    from test_features import torchvision_vgg19

    from srraw_model.train import prepare_training, train
    from srraw_tools.align import align_sequence
    from srraw_tools.pack import pack_sequences

    folder = tmp_path_factory.mktemp("prepared")
    for name in ("00001", "00002"):
        shutil.copytree(simulated / name, folder / "sequences" / name)
        align_sequence(folder / "sequences" / name)
    shutil.copytree(folder / "sequences/00002", folder / "sequences/00008")
    rig = (ROOT / "capture_rigs/sony-fe-24-240.toml").read_text(encoding="utf-8")
    (folder / "mine.toml").write_text(with_distortion(rig, ((24.0, 1e-4, 0.0), (240.0, 0.0, 0.0))))
    list(pack_sequences(sorted((folder / "sequences").iterdir()), out=folder / "srraw.h5"))
    shutil.copy(folder / "sequences/00001/00006.dng", folder / "photo.dng")
    small = {"preset": "demo", "channels": 8, "blocks": 1, "crop": 16, "batch": 1, "l1_steps": 1}
    list(train(prepare_training(folder / "srraw.h5", out=folder / "run", steps=2, device="cpu", **small)))
    torch.save(torchvision_vgg19(), folder / "vgg19.pth")
    noise = {"camera": None, "iso": None, "a": [1.0] * 3, "b": [1.0] * 3}
    write_json(folder / "noise.json", {"format": NOISE_FORMAT, "models": [noise]})
    for name in ("ours.pt", "syn.pt"):
        shutil.copy(folder / "run/model.pt", folder / name)
    for place, side in (("out/ours", 64), ("out/esrgan", 64), ("in", 16)):
        (folder / place).mkdir(parents=True)
        for scene in range(2):
            pixels = np.random.default_rng(scene).integers(0, 256, (side, side, 3), np.uint8)
            cv2.imwrite(str(folder / place / f"{scene}.png"), pixels)
    return folder


def script_of(blocks, prepared: Path) -> str:
    """The blocks of a page as one bash script."""
    lines = ["set -veo pipefail"]
    for block in blocks:
        lines.append(f"echo '== {block.page}, line {block.line}' >&2")
        for name in block.needs:
            assert (prepared / name).exists(), f"{block.page}: nothing prepared is called {name}"
            lines.append(f"[ -e {name} ] || cp -r {shlex.quote(str(prepared / name))} {name}")
        programs = {command[0] for command, _ in block.added}
        for program in programs:
            lines.append(f'{program}() {{ case "{program} $* " in')
            for command, options in block.added:
                if command[0] == program:
                    lines.append(f'"{" ".join(command)} "*) command {program} "$@" {shlex.join(options)} ;;')
            lines.append(f'*) command {program} "$@" ;; esac; }}')
        if block.language == "python":
            lines.append(f"python - <<'END OF BLOCK'\n{block.text}END OF BLOCK")
        elif block.status:
            lines.append(f"set +e\n{block.text}[ $? -eq {block.status} ] || exit\nset -e")
        else:
            lines.append(block.text)
        lines += [f"unset -f {program}" for program in programs]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", [name for name, blocks in RUN.items() if blocks])
def test_the_commands_of_a_page_run(page, prepared, tmp_path):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    folder = tmp_path / "page"
    folder.mkdir()
    done = subprocess.run(
        ["bash"],
        input=script_of(RUN[page], prepared),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def commands_in(text: str) -> list[list[str]]:
    """The commands of a shell block, word by word: what stands between ; | & > and ends of lines."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                if command and "=" not in command[0]:
                    found.append(command)
                command = ["to-file"] if word in (">", ">>", "<") else []
            else:
                command.append(word)
    return [command for command in found if command[0] != "to-file"]


def resolved(words: list[str]) -> tuple[click.Command, str, list[str]]:
    """One of our commands, its name, and the words that are left for it."""
    program, *rest = words
    command, name = PROGRAMS[program], program
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{name} has no command {rest[0]}"
        name, command = f"{name} {rest[0]}", command.commands[rest[0]]
        rest = rest[1:]
    return command, name, rest


def check_accepted(words: list[str]) -> None:
    """Fails where a program would refuse these words, as far as can be told without running it."""
    program, *rest = words
    if program == "torchrun":
        check_accepted(["srraw-train", *rest[rest.index("srraw_model.train") + 1 :]])
    elif program in PROGRAMS:
        command, name, rest = resolved(words)
        try:
            command.make_context(name, rest)
        except click.exceptions.Exit:  # --help, --version
            pass
        except click.ClickException as error:
            pytest.fail(f"{shlex.join(words)}: {error.format_message()}")
    elif Path(program).name in ("python", "python3", "pytest", "ruff"):
        check_python(rest)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets), f"{shlex.join(words)}: the Makefile has no such target"
    elif program == "bash":
        assert (ROOT / rest[0]).is_file(), f"{rest[0]} does not exist"
    else:
        assert program in OTHERS, f"{program}: neither one of ours nor among OTHERS"


def check_python(rest: list[str]) -> None:
    """A script of ours exists, and every option given to it stands in its source."""
    for place, word in enumerate(rest):
        if word.endswith(".py"):
            script = ROOT / word
            assert script.is_file(), f"{word} does not exist"
            source = script.read_text(encoding="utf-8")
            for option in rest[place + 1 :]:
                if option.startswith("--"):
                    assert f'"{option.partition("=")[0]}"' in source, f"{word} has no option {option}"
            return


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: f"{block.page}:{block.line}")
def test_a_command_that_is_not_run_would_be_accepted(block):
    commands = commands_in(block.text)
    assert commands
    for words in commands:
        check_accepted(words)


def test_commands_stand_in_fenced_blocks_where_they_are_found():
    begun = re.compile(
        rf"^(?: {{4,}}|\t)\$? ?(?:{'|'.join(PROGRAMS)}|pip|make|python|torchrun) ", re.MULTILINE
    )
    for page in PAGES:
        found = begun.search(prose_of(page))
        assert found is None, f"{name_of(page)}: {found[0]!r} is not in a fenced block marked sh"
    for block in BLOCKS:
        if block.language in ("", "bash", "shell", "console"):
            assert not re.search(rf"^\$? ?(?:{'|'.join(PROGRAMS)}) ", block.text, re.MULTILINE), (
                f"{block.page}, line {block.line}: mark it sh"
            )


def check_options(words: list[str], where: str) -> None:
    """Fails where a command, or one of the options given to it, does not exist."""
    command, name, rest = resolved(words)
    for word in rest:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in options_of(command), f"{where}: {name} has no option {word}"


def test_the_demo_uses_commands_and_options_that_exist():
    script = (ROOT / "docs/demo.sh").read_text(encoding="utf-8")
    commands = re.findall(r"^\s*run (srraw.*)$", script, re.MULTILINE)
    assert len(commands) >= 7
    for command in commands:
        check_options(shlex.split(command), "docs/demo.sh")


@pytest.mark.parametrize("name", [name_of(page) for page in PAGES])
def test_commands_and_options_in_prose_exist(name):
    for code in re.findall(r"(?<!`)`((?:[^`\n]|\n(?!\n))+)`(?!`)", prose_of(ROOT / name)):
        words = code.split()
        if words[0] in PROGRAMS:
            check_options(words, name)
        elif words[0] == "make" or words[0] == "python":
            check_accepted(words)
        elif re.match(r"--[a-z]", code):
            option = re.match(r"--[\w-]+", code)[0]
            assert option in OPTIONS | OF_OTHERS, f"{name}: no command of ours has {option}"


def help_examples():
    def below(name, command):
        for example in re.findall(r"Example: (.+?)(?:\n\n|\Z)", command.help or "", re.DOTALL):
            yield " ".join(example.split())
        for inner, child in getattr(command, "commands", {}).items():
            yield from below(f"{name} {inner}", child)

    return [example for name, program in PROGRAMS.items() for example in below(name, program)]


@pytest.mark.parametrize("example", help_examples())
def test_the_examples_in_help_are_accepted(example):
    for words in commands_in(example):
        check_accepted(words)
