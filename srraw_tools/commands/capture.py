"""`srraw capture`."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import asdict, replace
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
    from srraw_tools.checks import Expected
    from srraw_tools.rig import Rig
    from srraw_tools.sequence import Sequence

LONGEST_NAME = 200  # bytes
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
    from srraw_tools.commands.lines import leave_ring, ring_by_hand, shoot_in_lines
    from srraw_tools.commands.session import Session
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
        session = Session(
            camera, rig, live, focal_mm, expected, closing_shot, delete_on_card, backup, hook, meter,
            watched,
        )  # fmt: skip
        by_hand = frozenset(rig.phone_mm or focal_mm if watch else ())
        hook("init")
        first = session
        if as_begun:
            first = replace(session, expected=as_begun, meter=meter and not as_begun.exposure_s)
        if on_screen:
            from srraw_tools.commands.guided import shoot_guided

            shoot_guided(first, session, folder, out, resume, auto, turn or leave_ring, by_hand)
            return
        asks = rig.ring == "person" and not turn and not no_input
        ring = leave_ring
        if asks:
            ring = ring_by_hand(session.live, auto, by_hand)
        if not quiet and not as_json:
            click.echo(f"{camera.model}, rig {rig.name}, into {folder}")
        shoot_in_lines(first, folder, turn or ring, asks, resume, as_json, quiet)


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
