"""What the commands print for people: progress with time left, tables of 80 columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import click

Item = TypeVar("Item")

PLAIN_EVERY_S = 10.0  # between two lines of progress where there is no terminal


def with_progress(
    items: Iterable[Item], total: int, label: str, *, unit: str = "", quiet: bool = False
) -> Iterator[Item]:
    """Pass the items on, and show on stderr how many of `total` have come and the time left."""
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, total, label, unit)
    else:
        yield from _with_lines(items, total, label, unit)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table on stdout; a column whose name begins with '>' is aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 80
    Console(width=width, highlight=False, markup=False).print(table)


def duration(seconds: float) -> str:
    """A time span for people: 48 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _with_bar(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            bar.advance(task)
            yield item


def _with_lines(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    started = said = time.monotonic()
    for count, item in enumerate(items, 1):
        now = time.monotonic()
        if now - said >= PLAIN_EVERY_S and count < total:
            left = (now - started) / count * (total - count)
            click.echo(
                f"{label}: {count} of {total} {unit}, {duration(left)} left".replace(" ,", ","), err=True
            )
            said = now
        yield item
