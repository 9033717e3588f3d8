"""A rig for a camera that is connected, written from what it says of itself."""

from __future__ import annotations

import json
import re

from srraw_tools.camera import Camera, number_of

# The names by which libgphoto2 calls settings on bodies of various makers, the most telling first.
NAMES = {
    "f_number": ("f-number", "aperture"),
    "exposure_s": ("shutterspeed", "shutterspeed2"),
    "iso": ("iso", "isospeed"),
    "image_format": ("imageformat", "imagequality", "imgquality"),
    "focal_mm": ("focallength", "zoom"),
}
SMALLEST_APERTURE, LOWEST_ISO = 20.0, 100.0  # of the paper: f/20 or smaller; noise as low as it gets


def rig_toml(camera: Camera, name: str, lens_mm: tuple[float, float]) -> str:
    """The TOML of a rig for a camera.

    What the camera does not have is left out; aperture, ISO and format become the nearest that it offers to
    f/20, ISO 100 and raw alone.

    Args:
        lens_mm: shortest and longest focal length, which no camera tells.
    """
    names = {setting: found for setting, known in NAMES.items() if (found := _own(camera, known))}
    wanted = {"f_number": SMALLEST_APERTURE, "iso": LOWEST_ISO}
    settings: dict[str, float | str] = {}
    for setting, least in wanted.items():
        values = [
            v for choice in camera.choices(names.get(setting, "")) if (v := number_of(choice)) is not None
        ]
        if values:
            settings[setting] = min([v for v in values if v >= least] or [max(values)])
    if "image_format" in names and (raw := raw_choice(camera.choices(names["image_format"]))):
        settings["image_format"] = raw
    lines = [
        f"name = {_text(name)}",
        f"description = {_text(f'{camera.model}, {lens_mm[0]:g}-{lens_mm[1]:g} mm')}",
        f"models = [{_text(camera.model)}]",
        'ring = "person"',
        "",
        "[lens]",
        f"focal_mm = [{lens_mm[0]:g}, {lens_mm[1]:g}]",
        "",
        "[settings]",
        *(f"{k} = {_text(v) if isinstance(v, str) else f'{v:g}'}" for k, v in settings.items()),
        "",
        "[names]",
        *(f"{setting} = [{_text(own)}]" for setting, own in names.items()),
        "",
        "[timing]",
        *(["files = 1 # of a shot, by image_format"] if "image_format" in settings else []),
        "settle_s = 2 # how long the camera may stay silent before a shot counts as finished",
        "",
        "[tolerances]",
        "focal = 0.05",
    ]
    return "\n".join(lines) + "\n"


def raw_choice(choices: tuple[str, ...]) -> str | None:
    """The camera's word for raw without JPEG, and without compression where there is a choice."""
    alone = [
        c for c in choices if re.search(r"\b(raw|nef)\b", c, re.I) and not re.search(r"\+|jp|fine", c, re.I)
    ]
    return min(
        alone,
        key=lambda choice: (bool(re.search(r"^c|compr|lossy", choice, re.I)), len(choice)),
        default=None,
    )


def _own(camera: Camera, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if camera.value(name) is not None), None)


def _text(value: str) -> str:
    # A basic string of TOML is one of JSON, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
