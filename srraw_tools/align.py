"""The stage from sequences to alignments: every pair of a sequence registered, into alignment.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_tools import __version__, distortion, ecc, geometry, joint, parallel, picture
from srraw_tools.alignment import (
    ALIGNMENT_FILE,
    PairAlignment,
    aligned_inputs,
    pairs_of,
    read_alignment,
    read_record,
)
from srraw_tools.distortion import Distortion, Lenses, LensTable
from srraw_tools.errors import UserError
from srraw_tools.exif import is_picture
from srraw_tools.files import sha256_of, write_json
from srraw_tools.flow import flow_name, residual_flow, write_flow
from srraw_tools.gain import fit_gain
from srraw_tools.raw import half_size_rgb, luminance, read_raw
from srraw_tools.sequence import (
    ZOOMS,
    Sequence,
    Shot,
    changed_shots,
    choose_pairs,
    foreign_shots,
    read_sequence,
    sequence_name,
    snapped,
)

MOTIONS = tuple(ecc.GENERATORS)


@dataclass(frozen=True)
class SequenceAlignment:
    """What `align_sequence` did: the pairs, and the files that could not be read.

    Attributes:
        name: of the sequence.
        folder: of the sequence.
        path: the alignment.json.
        pairs: those that are accepted and those that are rejected.
        warnings: sentences about what is odd.
        failures: sentences about files that could not be read, and cost their pairs.
        skipped: the same had been done before, and nothing was done now.
    """

    name: str
    folder: Path
    path: Path
    pairs: tuple[PairAlignment, ...]
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    skipped: bool = False


def align_sequences(
    folders: Iterable[Path],
    *,
    zooms: tuple[int, ...] = (4, 8),
    motion: str = "euclidean",
    nominal_scale: bool = False,
    max_error_px: float = joint.MAX_ERROR_PX,
    distortions: LensTable = (),
    flow: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
) -> Iterator[tuple[Path, SequenceAlignment | UserError]]:
    """Align many sequences, each as by `align_sequence`; a failure does not end the others.

    Args:
        folders: of the sequences. All other options are those of `align_sequence`.
        jobs: processes to work in.
        scheduler: address of a Dask cluster to work on instead, as parallel.map_items.

    Raises:
        UserError: an option is out of range. What is wrong with a sequence is yielded beside it.
    """
    check_options(zooms, motion, nominal_scale, max_error_px)
    folders = list(folders)
    names = [sequence_name(folder) for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if out and twice:
        raise UserError(f"Two sequences are called {twice[0]}; {out} can hold only one.", wrong_use=True)
    task = partial(
        align_sequence,
        zooms=zooms,
        motion=motion,
        nominal_scale=nominal_scale,
        max_error_px=max_error_px,
        distortions=distortions,
        flow=flow,
        out=out,
        overwrite=overwrite,
    )
    return parallel.map_items(task, folders, jobs, scheduler)


def align_sequence(
    folder: Path,
    *,
    zooms: tuple[int, ...] = (4, 8),
    motion: str = "euclidean",
    nominal_scale: bool = False,
    max_error_px: float = joint.MAX_ERROR_PX,
    distortions: LensTable = (),
    flow: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
) -> SequenceAlignment:
    """Register the pairs of a sequence and write alignment.json.

    Args:
        zooms: target zooms whose pairs are wanted (2, 4, 8).
        motion: "translation", "euclidean", "similarity", "affine" or "homography". A Euclidean motion has
            the scale offset beside it (paper, section 3.2), refined from the images unless `nominal_scale`.
        max_error_px: expected error in pixels of the long shot above which a pair is rejected.
        distortions: of the lens, by focal length (rig.Rig.distortion). A shot by another lens, or at a focal
            length that it does not reach, is taken as undistorted, with a warning.
        flow: also find the flow that remains in every pair that is ok, into a file beside alignment.json. An
            alignment that is there already gets it too.
        out: folder for <sequence>/alignment.json; the sequence's own folder by default.
        overwrite: replace an alignment that other options or other files made.

    Raises:
        UserError: the sequence is incomplete or cannot be read, an option is out of range, or an alignment
            with other options or other inputs is there.
    """
    check_options(zooms, motion, nominal_scale, max_error_px)
    sequence = read_sequence(folder)
    if not sequence.complete:
        raise UserError(
            f"{folder} is incomplete: not everything that was planned was shot.",
            "Finish it with 'srraw capture --resume', or set it aside.",
        )
    path = (out / sequence.name if out else folder) / ALIGNMENT_FILE
    zooms = tuple(sorted(set(zooms)))
    options = {
        "zooms": list(zooms),
        "motion": motion,
        "nominal_scale": nominal_scale,
        "max_error_px": max_error_px,
        **({"distortions": [list(row) for row in distortions]} if distortions else {}),
    }
    shots = _useful(sequence, zooms)
    missing = [shot.file for shot in shots if not (folder / shot.file).is_file()]
    inputs = {shot.file: sha256_of(folder / shot.file) for shot in shots if shot.file not in missing}
    done = _done_before(path, options, inputs, overwrite)
    if done is not None and not (flow and _lacks_flow(done, path.parent)):
        return SequenceAlignment(sequence.name, folder, path, done, skipped=True)
    if done is not None:
        named = {name for pair in done if pair.status == "ok" for name in (pair.low, pair.high)}
        views, failures = _read_views(folder, sorted(named))
        done = _with_flow(done, views, inputs, path.parent)
        _write_alignment(path, {**options, "flow": True}, inputs, done, complete=not failures)
        return SequenceAlignment(sequence.name, folder, path, done, failures=tuple(failures))
    changed = changed_shots(sequence, inputs)
    views, failures = _read_views(folder, [name for name in inputs if name not in changed])
    failures += [str(error) for error in changed.values()]
    group = "similarity" if motion == "euclidean" and not nominal_scale else motion
    images = {name: view.luminance for name, view in views.items()}
    foreign = foreign_shots(sequence)
    focals = {
        shot.file: None if shot.file in foreign else shot.focal_mm or shot.focal_planned
        for shot in shots
        if shot.file in views
    }
    lenses, uncalibrated = _distortions(distortions, focals, images)
    neighbours = joint.link_neighbours(
        images, focals, motion=group, keep_scale=nominal_scale, distortions=lenses
    )
    shown = joint.focals_by_images(
        neighbours, focals, {name: view.luminance.shape for name, view in views.items()}
    )
    sequence, warnings = _focals_checked(sequence, shown)
    warnings += uncalibrated
    pairs = [(zoom, low, high) for zoom in zooms for low, high in choose_pairs(sequence, zoom)]
    unplaced = [shot.file for shot in sequence.shots if shot.focal_nominal is None]
    if not pairs and unplaced and not failures:
        raise UserError(
            f"{folder}: no focal length is known of {', '.join(unplaced)}, nor seen in the images, so no "
            "pairs can be chosen.",
            "Write a sequence.json with the focal_planned of each shot.",
        )
    paired = {zoom for zoom, _, _ in pairs}
    warnings += [f"no two focal lengths make a pair for {zoom}X" for zoom in zooms if zoom not in paired]
    pairs = [pair for pair in pairs if pair[1].file in views and pair[2].file in views]
    if nominal_scale:
        shown = {}
    focals = {
        shot.file: shown.get(shot.file)
        or (shot.focal_nominal if shot.file in foreign else shot.focal_mm or shot.focal_nominal)
        for shot in sequence.shots
    }
    ratios = {(low.file, high.file): focals[high.file] / focals[low.file] for _, low, high in pairs}
    found = joint.register_pairs(
        images,
        ratios,
        neighbours,
        motion=group,
        keep_scale=nominal_scale,
        max_error_px=max_error_px,
        distortions=lenses,
    )
    aligned = tuple(
        _aligned(
            views[low.file],
            views[high.file],
            zoom,
            low,
            high,
            motion,
            found[low.file, high.file],
            (lenses.get(low.file), lenses.get(high.file)),
            same_lens=not foreign & {low.file, high.file},
        )
        for zoom, low, high in pairs
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {path.parent}: {error.strerror}.", "Choose another --out.") from error
    if flow:
        aligned = _with_flow(aligned, views, inputs, path.parent)
    # A damaged file costs its own pairs now; the next run tries it again.
    _write_alignment(path, {**options, "flow": flow}, inputs, aligned, complete=not failures)
    warnings = [f"{name} is missing" for name in missing] + warnings
    warnings += sorted({note for view in views.values() for note in view.notes})
    return SequenceAlignment(sequence.name, folder, path, aligned, tuple(warnings), tuple(failures))


def _write_alignment(
    path: Path,
    options: dict[str, Any],
    inputs: dict[str, str],
    pairs: tuple[PairAlignment, ...],
    *,
    complete: bool,
) -> None:
    before: set[str | None] = set()
    with suppress(UserError):  # none, or one that --overwrite is to replace because it is damaged
        before = {pair.flow for pair in read_alignment(path)}
    record = {
        "format": "srraw-alignment",
        "version": 1,
        "created_by": f"srraw {__version__}",
        "options": options,
        "inputs": inputs,
        **({"complete": True} if complete else {}),
        "pairs": [pair.record() for pair in pairs],
    }
    write_json(path, record)
    for name in before - {pair.flow for pair in pairs} - {None}:
        (path.parent / name).unlink(missing_ok=True)


def _lacks_flow(pairs: tuple[PairAlignment, ...], folder: Path) -> bool:
    return any(pair.status == "ok" and not (pair.flow and (folder / pair.flow).is_file()) for pair in pairs)


def _with_flow(
    pairs: tuple[PairAlignment, ...], views: dict[str, _View], inputs: dict[str, str], folder: Path
) -> tuple[PairAlignment, ...]:
    """The pairs, each that is ok with the flow that remains in it, which is written into the folder."""
    found = []
    for pair in pairs:
        if pair.status == "ok" and {pair.low, pair.high} <= views.keys():
            low_to_high = np.asarray(pair.low_to_high, np.float64)
            red, green, blue = pair.gain
            x, y, width, height = pair.crop
            remaining = residual_flow(
                views[pair.low].luminance[y : y + height, x : x + width],
                views[pair.high].luminance,
                low_to_high,
                geometry.crop_to_frame(pair.crop),
                gain=(red + 2 * green + blue) / 4,
                lenses=pair.lenses,
            )
            about = {
                "format": "srraw-flow",
                "version": 1,
                "created_by": f"srraw {__version__}",
                "inputs": {name: inputs[name] for name in (pair.low, pair.high)},
                "low": pair.low,
                "high": pair.high,
                "crop": pair.crop,
                "low_to_high": pair.low_to_high,
            }
            pair = replace(pair, flow=flow_name(pair.low, pair.high))
            write_flow(folder / pair.flow, replace(remaining, about=about))
        found.append(pair)
    return tuple(found)


def _useful(sequence: Sequence, zooms: tuple[int, ...]) -> list[Shot]:
    """The shots of the pairs, those between them, and those whose focal length only the images can tell."""
    focals = [shot.focal_nominal for zoom in zooms for pair in choose_pairs(sequence, zoom) for shot in pair]
    unplaced = [shot for shot in sequence.shots if shot.focal_nominal is None]
    if unplaced or foreign_shots(sequence):
        return list(sequence.shots)
    if not focals:
        return []
    return [shot for shot in sequence.shots if min(focals) <= shot.focal_nominal <= max(focals)]


def _focals_checked(sequence: Sequence, by_images: dict[str, float]) -> tuple[Sequence, list[str]]:
    """The sequence with focal lengths as the images show them where EXIF is silent, wrong or of another lens;
    and what was."""
    shots, warnings, foreign = [], [], foreign_shots(sequence)
    for shot in sequence.shots:
        shown = by_images.get(shot.file)
        if shot.file in foreign and shown is None:
            warnings.append(
                f"{shot.file} is of another camera or lens, and the images do not show its zoom; "
                "no pairs are made with it"
            )
        elif shot.file in foreign:
            shot = replace(shot, focal_planned=shown)
        elif shown is None:
            if shot.focal_nominal is None:
                warnings.append(f"no focal length is known of {shot.file}; no pairs are made with it")
        elif shot.focal_mm is None:
            warnings.append(f"{shot.file} states no focal length; the images show {shown:.3g}")
            shot = replace(shot, focal_planned=shot.focal_planned or snapped(shown))
        elif abs(shown / shot.focal_mm - 1) > joint.FOCAL_TOLERANCE:
            warnings.append(f"{shot.file} states {shot.focal_mm:.4g} mm; the images show {shown:.3g} mm")
            shot = replace(shot, focal_planned=shot.focal_planned or snapped(shown))
        shots.append(shot)
    return replace(sequence, shots=tuple(shots)), warnings


def check_options(zooms: tuple[int, ...], motion: str, nominal_scale: bool, max_error_px: float) -> None:
    """Raises UserError for what no sequence can be aligned with; the options are `align_sequence`'s."""
    unknown = [zoom for zoom in zooms if zoom not in ZOOMS]
    if unknown or not zooms:
        raise UserError(f"A zoom of {unknown} is not possible; choose among 2, 4 and 8.", wrong_use=True)
    if motion not in MOTIONS:
        raise UserError(f"There is no motion {motion!r}; choose among {', '.join(MOTIONS)}.", wrong_use=True)

    if not 0 < max_error_px < math.inf:
        raise UserError(f"An expected error of {max_error_px} px is not above 0.", wrong_use=True)
    if nominal_scale and motion not in ("translation", "euclidean"):
        raise UserError(
            f"A {motion} motion refines the scale; --nominal-scale goes with translation or euclidean.",
            wrong_use=True,
        )


