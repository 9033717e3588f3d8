"""The stage from a camera to a sequence: for every focal length, set, shoot, download, check."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from srraw_tools.camera import Camera, CardFile, choice_for, number_of, same_value
from srraw_tools.checks import Expected, Finding, check_shot
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_FORMATS, file_format
from srraw_tools.files import sha256_of, sync_folder
from srraw_tools.raw import read_raw
from srraw_tools.rig import Rig
from srraw_tools.sequence import (
    SEQUENCE_FILE,
    Sequence,
    Shot,
    read_sequence,
    sequence_name,
    shot_from_file,
    write_sequence,
)

TEMPORARY = ".capture-"  # prefix of a download that is not whole yet


@dataclass(frozen=True)
class CaptureEvent:
    """What happened: `kind` is "present" (shot before), "set", "shot" or "finished".

    done, planned: focal lengths that are shot, and all. findings: what is wrong with a shot.
    """

    kind: str
    done: int
    planned: int
    shot: Shot | None = None
    findings: tuple[Finding, ...] = ()
    message: str = ""


def next_sequence(out: Path) -> Path:
    """The first free numbered folder, such as sequences/00003."""
    numbers = [int(p.name) for p in out.iterdir() if p.name.isdecimal()] if out.is_dir() else []
    return out / f"{max(numbers, default=0) + 1:05d}"


def unfinished_sequences(out: Path) -> list[Path]:
    """The sequences below a folder that capture has begun and not finished."""
    if not out.is_dir():
        return []
    begun = [p for p in sorted(out.iterdir()) if (p / SEQUENCE_FILE).is_file()]
    return [path for path in begun if not read_sequence(path).complete]


def plan_shots(focal_mm: tuple[float, ...], rig: Rig) -> dict[float, str]:
    """The file stem of every focal length in shooting order; 00001 is the longest.

    Raises:
        UserError: a focal length comes twice, or the rig's lens does not have it.
    """
    if len(set(focal_mm)) < len(focal_mm):
        raise UserError("A focal length comes twice in --focal.", wrong_use=True)
    for focal in focal_mm:
        if not rig.lens_mm[0] <= focal <= rig.lens_mm[1]:
            raise UserError(
                f"The lens of the rig {rig.name} reaches from {rig.lens_mm[0]:g} to {rig.lens_mm[1]:g} mm, "
                f"not to {focal:g} mm.",
                "Leave that focal length out, or choose another rig.",
                wrong_use=True,
            )
    longest_first = sorted(focal_mm, reverse=True)
    return {focal: f"{longest_first.index(focal) + 1:05d}" for focal in focal_mm}


def capture_sequence(
    camera: Camera,
    folder: Path,
    rig: Rig,
    *,
    focal_mm: tuple[float, ...],
    expected: Expected,
    turn_ring: Callable[[float], None],
    shoot_again: Callable[[Shot, tuple[Finding, ...]], bool],
    keep_anyway: bool = False,
    resume: bool = False,
    delete_on_card: bool = False,
) -> Iterator[CaptureEvent]:
    """Shoot a zoom sequence into `folder`.

    sequence.json is written after every shot, so that whatever ends the program costs the current shot at
    most. The sequence is complete when every focal length has a shot without findings, or one that a person
    chose to keep.

    Args:
        turn_ring: called with the focal length before each shot; returns when the lens is there.
        shoot_again: called with a shot that has findings; whether to shoot it again.
        keep_anyway: a shot with findings that is not shot again counts as done: a person has decided.
        resume: go on with a sequence that was begun; shots that are whole are kept.
        delete_on_card: delete what was downloaded and verified from the camera.

    Raises:
        UserError: the folder holds a sequence already, the plan is not the one that was begun, or the
            camera fails; what was shot until then is kept.
    """
    plan = plan_shots(focal_mm, rig)
    shots = _begin(folder, plan, rig, resume)
    for focal, stem in plan.items():
        if focal in shots:
            yield CaptureEvent("present", len(shots), len(plan), shots[focal])
            continue
        turn_ring(focal)
        message = apply_settings(camera, rig, expected)
        yield CaptureEvent("set", len(shots), len(plan), message=message)
        while True:
            shot = _shoot(camera, folder, stem, focal, rig, delete_on_card)
            findings = tuple(check_shot(shot, expected, shots.values(), rig))
            again = bool(findings) and shoot_again(shot, findings)
            if not findings or (keep_anyway and not again):
                shots[focal] = shot
                _write(folder, plan, shots, rig)
            yield CaptureEvent("shot", len(shots), len(plan), shot, findings)
            if not again:
                break
            turn_ring(focal)
    yield CaptureEvent("finished", len(shots), len(plan))


def apply_settings(camera: Camera, rig: Rig, expected: Expected) -> str:
    """Set aperture, shutter, ISO and raw format where the camera has them; read each back.

    Returns:
        What was set, in words.

    Raises:
        UserError: the camera does not offer a value, or did not take it.
    """
    wanted: dict[str, float | str | None] = {
        "image_format": rig.settings.get("image_format"),
        "f_number": expected.f_number,
        "exposure_s": expected.exposure_s,
        "iso": expected.iso,
    }
    done = []
    for setting, value in wanted.items():
        name = next((n for n in rig.names.get(setting, ()) if camera.value(n) is not None), None)
        if value is None or name is None:
            continue
        choices = camera.choices(name)
        choice = value if isinstance(value, str) else choice_for(choices, value)
        if choice is None:
            raise UserError(
                f"The camera's {name} cannot be {value:g}.",
                f"It offers {', '.join(choices)}." if choices else "Set the camera to manual exposure (M).",
            )
        camera.set_value(name, choice)
        taken = camera.value(name) or ""
        same = taken == choice
        if not same and isinstance(value, (int, float)):
            number = number_of(taken)
            same = number is not None and same_value(number, value)
        if not same:
            raise UserError(
                f"The camera did not take {name} = {choice}; it stays at {taken}.",
                "Set its mode dial to manual exposure (M).",
            )
        done.append(taken)
    return ", ".join(done)


def _begin(folder: Path, plan: dict[float, str], rig: Rig, resume: bool) -> dict[float, Shot]:
    """Make the folder, or take up what is in it; the whole shots by planned focal length."""
    if not (folder / SEQUENCE_FILE).exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} is not empty, and holds no sequence that could be resumed.", wrong_use=True
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, plan, {}, rig)
        return {}
    begun = read_sequence(folder)
    if begun.complete or not resume:
        state = "is complete" if begun.complete else "was begun"
        hint = (
            "Choose another --name." if begun.complete else "Go on with --resume, or choose another --name."
        )
        raise UserError(f"{folder} {state} already; sequences are never overwritten.", hint, wrong_use=True)
    if set(begun.planned_mm) != set(plan):
        raise UserError(
            f"{folder} was begun with --focal {','.join(f'{f:g}' for f in begun.planned_mm)}.",
            "Resume it with the same focal lengths.",
            wrong_use=True,
        )
    for pattern in (f"{TEMPORARY}*", f".{Path(SEQUENCE_FILE).stem}-*"):  # what a killed program left
        for orphan in folder.glob(pattern):
            orphan.unlink()
    return {shot.focal_planned: shot for shot in begun.shots if _is_whole(folder, shot)}


def _is_whole(folder: Path, shot: Shot) -> bool:
    path = folder / shot.file
    return path.is_file() and shot.sha256 is not None and sha256_of(path) == shot.sha256


def _write(folder: Path, plan: dict[float, str], shots: dict[float, Shot], rig: Rig) -> None:
    ordered = tuple(sorted(shots.values(), key=lambda shot: shot.file))
    complete = len(shots) == len(plan)
    write_sequence(
        Sequence(
            folder, sequence_name(folder), ordered, tuple(plan), complete, "srraw capture", {"rig": rig.name}
        )
    )


def _shoot(camera: Camera, folder: Path, stem: str, focal: float, rig: Rig, delete_on_card: bool) -> Shot:
    """One shot: release, download whatever the camera made, name it by its content."""
    raw: Path | None = None
    jpeg: Path | None = None
    made = camera.shoot(rig.settle_s)
    for card_file in made:
        path = _download(camera, card_file, folder, stem)
        if path.suffix[1:] in RAW_FORMATS:
            raw = path
        elif path.suffix == ".JPG":
            jpeg = path
    if raw is None:
        raise UserError(
            "The camera made no raw file.", "Set its image quality to RAW, or RAW and JPEG; then --resume."
        )
    read_raw(raw)  # a transfer that was cut short must be noticed while the camera still stands there
    shot = shot_from_file(raw, focal, jpeg=jpeg.name if jpeg else None, sha256=sha256_of(raw))
    if delete_on_card:
        for card_file in made:
            camera.delete(card_file)
    return shot


def _download(camera: Camera, card_file: CardFile, folder: Path, stem: str) -> Path:
    """Copy a file from the camera under a temporary name, then give it its own, by its true format.

    A shot that is taken again replaces the one before, which is whole until that moment.
    """
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        camera.download(card_file, temporary)
        path = folder / f"{stem}.{file_format(temporary)}"
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync_folder(folder)
    except OSError as error:
        raise UserError(
            f"Cannot write into {folder}: {error.strerror}.", "Free some space; then --resume."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
