"""What a shot must satisfy before the tripod moves on. Pure functions that return findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from srraw_tools.camera import same_value
from srraw_tools.rig import Rig
from srraw_tools.sequence import Shot


@dataclass(frozen=True)
class Finding:
    """Something wrong with a shot.

    Attributes:
        check: what was looked at, in a word: focal_mm, f_number, exposure_s, iso, camera, lens, digital_zoom,
            taken_at, file.
        what: a sentence without a full stop.
        remedy: what to do about it.
        measured: what the shot has, and
        limit: the nearest that would have passed; None where there is no such thing.
        shot: its file, where a sequence is checked.
    """

    check: str
    what: str
    remedy: str
    measured: float | str | None = None
    limit: float | str | None = None
    shot: str | None = None


@dataclass(frozen=True)
class Expected:
    """The settings that a shot was to have; None where nothing was asked."""

    f_number: float | None = None
    exposure_s: float | None = None
    iso: float | None = None


def check_shot(
    shot: Shot, expected: Expected, others: Iterable[Shot], rig: Rig, replaced: Shot | None = None
) -> list[Finding]:
    """Compare a shot's EXIF with what was asked, and with the other shots of its sequence.

    Focal length within the rig's tolerance; exposure time and ISO as asked and the same through a sequence,
    so that noise does not depend on focal length; the aperture at least as small as asked (paper, section
    3.1), and the same through a sequence; one camera and one lens; no digital zoom; a file that is not one of
    the others again, nor older than what the camera shot before it. What EXIF does not state is not held
    against a shot. A phone's shots and a camera's are each compared among themselves.

    Args:
        replaced: the one that was shot before in its place, which is no measure for it, but not it either.
    """
    by_phone = shot.focal_planned in rig.phone_mm
    others = [other for other in others if (other.focal_planned in rig.phone_mm) == by_phone]
    if by_phone:  # whose settings are its own
        expected = Expected()
    findings = [*_focal_length(shot, rig), *_settings(shot, expected, others, rig)]
    for name in ("camera", "lens"):
        mine, first = getattr(shot, name), next((getattr(o, name) for o in others if getattr(o, name)), None)
        if mine and first and mine != first:
            what = f"it comes from another {name}, {mine}, than the first shot"
            findings.append(Finding(name, what, f"use one {name}", mine, first))
    if shot.digital_zoom is not None and shot.digital_zoom > 1:
        what = f"it was shot with a digital zoom of {shot.digital_zoom:g}"
        findings.append(Finding("digital_zoom", what, "switch it off", shot.digital_zoom, 1.0))
    before = [*others, replaced] if replaced else others
    new_each_time = rig.ring != "virtual"  # whose card has one file for a focal length
    if new_each_time and shot.sha256 and shot.sha256 in {other.sha256 for other in before}:
        findings.append(Finding("file", "it is an earlier file again, not a new shot", "shoot it again"))
    elif new_each_time and shot.taken_at:
        later = [o.taken_at for o in before if o.taken_at and o.camera == shot.camera]
        if later and shot.taken_at[:19] < max(later)[:19]:
            what = f"it was taken at {shot.taken_at[11:19]}, before the shot that precedes it"
            findings.append(Finding("taken_at", what, "shoot it again", shot.taken_at, max(later)))
    return findings


def setting_text(name: str, value: float) -> str:
    """A setting in a photographer's words: f/20, 1/50 s, ISO 100."""
    if name == "exposure_s":
        return f"{value:g} s" if value > 0.3 else f"1/{float(f'{1 / value:.4g}'):g} s"
    return f"f/{value:g}" if name == "f_number" else f"ISO {value:g}"


def _focal_length(shot: Shot, rig: Rig) -> list[Finding]:
    planned, found = shot.focal_planned, shot.focal_mm
    if not planned or not found or abs(found / planned - 1) <= rig.focal_tolerance:
        return []
    limit = planned * (1 + rig.focal_tolerance if found > planned else 1 - rig.focal_tolerance)
    what = f"the lens was at {found:g} mm instead of {planned:g} mm"
    return [Finding("focal_mm", what, "turn the ring and shoot it again", found, limit)]


def _settings(shot: Shot, expected: Expected, others: list[Shot], rig: Rig) -> list[Finding]:
    """At most one finding a setting: that it is not as asked, else that it is not the first shot's."""
    findings = []
    for name in ("f_number", "exposure_s", "iso"):
        value, asked = getattr(shot, name), getattr(expected, name)
        first = next((getattr(other, name) for other in others if getattr(other, name)), None)
        if value is None:
            continue
        smaller_aperture = name == "f_number" and asked is not None and value > asked
        if asked and not smaller_aperture and not same_value(value, asked, rig.setting_tolerance):
            limit, whose = asked, "as was asked"
        elif first and not same_value(value, first, rig.setting_tolerance):
            limit, whose = first, "as the first shot"
        else:
            continue
        what = f"it was shot with {setting_text(name, value)}, not {setting_text(name, limit)} {whose}"
        findings.append(
            Finding(name, what, "set the camera to manual exposure and shoot it again", value, limit)
        )
    return findings
