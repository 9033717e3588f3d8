"""`srraw verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from srraw_tools.commands.options import PATH, finish, json_option, print_json, quiet_option
from srraw_tools.terminal import counted, size, with_progress

SHOWN = 20  # damages of one pair


@click.command("verify")
@click.argument("path", type=PATH)
@json_option
@quiet_option
def verify(path: Path, as_json: bool, quiet: bool) -> None:
    """Read all of PATH, an srraw.h5, and name every shard, pair and chunk that is not what was written.

    Ends with status 1 if anything is damaged or missing. What is whole stays usable.

    Example: srraw verify srraw.h5
    """
    from srraw_tools.verify import verify_pairs

    wrong, count, pairs = verify_pairs(path)
    how = {"unit": "pairs", "quiet": quiet or as_json, "bytes_of": lambda pair: pair.bytes}
    read = damaged = 0
    for pair in with_progress(pairs, count, "Reading", **how):
        read += pair.bytes
        damaged += bool(pair.damages)
        wrong += pair.damages[:SHOWN]
        if len(pair.damages) > SHOWN:
            wrong.append(f"{pair.name}: {len(pair.damages) - SHOWN} more chunks are damaged.")
        if as_json:
            print_json(asdict(pair))
    if not as_json and not quiet:
        found = f"{damaged} of them damaged" if damaged else "all as they were written"
        click.echo(f"{path}: {counted(count, 'pair')}, {size(read)} read, {found}.")
    finish(wrong)
