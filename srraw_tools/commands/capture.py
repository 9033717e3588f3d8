"""`srraw capture`."""

from __future__ import annotations

import math
import sys
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
    from srraw_tools.checks import Expected, Finding
    from srraw_tools.rig import Rig
    from srraw_tools.sequence import Shot

POSITIVE = click.FloatRange(0, 1e9, min_open=True)


@click.command("capture")
@click.option(
    "--focal",
    "focal_mm",
    type=NumberList(),
    help="Focal lengths in mm, in shooting order, such as 24,35,50,70,100,150,240.  [default: the rig's]",
)
@click.option(
    "--out", type=PATH, default=Path("sequences"), show_default=True, help="Folder of the sequences."
)
@click.option("--name", help="The sequence's folder.  [default: the next free number]")
@click.option("--rig", "rig_name", help="A rig by name or TOML file.  [default: the one of the camera found]")
@click.option("--f-number", type=POSITIVE, help="Aperture.  [default: the rig's]")
@click.option("--exposure", "exposure_s", type=POSITIVE, help="Seconds, the same for all.")
@click.option("--iso", type=POSITIVE, help="ISO.  [default: the rig's]")
@click.option("--resume", is_flag=True, help="Go on with the last sequence that was begun.")
@click.option("--no-input", is_flag=True, help="Ask nothing; a shot that fails a check ends as missing.")
@click.option(
    "--delete-on-card", is_flag=True, help="Delete each file on the camera once its copy is verified."
)
@click.option("--backup", type=PATH, help="Folder of a second, verified copy, best on another disk.")
@click.option(
    "--hook-script",
    type=PATH,
    help="A program that is run with ACTION=init, start, download or stop, and ARGUMENT=file.",
)
@click.option("--watch", type=PATH, help="Take files as they appear in this folder: no tethered camera.")
@click.option("--virtual", type=PATH, help="Shoot this simulated sequence with libgphoto2's virtual camera.")
@dry_run_option
@json_option
@quiet_option
def capture(
    focal_mm: tuple[float, ...] | None,
    out: Path,
    name: str | None,
    rig_name: str | None,
    f_number: float | None,
    exposure_s: float | None,
    iso: float | None,
    resume: bool,
    no_input: bool,
    delete_on_card: bool,
    backup: Path | None,
    hook_script: Path | None,
    watch: Path | None,
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
    for value in (f_number, exposure_s, iso):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{value} is no value of an exposure.", wrong_use=True)
    from srraw_tools.camera_process import CameraProcess
    from srraw_tools.capture import capture_sequence
    from srraw_tools.checks import Expected
    from srraw_tools.hook import Hook
    from srraw_tools.rig import find_rig, rig_for
    from srraw_tools.sequence import read_sequence
    from srraw_tools.watched_folder import WatchedFolder

    if watch and virtual:
        raise UserError("--watch and --virtual exclude each other.", wrong_use=True)
    hook = Hook(hook_script)
    own = "virtual" if virtual else "watched-folder" if watch else None
    rig = find_rig(rig_name or own) if rig_name or own else None
    folder = _folder(out, name, resume)
    if resume and focal_mm is None:
        focal_mm = read_sequence(folder).planned_mm
    with ExitStack() as stack:
        if dry_run and rig:
            camera = None
        else:
            turn = None
            if virtual:
                from srraw_tools.simulate.virtual_card import inserted

                turn = stack.enter_context(inserted(virtual))
            camera = WatchedFolder(watch) if watch else CameraProcess()
            stack.callback(camera.close)
            rig = rig or rig_for(camera.model, camera.serial)
        focal_mm = focal_mm or rig.stops_mm
        asked = {"f_number": f_number, "exposure_s": exposure_s, "iso": iso}
        expected = Expected(**{key: value or rig.settings.get(key) for key, value in asked.items()})
        if dry_run:
            _print_plan(focal_mm, folder, rig, expected)
            return
        hook("init")
        asks = rig.ring == "person" and not turn and not no_input
        events = capture_sequence(
            camera,
            folder,
            rig,
            focal_mm=focal_mm,
            expected=expected,
            turn_ring=turn
            or (_ask_for_picture if asks and watch else _ask_for_ring if asks else _leave_ring),
            shoot_again=_ask_again if asks else _do_not_ask,
            keep_anyway=asks,
            resume=resume,
            delete_on_card=delete_on_card,
            backup=backup,
        )
        if not quiet and not as_json:
            click.echo(f"{camera.model}, rig {rig.name}, into {folder}")
        hook("start")
        stack.callback(hook, "stop")
        try:
            for event in events:
                if event.shot is not None and event.kept:
                    for file in filter(None, (event.shot.file, event.shot.jpeg)):
                        hook("download", folder / file)
                if as_json:
                    print_json({"sequence": str(folder), **asdict(event)})
                elif not quiet:
                    _print_event(event, folder, asks)
        except (KeyboardInterrupt, click.Abort) as stop:
            click.echo(err=True)
            hint = (
                "Go on with --resume." if sys.stdin.isatty() else "Where nobody can answer, give --no-input."
            )
            raise UserError(f"Stopped; {folder} is not complete.", hint) from stop
    sequence = read_sequence(folder)
    if not sequence.complete:
        missing = set(sequence.planned_mm) - {shot.focal_planned for shot in sequence.shots}
        lacks = ", ".join(f"{focal:g}" for focal in sorted(missing))
        raise UserError(
            f"{folder} is not complete: {lacks} mm to be shot.",
            "Go on with --resume.",
        )
    _check_pictures(folder, rig, as_json)


def _check_pictures(folder: Path, rig: Rig, as_json: bool) -> None:
    """Compare the pictures of a finished sequence while the camera still stands there."""
    from srraw_tools.inspection import check_sequence

    _, findings = check_sequence(folder, rig)
    if as_json:
        found = [asdict(finding) for finding in findings]
        print_json({"sequence": str(folder), "kind": "checked", "findings": found})
        return
    for finding in findings:
        click.echo(f"Look at {finding.shot or folder}: {finding.what}; {finding.remedy}.", err=True)


def _folder(out: Path, name: str | None, resume: bool) -> Path:
    from srraw_tools.capture import next_sequence, unfinished_sequences

    if name is not None:
        if not name or Path(name).name != name or name in (".", ".."):
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


def _print_plan(focal_mm: tuple[float, ...], folder: Path, rig: Rig, expected: Expected) -> None:
    from srraw_tools.capture import plan_shots
    from srraw_tools.checks import setting_text

    plan = plan_shots(focal_mm, rig)
    settings = [setting_text(name, value) if value else "-" for name, value in asdict(expected).items()]
    click.echo(f"Rig {rig.name}, into {folder}; - is left as the camera has it")
    print_table(
        (">focal length", "file", ">aperture", ">exposure", ">ISO"),
        [(f"{focal:g} mm", stem, *settings) for focal, stem in plan.items()],
    )


def _print_event(event: CaptureEvent, folder: Path, asks: bool) -> None:
    if event.kind == "finished" and event.done == event.planned:
        click.echo(f"Complete: {event.planned} shots in {folder}.")
    elif event.kind == "present":
        click.echo(f"{event.focal_mm:5g} mm  {event.shot.file}  shot before")
    elif event.kind == "lost":
        click.echo(f"{event.focal_mm:5g} mm  {event.message} Trying again.", err=True)
    elif event.kind == "found":
        click.echo(
            f"{event.focal_mm:5g} mm  {event.shot.file}  found: it was shot before the camera was lost"
        )
    elif event.kind == "shot" and (event.kept or not asks):  # else a person has been told, and it comes again
        facts = _shot_text(event.shot) if event.shot else "no raw file"
        click.echo(
            f"{event.focal_mm:5g} mm  {facts}{', kept as it is' * (event.kept and bool(event.findings))}"
        )
        if not asks:
            _print_findings(event.findings)


def _shot_text(shot: Shot) -> str:
    from srraw_tools.checks import setting_text

    files = " and ".join(filter(None, (shot.file, shot.jpeg)))
    values = {name: getattr(shot, name) for name in ("f_number", "exposure_s", "iso")}
    settings = [setting_text(name, value) for name, value in values.items() if value]
    return f"{files}  {', '.join(settings)}"


def _print_findings(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        click.echo(f"          Wrong: {finding.what}; {finding.remedy}.", err=True)


def _ask_for_ring(focal_mm: float) -> None:
    click.prompt(
        f"Turn the ring to {focal_mm:g} mm, then press Enter",
        default="",
        show_default=False,
        prompt_suffix=" ",
        err=True,
    )


def _ask_for_picture(focal_mm: float) -> None:
    _ask_for_ring(focal_mm)
    click.echo("          Now take the picture; it is waited for.", err=True)


def _leave_ring(focal_mm: float) -> None:
    """Somebody else turns the ring, or there is none."""


def _ask_again(findings: tuple[Finding, ...]) -> bool:
    _print_findings(findings)
    return click.confirm("          Shoot it again?", default=True, err=True)


def _do_not_ask(findings: tuple[Finding, ...]) -> bool:
    return False
