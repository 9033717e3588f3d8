"""`srraw import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srraw_tools.commands.options import (
    PATH,
    dry_run_option,
    finish,
    json_option,
    print_json,
    quiet_option,
)
from srraw_tools.terminal import counted, print_table, with_progress

if TYPE_CHECKING:
    from srraw_tools.importing import ImportPlan, PlannedSequence


@click.command("import")
@click.argument("sources", nargs=-1, type=PATH)
@click.option(
    "--out", type=PATH, default=Path("sequences"), show_default=True, help="Folder of the sequences."
)
@click.option("--low", type=PATH, help="Two devices: the folder of the one with the short focal length.")
@click.option("--high", type=PATH, help="Two devices: the folder of the one with the long focal length.")
@click.option(
    "--match",
    type=click.Choice(["name", "time"]),
    default="time",
    show_default=True,
    help="Two devices: what tells which shots belong together.",
)
@click.option(
    "--clock-offset",
    "clock_offset_s",
    type=float,
    metavar="S",
    help="Seconds that the clock of --high is ahead of that of --low.  [default: found in the times]",
)
@click.option(
    "--gap",
    "gap_s",
    type=click.FloatRange(0, 1e9, min_open=True),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds between shots of two sequences.",
)
@dry_run_option
@json_option
@quiet_option
def import_files(
    sources: tuple[Path, ...],
    out: Path,
    low: Path | None,
    high: Path | None,
    match: str,
    clock_offset_s: float | None,
    gap_s: float,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copy the shots below SOURCES into sequences, one folder per scene, by what their EXIF says.

    A sequence ends where a minute passes without a shot, or a focal length comes again. Raw files keep the
    JPEG of the same name. What cannot be placed is named with the reason. Nothing is moved or overwritten,
    and the same again goes on with what was interrupted.

    Example: srraw import /media/card/DCIM --out sequences/

    With two devices: srraw import --low phone/ --high camera/
    """
    from srraw_tools.importing import import_sequences, plan_import

    plan = plan_import(
        sources, out=out, low=low, high=high, match=match, clock_offset_s=clock_offset_s, gap_s=gap_s
    )
    failures = []
    if not dry_run:
        total = sum(len(sequence.sources) for sequence in plan.sequences if sequence.status != "present")
        shots = with_progress(
            import_sequences(plan), total, "Importing", unit="shots", quiet=quiet or as_json
        )
        failures = [f"{shot.sequence}: {shot.problem}" for shot in shots if shot.problem]
    if as_json:
        for sequence in plan.sequences:
            print_json(_record(sequence))
        for path, reason in plan.unplaced:
            print_json({"unplaced": str(path), "reason": reason})
    elif not quiet:
        _print_plan(plan, dry_run)
    finish(failures)


def _record(sequence: PlannedSequence) -> dict[str, Any]:
    return {
        "sequence": sequence.folder.name,
        "path": str(sequence.folder),
        "status": sequence.status,
        "shots": [
            {"source": str(source.path), "focal_mm": source.exif.focal_mm, "camera": source.exif.camera}
            for source in sequence.sources
        ],
    }


def _print_plan(plan: ImportPlan, dry_run: bool) -> None:
    if plan.sequences:
        print_table(
            ("sequence", ">shots", "focal lengths in mm", "first file", "status"),
            [
                (
                    str(sequence.folder),
                    str(len(sequence.sources)),
                    ", ".join(f"{s.exif.focal_mm:.4g}" if s.exif.focal_mm else "?" for s in sequence.sources),
                    sequence.sources[0].path.name,
                    sequence.status,
                )
                for sequence in plan.sequences
            ],
        )
    if plan.clock_offset_s is not None:
        click.echo(f"The clock of --high is taken to be {plan.clock_offset_s:g} s ahead of that of --low.")
    for path, reason in plan.unplaced:
        click.echo(f"Not placed: {path} {reason}.", err=True)
    new = [sequence for sequence in plan.sequences if sequence.status != "present"]
    shots = sum(len(sequence.sources) for sequence in new)
    verb = "to import" if dry_run else "imported"
    there = len(plan.sequences) - len(new)
    click.echo(
        f"{counted(shots, 'shot')} {verb} into {counted(len(new), 'sequence')}; {there} were there before, "
        f"{counted(len(plan.unplaced), 'file')} without a place."
    )
