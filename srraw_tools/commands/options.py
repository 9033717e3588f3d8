"""What several commands share: options, types, the end of a batch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there already.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes to work in."
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Work on a Dask cluster that shares these folders, such as tcp://host:8786 (srraw[cluster]).",
)


def models_option(told: str) -> Callable[..., Any]:
    """--models as a tuple of names; a file whose own name has a comma is one."""

    def names(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
        given = ([value] if os.path.exists(value) else value.split(",") for value in values if value)
        return tuple(name for some in given for name in some)

    return click.option("--models", multiple=True, callback=names, metavar="MODEL,...", help=told)


class AnyPath(click.Path):
    """A path that can be asked about, whether there is something or not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        try:
            os.stat(path)
            str(path).encode()
        except (FileNotFoundError, NotADirectoryError):
            pass  # the command says what it needs
        except OSError as error:
            self.fail(f"'{path}' cannot be looked at: {error.strerror}.", param, ctx)
        except UnicodeEncodeError:
            self.fail(f"the name of {str(path)!r} is not UTF-8; rename it.", param, ctx)
        return path


PATH = AnyPath(path_type=Path)


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
            self.fail(f"'{value}' holds a number that is not positive, or not finite.", param, ctx)
        return numbers


class Size(click.ParamType):
    """A number of bytes, such as 4GB, 500MB or 4GiB."""

    name = "SIZE"
    UNITS: ClassVar = {"": 1, **{p + "b": 1000**n for n, p in enumerate(("", "k", "m", "g", "t"))}}
    UNITS |= {p + "ib": 1024**n for n, p in enumerate(("k", "m", "g", "t"), 1)}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", str(value).lower())
        if found is None or found[2] not in self.UNITS:
            self.fail(f"'{value}' is no size such as 4GB.", param, ctx)
        return round(float(found[1]) * self.UNITS[found[2]])


def print_json(value: Any) -> None:
    """Print a record as JSON on one line, so that a stream of records can be read line by line."""
    click.echo(json.dumps(value, allow_nan=False))


zooms_option = click.option(
    "--zoom", "zooms", type=NumberList(int), default=(4, 8), show_default="4,8", help="Target zooms: 2, 4, 8."
)


def report(failures: Iterable[str]) -> None:
    """List what failed in a batch."""
    for failure in failures:
        click.echo(f"Failed: {failure}", err=True)


def finish(failures: list[str], *, wrong_use: bool = False) -> None:
    """End a batch: all failures at once, and exit status 1 if there was one, 2 if all were wrong use."""
    report(failures)
    if failures:
        raise SystemExit(2 if wrong_use else 1)