def _done_before(
    path: Path, options: dict[str, Any], inputs: dict[str, str], overwrite: bool
) -> tuple[PairAlignment, ...] | None:
    """The pairs of a finished alignment of the same files by the same options; None where there is none."""
    if overwrite or not path.exists():
        return None
    record = read_record(path)
    if isinstance(record.get("options"), dict):
        record["options"].pop("flow", None)  # it changes no pair
    if record.get("options") == options and record.get("inputs") == inputs:
        return pairs_of(record, path) if record.get("complete") else None
    if record.get("options") == options and not record.get("complete"):
        return None
    if record.get("options") != options:
        what = "other options"
    else:
        before = aligned_inputs(path)
        differing = sorted(name for name in {*inputs, *before} if inputs.get(name) != before.get(name))
        what = f"files that have changed since: {', '.join(differing)}"
    raise UserError(f"{path} was made with {what}.", "Give --overwrite to make it again.", wrong_use=True)


@dataclass(frozen=True)
class _View:
    """What registration needs of a shot: its light, without the mosaic it came from.

    color_matrix: from the colours of `half_size_rgb` to linear sRGB.
    colors: whose colours those are: a camera's, or "sRGB".
    """

    luminance: ecc.Image
    half_size_rgb: ecc.Image
    color_matrix: npt.NDArray[np.float64]
    colors: str
    notes: tuple[str, ...]


