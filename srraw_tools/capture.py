"""The stage from a camera to a sequence: for every focal length, set, shoot, download, check."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from srraw_tools.camera import Camera, CardFile, choice_for, number_of, same_value
from srraw_tools.checks import Expected, Finding, check_shot
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_FORMATS, file_format, read_exif
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

STAGING = ".capture-"  # prefix of the folder of downloads that are not verified yet
READ_BACK_S = 2.0  # bodies take a while to report a setting that they were given
LATE_S = 5.0  # silence after which a raw file that was not announced with its shot will not come any more


@dataclass(frozen=True)
class CaptureEvent:
    """What happened.

    Attributes:
        kind: "present" (shot before), "set", "shot" or "finished".
        done, planned: how many focal lengths are shot, and how many were asked for.
        focal_mm: the focal length that it is about; None at the end.
        shot: None where the camera gave no raw file that can be read; `findings` then say why.
        kept: whether it counts: nothing was found wrong, or a person decided to keep it.
        message: the settings as the camera reports them.
    """

    kind: str
    done: int
    planned: int
    focal_mm: float | None = None
    shot: Shot | None = None
    findings: tuple[Finding, ...] = ()
    kept: bool = False
    message: str = ""


def next_sequence(out: Path) -> Path:
    """The first free numbered folder, such as sequences/00003."""
    numbers = [int(p.name) for p in out.iterdir() if p.name.isdecimal()] if out.is_dir() else []
    return out / f"{max(numbers, default=0) + 1:05d}"


def unfinished_sequences(out: Path) -> list[Path]:
    """The sequences below a folder that capture has begun and not finished; damaged ones are passed over."""
    if not out.is_dir():
        return []
    unfinished = []
    for path in sorted(out.iterdir()):
        if (path / SEQUENCE_FILE).is_file():
            with suppress(UserError):
                if not read_sequence(path).complete:
                    unfinished.append(path)
    return unfinished


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
    shoot_again: Callable[[tuple[Finding, ...]], bool],
    keep_anyway: bool = False,
    resume: bool = False,
    delete_on_card: bool = False,
) -> Iterator[CaptureEvent]:
    """Shoot a zoom sequence into `folder`.

    sequence.json is written after every shot, so that whatever ends the program costs the current shot at
    most. It lists the shots that are good, or that a person chose to keep, and is complete when every focal
    length has one. What was found wrong is kept in it as `findings`; the file of a shot that is not listed
    stays until it is shot again.

    Args:
        turn_ring: called with the focal length before each shot; returns when the lens is there.
        shoot_again: called with what is wrong with a shot; whether to shoot it again.
        keep_anyway: a shot with findings that is not shot again counts as done: a person has decided.
        resume: go on with a sequence that was begun; shots that are whole are kept.
        delete_on_card: delete from the camera what was downloaded and verified.

    Raises:
        UserError: the folder holds a sequence already, the plan is not the one that was begun, or the
            camera fails; what was shot until then is kept.
    """
    plan = plan_shots(focal_mm, rig)
    apply_settings(camera, rig, expected)  # what the camera cannot do is refused before a folder is made
    shots, noted = _begin(folder, plan, rig, resume)
    for focal, stem in plan.items():
        left_behind = None if focal in shots else _left_behind(folder, stem, focal)
        if left_behind and not check_shot(left_behind, expected, shots.values(), rig):
            shots[focal] = left_behind
            _write(folder, plan, shots, noted, rig)
        if focal in shots:
            yield CaptureEvent("present", len(shots), len(plan), focal, shots[focal])
            continue
        again = True
        while again:
            turn_ring(focal)
            message = apply_settings(camera, rig, expected)
            yield CaptureEvent("set", len(shots), len(plan), focal, message=message)
            shot, findings = _shoot(camera, folder, stem, focal, rig, delete_on_card)
            if shot:
                findings += tuple(check_shot(shot, expected, shots.values(), rig))
            again = bool(findings) and shoot_again(findings)
            kept = shot is not None and (not findings or (keep_anyway and not again))
            if kept:
                shots[focal] = shot
            noted[focal] = [finding.what for finding in findings]
            _write(folder, plan, shots, noted, rig)
            yield CaptureEvent("shot", len(shots), len(plan), focal, shot, findings, kept)
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
        choice = value if isinstance(value, str) else choice_for(choices, value, rig.setting_tolerance)
        if choice is None:
            raise UserError(
                f"The camera's {name} cannot be {value:g}.",
                f"It offers {', '.join(choices)}." if choices else "Set the camera to manual exposure (M).",
            )
        camera.set_value(name, choice)
        done.append(_read_back(camera, name, choice, rig))
    return ", ".join(done)


def _read_back(camera: Camera, name: str, choice: str, rig: Rig) -> str:
    """The camera's word for a setting once it has taken it; words for the same number are the same."""
    deadline = time.monotonic() + READ_BACK_S
    wanted = number_of(choice)
    while True:
        taken = camera.value(name) or ""
        number = number_of(taken)
        if taken == choice or (wanted and number and same_value(number, wanted, rig.setting_tolerance)):
            return taken
        if time.monotonic() > deadline:
            raise UserError(
                f"The camera did not take {name} = {choice}; it stays at {taken}.",
                "Set its mode dial to manual exposure (M); then --resume.",
            )
        camera.new_files(0.1)  # some bodies report a change only when they are listened to


