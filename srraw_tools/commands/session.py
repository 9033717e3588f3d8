"""What all scenes of a session of `srraw capture` have in common, on the full screen or in lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from srraw_tools.camera import Camera
from srraw_tools.capture import CaptureEvent, capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.errors import UserError
from srraw_tools.hook import Hook
from srraw_tools.live_focal import LiveFocal
from srraw_tools.metering import find_exposure
from srraw_tools.pair_camera import PairCamera
from srraw_tools.rig import Rig
from srraw_tools.scene_watch import SceneWatch
from srraw_tools.sequence import SEQUENCE_FILE, read_sequence
from srraw_tools.watched_folder import WatchedFolder


@dataclass(frozen=True)
class Session:
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

    def metered(self, turn_ring: Callable[[float], object], tell: Callable[[str], None]) -> Session:
        """The session with the exposure that metering finds, where it was asked for."""
        if not self.meter:
            return self
        found = find_exposure(self.camera, self.rig, self.focal_mm, self.expected, turn_ring, tell)
        return replace(self, expected=found.expected)

    def events(
        self, folder: Path, *, attended: bool, resume: bool, watch: SceneWatch, **asked: Any
    ) -> Iterator[CaptureEvent]:
        """Shoot one sequence, with the hook at its steps."""

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


def refuse_if_incomplete(folders: list[Path]) -> None:
    """Raises UserError for sequences that lack something, named with what."""
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


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a sequence of which nothing is missing."""
    return (folder / SEQUENCE_FILE).is_file() and read_sequence(folder).complete
