"""A rig: a camera body and its lens, as one TOML file in capture_rigs/ tells it."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from srraw_tools.distortion import LensTable, of_frame
from srraw_tools.errors import UserError
from srraw_tools.sequence import NOMINAL_MM

RINGS = ("person", "virtual")
SETTINGS = ("f_number", "exposure_s", "iso", "image_format")
WORDS = ("name", "description", "models", "serials", "ring")
DISTORTION = "distortion"
TABLES = {
    "lens": ("focal_mm", "stops_mm", "pupil_shift_mm"),
    "phone": ("stops_mm",),
    "settings": SETTINGS,
    "names": (*SETTINGS, "focal_mm"),
    "timing": ("settle_s", "files"),
    "tolerances": ("focal", "setting"),
    "checks": ("clipped", "drift_ev", "shift", "rotation_deg", "moving", "softer_px"),
}
MOST_SETTLE_S = 60.0  # a shot is given up after LIMIT_S["shoot"] of the camera's process
# What a sequence may have, where its rig says nothing else: shares of a colour's pixels and of the blocks, of
# the frame's width; stops; degrees; pixels of a picture that is CHECK_SIDE wide.
CHECKS = {
    "clipped": 0.05,
    "drift_ev": 0.15,
    "shift": 0.02,
    "rotation_deg": 1.0,
    "moving": 0.05,
    "softer_px": 0.8,
}


@dataclass(frozen=True)
class Rig:
    """What capture needs to know of a camera.

    Attributes:
        models: beginnings of the names by which libgphoto2 calls the bodies.
        serials: of the bodies, where the model does not tell; empty takes any.
        ring: who turns the zoom ring: "person", or "virtual" for the virtual camera.
        lens_mm: shortest and longest focal length.
        stops_mm: the focal lengths that are shot when none are asked for.
        pupil_shift_mm: by which the lens's entrance pupil moves back from the shortest to the longest focal
            length; None where nobody has measured it.
        phone_mm: those of the focal lengths, as for a frame of 36 x 24 mm, that a phone beside the camera
            shoots; its files come by a watched folder.
        settings: what is set before each shot where the camera has it: f_number, exposure_s, iso as
            numbers, image_format by the camera's word for raw.
        names: the camera's own names of these settings, and of the live focal_mm; the first there is counts.
        settle_s: how long the camera may stay silent before a shot counts as finished.
        files: how many files a shot makes, after which it is not listened for more; 0 where that varies.
        focal_tolerance: of EXIF's focal length against the planned one, as a fraction.
        distortion: radial terms of the lens by focal length, by 'srraw calibrate lens'; empty where unknown.
        setting_tolerance: of aperture, exposure and ISO, as a fraction: cameras round 1/60 s to 0.0166 s,
            and f/20 and f/22 differ by 10 %.
        checks: the thresholds of a sequence, by the names of CHECKS.
    """

    name: str
    description: str
    models: tuple[str, ...]
    serials: tuple[str, ...]
    ring: str
    lens_mm: tuple[float, float]
    stops_mm: tuple[float, ...]
    pupil_shift_mm: float | None
    phone_mm: tuple[float, ...]
    settings: dict[str, float | str]
    names: dict[str, tuple[str, ...]]
    settle_s: float
    files: int
    focal_tolerance: float
    setting_tolerance: float
    distortion: LensTable = ()
    checks: dict[str, float] = field(default_factory=lambda: dict(CHECKS))


def read_rig(path: Path) -> Rig:
    """Read a rig's TOML file.

    Raises:
        UserError: it cannot be read, is no TOML, or says something that no rig has; the sentence names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the rig {path}: {error}.", wrong_use=True) from error
    return _rig_of(text, str(path))


def installed_rigs() -> dict[str, Rig]:
    """The rigs that came with srraw, by name."""
    rigs = [_rig_of(text, name) for name, text in installed_files().items()]
    return {rig.name: rig for rig in rigs}


