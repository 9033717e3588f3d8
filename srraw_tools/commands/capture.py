"""`srraw capture`."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from srraw_tools.camera import Camera
    from srraw_tools.capture import CaptureEvent
    from srraw_tools.checks import Expected, Finding
    from srraw_tools.hook import Hook
    from srraw_tools.live_focal import LiveFocal
    from srraw_tools.rig import Rig
    from srraw_tools.scene_watch import SceneWatch
    from srraw_tools.sequence import Sequence, Shot
    from srraw_tools.watched_folder import WatchedFolder

TAKE_PICTURE = "Now take the picture; it is waited for."
LONGEST_NAME = 200  # bytes
LOOK_S = 0.25  # between two looks at where the lens stands
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
@click.option(
    "--auto",
    is_flag=True,
    help="Shoot as soon as the lens rests at the focal length, where the camera tells.",
)
@click.option(
    "--meter", is_flag=True, help="Find one exposure for each scene first, by test shots: nothing may clip."
)
@click.option("--closing-shot", is_flag=True, help="Repeat the first focal length at the end.")
@click.option("--plain", is_flag=True, help="Lines instead of the full screen.")
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
    auto: bool,
    meter: bool,
    closing_shot: bool,
    plain: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shoot zoom sequences with a tethered camera.

    For each focal length it asks for the zoom ring, sets and reads back the exposure, shoots, downloads and
    checks. In a terminal of 72 x 22 or more it fills the screen, and goes from scene to scene; elsewhere it
    prints lines, and shoots one sequence. Nothing is ever overwritten but a shot that is shot again; an
    interrupted sequence is finished with --resume.

    Example: srraw capture --focal 24,35,50,70,100,150,240
    """
    for value in (f_number, exposure_s, iso):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{value} is no value of an exposure.", wrong_use=True)
    if watch and virtual:
        raise UserError("--watch and --virtual exclude each other.", wrong_use=True)
    if auto and (no_input or watch or virtual):
        raise UserError(
            "--auto needs a tethered camera, and a person for the first shot.",
            "Leave out --no-input, --watch and --virtual.",
            wrong_use=True,
        )
    if meter and (exposure_s or watch or virtual):
        raise UserError(
            "--meter needs a tethered camera, and finds the exposure time itself.",
            "Leave out --exposure, --watch and --virtual.",
            wrong_use=True,
        )
    from srraw_tools.camera_process import CameraProcess
    from srraw_tools.checks import Expected
    from srraw_tools.hook import Hook
    from srraw_tools.keys import has_keys
    from srraw_tools.live_focal import LiveFocal
    from srraw_tools.pair_camera import PairCamera
    from srraw_tools.rig import find_rig, rig_for
    from srraw_tools.sequence import read_sequence
    from srraw_tools.watched_folder import WatchedFolder

    on_screen = has_keys() and not (plain or as_json or quiet or no_input)
    hook = Hook(hook_script, silent=on_screen)
    own = "virtual" if virtual else "watched-folder" if watch else None
    rig = find_rig(rig_name or own) if rig_name or own else None
    folder = _folder(out, name, resume, quiet)
    begun = read_sequence(folder) if resume else None
    if begun:
        focal_mm = focal_mm or begun.planned_mm
        closing_shot = closing_shot or begun.closing_planned
    with ExitStack() as stack:
        if dry_run and rig:
            camera = None
        else:
            turn = None
            if virtual:
                from srraw_tools.simulate.virtual_card import inserted

                turn = stack.enter_context(inserted(virtual, focal_mm or rig.stops_mm))
            if rig and rig.phone_mm and watch is None:
                raise UserError(
                    f"With the rig {rig.name} a phone shoots {', '.join(f'{f:g}' for f in rig.phone_mm)} mm.",
                    "Give the folder in which its raw files appear with --watch.",
                    wrong_use=True,
                )
            watched = WatchedFolder(watch) if watch else None
            camera = watched or CameraProcess()
            if rig and rig.phone_mm:
                camera = PairCamera(camera, CameraProcess(), rig)
            stack.callback(camera.close)
            rig = rig or rig_for(camera.model, camera.serial)
        focal_mm = focal_mm or rig.stops_mm
        asked = {"f_number": f_number, "exposure_s": exposure_s, "iso": iso}
        expected = Expected(**{key: value or rig.settings.get(key) for key, value in asked.items()})
        as_begun = _as_begun(begun, asked, expected, rig) if begun else None
        if dry_run:
            _refuse_what_is_not_there(folder, resume, watch, virtual, focal_mm)
            _print_plan(focal_mm, folder, rig, as_begun or expected, closing_shot, meter, as_json)
            return
        if auto and not rig.names.get("focal_mm"):
            raise UserError(
                f"--auto needs to know where the lens stands, and the rig {rig.name} has no name for that.",
                "Leave it out, or add names.focal_mm to a rig of your own.",
                wrong_use=True,
            )
        live = LiveFocal(camera, rig)
        session = _Session(
            camera, rig, live, focal_mm, expected, closing_shot, delete_on_card, backup, hook, meter,
            watched,
        )  # fmt: skip
        by_hand = frozenset(rig.phone_mm or focal_mm if watch else ())
        hook("init")
        first = session
        if as_begun:
            first = replace(session, expected=as_begun, meter=meter and not as_begun.exposure_s)
        if on_screen:
            _guided(first, session, folder, out, resume, auto, turn or _leave_ring, by_hand)
            return
        asks = rig.ring == "person" and not turn and not no_input
        ring = _leave_ring
        if asks:
            ring = _ring_by_hand(session.live, auto, by_hand)
        if not quiet and not as_json:
            click.echo(f"{camera.model}, rig {rig.name}, into {folder}")
        _in_lines(first, folder, turn or ring, asks, resume, as_json, quiet)


