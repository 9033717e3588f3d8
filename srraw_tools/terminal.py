"""What the commands print for people: progress with time left, tables of 80 columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import click

Item = TypeVar("Item")

PLAIN_EVERY_S = 10.0  # between two lines of progress where there is no terminal


def with_progress(
    items: Iterable[Item],
    total: int,
    label: str,
    *,
    unit: str = "",
    quiet: bool = False,
    bytes_of: Callable[[Item], int] | None = None,
) -> Iterator[Item]:
    """Pass the items on, and show on stderr how many of `total` have come and the time left.

    Args:
        bytes_of: also show their sum. Items of 0 bytes took no time, and the time left is not judged by them.
    """
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, total, label, unit, bytes_of)
    else:
        yield from _with_lines(items, total, label, unit, bytes_of)


def size(count: float) -> str:
    """Bytes for people: 512 B, 3.4 MB, 1.2 TB."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {name}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(count: int, one: str) -> str:
    """So many of something for people: 1 pair, 2 pairs."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table on stdout; a column whose name begins with '>' is aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.lstrip(">"), justify="right" if number else "left", overflow="fold", no_wrap=number
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


def _with_bar(
    items: Iterable[Item], total: int, label: str, unit: str, bytes_of: Callable[[Item], int] | None
) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    told = TextColumn(unit + "{task.fields[bytes]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), told)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task, bytes_done = bar.add_task(label, total=total, bytes=""), 0
        for item in items:
            if bytes_of is not None:
                bytes_done += bytes_of(item)
                bar.update(task, bytes=f", {size(bytes_done)}")
            bar.advance(task)
            yield item


def _with_lines(
    items: Iterable[Item], total: int, label: str, unit: str, bytes_of: Callable[[Item], int] | None
) -> Iterator[Item]:
    started = said = time.monotonic()
    quick = bytes_done = 0
    for count, item in enumerate(items, 1):
        now = time.monotonic()
        if bytes_of is not None:
            bytes_done += bytes_of(item)
            quick += bytes_of(item) == 0
        if now - said >= PLAIN_EVERY_S and count < total:
            left = (now - started) / max(1, count - quick) * (total - count)
            told = [f"{label}: {count} of {total} {unit}".rstrip(), f"{duration(left)} left"]
            if bytes_of is not None:
                told.insert(1, size(bytes_done))
            click.echo(", ".join(told), err=True)
            said = now
        yield item
