"""The stage from a camera to a sequence: for every focal length, set, shoot, download, check."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from srraw_tools.camera import Camera, CameraLost
from srraw_tools.camera_settings import apply_settings
from srraw_tools.checks import Expected, Finding, check_shot
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_FORMATS
from srraw_tools.files import is_held, only_one, sha256_of
from srraw_tools.making import UNDER_WAY, Making, Step, Taken, read_taken, stem_being_made
from srraw_tools.rig import Rig
from srraw_tools.scene_checks import check_clipping
from srraw_tools.scene_watch import SceneWatch
from srraw_tools.sequence import (
    SEQUENCE_FILE,
    Sequence,
    Shot,
    read_sequence,
    sequence_name,
    write_sequence,
)
from srraw_tools.shot_facts import ShotFacts

RECONNECTS = 3  # in a row, after which a person is needed
RECONNECT_S = 2.0  # a body needs about as long to come back
CLOSING = "closing"  # stem of the closing shot
LOCK = ".capturing"  # in a sequence's folder while it is shot


@dataclass(frozen=True)
class CaptureEvent:
    """What happened.

    Attributes:
        kind: "present" (shot before), "turn" (the ring is to be turned), "set", "taken" (downloaded and
            checked; it may still be judged), "shot", "skipped", "lost" (the camera, which is sought again),
            "found" (the shot that was being made then) or "finished".
        done, planned: how many shots there are, and how many were asked for.
        focal_mm: the focal length that it is about; None at the end.
        closing: the shot is the closing one, of the first focal length once more.
        shot: None where the camera gave no raw file that can be read; `findings` then say why.
        facts: of a shot that was taken.
        kept: whether it counts: nothing was found wrong, or a person decided to keep it.
        message: the settings as the camera reports them; why a file of the shot is still on the card.
    """

    kind: str
    done: int
    planned: int
    focal_mm: float | None = None
    closing: bool = False
    shot: Shot | None = None
    findings: tuple[Finding, ...] = ()
    facts: ShotFacts | None = None
    kept: bool = False
    message: str = ""


class Turn(Enum):
    """What a person wants instead of the shot that is due."""

    SHOOT = "the ring is there: shoot"
    SKIP = "leave this focal length out; --resume asks for it again"
    BACK = "the focal length before this one again"
    AGAIN = "the last shot again"


def next_sequence(out: Path) -> Path:
    """The first free numbered folder, such as sequences/00003."""
    numbers = [int(p.name) for p in out.iterdir() if p.name.isdecimal()] if out.is_dir() else []
    return out / f"{max(numbers, default=0) + 1:05d}"


def unfinished_sequences(out: Path) -> list[Path]:
    """The sequences below a folder that capture has begun and not finished.

    Damaged ones are passed over, and those into which another session shoots now.
    """
    if not out.is_dir():
        return []
    unfinished = []
    for path in sorted(out.iterdir()):
        if (path / SEQUENCE_FILE).is_file():
            with suppress(UserError):
                begun = not read_sequence(path).complete or (path / UNDER_WAY).exists()
                if begun and not is_held(path / LOCK):
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


def plan_steps(focal_mm: tuple[float, ...], rig: Rig, closing_shot: bool) -> tuple[Step, ...]:
    """The shots of a sequence in their order; raises as `plan_shots`."""
    plan = plan_shots(focal_mm, rig)
    steps = [Step(focal, stem, by_phone=focal in rig.phone_mm) for focal, stem in plan.items()]
    if closing_shot and steps:
        steps.append(replace(steps[0], stem=CLOSING, closing=True))
    return tuple(steps)


def capture_sequence(
    camera: Camera,
    folder: Path,
    rig: Rig,
    *,
    focal_mm: tuple[float, ...],
    expected: Expected,
    turn_ring: Callable[[float], Turn | None],
    shoot_again: Callable[[tuple[Finding, ...]], bool],
    at_end: Callable[[], Turn | None] = lambda: None,
    watch: SceneWatch | None = None,
    closing_shot: bool = False,
    attended: bool = False,
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
        turn_ring: called with the focal length before each shot; returns when the lens is there, or what is
            wanted instead. None is to shoot.
        shoot_again: called with what is wrong with a shot; whether to shoot it again.
        at_end: called when nothing is left to be shot; BACK or AGAIN for the last shot again, else the end.
        watch: gets every shot that is kept, to compare it with the others.
        closing_shot: repeat the first focal length at the end, into closing.ARW or the like, which shows a
            tripod that crept and light that drifted.
        attended: a person answers: a shot with findings that is not shot again counts as done then. Where
            nobody does, and a person's own finger shoots, a file that is no shot, or an earlier one, is told,
            and waited on.
        resume: go on with a sequence that was begun; shots that are whole are kept.
        delete_on_card: delete from the camera what was downloaded and verified, in the backup too.
        backup: a folder, best on another disk, that gets a verified second copy of the sequence's folder.

    Raises:
        UserError: the folder holds a sequence already, the plan is not the one that was begun, or the
            camera fails; what was shot until then is kept.
    """
    steps = plan_steps(focal_mm, rig, closing_shot)
    apply_settings(camera, rig, expected)  # what the camera cannot do is refused before a folder is made
    book = _Book(folder, steps, rig, expected)
    copies = None if backup is None else _begin_backup(backup / folder.name, folder, resume)
    try:
        with book.opened(resume):
            yield from _shoot_steps(
                camera, book, Making(camera, folder, copies, delete_on_card),
                turn_ring=turn_ring, shoot_again=shoot_again, at_end=at_end, watch=watch, attended=attended,
            )  # fmt: skip
    finally:
        if copies is not None:
            with suppress(OSError):
                copies.rmdir()  # where nothing was copied