@dataclass(frozen=True)
class _Session:
    """What all scenes of a session have in common."""

    camera: Camera
    rig: Rig
    live: LiveFocal
    focal_mm: tuple[float, ...]
    expected: Expected
    closing_shot: bool
    delete_on_card: bool
    backup: Path | None
    hook: Hook
    meter: bool
    watched: WatchedFolder | None

    def metered(self, turn_ring: Callable[[float], object], tell: Callable[[str], None]) -> _Session:
        """The session with the exposure that metering finds, where it was asked for."""
        from srraw_tools.metering import find_exposure

        if not self.meter:
            return self
        found = find_exposure(self.camera, self.rig, self.focal_mm, self.expected, turn_ring, tell)
        return replace(self, expected=found.expected)

    def events(
        self, folder: Path, *, attended: bool, resume: bool, watch: SceneWatch, **asked: Any
    ) -> Iterator[CaptureEvent]:
        """Shoot one sequence, with the hook at its steps."""
        from srraw_tools.capture import CaptureEvent, capture_sequence
        from srraw_tools.pair_camera import PairCamera

        def failed(problem: str, after: CaptureEvent | None = None) -> Iterator[CaptureEvent]:
            if problem:
                done, planned = (after.done, after.planned) if after else (0, len(self.focal_mm))
                yield CaptureEvent("hook", done, planned, message=problem)

        yield from failed(self.hook("start"))
        try:
            for event in capture_sequence(
                self.camera,
                folder,
                self.rig,
                focal_mm=self.focal_mm,
                expected=self.expected,
                watch=watch,
                closing_shot=self.closing_shot,
                attended=attended,
                resume=resume,
                delete_on_card=self.delete_on_card,
                backup=self.backup,
                **asked,
            ):
                if event.kind == "turn" and isinstance(self.camera, PairCamera):
                    self.camera.turn_to(event.focal_mm)
                if event.kind == "taken" and event.shot:
                    self.live.compare(event.shot.focal_mm)
                yield event
                if event.kind == "shot" and event.kept:
                    for file in filter(None, (event.shot.file, event.shot.jpeg)):
                        yield from failed(self.hook("download", folder / file), event)
        finally:
            problem = self.hook("stop")
            if problem and not self.hook.silent:
                click.echo(problem, err=True)


