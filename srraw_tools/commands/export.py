"""`srraw export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from srraw_tools.commands.options import (
    PATH,
    dry_run_option,
    finish,
    jobs_option,
    json_option,
    overwrite_option,
    print_json,
    quiet_option,
)
from srraw_tools.terminal import counted, with_progress


@click.command("export")
@click.argument("path", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["basicsr", "npz", "dng-png"]),
    required=True,
    help="basicsr: paired folders of PNG with a list, for BasicSR and traiNNer-redux. npz: the arrays as "
    "packed. dng-png: mosaics as DNG beside 16-bit PNG.",
)
@click.option("--zoom", type=click.Choice(["2", "4", "8"]), help="Only pairs of this zoom.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Only pairs of this split.")
@overwrite_option
@jobs_option
@dry_run_option
@json_option
@quiet_option
def export(
    path: Path,
    out: Path,
    kind: str,
    zoom: str | None,
    split: str | None,
    overwrite: bool,
    jobs: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the pairs of PATH, an srraw.h5, into the folder OUT, as files that other toolboxes read.

    Example: srraw export srraw.h5 --format basicsr exported/
    """
    from srraw_tools import shards
    from srraw_tools.export import export_pairs

    chosen = {"zoom": zoom and int(zoom), "split": split}
    with shards.open(path) as reader:
        planned = reader.select(**chosen)
        for problem in reader.problems:
            click.echo(f"Warning: {problem}", err=True)
    if dry_run:
        for pair in planned:
            if as_json:
                print_json({"name": pair.name, "zoom": pair.zoom, "split": pair.split})
            else:
                click.echo(f"{pair.name}: {pair.zoom}x/{pair.split}")
        return
    records = export_pairs(path, out, format=kind, overwrite=overwrite, jobs=jobs, **chosen)
    done = []
    for record in with_progress(records, len(planned), "Exporting", unit="pairs", quiet=quiet or as_json):
        done.append(record)
        if as_json:
            print_json(asdict(record))
    for record in done:
        if record.status == "left out":
            click.echo(f"Warning: {record.name}: {record.reason}.", err=True)
    if not as_json and not quiet:
        exported = sum(record.status == "exported" for record in done)
        present = sum(record.status == "present" for record in done)
        click.echo(f"{out}: {counted(exported, 'pair')} exported, {present} were there before.")
        if kind == "basicsr":
            for folder in sorted({(pair.zoom, pair.split) for pair in planned}):
                root = out / f"{folder[0]}x"
                click.echo(f"  dataroot_gt: {root / folder[1] / 'gt'}")
                click.echo(f"  dataroot_lq: {root / folder[1] / 'lq'}")
                click.echo(f"  meta_info_file: {root / f'meta_info_{folder[1]}.txt'}")
    finish([f"{record.name}: {record.reason}" for record in done if record.status == "failed"])
