"""`srraw inspect`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import click

from srraw_tools.commands.options import PATH, json_option, print_json
from srraw_tools.terminal import print_table


@click.command("inspect")
@click.argument("path", type=PATH)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH holds: a raw file, a sequence, an alignment, a truth or an HDF5 file of pairs.

    Example: srraw inspect photo.dng
    """
    from srraw_tools.describe import describe

    description = describe(path)
    if as_json:
        print_json(description)
        return
    rows = description.pop("rows", [])
    for key, value in description.items():
        label = f"{key.replace('_', ' ') + ':':<16} "
        click.echo(textwrap.fill(_plain(value), 80, initial_indent=label, subsequent_indent=" " * len(label)))
    if rows:
        click.echo()
        print_table(list(rows[0]), [[_plain(value) for value in row.values()] for row in rows])


def _plain(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(part) for part in value)
    return str(value)