def installed_files() -> dict[str, str]:
    """The TOML of the rigs that came with srraw, by file name."""
    files = [file for file in resources.files("capture_rigs").iterdir() if file.name.endswith(".toml")]
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(files, key=lambda f: f.name)}


def with_distortion(toml: str, table: LensTable) -> str:
    """A rig's TOML with a table of distortion, in the place of one that it may have.

    Raises:
        UserError: it has one that is written in another way.
    """
    kept, inside = [], False
    for line in toml.splitlines():
        inside = line.split("#")[0].strip() == f"[{DISTORTION}]" or (inside and not line.startswith("["))
        if not inside:
            kept.append(line)
    rows = [f'"{focal:g}" = [{k1:.6f}, {k2:.6f}]' for focal, k1, k2 in sorted(table)]
    text = "\n".join([*"\n".join(kept).rstrip().splitlines(), "", f"[{DISTORTION}]", *rows, ""])
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"The rig tells its distortion otherwise than in a table [{DISTORTION}].",
            "Remove that from its file, and calibrate again.",
        ) from error
    return text


def toml_of(name_or_file: str) -> str:
    """The TOML of a rig; raises as `find_rig`."""
    rig = find_rig(name_or_file)
    if name_or_file.endswith(".toml"):
        return Path(name_or_file).read_text(encoding="utf-8")
    return installed_files()[f"{rig.name}.toml"]


def find_rig(name_or_file: str) -> Rig:
    """A rig by its name, or by the path of its TOML file.

    Raises:
        UserError: there is no such rig, or the file is wrong.
    """
    rigs = installed_rigs()
    if name_or_file in rigs:
        return rigs[name_or_file]
    if name_or_file.endswith(".toml"):
        return read_rig(Path(name_or_file))
    raise UserError(
        f"There is no rig {name_or_file!r}.",
        f"Choose among {', '.join(rigs)}, or give a TOML file.",
        wrong_use=True,
    )


def rig_for(model: str, serial: str | None) -> Rig:
    """The rig of a camera that was found: the one that matches most of its name.

    Raises:
        UserError: no rig matches.
    """
    fitting = [
        (bool(rig.serials), max(len(m) for m in rig.models if model.startswith(m)), rig)
        for rig in installed_rigs().values()
        if any(model.startswith(m) for m in rig.models) and (not rig.serials or serial in rig.serials)
    ]
    if not fitting:
        raise UserError(
            f"No rig is known for the camera {model!r}.",
            "Adapt the nearest one ('srraw rigs --show NAME' prints it) and give it with --rig FILE.",
        )
    return max(fitting, key=lambda found: found[:2])[2]


