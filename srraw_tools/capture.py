"""The stage from a camera to a sequence: for every focal length, set, shoot, download, check."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from srraw_tools.camera import Camera, CameraLost, CardFile, choice_for, number_of, same_value
from srraw_tools.checks import Expected, Finding, check_shot
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_FORMATS, file_format, read_exif
from srraw_tools.files import read_json, replacing, sha256_of, sync_folder, write_json
from srraw_tools.raw import read_raw
from srraw_tools.rig import Rig
from srraw_tools.scene_checks import check_clipping, clipped_shares
from srraw_tools.sequence import (
    SEQUENCE_FILE,
    Sequence,
    Shot,
    read_sequence,
    sequence_name,
    shot_from_file,
    write_sequence,
)

UNDER_WAY = ".capture"  # folder of the shot that is being made: its journal, and its downloads
JOURNAL = "journal.json"
RECONNECTS = 3  # in a row, after which a person is needed
RECONNECT_S = 2.0  # a body needs about as long to come back
ROOM_BYTES = 300_000_000  # on the disk before a shot: raw, JPEG and the copy of both
READ_BACK_S = 2.0  # bodies take a while to report a setting that they were given
LATE_S = 5.0  # silence after which a raw file that was not announced with its shot will not come any more


@dataclass(frozen=True)
class CaptureEvent:
    """What happened.

    Attributes:
        kind: "present" (shot before), "set", "shot", "lost" (the camera, which is sought again), "found"
            (the shot that was being made then) or "finished".
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
                if not read_sequence(path).complete or (path / UNDER_WAY).exists():
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
    backup: Path | None = None,
) -> Iterator[CaptureEvent]:
    """Shoot a zoom sequence into `folder`.

    sequence.json is written after every shot, so that whatever ends the program costs the current shot at
    most. It lists the shots that are good, or that a person chose to keep, and is complete when every focal
    length has one. What was found wrong is kept in it as `findings`; the file of a shot that is not listed
    stays until it is shot again.

    A journal tells which shot is being made, what lay on the card before, and what is downloaded. So after a
    lost camera, and with `resume` after a killed program, that shot is found on the disk or on the card, and
    is not made twice.

    Args:
        turn_ring: called with the focal length before each shot; returns when the lens is there.
        shoot_again: called with what is wrong with a shot; whether to shoot it again.
        keep_anyway: a shot with findings that is not shot again counts as done: a person has decided.
        resume: go on with a sequence that was begun; shots that are whole are kept.
        delete_on_card: delete from the camera what was downloaded and verified, in the backup too.
        backup: a folder, best on another disk, that gets a verified second copy of the sequence's folder.

    Raises:
        UserError: the folder holds a sequence already, the plan is not the one that was begun, or the
            camera fails; what was shot until then is kept.
    """
    plan = plan_shots(focal_mm, rig)
    apply_settings(camera, rig, expected)  # what the camera cannot do is refused before a folder is made
    shots, noted = _begin(folder, plan, rig, resume)
    copies = None if backup is None else _begin_backup(backup / folder.name, resume)
    made = _Making(camera, folder, copies, delete_on_card)
    for focal in sorted(plan, key=lambda focal: focal != made.focal):  # first what was being made
        stem = plan[focal]
        left_behind = None if focal in shots else _left_behind(folder, stem, focal)
        if (
            left_behind
            and not _clipping(folder, left_behind, rig)
            and not check_shot(left_behind, expected, shots.values(), rig)
        ):
            shots[focal] = left_behind
            _write(folder, plan, shots, noted, rig)
        if focal in shots:
            made.back_up(shots[focal])
            yield CaptureEvent("present", len(shots), len(plan), focal, shots[focal])
            continue
        again, lost = True, 0
        while again:
            try:
                shot, findings = made.recovered(stem, focal)
                if shot is not None and check_shot(shot, expected, shots.values(), rig):
                    shot = None  # whatever that is; a person may still find it on the card
                if shot is None:
                    made.forget()
                    turn_ring(focal)
                    message = apply_settings(camera, rig, expected)
                    yield CaptureEvent("set", len(shots), len(plan), focal, message=message)
                    shot, findings = made.shoot(stem, focal, rig)
                else:
                    yield CaptureEvent("found", len(shots), len(plan), focal, shot)
            except CameraLost as error:
                lost += 1
                yield CaptureEvent("lost", len(shots), len(plan), focal, message=str(error))
                _reconnect(camera, error, lost)
                continue
            if shot:
                findings += tuple(check_shot(shot, expected, shots.values(), rig))
                findings += tuple(_clipping(folder, shot, rig))
            again = bool(findings) and shoot_again(findings)
            kept = shot is not None and (not findings or (keep_anyway and not again))
            if kept:
                shots[focal] = shot
            noted[focal] = [finding.what for finding in findings]
            _write(folder, plan, shots, noted, rig)
            if kept:
                made.back_up(shot)
            made.finish(shot)
            lost = 0
            yield CaptureEvent("shot", len(shots), len(plan), focal, shot, findings, kept)
    made.forget()
    yield CaptureEvent("finished", len(shots), len(plan))


