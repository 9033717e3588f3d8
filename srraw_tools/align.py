"""The stage from sequences to alignments: every pair of a sequence registered, into alignment.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srraw_tools import __version__, ecc, geometry, parallel, registration
from srraw_tools.alignment import ALIGNMENT_FILE, PairAlignment, aligned_inputs, pairs_of, read_record
from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of, write_json
from srraw_tools.raw import half_size_rgb, luminance, read_raw
from srraw_tools.sequence import (
    SEQUENCE_FILE,
    ZOOMS,
    Shot,
    changed_shots,
    choose_pairs,
    read_sequence,
    sequence_name,
)

MOTIONS = tuple(ecc.GENERATORS)


@dataclass(frozen=True)
class SequenceAlignment:
    """What `align_sequence` did: the pairs, and the files that could not be read.

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
    out: Path | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> Iterator[tuple[Path, SequenceAlignment | UserError]]:
    """Align many sequences, each as by `align_sequence`; a failure does not end the others.

    Raises:
        UserError: an option is out of range. What is wrong with a sequence is yielded beside it.
    """
    _check_options(zooms, motion, nominal_scale)
    folders = list(folders)
    names = [sequence_name(folder) for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if out and twice:
        raise UserError(f"Two sequences are called {twice[0]}; {out} can hold only one.", wrong_use=True)
    task = partial(
        align_sequence, zooms=zooms, motion=motion, nominal_scale=nominal_scale, out=out, overwrite=overwrite
    )
    return parallel.map_items(task, folders, jobs)


def align_sequence(
    folder: Path,
    *,
    zooms: tuple[int, ...] = (4, 8),
    motion: str = "euclidean",
    nominal_scale: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
) -> SequenceAlignment:
    """Register the pairs of a sequence and write alignment.json.

    Args:
        zooms: target zooms whose pairs are wanted (2, 4, 8).
        motion: "translation", "euclidean", "similarity", "affine" or "homography". A Euclidean motion has
            the scale offset beside it (paper, section 3.2), refined from the images unless `nominal_scale`.
        out: folder for <sequence>/alignment.json; the sequence's own folder by default.
        overwrite: replace an alignment that other options or other files made.

    Raises:
        UserError: the sequence is incomplete or cannot be read, an option is out of range, or an alignment
            with other options or other inputs is there.
    """
    _check_options(zooms, motion, nominal_scale)
    sequence = read_sequence(folder)
    if not sequence.complete:
        raise UserError(
            f"{folder} is incomplete: not everything that was planned was shot.",
            "Finish it with 'srraw capture --resume', or set it aside.",
        )
    path = (out / sequence.name if out else folder) / ALIGNMENT_FILE
    zooms = tuple(sorted(set(zooms)))
    options = {"zooms": list(zooms), "motion": motion, "nominal_scale": nominal_scale}
    unplaced = [shot.file for shot in sequence.shots if shot.focal_nominal is None]
    pairs = [(zoom, low, high) for zoom in zooms for low, high in choose_pairs(sequence, zoom)]
    if not pairs and unplaced:
        raise UserError(
            f"{folder}: no focal length is known of {', '.join(unplaced)}, so no pairs can be chosen.",
            f"Write a {SEQUENCE_FILE} with the focal_planned of each shot.",
        )
    names = sorted({shot.file for _, low, high in pairs for shot in (low, high)})
    missing = [name for name in names if not (folder / name).is_file()]
    inputs = {name: sha256_of(folder / name) for name in names if name not in missing}
    done = _done_before(path, options, inputs, overwrite)
    if done is not None:
        return SequenceAlignment(sequence.name, folder, path, done, skipped=True)
    changed = changed_shots(sequence, inputs)
    images, failures = _read_views(folder, [name for name in inputs if name not in changed])
    failures += [str(error) for error in changed.values()]
    # A file that states no focal length may be one that nothing can read.
    failures += _read_views(folder, [name for name in unplaced if (folder / name).is_file()])[1]
    aligned = tuple(
        _align_pair(images[low.file], images[high.file], low, high, zoom, motion, nominal_scale)
        for zoom, low, high in pairs
        if low.file in images and high.file in images
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {path.parent}: {error.strerror}.", "Choose another --out.") from error
    record = {
        "format": "srraw-alignment",
        "version": 1,
        "created_by": f"srraw {__version__}",
        "options": options,
        "inputs": inputs,
        "pairs": [asdict(pair) for pair in aligned],
    }
    if not failures:  # a damaged file costs its own pairs now; the next run tries it again
        record["complete"] = True
    write_json(path, record)
    warnings = [f"{name} is missing" for name in missing]
    if unplaced:
        warnings.append(f"no focal length is known of {', '.join(unplaced)}; no pairs are made with them")
    warnings += sorted({note for view in images.values() for note in view.notes})
    paired = {zoom for zoom, _, _ in pairs}
    warnings += [f"no two focal lengths make a pair for {zoom}X" for zoom in zooms if zoom not in paired]
    return SequenceAlignment(sequence.name, folder, path, aligned, tuple(warnings), tuple(failures))


def _check_options(zooms: tuple[int, ...], motion: str, nominal_scale: bool) -> None:
    unknown = [zoom for zoom in zooms if zoom not in ZOOMS]
    if unknown or not zooms:
        raise UserError(f"A zoom of {unknown} is not possible; choose among 2, 4 and 8.", wrong_use=True)
    if motion not in MOTIONS:
        raise UserError(f"There is no motion {motion!r}; choose among {', '.join(MOTIONS)}.", wrong_use=True)

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
    """What registration needs of a shot: its light, without the mosaic it came from."""

    luminance: ecc.Image
    half_size_rgb: ecc.Image
    notes: tuple[str, ...]


def _read_views(folder: Path, names: list[str]) -> tuple[dict[str, _View], list[str]]:
    """Decode each raw once; and say in words which could not be."""
    views, failures = {}, []
    for name in names:
        try:
            raw = read_raw(folder / name)
        except UserError as error:
            failures.append(str(error))
            continue
        views[name] = _View(luminance(raw), half_size_rgb(raw), raw.notes)
    return views, failures


def _align_pair(
    low_view: _View,
    high_view: _View,
    low: Shot,
    high: Shot,
    zoom: int,
    motion: str,
    nominal_scale: bool,
) -> PairAlignment:
    low_light, high_light = low_view.luminance, high_view.luminance
    ratio = high.focal_mm / low.focal_mm if low.focal_mm and high.focal_mm else None
    expected = ratio or high.focal_nominal / low.focal_nominal
    start = registration.centred_start(low_light.shape, high_light.shape, expected)
    group = "similarity" if motion == "euclidean" and not nominal_scale else motion
    found = registration.register(low_light, high_light, start, motion=group, keep_scale=nominal_scale)
    scale, _ = geometry.scale_and_rotation(found.low_to_high)
    reason, crop, gain = found.reason, None, (1.0, 1.0, 1.0)
    try:
        crop = geometry.even_crop_of_view(found.low_to_high, low_light.shape, high_light.shape)
    except ValueError:
        reason = reason or "the two shots do not see a common field"
    if reason is None:
        half = geometry.scaling(2.0)  # from pixels of the half-size images to those of the full ones
        gain = registration.fit_gain(
            low_view.half_size_rgb, high_view.half_size_rgb, np.linalg.inv(half) @ found.low_to_high @ half
        )
    return PairAlignment(
        low=low.file,
        high=high.file,
        focal_low=low.focal_mm,
        focal_high=high.focal_mm,
        zoom=zoom,
        scale_offset=scale / zoom,
        scale_offset_nominal=ratio / zoom if ratio else None,
        crop=crop,
        motion=motion,
        low_to_high=found.low_to_high.tolist(),
        gain=gain,
        score=found.score,
        residual_px=found.residual_px if np.isfinite(found.residual_px) else None,
        status="ok" if reason is None else "rejected",
        reason=reason,
    )