def _rig_of(text: str, source: str) -> Rig:
    try:
        record = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a ValueError
        raise UserError(f"The rig {source} is not TOML: {error}.", wrong_use=True) from error

    def refuse(problem: str) -> UserError:
        return UserError(
            f"The rig {source} is wrong: {problem}.",
            "'srraw rigs --show virtual' prints a whole one.",
            wrong_use=True,
        )

    def table(name: str) -> dict[str, Any]:
        value = record.get(name, {})
        if not isinstance(value, dict):
            raise refuse(f"'{name}' must be a table, [{name}]")
        unknown = sorted(set(value) - set(TABLES[name]))
        if unknown:
            raise refuse(f"'{name}.{unknown[0]}' is no key of a rig; there are {', '.join(TABLES[name])}")
        return value

    known = (*WORDS, *TABLES, DISTORTION)
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise refuse(f"{unknown[0]!r} is no key of a rig; there are {', '.join(known)}")
    name, ring = record.get("name"), record.get("ring", "person")
    if not isinstance(name, str) or not name:
        raise refuse("'name' is missing")
    if ring not in RINGS:
        raise refuse(f"'ring' is {ring!r}, and can be {' or '.join(RINGS)}")
    lens, settings, names = table("lens"), table("settings"), table("names")
    reach = _numbers(lens.get("focal_mm"))
    if reach is None or len(reach) != 2 or reach[0] > reach[1]:
        raise refuse("'lens.focal_mm' must be the shortest and the longest focal length")
    inside = [focal for focal in NOMINAL_MM if reach[0] <= focal <= reach[1]]
    stops = _numbers(lens.get("stops_mm", inside or sorted(set(reach))))
    if stops is None or len(set(stops)) < len(stops) or not all(reach[0] <= f <= reach[1] for f in stops):
        raise refuse("'lens.stops_mm' must be different focal lengths that the lens has")
    pupil_shift = lens.get("pupil_shift_mm")
    if pupil_shift is not None and not _positive(pupil_shift):
        raise refuse("'lens.pupil_shift_mm' must be a positive number of millimetres")
    phone = _numbers(table("phone").get("stops_mm", list(stops[:1]))) if "phone" in record else ()
    if phone is None or not set(phone) < set(stops):
        raise refuse("'phone.stops_mm' must be some of the focal lengths in 'lens.stops_mm', not all")
    for key, value in settings.items():
        if not (isinstance(value, str) if key == "image_format" else _positive(value)):
            raise refuse(f"'settings.{key} = {value!r}' is not possible")
    settle, files = (table("timing").get(key, usual) for key, usual in (("settle_s", 1.0), ("files", 0)))
    if not isinstance(files, int) or isinstance(files, bool) or not 0 <= files <= 4:
        raise refuse(f"'timing.files = {files!r}' is no number of files that a shot makes, from 0 to 4")
    tolerances = {"focal": 0.05, "setting": 0.04, **table("tolerances")}
    checks = {**CHECKS, **table("checks")}
    if not all(map(_positive, (settle, *tolerances.values(), *checks.values()))):
        raise refuse("'timing.settle_s', the tolerances and the checks must be positive numbers")
    if settle > MOST_SETTLE_S:
        raise refuse(f"'timing.settle_s = {settle:g}' is longer than {MOST_SETTLE_S:g} s")
    shares = {**tolerances, **{key: checks[key] for key in ("clipped", "moving", "shift")}}
    for key, value in shares.items():
        if value >= 1:
            raise refuse(f"'{key} = {value:g}' is a share, and must be below 1")
    return Rig(
        name=name,
        description=str(record.get("description", "")),
        models=_words(record.get("models"), "models", refuse),
        serials=_words(record.get("serials", []), "serials", refuse),
        ring=ring,
        lens_mm=(reach[0], reach[1]),
        stops_mm=stops,
        pupil_shift_mm=None if pupil_shift is None else float(pupil_shift),
        phone_mm=phone,
        settings=settings,
        names={key: _words(value, f"names.{key}", refuse) for key, value in names.items()},
        settle_s=float(settle),
        files=files,
        focal_tolerance=float(tolerances["focal"]),
        setting_tolerance=float(tolerances["setting"]),
        distortion=_lens_table(record.get(DISTORTION, {}), refuse),
        checks={name: float(value) for name, value in checks.items()},
    )


def _lens_table(record: Any, refuse: Any) -> LensTable:
    """The table of distortion, [k1, k2] by focal length in mm, in their order."""
    rows = []
    for focal, terms in record.items() if isinstance(record, dict) else [("", record)]:
        try:
            k1, k2 = terms
            of_frame(k1, k2, (2, 2))
            if not 0 < float(focal) < math.inf:
                raise ValueError("no focal length")
            rows.append((float(focal), float(k1), float(k2)))
        except (TypeError, ValueError) as error:
            problem = f"'{DISTORTION}.{focal} = {terms!r}' is not [k1, k2] of a lens at a focal length in mm"
            raise refuse(problem) from error
    return tuple(sorted(rows))


def _words(value: Any, key: str, refuse: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise refuse(f"'{key}' must be a list of words")
    return tuple(value)


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A list of positive numbers; None if it is anything else."""
    if not isinstance(value, list) or not value or not all(map(_positive, value)):
        return None
    return tuple(map(float, value))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e18
