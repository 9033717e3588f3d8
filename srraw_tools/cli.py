"""`srraw`: one short command per verb. Parses, calls the stage, prints; imports the heavy parts late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from srraw_tools import __version__

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there already.")
FOLDER = click.Path(path_type=Path)


class NumberList(click.ParamType):
    """A comma-separated list of positive numbers, such as 24,35,50."""

    name = "N,N,..."

    def __init__(self, number: type = float) -> None:
        self.number = number

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.number(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not a list of numbers such as 4,8.", param, ctx)
        if not all(0 < number < float("inf") for number in numbers):
            self.fail(f"'{value}' holds a number that is not positive.", param, ctx)
        return numbers


def print_json(value: Any) -> None:
    """Print a record as JSON on one line, so that a stream of records can be read line by line."""
    click.echo(json.dumps(value, allow_nan=False))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="srraw")
def main() -> None:
    """Make real zoom data with your camera: capture, align, pack."""
