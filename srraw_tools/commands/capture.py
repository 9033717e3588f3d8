"""`srraw capture` and `srraw rigs`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from srraw_tools.commands.options import (
    PATH,
    NumberList,
    dry_run_option,
    json_option,
    print_json,
    quiet_option,
)
from srraw_tools.errors import UserError
from srraw_tools.terminal import print_table

if TYPE_CHECKING:
    from srraw_tools.capture import CaptureEvent
    from srraw_tools.checks import Finding
    from srraw_tools.rig import Rig
    from srraw_tools.sequence import Shot


@click.command("capture")
@click.option(
    "--focal",
    "focal_mm",
    type=NumberList(),
    default=(24.0, 35.0, 50.0, 70.0, 100.0, 150.0, 240.0),
    show_default="24,35,50,70,100,150,240",
    help="Focal lengths in mm, in shooting order.",
)
@click.option(
    "--out", type=PATH, default=Path("sequences"), show_default=True, help="Folder of the sequences."
)
@click.option("--name", help="The sequence's folder.  [default: the next free number]")
@click.option("--rig", "rig_name", help="A rig by name or TOML file.  [default: the one of the camera found]")
@click.option("--f-number", type=click.FloatRange(0, min_open=True), help="Aperture.  [default: the rig's]")
@click.option(
    "--exposure", "exposure_s", type=click.FloatRange(0, min_open=True), help="Seconds, the same for all."
)
@click.option("--iso", type=click.FloatRange(0, min_open=True), help="ISO.  [default: the rig's]")
@click.option("--resume", is_flag=True, help="Go on with the last sequence that was begun.")
@click.option("--no-input", is_flag=True, help="Ask nothing: the lens is set by somebody else.")
@click.option(
    "--delete-on-card", is_flag=True, help="Delete each file on the camera once its copy is verified."
)
@click.option("--virtual", type=PATH, help="Shoot this simulated sequence with libgphoto2's virtual camera.")
@dry_run_option
@json_option
@quiet_option
def capture(
    focal_mm: tuple[float, ...],
    out: Path,
    name: str | None,
    rig_name: str | None,
    f_number: float | None,
    exposure_s: float | None,
    iso: float | None,
    resume: bool,
    no_input: bool,
    delete_on_card: bool,
    virtual: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shoot a zoom sequence with a tethered camera.

    For each focal length it asks for the zoom ring, sets and reads back the exposure, shoots, downloads and
    checks. Nothing is ever overwritten; an interrupted sequence is finished with --resume.

    Example: srraw capture --focal 24,35,50,70,100,150,240
    """
    from srraw_tools.camera import connect
    from srraw_tools.capture import capture_sequence, plan_shots
    from srraw_tools.checks import Expected
    from srraw_tools.rig import find_rig, rig_for

    rig = find_rig(rig_name or "virtual") if rig_name or virtual else None
    folder = _folder(out, name, resume)
    with ExitStack() as stack:
        if dry_run and rig is not None:
            _print_plan(plan_shots(focal_mm, rig), folder, rig)
            return
        turn = None
        if virtual:
            from srraw_tools.simulate.virtual_card import inserted

            turn = stack.enter_context(inserted(virtual))
        camera = connect()
        stack.callback(camera.close)
        rig = rig or rig_for(camera.model, camera.serial)
        if dry_run:
            _print_plan(plan_shots(focal_mm, rig), folder, rig)
            return
        asks = rig.ring == "person" and not no_input
        settings = {"f_number": f_number, "exposure_s": exposure_s, "iso": iso}
        expected = Expected(**{key: value or rig.settings.get(key) for key, value in settings.items()})
        if not quiet and not as_json:
            click.echo(f"{camera.model}, rig {rig.name}, into {folder}")
        events = capture_sequence(
            camera,
            folder,
            rig,
            focal_mm=focal_mm,
            expected=expected,
            turn_ring=turn or (_ask_for_ring if asks else _leave_ring),
            shoot_again=_ask_again if asks else _do_not_ask,
            keep_anyway=asks,
            resume=resume,
            delete_on_card=delete_on_card,
        )
        missing = 0
        for event in events:
            missing = event.planned - event.done
            if as_json:
                print_json(asdict(event))
            elif not quiet:
                _print_event(event, folder)
    if missing:
        click.echo(
            f"{folder} is not complete: {missing} of {len(focal_mm)} shots are missing; use --resume.",
            err=True,
        )
        raise SystemExit(1)


def _folder(out: Path, name: str | None, resume: bool) -> Path:
    from srraw_tools.capture import next_sequence, unfinished_sequences

    if name is not None:
        if Path(name).name != name or name in (".", ".."):
            raise UserError(f"{name!r} cannot be the name of a folder.", wrong_use=True)
        return out / name
    unfinished = unfinished_sequences(out)
    if resume:
        if not unfinished:
            raise UserError(f"No sequence in {out} was left unfinished.", wrong_use=True)
        return unfinished[-1]
    if unfinished:
        click.echo(f"Note: {unfinished[-1]} is not finished; --resume goes on with it.", err=True)
    return next_sequence(out)


def _print_plan(plan: dict[float, str], folder: Path, rig: Rig) -> None:
    click.echo(f"Rig {rig.name}, into {folder}")
    print_table((">focal length", "file"), [(f"{focal:g} mm", f"{stem}.*") for focal, stem in plan.items()])


def _print_event(event: CaptureEvent, folder: Path) -> None:
    shot = event.shot
    if event.kind == "finished" and event.done == event.planned:
        click.echo(f"Complete: {event.planned} shots in {folder}.")
    if shot is None:
        return
    settings = [
        f"f/{shot.f_number:g}" if shot.f_number else "",
        f"{shot.exposure_s:.4g} s" if shot.exposure_s else "",
        f"ISO {shot.iso:g}" if shot.iso else "",
    ]
    state = "shot before" if event.kind == "present" else ", ".join(filter(None, settings))
    jpeg = f" and {shot.jpeg}" if shot.jpeg else ""
    click.echo(f"{shot.focal_planned:5g} mm  {shot.file}{jpeg}  {state}")
    for finding in event.findings:
        click.echo(f"          Wrong: {finding.what}; {finding.remedy}.", err=True)


def _ask_for_ring(focal_mm: float) -> None:
    click.prompt(
        f"Turn the ring to {focal_mm:g} mm and press Enter", default="", show_default=False, prompt_suffix=" "
    )


def _leave_ring(focal_mm: float) -> None:
    """Somebody else turns the ring, or there is none."""


def _ask_again(shot: Shot, findings: tuple[Finding, ...]) -> bool:
    for finding in findings:
        click.echo(f"Wrong: {finding.what}; {finding.remedy}.", err=True)
    return click.confirm("Shoot it again?", default=True)


def _do_not_ask(shot: Shot, findings: tuple[Finding, ...]) -> bool:
    return False


@click.command("rigs")
@json_option
def rigs(as_json: bool) -> None:
    """List the rigs that came with srraw.

    Example: srraw rigs
    """
    from srraw_tools.rig import installed_rigs

    found = installed_rigs()
    if as_json:
        print_json([asdict(rig) for rig in found.values()])
        return
    print_table(
        ("rig", ">lens", "description"),
        [(rig.name, f"{rig.lens_mm[0]:g}-{rig.lens_mm[1]:g} mm", rig.description) for rig in found.values()],
    )
