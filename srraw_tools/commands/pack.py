"""`srraw pack`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from srraw_tools.commands.options import (
    PATH,
    Size,
    dry_run_option,
    finish,
    jobs_option,
    json_option,
    overwrite_option,
    print_json,
    quiet_option,
    report,
    scheduler_option,
    zooms_option,
)
from srraw_tools.errors import UserError
from srraw_tools.terminal import counted, print_table, size, with_progress

if TYPE_CHECKING:
    from srraw_tools.pack import PackedPair

SPLITS = ("train", "val", "test")


@click.command("pack")
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--out", type=PATH, default=Path("srraw.h5"), show_default=True, help="The file to write.")
@zooms_option
@click.option("--split", default="80:10:10", show_default=True, help="Shares of train, val and test.")
@click.option("--split-file", type=PATH, help="CSV of sequence,split that decides instead.")
@click.option(
    "--target",
    type=click.Choice(["camera", "srgb"]),
    default="camera",
    show_default=True,
    help="Targets in 16-bit linear camera RGB, or in 8-bit sRGB as in the paper.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "bitshuffle"]),
    default="none",
    show_default=True,
    help="gzip is small and slow; bitshuffle needs the extra srraw[compression].",
)
@click.option(
    "--shard-size",
    type=Size(),
    default=4_000_000_000,
    show_default="4GB",
    help="A set that is larger lies in several files beside the one named.",
)
@click.option("--alignments", type=PATH, help="Where 'srraw align --out' wrote, if not into the sequences.")
@overwrite_option
@jobs_option
@scheduler_option
@dry_run_option
@json_option
@quiet_option
def pack(
    paths: tuple[Path, ...],
    out: Path,
    zooms: tuple[int, ...],
    split: str,
    split_file: Path | None,
    target: str,
    compression: str,
    shard_size: int,
    alignments: Path | None,
    overwrite: bool,
    jobs: int,
    scheduler: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pack the aligned pairs of the sequences below PATHS (sequences/ by default) into an HDF5 file.

    Pairs that the file holds already stay as they are; new ones are added as a further shard. A run that was
    killed goes on by the same command.

    Example: srraw pack --out srraw.h5 --zoom 4 --jobs 8
    """
    from srraw_tools.pack import pack_sequences, plan_packing
    from srraw_tools.sequence import find_sequences

    folders = find_sequences(paths or (Path("sequences"),))
    options = {
        "zooms": zooms,
        "split": _shares(split),
        "split_file": split_file,
        "alignments": alignments,
    }
    plan = plan_packing(folders, **options)
    if dry_run:
        for record in plan:
            if as_json:
                print_json(asdict(record))
                continue
            click.echo(f"{record.name}: {record.split}" + (f", {record.reason}" if record.reason else ""))
        return
    records = pack_sequences(
        folders,
        out=out,
        target=target,
        compression=compression,
        shard_size=shard_size,
        overwrite=overwrite,
        jobs=jobs,
        scheduler=scheduler,
        **options,
    )
    done = []
    try:
        how = {"unit": "pairs", "quiet": quiet or as_json, "bytes_of": lambda record: record.bytes}
        for record in with_progress(records, len(plan), "Packing", **how):
            done.append(record)
            if as_json:
                print_json(asdict(record))
    except UserError:
        report([f"{record.name}: {record.reason}" for record in done if record.status == "failed"])
        raise
    if not as_json and not quiet:
        _print_packed(done, out)
    finish([f"{record.name}: {record.reason}" for record in done if record.status == "failed"])


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(
            f"'{text}' is no split.", "Give three shares such as 80:10:10.", wrong_use=True
        ) from error


def _print_packed(records: list[PackedPair], out: Path) -> None:
    kept = [record for record in records if record.status in ("packed", "present")]
    zooms = sorted({record.zoom for record in kept})
    print_table(
        ("zoom", ">train", ">val", ">test"),
        [
            (
                f"{z}X",
                *(str(sum((r.zoom, r.split) == (z, s) for r in kept)) for s in ("train", "val", "test")),
            )
            for z in zooms
        ],
    )
    packed = [record.bytes for record in records if record.status == "packed"]
    told = f" {size(sum(packed))} were added." if packed else ""
    click.echo(
        f"{out}: {counted(len(packed), 'pair')} packed, {len(kept) - len(packed)} were there before.{told}"
    )
    left_out = [f"{record.name}: {record.reason}" for record in records if record.status == "left out"]
    for warning in [*left_out, *sorted({note for record in records for note in record.notes})]:
        click.echo(f"Warning: {warning}.", err=True)
    for name in SPLITS:
        if not any(record.split == name for record in kept):
            click.echo(
                f"Warning: no sequence fell into the split '{name}'; decide yourself with --split-file.",
                err=True,
            )