def _read_views(folder: Path, names: list[str]) -> tuple[dict[str, _View], list[str]]:
    """Decode each file once; and say in words which could not be."""
    views, failures = {}, []
    for name in names:
        try:
            views[name] = _read_view(folder / name)
        except UserError as error:
            failures.append(str(error))
    return views, failures


def _read_view(path: Path) -> _View:
    if is_picture(path):
        shot = picture.read_picture(path)
        return _View(picture.luminance(shot), picture.half_size_rgb(shot), np.eye(3), "sRGB", shot.notes)
    raw = read_raw(path)
    return _View(luminance(raw), half_size_rgb(raw), raw.color_matrix, raw.exif.camera, raw.notes)


def _aligned(
    low_view: _View,
    high_view: _View,
    zoom: int,
    low: Shot,
    high: Shot,
    motion: str,
    found: joint.PairRegistration,
    lenses: Lenses,
    *,
    same_lens: bool,
) -> PairAlignment:
    scale, _ = geometry.scale_and_rotation(found.low_to_high)
    reason, crop, gain = found.reason, None, (1.0, 1.0, 1.0)
    try:
        crop = distortion.even_crop_of_view(
            found.low_to_high, low_view.luminance.shape, high_view.luminance.shape, lenses
        )
    except ValueError:
        reason = reason or "the two shots do not see a common field"
    if reason is None:
        half = geometry.scaling(2.0)  # from pixels of the half-size images to those of the full ones
        colors = _comparable_colors(low_view, high_view)
        low_to_high = np.linalg.inv(half) @ found.low_to_high @ half
        gain = fit_gain(*colors, low_to_high, tuple(lens and lens.at_sampling(0.5) for lens in lenses))
    known = same_lens and low.focal_mm and high.focal_mm
    return PairAlignment(
        low=low.file,
        high=high.file,
        focal_low=low.focal_mm,
        focal_high=high.focal_mm,
        zoom=zoom,
        scale_offset=scale / zoom,
        scale_offset_nominal=high.focal_mm / low.focal_mm / zoom if known else None,
        crop=crop,
        motion=motion,
        low_to_high=found.low_to_high.tolist(),
        gain=gain,
        score=found.score,
        residual_px=_finite(found.residual_px),
        expected_error_px=_finite(found.expected_error_px),
        status="ok" if reason is None else "rejected",
        reason=reason,
        distortion_low=lenses[0],
        distortion_high=lenses[1],
    )


def _distortions(
    table: LensTable, focals: dict[str, float | None], images: dict[str, ecc.Image]
) -> tuple[dict[str, Distortion], list[str]]:
    """The distortions of shots by their focal lengths; and in words which the table does not know."""
    lenses, unknown = {}, []
    for name, focal in focals.items() if table else ():
        lens = distortion.of_focal(table, focal, images[name].shape) if focal else None
        if lens is not None:
            lenses[name] = lens
        else:
            unknown.append(f"the rig tells no distortion of {name}; it is taken as undistorted")
    return lenses, unknown


def _comparable_colors(low: _View, high: _View) -> tuple[ecc.Image, ecc.Image]:
    """The light of both in the same colours: their camera's, or linear sRGB, as such pairs are packed."""
    if low.colors == high.colors:
        return low.half_size_rgb, high.half_size_rgb
    first, second = (
        np.clip(view.half_size_rgb @ view.color_matrix.T.astype(np.float32), 0, 1) for view in (low, high)
    )
    return first, second


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
