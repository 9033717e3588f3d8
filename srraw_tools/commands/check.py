"""`srraw check`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from srraw_tools.commands.options import PATH, finish, json_option, print_json
from srraw_tools.errors import UserError
from srraw_tools.terminal import counted, print_table, with_progress


@click.command("check")
@click.argument("paths", type=PATH, nargs=-1, required=True)
@click.option(
    "--rig", "rig_name", help="Rig whose thresholds count.  [default: the sequence's own, or the paper's]"
)
@json_option
def check(paths: tuple[Path, ...], rig_name: str | None, as_json: bool) -> None:
    """Check sequences that were shot before, at or below PATHS: files, settings, and how the pictures agree.

    Ends with status 1 if anything is found.

    Example: srraw check sequences
    """
    from srraw_tools.inspection import check_sequence
    from srraw_tools.rig import find_rig
    from srraw_tools.sequence import find_sequences

    rig = find_rig(rig_name) if rig_name else None
    folders = find_sequences(paths)
    rows: list[tuple[str, ...]] = []
    failures, blamed = [], 0
    for folder in with_progress(folders, len(folders), "Checking", unit="sequences", quiet=as_json):
        try:
            sequence, findings = check_sequence(folder, rig)
        except UserError as error:
            failures.append(f"{folder}: {error}")
            continue
        blamed += bool(findings)
        if as_json:
            print_json({"sequence": str(folder), "findings": [asdict(finding) for finding in findings]})
        rows += [(f"{sequence.name} {f.shot or ''}", f"{f.what}; {f.remedy}") for f in findings]
    if not as_json:
        if rows:
            print_table(("shot", "what is wrong; what to do"), rows)
        click.echo(f"{counted(len(folders), 'sequence')}, {blamed} with findings.")
    finish(failures)
    if blamed:
        raise SystemExit(1)
