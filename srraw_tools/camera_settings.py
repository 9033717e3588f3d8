"""Aperture, shutter, ISO and format on the camera: set, and read back."""

from __future__ import annotations

import time

from srraw_tools.camera import Camera, choice_for, number_of, same_value
from srraw_tools.checks import Expected
from srraw_tools.errors import UserError
from srraw_tools.rig import Rig

READ_BACK_S = 2.0  # bodies take a while to report a setting that they were given


def name_of(camera: Camera, rig: Rig, setting: str) -> str | None:
    """The camera's own name of a setting; None where it has none."""
    return next((name for name in rig.names.get(setting, ()) if camera.value(name) is not None), None)


def apply_settings(camera: Camera, rig: Rig, expected: Expected) -> str:
    """Set aperture, shutter, ISO and raw format where the camera has them; read each back.

    Returns:
        What was set, in words.

    Raises:
        UserError: the camera does not offer a value, or did not take it.
    """
    wanted: dict[str, float | str | None] = {
        "image_format": rig.settings.get("image_format"),
        "f_number": expected.f_number,
        "exposure_s": expected.exposure_s,
        "iso": expected.iso,
    }
    done = []
    for setting, value in wanted.items():
        name = name_of(camera, rig, setting)
        if value is None or name is None:
            continue
        choices = camera.choices(name)
        choice = value if isinstance(value, str) else choice_for(choices, value, rig.setting_tolerance)
        if choice is None:
            raise UserError(
                f"The camera's {name} cannot be {value:g}.",
                f"It offers {', '.join(choices)}." if choices else "Set the camera to manual exposure (M).",
            )
        camera.set_value(name, choice)
        done.append(_read_back(camera, name, choice, rig))
    return ", ".join(done)


def _read_back(camera: Camera, name: str, choice: str, rig: Rig) -> str:
    """The camera's word for a setting once it has taken it; words for the same number are the same."""
    deadline = time.monotonic() + READ_BACK_S
    wanted = number_of(choice)
    while True:
        taken = camera.value(name) or ""
        number = number_of(taken)
        if taken == choice or (wanted and number and same_value(number, wanted, rig.setting_tolerance)):
            return taken
        if time.monotonic() > deadline:
            raise UserError(
                f"The camera did not take {name} = {choice}; it stays at {taken}.",
                "Set its mode dial to manual exposure (M); then --resume.",
            )
        camera.new_files(0.1)  # some bodies report a change only when they are listened to
