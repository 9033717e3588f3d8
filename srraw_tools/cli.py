"""`srraw`: one short command per verb. Parses, calls the stage, prints; imports the heavy parts late."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.terminal import print_table, with_progress

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there already.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes to work in."
)
PATH = click.Path(path_type=Path)


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


@main.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option(
    "--zoom", "zooms", type=NumberList(int), default=(4, 8), show_default="4,8", help="Target zooms."
)
@click.option(
    "--motion",
    default="euclidean",
    show_default=True,
    help="translation, euclidean (with the scale offset), similarity, affine or homography.",
)
@click.option("--nominal-scale", is_flag=True, help="Take the scale from EXIF instead of refining it.")
@click.option("--out", type=PATH, help="Write <sequence>/alignment.json here, not into the sequences.")
@overwrite_option
@jobs_option
@dry_run_option
@json_option
@quiet_option
def align(
    paths: tuple[Path, ...],
    zooms: tuple[int, ...],
    motion: str,
    nominal_scale: bool,
    out: Path | None,
    overwrite: bool,
    jobs: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Register the pairs of every sequence below PATHS (sequences/ by default).

    Writes alignment.json into each. A pair that cannot be registered is kept as rejected, with the reason.

    Example: srraw align sequences/ --zoom 4,8
    """
    from srraw_tools.align import align_sequences
    from srraw_tools.sequence import choose_pairs, find_sequences, read_sequence

    folders = find_sequences(paths or (Path("sequences"),))
    if dry_run:
        for folder in folders:
            sequence = read_sequence(folder)
            pairs = [(z, *pair) for z in zooms for pair in choose_pairs(sequence, z)]
            names = ", ".join(f"{z}X {low.focal_nominal:g}-{high.focal_nominal:g}" for z, low, high in pairs)
            click.echo(f"{folder}: {names or 'no pairs'}")
        return
    results = align_sequences(
        folders,
        zooms=zooms,
        motion=motion,
        nominal_scale=nominal_scale,
        out=out,
        overwrite=overwrite,
        jobs=jobs,
    )
    tracked = with_progress(results, len(folders), "Aligning", unit="sequences", quiet=quiet or as_json)
    done, failures = [], []
    for folder, result in tracked:
        if isinstance(result, UserError):
            failures.append(str(result))
            continue
        done.append(result)
        failures += result.failures
        if as_json:
            print_json({"sequence": result.name, "path": str(result.path), **_alignment_record(result)})
    done.sort(key=lambda result: str(result.folder))
    if not as_json and not quiet:
        _print_alignments(done)
    _finish(failures)


def _alignment_record(result: Any) -> dict[str, Any]:
    return {
        "skipped": result.skipped,
        "pairs": [asdict(pair) for pair in result.pairs],
        "warnings": result.warnings,
        "failures": result.failures,
    }


def _print_alignments(results: list[Any]) -> None:
    """The rejected pairs first; all pairs where they fit a screen or two; then what it comes to."""
    rows = [(result, pair) for result in results for pair in result.pairs]
    rejected = [row for row in rows if row[1].status != "ok"]
    shown = sorted(rows, key=lambda row: row[1].status == "ok") if len(rows) <= 60 else rejected
    if shown:
        print_table(
            ("sequence", ">zoom", "focal lengths", ">offset", ">score", ">residual", "status"),
            [
                (
                    result.name,
                    f"{pair.zoom}X",
                    f"{_mm(pair.focal_low)}-{_mm(pair.focal_high)}",
                    f"{pair.scale_offset:.4f}",
                    f"{pair.score:.3f}",
                    "-" if pair.residual_px is None else f"{pair.residual_px:.2f} px",
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
        f"{len(rows)} pairs of {len(results)} sequences, {len(rejected)} rejected"
        + (f"; {before} sequences were aligned before" if before else "")
        + "."
    )


def _mm(focal_mm: float | None) -> str:
    return "?" if focal_mm is None else f"{focal_mm:.4g}"


@main.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--out", type=PATH, default=Path("srraw.h5"), show_default=True, help="The file to write.")
@click.option(
    "--zoom", "zooms", type=NumberList(int), default=(4, 8), show_default="4,8", help="Zooms to pack."
)
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
@click.option("--alignments", type=PATH, help="Where 'srraw align --out' wrote, if not into the sequences.")
@overwrite_option
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
    alignments: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pack the aligned pairs of the sequences below PATHS (sequences/ by default) into an HDF5 file.

    Pairs that the file holds already stay as they are; new ones are added as a further shard.

    Example: srraw pack --out srraw.h5 --zoom 4
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
            click.echo(f"{record.name}: {record.split}" + (f", {record.reason}" if record.reason else ""))
        return
    records = pack_sequences(
        folders, out=out, target=target, compression=compression, overwrite=overwrite, **options
    )
    done = []
    for record in with_progress(records, len(plan), "Packing", unit="pairs", quiet=quiet or as_json):
        done.append(record)
        if as_json:
            print_json(asdict(record))
    if not as_json and not quiet:
        _print_packed(done, out)
    _finish([f"{record.name}: {record.reason}" for record in done if record.status == "failed"])


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(
            f"'{text}' is no split.", "Give three shares such as 80:10:10.", wrong_use=True
        ) from error


def _print_packed(records: list[Any], out: Path) -> None:
    kept = [record for record in records if record.status != "failed"]
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
    packed = sum(record.status == "packed" for record in records)
    click.echo(f"{out}: {packed} pairs packed, {len(kept) - packed} were there before.")
    for name in ("train", "val", "test"):
        if not any(record.split == name for record in kept):
            click.echo(
                f"Warning: no sequence fell into the split '{name}'; decide yourself with --split-file.",
                err=True,
            )


@main.command()
@click.argument("path", type=PATH)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH holds: a raw file, a sequence, an alignment or an HDF5 file of pairs.

    Example: srraw inspect photo.dng
    """
    from srraw_tools.describe import describe

    description = describe(path)
    if as_json:
        print_json(description)
        return
    rows = description.pop("rows", [])
    for key, value in description.items():
        click.echo(f"{key.replace('_', ' ') + ':':<16} {_plain(value)}")
    if rows:
        click.echo()
        print_table(list(rows[0]), [[_plain(value) for value in row.values()] for row in rows])


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(part) for part in value)
    return str(value)


def _finish(failures: list[str]) -> None:
    """End a batch: all failures at once, and exit status 1 if there was one."""
    for failure in failures:
        click.echo(f"Failed: {failure}", err=True)
    if failures:
        raise SystemExit(1)