def _begin(
    folder: Path, plan: dict[float, str], rig: Rig, resume: bool
) -> tuple[dict[float, Shot], dict[float, list[str]]]:
    """Make the folder, or take up what is in it; its shots and findings, by planned focal length."""
    if not (folder / SEQUENCE_FILE).exists():
        _make_folder(folder)
        _write(folder, plan, {}, {}, rig)
        return {}, {}
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
    for orphan in folder.glob(f"{STAGING}*"):  # a killed program's downloads, not whole
        shutil.rmtree(orphan, ignore_errors=True)
    findings = begun.notes.get("findings", {})
    noted = {focal: findings[f"{focal:g}"] for focal in plan if f"{focal:g}" in findings}
    there = [shot for shot in begun.shots if (folder / shot.file).is_file()]
    for shot in there:
        if sha256_of(folder / shot.file) != shot.sha256:
            raise UserError(
                f"{folder / shot.file} is not the file that was shot: its hash differs from {SEQUENCE_FILE}.",
                "Put the original back, or remove the file to shoot it again; then --resume.",
            )
    return {shot.focal_planned: shot for shot in there}, noted


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make {folder}: {error.strerror}.", "Choose another --out.", wrong_use=True
        ) from error
    if any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty, and holds no sequence that could be resumed.",
            "Choose another --name.",
            wrong_use=True,
        )


def _left_behind(folder: Path, stem: str, focal: float) -> Shot | None:
    """A shot that is whole in the folder, but whose program was killed before it was written down."""
    for raw in (folder / f"{stem}.{suffix}" for suffix in RAW_FORMATS):
        if raw.is_file() and _damage(raw) is None:
            jpeg = f"{stem}.JPG" if (folder / f"{stem}.JPG").is_file() else None
            return shot_from_file(raw, focal, jpeg=jpeg, sha256=sha256_of(raw))
    return None


def _damage(raw: Path) -> Finding | None:
    """What is wrong with a raw file that cannot be read, such as one whose transfer was cut short."""
    try:
        read_raw(raw)
    except UserError as error:
        what = error.message.removesuffix(".").replace(str(raw), "its raw file")
        return Finding("file", what, "shoot it again")
    return None


def _write(
    folder: Path, plan: dict[float, str], shots: dict[float, Shot], noted: dict[float, list[str]], rig: Rig
) -> None:
    """Write sequence.json with what there is until now."""
    notes = {"rig": rig.name, "findings": {f"{focal:g}": words for focal, words in noted.items() if words}}
    ordered = tuple(sorted(shots.values(), key=lambda shot: shot.file))
    complete = len(shots) == len(plan)
    write_sequence(
        Sequence(folder, sequence_name(folder), ordered, tuple(plan), complete, "srraw capture", notes)
    )


def _shoot(
    camera: Camera, folder: Path, stem: str, focal: float, rig: Rig, delete_on_card: bool
) -> tuple[Shot | None, tuple[Finding, ...]]:
    """One shot: release, download what the camera made, verify it, and only then give it its name.

    A shot that is taken again replaces the one before, which is whole until that moment.
    """
    with _staging(folder) as staging:
        copies = _download(camera, camera.shoot(rig.settle_s), staging)
        if not _of_format(copies, RAW_FORMATS):
            copies |= _download(camera, camera.new_files(LATE_S), staging)
        raws = _of_format(copies, RAW_FORMATS)
        if not raws:
            remedy = "set the camera's image quality to RAW, or RAW and JPEG, and shoot it again"
            return None, (Finding("file", "the camera made no raw file", remedy),)
        if damage := _damage(raws[0]):
            return None, (damage,)
        taken_at = read_exif(raws[0]).taken_at
        # A JPEG that came late belongs to the shot before.
        jpegs = [p for p in _of_format(copies, ("JPG",)) if _same_second(read_exif(p).taken_at, taken_at)]
        kept = [raws[0], *jpegs[:1]]
        names = {path: f"{stem}.{file_format(path)}" for path in kept}
        for path in reversed(kept):  # the raw file last: where it is, the shot is whole
            os.replace(path, folder / names[path])
        sync_folder(folder)
        raw = folder / names[raws[0]]
        shot = shot_from_file(raw, focal, jpeg=names[jpegs[0]] if jpegs else None, sha256=sha256_of(raw))
        if delete_on_card:
            for path in kept:
                camera.delete(copies[path])
    return shot, ()


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder for downloads, in the sequence's own so that renaming is all that is left to do."""
    try:
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder) as staging:
            yield Path(staging)
    except OSError as error:
        raise UserError(
            f"Cannot write into {folder}: {error.strerror or error}.", "Free some space; then --resume."
        ) from error


def _download(camera: Camera, files: list[CardFile], staging: Path) -> dict[Path, CardFile]:
    """Copy files from the camera to the disk, and compare each with what the camera sent."""
    copies = {}
    for file in files:
        handle, name = tempfile.mkstemp(dir=staging)
        os.close(handle)
        path = Path(name)
        sent = camera.download(file, path)
        with open(path, "rb") as written:
            os.fsync(written.fileno())
        if sha256_of(path) != sent:
            raise UserError(
                f"The copy of {file.name} on the disk is damaged.", "Check the disk; then --resume."
            )
        path.chmod(0o644)
        copies[path] = file
    return copies


def _of_format(paths: Iterable[Path], formats: tuple[str, ...]) -> list[Path]:
    """Those of the files whose content is of one of these formats, in their order."""
    found = []
    for path in paths:
        with suppress(UserError):  # a sound note or a film, say; it stays on the card
            if file_format(path) in formats:
                found.append(path)
    return found


def _same_second(a: str | None, b: str | None) -> bool:
    return a is None or b is None or a[:19] == b[:19]