def _shoot_steps(
    camera: Camera,
    book: _Book,
    made: Making,
    *,
    turn_ring: Callable[[float], Turn | None],
    shoot_again: Callable[[tuple[Finding, ...]], bool],
    at_end: Callable[[], Turn | None],
    watch: SceneWatch | None,
    attended: bool,
) -> Iterator[CaptureEvent]:
    """Shoot what is missing of a sequence that is open; the arguments are `capture_sequence`'s."""
    steps, folder, rig, expected = book.steps, book.folder, book.rig, book.expected

    def event(kind: str, step: Step, **more: Any) -> CaptureEvent:
        return CaptureEvent(kind, len(book.shots), len(steps), step.focal_mm, step.closing, **more)

    def one_shot(step: Step) -> Iterator[CaptureEvent]:
        """Shoot a step until it is kept or given up; returns what is wanted instead of it."""
        again, unread, lost = True, False, 0
        while again:
            try:
                taken = made.recovered(step)
                if taken.shot and book.check(step, taken, expected):
                    if step not in book.shots:
                        made.place()  # whatever that is, it may be the only copy
                    taken = Taken()
                if taken.shot is None:
                    made.forget()
                    yield event("turn", step)
                    if camera.by_hand and not unread:
                        made.look_at_card(drop_new=attended)
                    wish = turn_ring(step.focal_mm)
                    if wish not in (None, Turn.SHOOT):
                        return wish
                    yield event("set", step, message=apply_settings(camera, rig, expected))
                    taken = made.shoot(step, rig)
                else:
                    yield event("found", step, shot=taken.shot)
            except CameraLost as error:
                lost += 1
                yield event("lost", step, message=str(error))
                _reconnect(camera, error, lost)
                continue
            findings = taken.findings + book.check(step, taken, expected)
            facts = taken.facts
            yield event("taken", step, shot=taken.shot, findings=findings, facts=facts)
            stray = {finding.check for finding in findings} & {"file", "taken_at"}  # none, or not this one
            waits = bool(stray) and camera.by_hand and not attended  # the shot itself is still to come
            again = bool(findings) and (shoot_again(findings) or waits)
            kept = taken.shot is not None and (not findings or (attended and not again))
            if kept or (taken.shot and step not in book.shots):  # else a good one stays where it is
                made.place()
            book.write_down(step, taken.shot if kept else None, findings)
            if kept:
                made.back_up(taken.shot)
                if watch:
                    watch.add(folder / taken.shot.file, taken.shot, taken.raw, closing=step.closing)
            undeleted = made.finish(kept)
            unread, lost = taken.shot is None, 0  # what comes after a file that was cut may be all of it
            yield event(
                "shot", step, shot=taken.shot, findings=findings, facts=facts, kept=kept, message=undeleted
            )
        return None

    order = sorted(steps, key=lambda step: step.stem != made.stem)  # first what was being made
    position, last, again = 0, None, set()
    while True:
        wish = at_end() if position == len(order) else None
        if position == len(order) and wish not in (Turn.BACK, Turn.AGAIN):
            break
        if wish is None:
            step = order[position]
            if step not in again and (shot := book.shots.get(step) or book.take_up(step, expected)):
                made.back_up(shot)
                if step is not last:
                    if watch:
                        watch.add(folder / shot.file, shot, closing=step.closing)
                    yield event("present", step, shot=shot)
            else:
                wish = yield from one_shot(step)
                again.discard(step)
                last = step if wish is None else last
                if wish is Turn.SKIP:
                    yield event("skipped", step)
        if wish in (Turn.BACK, Turn.AGAIN):
            position = order.index(last) if wish is Turn.AGAIN and last else max(0, position - 1)
            again.add(order[position])
        else:
            position += 1
    made.forget()
    yield CaptureEvent("finished", len(book.shots), len(steps))


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


