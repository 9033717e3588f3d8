"""The focal length at which the lens stands now, where the camera tells it, and whether to believe it."""

from __future__ import annotations

import time

from srraw_tools.camera import Camera, number_of, same_value
from srraw_tools.rig import Rig

STILL_S = 1.5  # a ring that a hand has left, and a tripod that has come to rest
BEYOND = 0.1  # of the lens's range, by which what it tells may lie outside


class LiveFocal:
    """What a camera says about its zoom ring.

    Some bodies tell a number that does not follow the ring. So it is believed only after it has agreed with
    the focal length that EXIF states of a shot, and no longer once it has contradicted one.

    Attributes:
        believed: whether it agreed with the last shot.
    """

    def __init__(self, camera: Camera, rig: Rig) -> None:
        self._camera, self._rig = camera, rig
        self._name: str | None = None
        self.believed = False
        self._at, self._since = None, 0.0

    def read(self) -> float | None:
        """The focal length in mm now; None where the camera does not tell.

        Raises:
            CameraLost: the camera is gone.
        """
        if self._name is None:  # a phone that shoots first does not tell, but the camera may
            names = self._rig.names.get("focal_mm", ())
            self._name = next((name for name in names if self._camera.value(name) is not None), None)
        focal = None if self._name is None else number_of(self._camera.value(self._name) or "")
        shortest, longest = self._rig.lens_mm
        if focal is not None and not shortest * (1 - BEYOND) <= focal <= longest * (1 + BEYOND):
            focal = None
        if focal != self._at:
            self._at, self._since = focal, time.monotonic()
        return focal

    def stands_at(self, focal_mm: float) -> bool:
        """Whether the ring has come to rest at a focal length, by what was read last."""
        if not self.believed or self._at is None:
            return False
        near = same_value(self._at, focal_mm, self._rig.focal_tolerance)
        return near and time.monotonic() - self._since >= STILL_S

    def compare(self, shot_mm: float | None) -> None:
        """Learn from a shot's EXIF whether what was read before it was true."""
        if shot_mm is not None and self._at is not None:
            self.believed = same_value(self._at, shot_mm, self._rig.focal_tolerance)