def _reconnect(camera: Camera, error: CameraLost, times: int) -> None:
    """Begin the camera's session anew, a few times; raises the error where that does not help."""
    if times > RECONNECTS:
        raise error
    for attempt in range(RECONNECTS):
        time.sleep(RECONNECT_S)
        try:
            camera.reconnect()
            return
        except CameraLost:
            if attempt == RECONNECTS - 1:
                raise error from None


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
    done = begun.complete and not (folder / UNDER_WAY).exists()  # else its backup may be missing
    if done or not resume:
        state = "is complete" if done else "was begun"
        hint = "Choose another --name." if done else "Go on with --resume, or choose another --name."
        raise UserError(f"{folder} {state} already; sequences are never overwritten.", hint, wrong_use=True)
    if set(begun.planned_mm) != set(plan):
        raise UserError(
            f"{folder} was begun with --focal {','.join(f'{f:g}' for f in begun.planned_mm)}.",
            "Resume it with the same focal lengths.",
            wrong_use=True,
        )
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


def _clipping(folder: Path, shot: Shot, rig: Rig) -> list[Finding]:
    return check_clipping(clipped_shares(read_raw(folder / shot.file)), rig)


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


def _begin_backup(folder: Path, resume: bool) -> Path:
    """The folder of second copies; raises UserError where it holds something else already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not resume:
            raise UserError(f"{folder} is not empty.", "Choose another --backup or --name.", wrong_use=True)
    except OSError as error:
        problem = f"Cannot make the backup {folder}: {error.strerror}."
        raise UserError(problem, "Is its disk mounted? Choose another --backup.", wrong_use=True) from error
    return folder


class _Making:
    """The shot that is being made, on the disk at every moment: its journal and its downloads.

    The journal holds the planned focal length, the files that lay on the card before the shutter was
    released, and each verified download with its SHA-256 and its place on the card.
    """

    def __init__(self, camera: Camera, folder: Path, backup: Path | None, delete_on_card: bool) -> None:
        self.camera, self.folder, self.backup = camera, folder, backup
        self.delete_on_card = delete_on_card
        self.home = folder / UNDER_WAY
        self.focal: float | None = None
        self.before: list[CardFile] | None = None  # listed once: a full card takes seconds
        self.copies: dict[Path, tuple[CardFile, str]] = {}  # verified: where on the card, SHA-256
        self.kept: list[CardFile] = []
        self._read()

    def _read(self) -> None:
        """Take the journal up; a download whose bytes are not those noted is none."""
        if not (self.home / JOURNAL).is_file():
            return
        record = read_json(self.home / JOURNAL)
        try:
            focal, before = float(record["focal_mm"]), [CardFile(*file) for file in record["before"]]
            noted = {
                self.home / Path(name).name: (CardFile(*file), str(sha256))
                for name, (file, sha256) in record["downloads"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.home / JOURNAL} is damaged.", f"Remove {self.home}.") from error
        self.focal, self.before = focal, before
        self.copies = {
            path: noted[path] for path in noted if path.is_file() and sha256_of(path) == noted[path][1]
        }

    def _write(self) -> None:
        record = {
            "focal_mm": self.focal,
            "before": [list(asdict(file).values()) for file in self.before or []],
            "downloads": {p.name: [list(asdict(f).values()), h] for p, (f, h) in self.copies.items()},
        }
        write_json(self.home / JOURNAL, record)

    def forget(self) -> None:
        """Nothing is being made. What lies on the card stays there."""
        self.focal, self.copies, self.kept = None, {}, []
        shutil.rmtree(self.home, ignore_errors=True)

    def shoot(self, stem: str, focal: float, rig: Rig) -> tuple[Shot | None, tuple[Finding, ...]]:
        """One shot: release, download what the camera made, verify it, and only then give it its name.

        A shot that is taken again replaces the one before, which is whole until that moment.
        """
        self._look_for_room()
        with _writing_into(self.folder):
            self.home.mkdir(exist_ok=True)
        self.camera.new_files(0)  # what an earlier shot left behind is not this one's
        self.before = self.camera.card_files()
        self.focal, self.copies = focal, {}
        self._write()
        self._download(self.camera.shoot(rig.settle_s))
        if not _of_format(self.copies, RAW_FORMATS):
            self._download(self.camera.new_files(LATE_S))
        return self._take(stem, focal)

    def recovered(self, stem: str, focal: float) -> tuple[Shot | None, tuple[Finding, ...]]:
        """The shot that was being made when the camera was lost or the program killed, if it was this one.

        It is downloaded and verified, or it is the only raw file that is new on the card. Among several, none
        can be told to be this one, and all stay on the card.
        """
        if self.focal != focal:
            return None, ()
        known = {file for file, _ in self.copies.values()} | set(self.before or [])
        new = [file for file in self.camera.card_files() if file not in known]
        self._download(new)
        if len(_of_format(self.copies, RAW_FORMATS)) != 1:
            return None, ()
        return self._take(stem, focal)

    def finish(self, shot: Shot | None) -> None:
        """The shot is written down: only now may it go from the card, and the journal with it."""
        if shot is not None and self.delete_on_card:
            for file in self.kept:
                with suppress(CameraLost):  # it stays on the card then, and nothing is lost
                    self.camera.delete(file)
        self.forget()

    def back_up(self, shot: Shot) -> None:
        """Copy a shot and sequence.json to the second folder, and read the copies back."""
        if self.backup is None:
            return
        for name in filter(None, (shot.file, shot.jpeg, SEQUENCE_FILE)):
            source, copy = self.folder / name, self.backup / name
            wanted = sha256_of(source)
            if copy.is_file() and sha256_of(copy) == wanted:
                continue
            with replacing(copy) as temporary:
                shutil.copyfile(source, temporary)
            if sha256_of(copy) != wanted:
                raise UserError(f"The backup {copy} is damaged.", "Check its disk; then --resume.")

    def _look_for_room(self) -> None:
        for folder in filter(None, (self.folder, self.backup)):
            if shutil.disk_usage(folder).free < ROOM_BYTES:
                raise UserError(f"The disk of {folder} is full.", "Free some space; then --resume.")

    def _download(self, files: list[CardFile]) -> None:
        """Copy files from the camera to the disk, and compare each with what the camera sent."""
        with _writing_into(self.folder):
            for file in files:
                path = self.home / f"{len(self.copies):02d}.part"
                sent = self.camera.download(file, path)
                with open(path, "rb") as written:
                    os.fsync(written.fileno())
                if sha256_of(path) != sent:
                    path.unlink()
                    raise UserError(
                        f"The copy of {file.name} on the disk is damaged.", "Check the disk; then --resume."
                    )
                self.copies[path] = (file, sent)
                self._write()

    def _take(self, stem: str, focal: float) -> tuple[Shot | None, tuple[Finding, ...]]:
        """Give the raw file among the downloads, and its JPEG, their names."""
        raws = _of_format(self.copies, RAW_FORMATS)
        if not raws:
            remedy = "set the camera's image quality to RAW, or RAW and JPEG, and shoot it again"
            return None, (Finding("file", "the camera made no raw file", remedy),)
        if damage := _damage(raws[0]):
            return None, (damage,)
        exif = read_exif(raws[0])
        # A JPEG that came late belongs to the shot before.
        jpegs = _of_format(self.copies, ("JPG",))
        jpegs = [path for path in jpegs if _same_second(read_exif(path).taken_at, exif.taken_at)]
        taken = [raws[0], *jpegs[:1]]
        names = {path: f"{stem}.{file_format(path)}" for path in taken}
        # The raw file comes last: where it is, the shot is whole.
        shot = shot_from_file(raws[0], focal, sha256=self.copies[raws[0]][1])
        with _writing_into(self.folder):
            for path in reversed(taken):
                os.replace(path, self.folder / names[path])
            sync_folder(self.folder)
        self.kept = [self.copies[path][0] for path in taken]
        return replace(shot, file=names[raws[0]], jpeg=names[jpegs[0]] if jpegs else None), ()


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write into {folder}: {error.strerror or error}.", "Free some space; then --resume."
        ) from error


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