class _Book:
    """sequence.json while its sequence is shot."""

    def __init__(self, folder: Path, steps: tuple[Step, ...], rig: Rig, expected: Expected) -> None:
        self.folder, self.steps, self.rig, self.expected = folder, steps, rig, expected
        self.shots: dict[Step, Shot] = {}
        self._noted: dict[Step, list[str]] = {}

    @contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """Make the folder, or take up what is in it; nobody else may shoot into it meanwhile.

        Where a person leaves before the first shot, nothing of it stays.
        """
        if not (self.folder / SEQUENCE_FILE).exists():
            _make_folder(self.folder)
        try:
            with only_one(self.folder / LOCK, f"Another session shoots into {self.folder}."):
                self._open(resume)
                yield
        except UserError:  # of a camera or a disk: --resume goes on
            raise
        except BaseException:
            if [path.name for path in self.folder.iterdir()] == [SEQUENCE_FILE]:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _open(self, resume: bool) -> None:
        if not (self.folder / SEQUENCE_FILE).exists():
            self._write()
            return
        folder, begun = self.folder, read_sequence(self.folder)
        done = begun.complete and not (folder / UNDER_WAY).exists()  # else its backup may be missing
        if done or not resume:
            state = "is complete" if done else "was begun"
            hint = "Choose another --name." if done else "Go on with --resume, or choose another --name."
            raise UserError(
                f"{folder} {state} already; sequences are never overwritten.", hint, wrong_use=True
            )
        if set(begun.planned_mm) != {step.focal_mm for step in self.steps}:
            raise UserError(
                f"{folder} was begun with --focal {','.join(f'{f:g}' for f in begun.planned_mm)}.",
                "Resume it with the same focal lengths.",
                wrong_use=True,
            )
        if begun.closing_planned and begun.planned_mm[:1] != (self.steps[0].focal_mm,):
            raise UserError(
                f"The closing shot of {folder} is at {begun.planned_mm[0]:g} mm, with which it began.",
                "Resume it with the focal lengths in the same order.",
                wrong_use=True,
            )
        if begun.closing_planned != any(step.closing for step in self.steps):
            with_or_without = "with" if begun.closing_planned else "without"
            raise UserError(
                f"{folder} was begun {with_or_without} a closing shot.", "Resume it likewise.", wrong_use=True
            )
        shots = {shot.focal_planned: shot for shot in begun.shots}
        findings = begun.notes.get("findings")
        findings = findings if isinstance(findings, dict) else {}
        for step in self.steps:
            shot = begun.closing if step.closing else shots.get(step.focal_mm)
            if shot is not None and (folder / shot.file).is_file() and self._is_whole(step, shot):
                self.shots[step] = shot
            if _key(step) in findings:
                self._noted[step] = findings[_key(step)]

    def _is_whole(self, step: Step, shot: Shot) -> bool:
        """Whether a file is what was shot; False where the program was killed as it was shot again.

        Raises:
            UserError: it is not, and nobody knows why.
        """
        if sha256_of(self.folder / shot.file) == shot.sha256:
            return True
        if stem_being_made(self.folder) == step.stem:
            return False
        raise UserError(
            f"{self.folder / shot.file} is not the file that was shot: "
            f"its hash differs from {SEQUENCE_FILE}.",
            "Put the original back, or remove the file to shoot it again; then --resume.",
        )

    def take_up(self, step: Step, expected: Expected) -> Shot | None:
        """A good shot that lies whole in the folder, as its program was killed before it was written down."""
        for raw in (self.folder / f"{step.stem}.{suffix}" for suffix in RAW_FORMATS):
            if not raw.is_file():
                continue
            jpeg = raw.with_suffix(".JPG")
            taken = read_taken(raw, jpeg if jpeg.is_file() else None, step, sha256_of(raw))
            if taken.shot and not self.check(step, taken, expected):
                self.write_down(step, taken.shot, ())
                return taken.shot
        return None

    def check(self, step: Step, taken: Taken, expected: Expected) -> tuple[Finding, ...]:
        """What is wrong with a shot by its EXIF and its pixels, beside the shots of the other steps."""
        if taken.shot is None:
            return ()
        others = [shot for other, shot in self.shots.items() if other != step]
        found = check_shot(taken.shot, expected, others, self.rig, self.shots.get(step))
        return (*found, *check_clipping(taken.facts.clipped, self.rig))

    def write_down(self, step: Step, kept: Shot | None, findings: tuple[Finding, ...]) -> None:
        """Note what came of a shot; one that was kept before counts on where this one is not."""
        if kept is not None:
            self.shots[step] = kept
        if kept is not None or step not in self.shots:
            self._noted[step] = [finding.what for finding in findings]
        self._write()

    def _write(self) -> None:
        findings = {_key(step): words for step, words in self._noted.items() if words}
        shots = [shot for step, shot in self.shots.items() if not step.closing]
        closing = [shot for step, shot in self.shots.items() if step.closing]
        write_sequence(
            Sequence(
                self.folder,
                sequence_name(self.folder),
                tuple(sorted(shots, key=lambda shot: shot.file)),
                tuple(step.focal_mm for step in self.steps if not step.closing),
                complete=len(self.shots) == len(self.steps),
                made_by="srraw capture",
                notes={"rig": self.rig.name, "asked": asdict(self.expected), "findings": findings},
                closing_planned=any(step.closing for step in self.steps),
                closing=closing[0] if closing else None,
            )
        )


def _key(step: Step) -> str:
    """What a step is called among the findings of sequence.json."""
    return CLOSING if step.closing else f"{step.focal_mm:g}"


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


def _begin_backup(folder: Path, of: Path, resume: bool) -> Path:
    """The folder of second copies; raises UserError where it holds something else already."""
    if of.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UserError(f"--backup would be {folder}, in {of} itself.", "Choose another.", wrong_use=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not resume:
            raise UserError(
                f"The backup {folder} is not empty.", "Choose another --backup or --name.", wrong_use=True
            )
    except OSError as error:
        problem = f"Cannot make the backup {folder}: {error.strerror}."
        raise UserError(problem, "Is its disk mounted? Choose another --backup.", wrong_use=True) from error
    return folder
