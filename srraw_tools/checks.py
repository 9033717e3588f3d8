"""What a shot must satisfy before the tripod moves on. Pure functions that return findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from srraw_tools.camera import same_value
from srraw_tools.rig import Rig
from srraw_tools.sequence import Shot


@dataclass(frozen=True)
class Finding:
    """Something wrong with a shot: what it is, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Expected:
    """The settings that a shot was to have; None where nothing was asked."""

    f_number: float | None = None
    exposure_s: float | None = None
    iso: float | None = None


def check_shot(shot: Shot, expected: Expected, others: Iterable[Shot], rig: Rig) -> list[Finding]:
    """Compare a shot's EXIF with what was asked, and with the other shots of its sequence.

    Focal length within the rig's tolerance; exposure time and ISO as asked and the same through a sequence,
    so that noise does not depend on focal length; the aperture as small as asked (paper, section 3.1); one
    camera; a file that is not one of the others again. What EXIF does not state is not held against a shot.
    """
    others = list(others)
    findings = []
    planned, found = shot.focal_planned, shot.focal_mm
    if planned and found and abs(found / planned - 1) > rig.focal_tolerance:
        findings.append(
            Finding(
                f"the lens was at {found:g} mm instead of {planned:g} mm", "turn the ring and shoot it again"
            )
        )
    first = others[0] if others else None
    for name, unit in (("exposure_s", " s"), ("iso", " ISO"), ("f_number", "")):
        value = getattr(shot, name)
        wanted = getattr(expected, name) or (getattr(first, name) if first else None)
        if value is None or wanted is None or same_value(value, wanted):
            continue
        if name == "f_number" and expected.f_number and value > wanted:
            continue  # smaller than asked: deeper focus
        prefix = "f/" if name == "f_number" else ""
        findings.append(
            Finding(
                f"it was shot at {prefix}{value:g}{unit} instead of {prefix}{wanted:g}{unit}",
                "set the camera to manual exposure and shoot it again",
            )
        )
    if first and shot.camera and first.camera and shot.camera != first.camera:
        findings.append(Finding(f"it comes from a {shot.camera}, not a {first.camera}", "use one camera"))
    if shot.sha256 in {other.sha256 for other in others}:
        findings.append(Finding("it is an earlier file again, not a new shot", "shoot it again"))
    return findings
