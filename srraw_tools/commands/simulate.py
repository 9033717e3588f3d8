"""`srraw simulate`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from srraw_tools.commands.options import (
    PATH,
    NumberList,
    dry_run_option,
    finish,
    jobs_option,
    json_option,
    print_json,
    quiet_option,
)
from srraw_tools.errors import UserError
from srraw_tools.simulate.physics import SIZE, Optics, Sensor
from srraw_tools.terminal import counted, with_progress


class FrameSize(click.ParamType):
    """WIDTHxHEIGHT in pixels; the value is (height, width)."""

    name = "WIDTHxHEIGHT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            self.fail(f"'{value}' is no size such as 1056x704 (width x height).", param, ctx)
        return int(height), int(width)


@click.command("simulate")
@click.option("--out", type=PATH, default=Path("sequences"), show_default=True, help="Folder to write into.")
@click.option("--count", type=click.IntRange(1, 99999), default=1, show_default=True, help="Sequences.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Another one, other scenes."
)
@click.option("--scene", "scenes", type=PATH, multiple=True, help="A photograph as scene; repeat for more.")
@click.option("--size", type=FrameSize(), default=SIZE, show_default="1056x704", help="Of a shot, in pixels.")
@click.option(
    "--focal",
    "focal_mm",
    type=NumberList(float),
    default=(24.0, 35.0, 50.0, 70.0, 100.0, 150.0, 240.0),
    show_default="24,35,50,70,100,150,240",
    help="Nominal focal lengths in mm.",
)
@click.option(
    "--objects",
    metavar="KIND,KIND,...",
    help="Of made-up scenes: hill, wall, sign, chart, mural, ball, post, branch.  [default: all]",
)
@click.option(
    "--focal-error", default=Optics.focal_error, show_default=True, help="Of the true focal length."
)
@click.option("--shift-px", default=Optics.shift_px, show_default=True, help="Sigma per shot, at 1056 wide.")
@click.option("--rotation-deg", default=Optics.rotation_deg, show_default=True, help="Sigma per shot.")
@click.option("--blur-px", default=Optics.blur_px, show_default=True, help="Sigma of the lens's blur.")
@click.option("--near-m", type=NumberList(float), default=Optics.near_m, help="Nearer planes, such as 40,15.")
@click.option("--depth-of-field", is_flag=True, default=Optics.depth_of_field, help="Blur nearer planes.")
@click.option("--diffraction", is_flag=True, default=Optics.diffraction, help="Blur by the diaphragm.")
@click.option(
    "--distortion", default=Optics.distortion, show_default=True, help="k1 at the short end, as -0.03."
)
@click.option("--vignetting-ev", default=Optics.vignetting_ev, show_default=True, help="Loss in the corners.")
@click.option(
    "--drift-ev", default=Optics.drift_ev, show_default=True, help="Sigma of the exposure per shot."
)
@click.option("--f-number", default=Optics.f_number, show_default=True, help="EXIF, and the blurs above.")
@click.option("--exposure-s", default=Optics.exposure_s, show_default=True, help="As EXIF reports it.")
@click.option("--cfa", default=Sensor.cfa, show_default=True, help="RGGB, GRBG, GBRG or BGGR.")
@click.option("--iso", default=Sensor.iso, show_default=True, help="Sets the noise.")
@click.option("--read-noise-e", default=Sensor.read_noise_e, show_default=True, help="Sigma in electrons.")
@click.option("--shot-noise/--no-shot-noise", default=Sensor.shot_noise, help="Poisson noise of the light.")
@click.option(
    "--fill-factor", default=Sensor.fill_factor, show_default=True, help="Sensitive part of a side."
)
@click.option("--aa-filter-px", default=Sensor.aa_filter_px, show_default=True, help="Split by the filter.")
@click.option(
    "--crosstalk", default=Sensor.crosstalk, show_default=True, help="Charge shared with neighbours."
)
@click.option("--black-level", default=Sensor.black_level, show_default=True, help="Value of no light.")
@jobs_option
@dry_run_option
@json_option
@quiet_option
def simulate(
    out: Path,
    count: int,
    seed: int,
    scenes: tuple[Path, ...],
    size: tuple[int, int],
    focal_mm: tuple[float, ...],
    objects: str | None,
    jobs: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **physics: Any,
) -> None:
    """Shoot zoom sequences of made-up scenes, or of photographs, with a simulated lens and sensor.

    Writes a folder per sequence: DNG files, sequence.json, and truth.json with the exact geometry. Sequences
    that are there already stay; a larger --count adds more.

    Example: srraw simulate --count 12 --seed 1 --out sequences
    """
    from srraw_tools.simulate.plan import Plan, check_plan
    from srraw_tools.simulate.shoot import already_there, simulate_sequences

    optics, sensor = (
        kind(**{field.name: physics[field.name] for field in fields(kind) if field.name in physics})
        for kind in (Optics, Sensor)
    )
    plans = [
        Plan(
            name=f"{index + 1:05d}",
            seed=seed,
            index=index,
            focal_mm=focal_mm,
            size=size,
            scene=scenes[index % len(scenes)] if scenes else None,
            objects=tuple(objects.split(",")) if objects else Plan.objects,
            optics=optics,
            sensor=sensor,
        )
        for index in range(count)
    ]
    for plan in plans:
        check_plan(plan)
    present = [plan for plan in plans if already_there(plan, out)]
    missing = [plan for plan in plans if plan not in present]
    if dry_run:
        for plan in plans:
            if as_json:
                about = {"sequence": plan.name, "path": str(out / plan.name)}
                print_json({**about, "present": plan in present, "shots": len(focal_mm)})
                continue
            state = (
                "is there"
                if plan in present
                else f"{counted(len(focal_mm), 'shot')} of {size[1]}x{size[0]} pixels"
            )
            click.echo(f"{out / plan.name}: {state}")
        return
    shots = len(missing) * len(focal_mm)
    results = simulate_sequences(out, missing, jobs=jobs)
    failures: list[str] = []
    written: dict[str, list[str]] = {}
    for plan, result in with_progress(results, shots, "Simulating", unit="shots", quiet=quiet or as_json):
        if isinstance(result, UserError):
            failures.append(f"{plan.name}: {result}")
            continue
        files = written.setdefault(plan.name, [])
        files.append(result)
        if as_json and len(files) == len(focal_mm):
            print_json({"sequence": plan.name, "path": str(out / plan.name), "files": sorted(files)})
    if not as_json and not quiet:
        whole = sum(len(files) == len(focal_mm) for files in written.values())
        before = f"; {len(present)} were there before" if present else ""
        click.echo(f"{counted(whole, 'sequence')} of {counted(len(focal_mm), 'shot')} in {out}{before}.")
    finish(failures)
