"""`srraw calibrate`: what a lens and a sensor do, estimated from the sequences that they shot."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

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
)
from srraw_tools.errors import UserError
from srraw_tools.terminal import counted, print_table, with_progress

if TYPE_CHECKING:
    from srraw_tools.calibration import FocalDistortion

HALF = 8192  # of 14 bits


@click.group("calibrate")
def calibrate() -> None:
    """Estimate what a lens and a sensor do from the sequences themselves."""


@calibrate.command("lens")
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--rig", "rig_name", help="The rig, by name or TOML file, that is to tell the distortion.")
@click.option("--out", type=PATH, help="Where to write it.  [default: the rig's file, where one is given]")
@overwrite_option
@jobs_option
@scheduler_option
@dry_run_option
@json_option
@quiet_option
def lens(
    paths: tuple[Path, ...],
    rig_name: str | None,
    out: Path | None,
    overwrite: bool,
    jobs: int,
    scheduler: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the radial distortion of a zoom lens at every focal length, from the sequences below PATHS.

    Any scenes do that have detail up to the corners; three sequences are enough, more are better. With --rig
    the distortion is written into the rig's file; then 'srraw align --rig FILE' undoes it.

    Example: srraw calibrate lens sequences/ --rig sony-fe-24-240 --out mine.toml
    """
    from srraw_tools.calibration import ROUNDS, calibrate_lens, lens_table
    from srraw_tools.files import replacing
    from srraw_tools.rig import toml_of, with_distortion
    from srraw_tools.sequence import find_sequences

    target = _target(rig_name, out, overwrite=overwrite)
    folders = find_sequences(paths or (Path("sequences"),))
    if dry_run and as_json:
        print_json({"rig": target and str(target), "sequences": len(folders)})
        return
    if dry_run:
        told = counted(len(folders), "sequence")
        click.echo(f"{told} would be measured, and the lens written to {target or 'nowhere'}.")
        return
    failures: dict[str, None] = {}
    found: tuple[FocalDistortion, ...] = ()
    rounds = calibrate_lens(folders, jobs=jobs, scheduler=scheduler)
    total = ROUNDS * len(folders) + 1  # and the lens itself
    for step in with_progress(rounds, total, "Measuring", unit="steps", quiet=quiet or as_json):
        if isinstance(step, tuple):
            found = step
        else:
            failures |= dict.fromkeys(step.failures)
    if rig_name is not None and target is not None:
        toml = with_distortion(toml_of(rig_name), lens_table(found))
        with replacing(target) as temporary:
            temporary.write_text(toml, encoding="utf-8")
    if as_json:
        print_json({"rig": target and str(target), "lens": [asdict(one) for one in found]})
    elif not quiet:
        _print_lens(found)
        click.echo(
            f"{target}: use it with 'srraw align --rig {target}'."
            if target
            else "Give --rig to keep this in a rig's file."
        )
    finish(list(failures))


@calibrate.command("noise")
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--out", type=PATH, default=Path("noise.json"), show_default=True, help="Where to write it.")
@overwrite_option
@jobs_option
@dry_run_option
@json_option
@quiet_option
def noise(
    paths: tuple[Path, ...],
    out: Path,
    overwrite: bool,
    jobs: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the noise of a sensor, at each ISO, from the raw shots of the sequences below PATHS.

    A pixel's variance is a signal + b in sensor values: photons and readout. Smooth areas tell it, dark ones
    and bright ones. 'srraw-train --variant syn-calibrated --noise FILE' makes synthetic raw with it.

    Example: srraw calibrate noise sequences/ --out noise.json
    """
    from srraw_tools.files import write_json
    from srraw_tools.noise import MeasuredShot, fit_models, measure_shots, record_of
    from srraw_tools.sequence import find_sequences, read_sequence

    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already.", "Give --overwrite to replace it.", wrong_use=True)
    folders = find_sequences(paths or (Path("sequences"),))
    total = sum(len(read_sequence(folder).shots) for folder in folders)
    if dry_run and as_json:
        print_json({"out": str(out), "sequences": len(folders), "shots": total})
        return
    if dry_run:
        told = f"{counted(total, 'shot')} of {counted(len(folders), 'sequence')}"
        click.echo(f"{told} would be measured, and written to {out}.")
        return
    shots: list[MeasuredShot] = []
    failures: list[str] = []
    found = measure_shots(folders, jobs=jobs)
    for path, shot in with_progress(found, total, "Measuring", unit="shots", quiet=quiet or as_json):
        if isinstance(shot, UserError):
            failures.append(f"{path}: {shot}")
        else:
            shots.append(shot)
    models = fit_models(shots)
    write_json(out, record_of(models))
    if as_json:
        print_json(record_of(models))
    elif not quiet:
        print_table(
            ("camera", ">ISO", ">shots", "colour", ">a", ">b", ">at black", ">at half"),
            [
                (
                    model.camera if place == 0 else "",
                    ("-" if model.iso is None else f"{model.iso:g}") if place == 0 else "",
                    str(model.shots) if place == 0 else "",
                    colour,
                    f"{model.a[place]:.4f}",
                    f"{model.b[place]:.2f}",
                    f"{math.sqrt(model.b[place]):.2f}",
                    f"{math.sqrt(model.a[place] * HALF + model.b[place]):.1f}",
                )
                for model in models
                for place, colour in enumerate(("red", "green", "blue"))
            ],
        )
        click.echo(f"Sigma at black and at {HALF} above it, in sensor values. Written: {out}.")
    finish(failures)


def _target(rig_name: str | None, out: Path | None, *, overwrite: bool) -> Path | None:
    """The file that the distortion goes into; None where it is shown only."""
    from srraw_tools.rig import find_rig

    if rig_name is None:
        if out is None:
            return None
        raise UserError(f"{out} needs a rig to be made from.", "Name the nearest with --rig.", wrong_use=True)
    rig = find_rig(rig_name)
    own = Path(rig_name) if rig_name.endswith(".toml") else None
    target = out or own
    if target is None:
        raise UserError(
            f"The rig {rig_name} came with srraw and is left as it is.",
            "Name a file of your own, such as --out mine.toml.",
            wrong_use=True,
        )
    if target.suffix != ".toml" or not target.parent.is_dir():
        raise UserError(f"{target} cannot be a rig's file.", "Name one such as mine.toml.", wrong_use=True)
    known = "tells a distortion already" if target == own and rig.distortion else "is there already"
    if (target != own or rig.distortion) and target.exists() and not overwrite:
        raise UserError(f"{target} {known}.", "Give --overwrite to replace it.", wrong_use=True)
    return target


def _print_lens(lens: tuple[FocalDistortion, ...]) -> None:
    print_table(
        (">mm", ">k1", ">k2", ">corner", ">shots", ">next mm", ">before", ">after"),
        [
            (
                f"{one.focal_mm:.4g}",
                f"{one.k1:+.4f}",
                f"{one.k2:+.4f}",
                f"{one.corner_share:+.2%}",
                str(one.shots),
                "" if one.next_mm is None else f"{one.next_mm:g}",
                "-" if one.before_px is None else f"{one.before_px:.2f} px",
                "-" if one.after_px is None else f"{one.after_px:.2f} px",
            )
            for one in lens
        ],
    )
    click.echo("corner: magnified more than the middle. before, after: what a similarity leaves to the next.")
