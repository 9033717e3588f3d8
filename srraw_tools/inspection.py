"""The stage: everything that can be checked of a sequence that was shot before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from srraw_tools.checks import Expected, Finding, check_shot
from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of
from srraw_tools.raw import read_raw
from srraw_tools.rig import Rig, installed_rigs
from srraw_tools.scene_checks import check_clipping, check_closing, check_scene, view_of
from srraw_tools.sequence import Sequence, Shot, read_sequence

PAPERS_RIG = "sony-fe-24-240"


def check_sequence(folder: Path, rig: Rig | None = None) -> tuple[Sequence, list[Finding]]:
    """Check the shots of a sequence, ours or as published: files, EXIF, pictures.

    What most shots have is what every shot ought to have: settings and camera are compared with the usual
    ones. Shots without a raw file are checked by their EXIF alone.

    Args:
        rig: whose thresholds count; by default that with which the sequence was shot, or the paper's where
            that is not among ours.

    Raises:
        UserError: the folder holds no sequence.
    """
    sequence = read_sequence(folder)
    rigs = installed_rigs()
    rig = rig or rigs.get(str(sequence.notes.get("rig"))) or rigs[PAPERS_RIG]
    findings: list[Finding] = []
    shots: list[Shot] = []
    views = []
    for shot in filter(None, (*sequence.shots, sequence.closing)):
        path = folder / shot.file
        try:
            found = sha256_of(path)
            if shot.sha256 and found != shot.sha256:
                what = "its bytes are not those that were shot"
                findings.append(Finding("file", what, "copy it from the card again", shot=shot.file))
            shots.append(replace(shot, sha256=found))
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                views.append(view_of(shot, read_raw(path)))
        except UserError as error:
            what = error.message.removesuffix(".").replace(str(path), "its file")
            findings.append(Finding("file", what, "copy it from the card again", shot=shot.file))
    if not sequence.complete:
        taken = {shot.focal_planned for shot in sequence.shots}
        missing = [f"{focal:g} mm" for focal in sequence.planned_mm if focal not in taken]
        if sequence.closing_planned and sequence.closing is None:
            missing.append("the closing shot")
        findings.append(Finding("file", f"{', '.join(missing)} was not shot", "srraw capture --resume"))
    usual = _usual(shots)
    for number, shot in enumerate(shots):
        others = [usual, *(replace(usual, sha256=o.sha256) for o in shots[:number])]
        findings += [replace(f, shot=shot.file) for f in check_shot(shot, Expected(), others, rig)]
    for view in views:
        findings += check_clipping(view.clipped, rig, view.shot.file)
    last = sequence.closing.file if sequence.closing else None
    closing = [view for view in views if view.shot.file == last]
    views = [view for view in views if view.shot.file != last]
    findings += check_scene(views, rig)
    first = [view for view in views if view.shot.focal_planned in sequence.planned_mm[:1]]
    if first and closing:
        findings += check_closing(first[0], closing[0], rig)
    return sequence, findings


def _usual(shots: list[Shot]) -> Shot:
    """A shot with the settings that most shots have."""

    def most(name: str) -> float | str | None:
        values = Counter(getattr(shot, name) for shot in shots if getattr(shot, name) is not None)
        return values.most_common(1)[0][0] if values else None

    names = ("f_number", "exposure_s", "iso", "camera", "lens")
    return Shot("the others", **{name: most(name) for name in names})