def _in_lines(
    session: _Session,
    folder: Path,
    turn_ring: Callable[[float], None],
    asks: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shoot one sequence, told in lines of text or of JSON."""
    from srraw_tools.scene_watch import SceneWatch

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
        if _is_complete(folder):
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
    _refuse_if_incomplete([folder])
    if as_json:
        found = [asdict(finding) for finding in scene]
        print_json({"sequence": str(folder), "kind": "checked", "findings": found})
        return
    for finding in scene:
        click.echo(f"Look at {finding.shot or folder}: {finding.what}; {finding.remedy}.", err=True)


def _guided(
    first: _Session,
    session: _Session,
    folder: Path,
    out: Path,
    resume: bool,
    auto: bool,
    before_shot: Callable[[float], None],
    by_hand: frozenset[float],
) -> None:
    """Shoot scene after scene on the full screen, until the person has enough.

    Args:
        first: the session for the first scene, which may be one that was begun another day.
    """
    from srraw_tools.capture import next_sequence, plan_steps
    from srraw_tools.commands.guided import LeaveScene, full_screen, new_guide
    from srraw_tools.scene_watch import SceneWatch

    steps = plan_steps(session.focal_mm, session.rig, session.closing_shot)
    folders: list[Path] = []
    told: list[str] = []
    failure: UserError | None = None
    try:
        with full_screen() as (keys, show):
            going_on = True
            while going_on:
                scene = session if folders else first
                watch = SceneWatch(session.rig)
                guide = new_guide(
                    folder, session.camera, session.rig, steps, keys, watch, session.live,
                    auto=auto, before_shot=before_shot, by_hand=by_hand,
                )  # fmt: skip
                show(guide)
                folders.append(folder)
                if session.watched:
                    session.watched.waiting = guide.while_waiting
                try:
                    for event in scene.metered(guide.meter_at, guide.say).events(
                        folder,
                        attended=True,
                        resume=resume,
                        watch=watch,
                        turn_ring=guide.turn_ring,
                        shoot_again=guide.shoot_again,
                        at_end=guide.at_end,
                    ):
                        guide.take_note(event)
                    going_on = guide.to_next
                except LeaveScene as leave:
                    going_on = leave.to_next
                finally:
                    if _is_complete(folder):
                        watch.result()  # a person who leaves at once is told all the same
                    told += [f"{folder}, {finding.shot or 'all'}: {finding.what}; {finding.remedy}."
                             for finding in watch.findings() or ()]  # fmt: skip
                    watch.close()
                resume, folder = False, next_sequence(out) if going_on else folder
    except KeyboardInterrupt:
        told.append("Stopped.")
    except UserError as error:  # of the camera or a disk: what was shot until then is told all the same
        failure = error
    for line in told:
        click.echo(line, err=True)
    folders = [folder for folder in folders if folder.is_dir()]  # one that was only looked at is gone
    complete = [folder for folder in folders if _is_complete(folder)]
    if folders:
        click.echo(f"{len(complete)} of {len(folders)} scenes complete: {', '.join(map(str, folders))}.")
    if failure:
        raise failure
    _refuse_if_incomplete(folders)
    if not complete:
        raise UserError("No scene was shot.")


def _refuse_if_incomplete(folders: list[Path]) -> None:
    from srraw_tools.sequence import SEQUENCE_FILE, read_sequence

    begun = [read_sequence(folder) for folder in folders if (folder / SEQUENCE_FILE).is_file()]
    lacking = {}
    for sequence in begun:
        missing = sorted(set(sequence.planned_mm) - {shot.focal_planned for shot in sequence.shots})
        lacks = [f"{', '.join(f'{focal:g}' for focal in missing)} mm"] if missing else []
        lacks += ["the closing shot"] * (sequence.closing_planned and sequence.closing is None)
        if lacks:
            lacking[sequence.folder] = f"{sequence.folder} is not complete: {' and '.join(lacks)} to be shot."
    if lacking:
        names = " or ".join(f"--name {folder.name}" for folder in lacking)
        raise UserError(" ".join(lacking.values()), f"Go on with --resume {names}.")


def _is_complete(folder: Path) -> bool:
    from srraw_tools.sequence import SEQUENCE_FILE, read_sequence

    return (folder / SEQUENCE_FILE).is_file() and read_sequence(folder).complete


def _folder(out: Path, name: str | None, resume: bool, quiet: bool) -> Path:
    from srraw_tools.capture import next_sequence, unfinished_sequences

    if name is not None:
        whole = name and Path(name).name == name and not name.startswith(".")
        if not whole or not name.isprintable() or len(os.fsencode(name)) > LONGEST_NAME:
            raise UserError(f"{name!r} cannot be the name of a sequence's folder.", wrong_use=True)
        return out / name
    unfinished = unfinished_sequences(out)
    if resume:
        if not unfinished:
            raise UserError(f"No sequence in {out} was left unfinished.", wrong_use=True)
        return unfinished[-1]
    if unfinished and not quiet:
        click.echo(f"Note: {unfinished[-1]} is not finished; --resume goes on with it.", err=True)
    return next_sequence(out)


def _as_begun(begun: Sequence, asked: dict[str, float | None], usual: Expected, rig: Rig) -> Expected:
    """How the rest of a sequence is shot: as asked now, as asked when it began, or as what was shot then.

    Raises:
        UserError: what is asked now is not what was shot then.
    """
    from srraw_tools.camera import same_value
    from srraw_tools.checks import setting_text

    noted = begun.notes.get("asked")
    first = next((s for focal in begun.planned_mm for s in begun.shots if s.focal_planned == focal), None)

    def value(name: str) -> float | None:
        then = noted.get(name) if isinstance(noted, dict) else None
        then = then if isinstance(then, (int, float)) and then > 0 else None
        shot = first and getattr(first, name)
        if asked[name] and shot and not same_value(asked[name], shot, rig.setting_tolerance):
            then, now = setting_text(name, shot), setting_text(name, asked[name])
            problem = f"{begun.folder} was begun at {then}, not {now}."
            raise UserError(problem, "Resume it as it was begun.", wrong_use=True)
        return asked[name] or then or shot or getattr(usual, name)

    return replace(usual, **{name: value(name) for name in asked})


def _refuse_what_is_not_there(
    folder: Path, resume: bool, watch: Path | None, virtual: Path | None, focal_mm: tuple[float, ...]
) -> None:
    if watch and not watch.is_dir():
        raise UserError(f"--watch {watch} is no folder.", wrong_use=True)
    if virtual:
        from srraw_tools.simulate.virtual_card import raws_to_shoot

        raws_to_shoot(virtual, focal_mm)
    if folder.exists() and not resume:
        raise UserError(f"{folder} is there already.", "Choose another --name.", wrong_use=True)


def _print_plan(
    focal_mm: tuple[float, ...],
    folder: Path,
    rig: Rig,
    expected: Expected,
    closing_shot: bool,
    meter: bool,
    as_json: bool,
) -> None:
    from srraw_tools.capture import plan_steps
    from srraw_tools.checks import setting_text

    steps = plan_steps(focal_mm, rig, closing_shot)
    if as_json:
        plan = {"rig": rig.name, "sequence": str(folder), **asdict(expected), "metered": meter}
        print_json({**plan, "shots": [asdict(step) for step in steps]})
        return
    settings = [setting_text(name, value) if value else "-" for name, value in asdict(expected).items()]
    if meter:
        settings = [said if said != "-" else "metered" for said in settings]
    click.echo(f"Rig {rig.name}, into {folder}; - is left as the camera has it")
    print_table(
        (">focal length", "file", ">aperture", ">exposure", ">ISO"),
        [(f"{step.focal_mm:g} mm", step.stem, *settings) for step in steps],
    )
    if rig.pupil_shift_mm:
        from srraw_tools.parallax import nearest_m

        click.echo(
            f"The lens's pupil moves by {rig.pupil_shift_mm:g} mm: what is nearer than "
            f"{nearest_m(rig.pupil_shift_mm):.0f} m lies off what is far by more than a thousandth\nof its "
            "distance from the middle of the picture."
        )


def _print_event(event: CaptureEvent, folder: Path, asks: bool) -> None:
    if event.kind == "finished" and event.done == event.planned:
        click.echo(f"Complete: {event.planned} shots in {folder}.")
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
    from srraw_tools.checks import setting_text

    files = " and ".join(filter(None, (shot.file, shot.jpeg)))
    values = {name: getattr(shot, name) for name in ("f_number", "exposure_s", "iso")}
    settings = [setting_text(name, value) for name, value in values.items() if value]
    return f"{files}  {', '.join(settings)}"


def _print_findings(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        click.echo(f"          Wrong: {finding.what}; {finding.remedy}.", err=True)


def _ring_by_hand(live: LiveFocal, auto: bool, by_hand: frozenset[float]) -> Callable[[float], None]:
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


def _leave_ring(focal_mm: float) -> None:
    """Somebody else turns the ring, or there is none."""


def _ask_again(findings: tuple[Finding, ...]) -> bool:
    _print_findings(findings)
    return click.confirm("          Shoot it again?", default=True, err=True)


def _do_not_ask(findings: tuple[Finding, ...]) -> bool:
    return False
