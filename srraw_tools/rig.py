"""A rig: a camera body and its lens, as one TOML file in capture_rigs/ tells it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError

RINGS = ("person", "virtual")
SETTINGS = ("f_number", "exposure_s", "iso", "image_format")
NAMES = (*SETTINGS, "focal_mm")


@dataclass(frozen=True)
class Rig:
    """What capture needs to know of a camera.

    Attributes:
        models: beginnings of the names by which libgphoto2 calls the bodies.
        serials: of the bodies, where the model does not tell; empty takes any.
        ring: who turns the zoom ring: "person", or "virtual" for the virtual camera.
        lens_mm: shortest and longest focal length.
        settings: what is set before each shot where the camera has it: f_number, exposure_s, iso as
            numbers, image_format by the camera's word for raw.
        names: the camera's own names of these settings, and of the live focal_mm; the first there is counts.
        settle_s: how long the camera may stay silent before a shot counts as finished.
        focal_tolerance: of EXIF's focal length against the planned one, as a fraction.
    """

    name: str
    description: str
    models: tuple[str, ...]
    serials: tuple[str, ...]
    ring: str
    lens_mm: tuple[float, float]
    settings: dict[str, float | str]
    names: dict[str, tuple[str, ...]]
    settle_s: float
    focal_tolerance: float


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
    folder = resources.files("capture_rigs")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    rigs = [_rig_of(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {rig.name: rig for rig in rigs}


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
            "Copy the nearest one of 'srraw rigs', adapt it, and give it with --rig FILE.",
        )
    return max(fitting, key=lambda found: found[:2])[2]


def _rig_of(text: str, source: str) -> Rig:
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"The rig {source} is not TOML: {error}.", wrong_use=True) from error

    def refuse(problem: str) -> UserError:
        return UserError(f"The rig {source} is wrong: {problem}.", "See docs/rigs.md.", wrong_use=True)

    known = {
        "name",
        "description",
        "models",
        "serials",
        "ring",
        "lens",
        "settings",
        "names",
        "timing",
        "tolerances",
    }
    unknown = sorted(set(record) - known)
    if unknown:
        raise refuse(f"{unknown[0]!r} is no key of a rig")
    name, ring = record.get("name"), record.get("ring", "person")
    if not isinstance(name, str) or not name:
        raise refuse("'name' is missing")
    if ring not in RINGS:
        raise refuse(f"'ring' is {ring!r}, and can be {' or '.join(RINGS)}")
    models = _words(record.get("models"), "models", refuse)
    serials = _words(record.get("serials", []), "serials", refuse)
    lens = record.get("lens", {}).get("focal_mm")
    if not (
        isinstance(lens, list) and len(lens) == 2 and all(_positive(v) for v in lens) and lens[0] <= lens[1]
    ):
        raise refuse("'lens.focal_mm' must be the shortest and the longest focal length")
    settings, names = record.get("settings", {}), record.get("names", {})
    for key, value in settings.items():
        if key not in SETTINGS or not (isinstance(value, str) if key == "image_format" else _positive(value)):
            raise refuse(f"'settings.{key} = {value!r}' is not possible")
    for key in names:
        if key not in NAMES:
            raise refuse(f"'names.{key}' is no setting; there are {', '.join(NAMES)}")
    settle = record.get("timing", {}).get("settle_s", 1.0)
    tolerance = record.get("tolerances", {}).get("focal", 0.05)
    if not _positive(settle) or not _positive(tolerance):
        raise refuse("'timing.settle_s' and 'tolerances.focal' must be positive numbers")
    return Rig(
        name=name,
        description=str(record.get("description", "")),
        models=models,
        serials=serials,
        ring=ring,
        lens_mm=(float(lens[0]), float(lens[1])),
        settings=settings,
        names={key: _words(value, f"names.{key}", refuse) for key, value in names.items()},
        settle_s=float(settle),
        focal_tolerance=float(tolerance),
    )


def _words(value: Any, key: str, refuse: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise refuse(f"'{key}' must be a list of words")
    return tuple(value)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
