"""The stage: models and a set, or folders of pictures, into a study."""

from __future__ import annotations

import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from srraw_model.evaluate import BICUBIC, Evaluation, detailed_crop, picture_of
from srraw_model.pictures import target_picture
from srraw_model.study.plan import IMAGES, KEY_FILE, PLAN_FILE, Comparison, Plan, plan_record
from srraw_model.study.votes import DATABASE
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import write_json

Picture = npt.NDArray[np.uint8]

QUESTION = "Which image has the better quality?"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
SPOILT = "spoilt"  # the method of the worse picture of an obvious pair
SPOILT_SIGMA_PX = 4.0
PAD = b"srPd"  # a private, ancillary chunk of PNG that viewers pass over


@dataclass(frozen=True)
class Scene:
    """Results of one scene, of one size, in the order of the methods; and what they were made from.

    Attributes:
        results: (H, W, 3) uint8 sRGB, by method.
        input: (h, w, 3) uint8 sRGB, commonly smaller; None where it is not shown.
    """

    name: str
    results: dict[str, Picture]
    input: Picture | None


def scenes_of_set(evaluation: Evaluation, *, count: int, side: int) -> Iterator[Scene]:
    """The most detailed part of what each model makes of pairs spread over the set.

    Args:
        evaluation: as `prepare_evaluation` gives it; its models, in their order, are the methods.
        count: of scenes, at most.
        side: of a picture, in target pixels, at most.
    """
    zoom = evaluation.zoom
    with shards.open(evaluation.data) as reader:
        pairs = reader.select(zoom=zoom, split=evaluation.split)
        for index in sorted(set(np.linspace(0, len(pairs) - 1, count).astype(int))):
            pair, data = pairs[index], reader.read(pairs[index])
            rows, columns = (
                slice(part.start // zoom, part.stop // zoom)
                for part in detailed_crop(target_picture(pair, data), data.valid, side)
            )
            large = tuple(slice(zoom * part.start, zoom * part.stop) for part in (rows, columns))
            results = {
                model: picture_of(evaluation, model, pair, data)[large]
                for model in (*evaluation.networks, BICUBIC)
            }
            yield Scene(pair.name, results, data.rgb[rows, columns])


def scenes_of_folders(folders: Mapping[str, Path], inputs: Path | None = None) -> Iterator[Scene]:
    """Pictures of the same name in every folder; ground truth is not needed.

    Raises:
        UserError: a folder without pictures, a picture that others lack or that cannot be read, or sizes that
            differ.
    """
    named = {method: _pictures(folder) for method, folder in folders.items()}
    shown = _pictures(inputs) if inputs else {}
    first, *others = named
    for method in others:
        if odd := set(named[first]) ^ set(named[method]):
            raise UserError(
                f"{sorted(odd)[0]} is in one of {folders[first]} and {folders[method]} only.",
                "Give folders that hold pictures of the same names.",
                wrong_use=True,
            )
    for name in sorted(named[first]):
        results = {method: _read(files[name]) for method, files in named.items()}
        if len({picture.shape for picture in results.values()}) > 1:
            sizes = ", ".join(f"{m} {p.shape[1]} x {p.shape[0]}" for m, p in results.items())
            raise UserError(f"The pictures of {name} differ in size: {sizes}.", "Give them in one size.")
        yield Scene(name, results, _read(shown[name]) if name in shown else None)


def make_study(
    scenes: Iterator[Scene],
    out: Path,
    *,
    title: str = "Which is better?",
    question: str = QUESTION,
    ties: bool = False,
    all_pairs: bool = False,
    per_rater: int | None = None,
    checks: int = 6,
    repeats: int = 4,
    practice: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write a study: pictures under names that tell nothing, plan.json, and key.json.

    The pictures of a scene are PNG files of one size in bytes, written at once in a random order, so that
    nothing but the pictures themselves tells methods apart.

    Args:
        scenes: their first method is compared with each of the others, or all with all.
        per_rater: comparisons that each rater is shown; None for all.
        checks: number of obvious pairs, to find who does not look.
        repeats: number of pairs shown again with the sides swapped.
        practice: number of obvious pairs to begin with.

    Yields:
        The name of each scene when its pictures are there.

    Raises:
        UserError: fewer than two methods, no scene, or a study there already.
    """
    out = Path(out)
    if (out / PLAN_FILE).exists() and not overwrite:
        raise UserError(f"{out} holds a study already.", "Give --overwrite or another --out.", wrong_use=True)
    if (out / DATABASE).exists():
        raise UserError(f"{out} holds votes on another study.", "Choose another --out.", wrong_use=True)
    unfinished = out / f".{IMAGES}"  # of this study, until it is whole
    foreign = out.is_dir() and any(path != unfinished for path in out.iterdir())
    if foreign and not (out / PLAN_FILE).exists():
        raise UserError(f"{out} is not empty, and holds no study.", "Choose another --out.", wrong_use=True)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    rng = np.random.default_rng((seed, 2))
    pictures: dict[str, tuple[str, str]] = {}
    comparisons: list[Comparison] = []
    obvious: list[Comparison] = []
    better: list[str] = []
    methods: tuple[str, ...] = ()
    for scene in scenes:
        methods = methods or tuple(scene.results)
        if len(methods) < 2:
            raise UserError("A study compares two methods or more.", "Name more of them.", wrong_use=True)
        if taken := {"input", SPOILT} & set(methods):
            raise UserError(f"A method cannot be called {taken.pop()!r}.", "Rename it.", wrong_use=True)
        best = scene.results[methods[0]]
        spoilt = cv2.GaussianBlur(best, (0, 0), SPOILT_SIGMA_PX)
        shown = {**scene.results, SPOILT: spoilt} | (
            {"input": scene.input} if scene.input is not None else {}
        )
        names = _write_pictures(unfinished, shown, rng)
        pictures |= {name: (scene.name, method) for method, name in names.items()}
        given = names.get("input")
        pairs = [(a, b) for i, a in enumerate(methods) for b in methods[i + 1 :] if all_pairs or i == 0]
        comparisons += [Comparison((names[a], names[b]), given) for a, b in pairs]
        obvious.append(Comparison((names[methods[0]], names[SPOILT]), given))
        better.append(names[methods[0]])
        yield scene.name
    if not comparisons:
        raise UserError("There is nothing to compare: no scene was found.", "Give others.", wrong_use=True)
    if per_rater is not None and not 1 <= per_rater <= len(comparisons):
        raise UserError(
            f"A rater cannot be shown {per_rater} of {len(comparisons)} comparisons.", wrong_use=True
        )
    chosen = [obvious[i] for i in rng.permutation(len(obvious))]
    plan = Plan(
        id=secrets.token_hex(8),
        title=title,
        question=question,
        ties=ties,
        seed=seed,
        per_rater=per_rater or len(comparisons),
        repeats=repeats,
        comparisons=tuple(comparisons),
        checks=tuple((chosen * checks)[:checks]),
        practice=tuple((chosen[::-1] * practice)[:practice]),
    )
    key = {"id": plan.id, "methods": methods, "pictures": pictures, "better": better}
    if (out / IMAGES).exists():
        shutil.rmtree(out / IMAGES)
    unfinished.rename(out / IMAGES)
    write_json(out / KEY_FILE, key)
    write_json(out / PLAN_FILE, plan_record(plan))


def _write_pictures(folder: Path, shown: Mapping[str, Picture], rng: np.random.Generator) -> dict[str, str]:
    """Write the pictures of a scene; their file names by method."""
    files = {
        method: cv2.imencode(".png", picture[..., ::-1])[1].tobytes() for method, picture in shown.items()
    }
    longest = max(map(len, files.values())) + len(_pad(0))
    names = {}
    for method in [list(files)[i] for i in rng.permutation(len(files))]:
        names[method] = f"{secrets.token_hex(8)}.png"
        (folder / names[method]).write_bytes(padded_png(files[method], longest))
    return names


def padded_png(png: bytes, size: int) -> bytes:
    """The same picture in a file of `size` bytes: noise in a chunk before its last one."""
    end = len(png) - 12  # IEND: length, name and checksum
    return png[:end] + _pad(size - len(png) - len(_pad(0))) + png[end:]


def _pad(count: int) -> bytes:
    noise = secrets.token_bytes(count)  # which no server can compress away
    return struct.pack(">I", count) + PAD + noise + struct.pack(">I", zlib.crc32(PAD + noise))


def _pictures(folder: Path) -> dict[str, Path]:
    """The pictures in a folder, by their names less the suffix."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is no folder.", "Give a folder of pictures.", wrong_use=True)
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in SUFFIXES:
            found[path.stem] = path
    if not found:
        raise UserError(f"{folder} holds no pictures.", f"It may hold {', '.join(SUFFIXES)}.", wrong_use=True)
    return found


def _read(path: Path) -> Picture:
    """(H, W, 3) uint8, red first, upright."""
    try:
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # empty, or larger than OpenCV reads
        picture = None
    if picture is None:
        raise UserError(f"{path} cannot be read as a picture.", "Save it again as PNG.")
    return np.ascontiguousarray(picture[..., ::-1])
