"""The shots of a sequence compared with each other while it is being shot, in a thread of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from srraw_tools.checks import Finding
from srraw_tools.errors import UserError
from srraw_tools.raw import RawImage, read_raw
from srraw_tools.registration import Registration
from srraw_tools.rig import Rig
from srraw_tools.scene_checks import View, check_closing, check_scene, linked, view_of
from srraw_tools.sequence import Shot


class SceneWatch:
    """Findings about the pictures of a sequence, known soon after each shot without anybody waiting.

    Two neighbouring shots are registered once, at low resolution, as soon as both are there; so after the
    last shot there is one link left to find.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._worker = ThreadPoolExecutor(1, "scene")
        self._views: dict[str, View] = {}  # by file
        self._closing: View | None = None
        self._links: dict[tuple[int, int], tuple[View, View, Registration]] = {}  # by the views' identities
        self._last: Future[tuple[Finding, ...]] | None = None

    def add(self, path: Path, shot: Shot, raw: RawImage | None = None, *, closing: bool = False) -> None:
        """Take a shot in, in the place of an earlier one of the same name.

        Args:
            raw: what the file holds; it is read where that is not given.
            closing: the sequence's first focal length once more, at its end.
        """
        self._last = self._worker.submit(self._add, path, shot, raw, closing)

    def findings(self) -> tuple[Finding, ...] | None:
        """What is wrong with the shots that were added; None while that is not yet known."""
        if self._last is None:
            return ()
        return self._last.result() if self._last.done() else None

    def result(self) -> tuple[Finding, ...]:
        """The same, waited for."""
        return () if self._last is None else self._last.result()

    def close(self) -> None:
        """Let go of the thread; what it has not begun is not begun any more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _add(self, path: Path, shot: Shot, raw: RawImage | None, closing: bool) -> tuple[Finding, ...]:
        try:
            view = view_of(shot, raw or read_raw(path))
        except UserError as error:
            return (Finding("file", error.message.removesuffix("."), "shoot it again", shot=shot.file),)
        if closing:
            self._closing = view
        else:
            self._views[shot.file] = view
        views = list(self._views.values())
        findings = check_scene(views, self._rig, self._link)
        first = [view for view in views if self._closing and _same_focal(view, self._closing)]
        if first:
            findings += check_closing(first[0], self._closing, self._rig)
        return tuple(findings)

    def _link(self, low: View, high: View) -> Registration:
        key = (id(low), id(high))  # the views are kept beside it, so that no other can take their identity
        if key not in self._links:
            self._links[key] = (low, high, linked(low, high))
        return self._links[key][2]


def _same_focal(a: View, b: View) -> bool:
    return a.shot.focal_planned == b.shot.focal_planned
