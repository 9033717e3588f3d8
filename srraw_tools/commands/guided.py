"""The full-screen session of `srraw capture`: what a person at the terminal sees and presses."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from srraw_tools.camera import BATTERY, Camera
from srraw_tools.capture import CaptureEvent, Turn, next_sequence, plan_steps
from srraw_tools.checks import Finding
from srraw_tools.commands.session import Session, is_complete, refuse_if_incomplete
from srraw_tools.errors import UserError
from srraw_tools.guided_screen import Screen, ShotView, render
from srraw_tools.keys import ENTER, Keys, single_keys
from srraw_tools.live_focal import LiveFocal
from srraw_tools.making import Step
from srraw_tools.rig import Rig
from srraw_tools.scene_watch import SceneWatch

POLL_S = 0.25  # between two looks at the keys, the ring and the comparison of the pictures


class LeaveScene(Exception):
    """A person goes from a scene that is not complete: to the next one, or away."""

    def __init__(self, to_next: bool) -> None:
        super().__init__()
        self.to_next = to_next


class Guide:
    """One scene on the screen. Its methods are what `capture_sequence` asks a person.

    Attributes:
        screen: what is shown; replaced, never changed, as another thread draws it.
        to_next: whether the person wants another scene after this one.
    """

    def __init__(
        self,
        screen: Screen,
        keys: Keys,
        camera: Camera,
        live: LiveFocal,
        watch: SceneWatch,
        before_shot: Callable[[float], None],
        by_hand: frozenset[float],
    ) -> None:
        self.screen = replace(screen, started=time.monotonic())
        self.to_next = False
        self._keys, self._camera, self._live, self._watch = keys, camera, live, watch
        self._before_shot, self._by_hand = before_shot, by_hand

    def turn_ring(self, focal_mm: float) -> Turn:
        """Wait for a key, or with `auto` for the ring; then the shutter may be released.

        Raises:
            LeaveScene: by a key.
            CameraLost: the camera is gone.
        """
        self._look_at_camera()
        self._keys.forget()  # before the question is seen: a key that answers it is not lost
        self._show(doing="turn")
        leaving = False
        while True:
            key = self._keys.pressed(POLL_S)
            self._show(live_mm=self._live.read(), believed=self._live.believed, scene=self._watch.findings())
            if key == ENTER or (self.screen.auto and self._live.stands_at(focal_mm)):
                break
            if wish := {"s": Turn.SKIP, "b": Turn.BACK, "a": Turn.AGAIN}.get(key or ""):
                return wish
            if key == "q" or (key == "n" and leaving):
                raise LeaveScene(key == "n")
            if key == "n":
                if len(self.screen.done) == len(self.screen.steps):
                    raise LeaveScene(to_next=True)
                leaving = True
                self._show(message="This scene is not complete. Press n once more to leave it so.")
        self._show(doing="await" if focal_mm in self._by_hand else "shoot", message="")
        self._before_shot(focal_mm)
        return Turn.SHOOT

    def while_waiting(self) -> None:
        """Asked again and again while a person's own finger is to release the shutter.

        Raises:
            LeaveScene: by a key.
        """
        key = self._keys.pressed(0)
        if key in ("q", "n"):
            raise LeaveScene(key == "n")

    def meter_at(self, focal_mm: float) -> None:
        """Wait for the ring at a focal length at which the exposure is metered."""
        self._show(now=Step(focal_mm, "metering"), message="Metering: the test shots stay on the card.")
        while self.turn_ring(focal_mm) is not Turn.SHOOT:
            self._show(message="Metering needs this focal length: [Enter] to shoot, [q] to leave.")

    def say(self, said: str) -> None:
        """Show what metering found."""
        self._show(message=f"Metering: {said}")

    def shoot_again(self, findings: tuple[Finding, ...]) -> bool:
        """Show what is wrong with a shot, and ask what is to become of it."""
        self._keys.forget()
        self._show(doing="judge")
        while True:
            key = self._keys.pressed(POLL_S)
            if key in (ENTER, "a"):
                return True
            if key == "k":
                return False
            if key == "q":
                raise LeaveScene(to_next=False)

    def at_end(self) -> Turn | None:
        """Show how the pictures fit together, and ask what comes next."""
        self._keys.forget()
        self._show(doing="end", now=None, message="")
        while True:
            key = self._keys.pressed(POLL_S)
            self._show(scene=self._watch.findings())
            if wish := {"b": Turn.BACK, "a": Turn.AGAIN}.get(key or ""):
                return wish
            if key in (ENTER, "n", "q"):
                self.to_next = key != "q"
                return None

    def take_note(self, event: CaptureEvent) -> None:
        """Show what happened."""
        step = next(
            (s for s in self.screen.steps if (s.focal_mm, s.closing) == (event.focal_mm, event.closing)), None
        )
        if event.kind == "turn":
            self._show(now=step)
        elif event.kind in ("set", "hook"):
            self._show(message=event.message or self.screen.message)
        elif event.kind == "lost":
            self._show(message=f"{event.message.removesuffix('; then --resume.')}. It is tried again.")
        elif event.kind == "taken":
            self._take_in(event)
        elif event.kind == "skipped" and step:
            self._show(skipped=self.screen.skipped | {step})
        elif event.kind in ("present", "shot") and step:
            self._settle(event, step)

    def _take_in(self, event: CaptureEvent) -> None:
        shot, facts, before = event.shot, event.facts, self.screen.last
        if shot is None:
            self._show(last=ShotView(findings=event.findings))
            return
        same = before.shot is not None and before.shot.focal_planned == shot.focal_planned
        sharpness = before.facts.sharpness if same and before.facts else None
        self._show(last=ShotView(shot, facts, event.findings), sharpness_before=sharpness)

    def _settle(self, event: CaptureEvent, step: Step) -> None:
        kept = event.kind == "present" or event.kept
        done = self.screen.done | ({step: event.shot} if kept else {})
        message = event.message or (
            f"{event.focal_mm:g} mm: {event.shot.file}" if kept else self.screen.message
        )
        self._show(done=done, skipped=self.screen.skipped - {step}, message=message)

    def _look_at_camera(self) -> None:
        folder, shot = self.screen.folder, self.screen.last.shot
        battery: float | None = None
        with suppress(UserError, ValueError):
            battery = float((self._camera.value(BATTERY) or "").rstrip(" %"))
        changes: dict[str, Any] = {"battery_percent": battery}
        with suppress(OSError):
            changes["free_bytes"] = shutil.disk_usage(folder).free
            if shot is not None:
                names = filter(None, (shot.file, shot.jpeg))
                changes["shot_bytes"] = sum((folder / name).stat().st_size for name in names)
        self._show(**changes)

    def _show(self, **changes: Any) -> None:
        self.screen = replace(self.screen, **changes)


@contextmanager
def full_screen(console: Console | None = None) -> Iterator[tuple[Keys, Callable[[Guide], None]]]:
    """Take the terminal for the session: its keys, and what shows a guide on it. Both are given back."""
    guides: list[Guide] = []

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    # SIGTERM would leave the terminal as it is now; SIGINT may have been ignored by whatever started this.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    shown = Live(
        get_renderable=lambda: render(guides[-1].screen) if guides else "",
        console=console,
        screen=True,
        refresh_per_second=4,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    try:
        with single_keys() as keys, shown:
            yield keys, guides.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.stdout.flush()  # what is said next on stderr is not to go into the screen that is left here


def new_guide(
    folder: Path,
    camera: Camera,
    rig: Rig,
    steps: tuple[Step, ...],
    keys: Keys,
    watch: SceneWatch,
    live: LiveFocal,
    *,
    auto: bool,
    before_shot: Callable[[float], None],
    by_hand: frozenset[float],
) -> Guide:
    """The guide of one scene.

    Args:
        before_shot: called as the shutter is released.
        by_hand: focal lengths at which a person's own finger releases it.
    """
    screen = Screen(folder, camera.model, rig.name, steps, rig.checks["clipped"], auto=auto)
    return Guide(screen, keys, camera, live, watch, before_shot, by_hand)


def shoot_guided(
    first: Session,
    session: Session,
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
                    if is_complete(folder):
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
    complete = [folder for folder in folders if is_complete(folder)]
    if folders:
        click.echo(f"{len(complete)} of {len(folders)} scenes complete: {', '.join(map(str, folders))}.")
    if failure:
        raise failure
    refuse_if_incomplete(folders)
    if not complete:
        raise UserError("No scene was shot.")
