"""`srraw align`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    scheduler_option,
    zooms_option,
)
from srraw_tools.errors import UserError
from srraw_tools.terminal import counted, print_table, with_progress

if TYPE_CHECKING:
    from srraw_tools.align import SequenceAlignment
    from srraw_tools.distortion import LensTable
    from srraw_tools.sequence import Sequence


@click.command("align")
@click.argument("paths", nargs=-1, type=PATH)
@zooms_option
@click.option(
    "--motion",
    default="euclidean",
    show_default=True,
    help="translation, euclidean (with the scale offset), similarity, affine or homography.",
)
@click.option(
    "--max-error",
    "max_error_px",
    type=float,
    default=0.9,
    show_default=True,
    metavar="PX",
    help="Expected error in pixels of the long shot above which a pair is rejected.",
)
@click.option("--nominal-scale", is_flag=True, help="Take the scale from EXIF instead of refining it.")
@click.option(
    "--rig", "rig_name", help="Undo the lens distortion that this rig (a name or a TOML file) tells."
)
@click.option("--flow", is_flag=True, help="Also write the dense flow that remains in a pair, and its mask.")
@click.option(
    "--report",
    "page",
    type=PATH,
    is_flag=False,
    flag_value=Path("alignment.html"),
    metavar="[FILE.html]",
    help="Also write a page with pictures of every pair, alignment.html by default.",
)
@click.option("--out", type=PATH, help="Write <sequence>/alignment.json here, not into the sequences.")
@overwrite_option
@jobs_option
@scheduler_option
@dry_run_option
@json_option
@quiet_option
def align(
    paths: tuple[Path, ...],
    zooms: tuple[int, ...],
    motion: str,
    nominal_scale: bool,
    max_error_px: float,
    rig_name: str | None,
    flow: bool,
    page: Path | None,
    out: Path | None,
    overwrite: bool,
    jobs: int,
    scheduler: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Register the pairs of every sequence below PATHS (sequences/ by default).

    Writes alignment.json into each. A pair that cannot be registered is kept as rejected, with the reason.

    Example: srraw align sequences/ --zoom 4,8 --report
    """
    from srraw_tools.align import align_sequences, check_options
    from srraw_tools.pages import check_page
    from srraw_tools.sequence import find_sequences, read_sequence

    if page is not None:
        check_page(page)
    check_options(zooms, motion, nominal_scale, max_error_px)
    distortions = _distortions_of(rig_name) if rig_name else ()
    folders = find_sequences(paths or (Path("sequences"),))
    if dry_run:
        for folder in folders:
            _print_plan(read_sequence(folder), zooms, as_json)
        return
    results = align_sequences(
        folders,
        zooms=zooms,
        motion=motion,
        nominal_scale=nominal_scale,
        max_error_px=max_error_px,
        distortions=distortions,
        flow=flow,
        out=out,
        overwrite=overwrite,
        jobs=jobs,
        scheduler=scheduler,
    )
    tracked = with_progress(results, len(folders), "Aligning", unit="sequences", quiet=quiet or as_json)
    done, failures, misuses = [], [], 0
    for _, result in tracked:
        if isinstance(result, UserError):
            failures.append(str(result))
            misuses += result.exit_code == 2
            continue
        done.append(result)
        failures += result.failures
        if as_json:
            print_json({"sequence": result.name, "path": str(result.path), **_alignment_record(result)})
    done.sort(key=lambda result: str(result.folder))
    if not as_json and not quiet:
        _print_alignments(done)
    if page is not None:
        where = {"alignments": out, "jobs": jobs, "scheduler": scheduler}
        failures += _write_report(page, [r.folder for r in done], failures, where, quiet=quiet or as_json)
    finish(failures, wrong_use=misuses == len(failures))


def _print_plan(sequence: Sequence, zooms: tuple[int, ...], as_json: bool) -> None:
    """The pairs that would be registered, as far as is known before the images are seen."""
    from srraw_tools.sequence import choose_pairs, foreign_shots

    pairs = [(zoom, *pair) for zoom in zooms for pair in choose_pairs(sequence, zoom)]
    foreign = foreign_shots(sequence)
    unknown = [s.file for s in sequence.shots if s.focal_nominal is None or s.file in foreign]
    if as_json:
        planned = [{"zoom": zoom, "low": low.file, "high": high.file} for zoom, low, high in pairs]
        about = {"sequence": sequence.name, "path": str(sequence.folder)}
        print_json({**about, "pairs": planned, "unknown_zoom": unknown})
        return
    parts = [f"{zoom}X {low.focal_nominal:g}-{high.focal_nominal:g}" for zoom, low, high in pairs]
    if unknown:
        parts.append(f"and those of {', '.join(unknown)}, whose zoom only the images show")
    click.echo(f"{sequence.folder}: {', '.join(parts) or 'no pairs'}")


def _distortions_of(rig_name: str) -> LensTable:
    from srraw_tools.rig import find_rig

    rig = find_rig(rig_name)
    if not rig.distortion:
        raise UserError(
            f"The rig {rig.name} tells no distortion of its lens.",
            f"Find it with 'srraw calibrate lens --rig {rig_name}'.",
            wrong_use=True,
        )
    return rig.distortion


def _write_report(
    page: Path, folders: list[Path], failures: list[str], where: dict[str, Any], *, quiet: bool
) -> list[str]:
    """Write the page of what was aligned; returns what could not be shown."""
    from srraw_tools.report import report_alignments

    reports = report_alignments(folders, out=page, failures=failures, **where)
    unshown = []
    for _, report in with_progress(reports, len(folders), "Picturing", unit="sequences", quiet=quiet):
        if isinstance(report, UserError):
            unshown.append(str(report))
        else:
            unshown += [shown.problem for shown in report.pairs if shown.problem]
    if not quiet:
        click.echo(f"{page}: every pair in pictures.")
    return unshown


def _alignment_record(result: SequenceAlignment) -> dict[str, Any]:
    return {
        "skipped": result.skipped,
        "pairs": [pair.record() for pair in result.pairs],
        "warnings": result.warnings,
        "failures": result.failures,
    }


def _print_alignments(results: list[SequenceAlignment]) -> None:
    """The rejected pairs first; all pairs where they fit a screen or two; then what it comes to."""
    rows = [(result, pair) for result in results for pair in result.pairs]
    rejected = [row for row in rows if row[1].status != "ok"]
    shown = sorted(rows, key=lambda row: row[1].status == "ok") if len(rows) <= 60 else rejected
    if shown:
        print_table(
            ("sequence", ">zoom", "focal lengths", ">offset", ">score", ">error", "status"),
            [
                (
                    result.name,
                    f"{pair.zoom}X",
                    f"{_mm(pair.focal_low)}-{_mm(pair.focal_high)}",
                    f"{pair.scale_offset:.4f}",
                    f"{pair.score:.3f}",
                    "-" if pair.expected_error_px is None else f"{pair.expected_error_px:.3f} px",
                    pair.reason or pair.status,
                )
                for result, pair in shown
            ],
        )
    for result in results:
        for warning in result.warnings:
            click.echo(f"Warning: {result.name}: {warning}", err=True)
    before = sum(result.skipped for result in results)
    click.echo(
        f"{counted(len(rows), 'pair')} of {counted(len(results), 'sequence')}, {len(rejected)} rejected"
        + (f"; {counted(before, 'sequence')} aligned before" if before else "")
        + "."
    )


def _mm(focal_mm: float | None) -> str:
    return "?" if focal_mm is None else f"{focal_mm:.4g}"
