"""Write docs/commands.md, the `--help` of every command: python docs/make_commands.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from srraw_model.cli import evaluate, train, zoom
from srraw_model.study.cli import study
from srraw_tools.cli import main

PROGRAMS = {
    "srraw": main,
    "srraw-train": train,
    "srraw-eval": evaluate,
    "srraw-zoom": zoom,
    "srraw-study": study,
}
COLUMNS = 78  # what a terminal of 80 shows
HEAD = """# Commands

What every command says of itself with `--help`. `python docs/make_commands.py` makes this page: change the
command's own words, not these.
"""


def commands() -> Iterator[click.Context]:
    """Every program and command, each followed by those below it."""
    for name, program in PROGRAMS.items():
        yield from _at_and_below(program, name, None)


def _at_and_below(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
    settings = {**command.context_settings, "terminal_width": COLUMNS}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context
    for below, inner in getattr(command, "commands", {}).items():
        yield from _at_and_below(inner, below, context)


def page() -> str:
    """The page as Markdown."""
    sections = [
        f"{'##' if context.parent is None else '###'} {context.command_path}\n\n"
        f"```text\n{context.get_help()}\n```\n"
        for context in commands()
    ]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    (Path(__file__).parent / "commands.md").write_text(page(), encoding="utf-8")
