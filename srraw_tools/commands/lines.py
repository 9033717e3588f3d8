"""`srraw capture` in lines of text or JSON: what is asked, and what is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from srraw_tools.capture import CaptureEvent
from srraw_tools.checks import Finding, setting_text
from srraw_tools.commands.options import print_json
from srraw_tools.commands.session import Session, is_complete, refuse_if_incomplete
from srraw_tools.errors import UserError
from srraw_tools.live_focal import LiveFocal
from srraw_tools.scene_watch import SceneWatch
from srraw_tools.sequence import Shot
from srraw_tools.terminal import counted

TAKE_PICTURE = "Now take the picture; it is waited for."
LOOK_S = 0.25  # between two looks at where the lens stands


def shoot_in_lines(
    session: Session,
    folder: Path,
    turn_ring: Callable[[float], None],
    asks: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shoot one sequence, told in lines of text or of JSON."""
    watch = SceneWatch(session.rig)

    def tell(said: str) -> None:
        if as_json:
            print_json({"sequence": str(folder), "kind": "metering", "message": said})
        elif not quiet:
            click.echo(f"Metering: {said}")

    try:
        for event in session.metered(turn_ring, tell).events(
            folder,
            attended=asks,
            resume=resume,
            watch=watch,
            turn_ring=turn_ring,
            shoot_again=_ask_again if asks else _do_not_ask,
        ):
            if as_json:
                print_json({"sequence": str(folder), **asdict(event)})
            elif not quiet:
                _print_event(event, folder, asks)
        scene = watch.result()
    except (KeyboardInterrupt, click.Abort) as stop:
        click.echo(err=True)
        if is_complete(folder):
            told = f"Stopped before its pictures were compared; {folder} is complete."
            hint = f"Compare them with 'srraw check {folder}'."
        elif isinstance(stop, click.Abort) and not sys.stdin.isatty():
            told, hint = f"Stopped; {folder} is not complete.", "Where nobody can answer, give --no-input."
        elif folder.is_dir():
            told, hint = f"Stopped; {folder} is not complete.", f"Go on with --resume --name {folder.name}."
        else:
            told, hint = "Stopped before the first shot.", ""
        raise UserError(told, hint) from stop
    finally:
        watch.close()
    refuse_if_incomplete([folder])
    if as_json:
        found = [asdict(finding) for finding in scene]
        print_json({"sequence": str(folder), "kind": "checked", "findings": found})
        return
    for finding in scene:
        click.echo(f"Look at {finding.shot or folder}: {finding.what}; {finding.remedy}.", err=True)


def _print_event(event: CaptureEvent, folder: Path, asks: bool) -> None:
    if event.kind == "finished" and event.done == event.planned:
        click.echo(f"Complete: {counted(event.planned, 'shot')} in {folder}.")
    elif event.kind == "present":
        click.echo(f"{event.focal_mm:5g} mm  {event.shot.file}  shot before")
    elif event.kind == "lost":
        said = event.message.removesuffix("; then --resume.").removesuffix(".")
        click.echo(f"{event.focal_mm:5g} mm  {said}. It is tried again.", err=True)
    elif event.kind == "hook":
        click.echo(event.message, err=True)
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
        if event.message:
            click.echo(f"          {event.message}", err=True)


def _shot_text(shot: Shot) -> str:
    files = " and ".join(filter(None, (shot.file, shot.jpeg)))
    values = {name: getattr(shot, name) for name in ("f_number", "exposure_s", "iso")}
    settings = [setting_text(name, value) for name, value in values.items() if value]
    return f"{files}  {', '.join(settings)}"


def _print_findings(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        click.echo(f"          Wrong: {finding.what}; {finding.remedy}.", err=True)


def ring_by_hand(live: LiveFocal, auto: bool, by_hand: frozenset[float]) -> Callable[[float], None]:
    """Ask for the ring; with `auto` only until a shot has shown that the camera tells the truth about it.

    The focal lengths `by_hand` are shot by a person's own finger.
    """

    def turned(focal_mm: float) -> None:
        if auto and live.believed:
            click.echo(f"Turn the ring to {focal_mm:g} mm; it is shot when it rests there.", err=True)
            while not live.stands_at(focal_mm):
                time.sleep(LOOK_S)
                live.read()
            return
        _ask_for_ring(focal_mm)
        if focal_mm in by_hand:
            click.echo(f"          {TAKE_PICTURE}", err=True)
        if auto:
            live.read()

    return turned


def _ask_for_ring(focal_mm: float) -> None:
    click.prompt(
        f"Turn the ring to {focal_mm:g} mm, then press Enter",
        default="",
        show_default=False,
        prompt_suffix=" ",
        err=True,
    )


def leave_ring(focal_mm: float) -> None:
    """Somebody else turns the ring, or there is none."""


def _ask_again(findings: tuple[Finding, ...]) -> bool:
    _print_findings(findings)
    return click.confirm("          Shoot it again?", default=True, err=True)


def _do_not_ask(findings: tuple[Finding, ...]) -> bool:
    return False
