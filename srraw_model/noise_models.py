"""The noise of sensors, as 'srraw calibrate noise' writes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError
from srraw_tools.files import read_json

NOISE_FORMAT = "srraw-noise"


def read_noise(path: Path) -> tuple[dict[str, Any], ...]:
    """The models of a noise.json.

    Returns:
        One for each camera and ISO (None where unknown): `camera`, `iso`, and `a` and `b`, lists over red,
        green and blue: variance = a signal + b, in sensor values above black.

    Raises:
        UserError: the file is missing, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; a noise.json is needed.",
            "Make one with 'srraw calibrate noise'.",
            wrong_use=True,
        )
    record = read_json(path)
    try:
        if record["format"] != NOISE_FORMAT:
            raise ValueError
        models = []
        for model in record["models"]:
            numbers = {name: [float(value) for value in model[name]] for name in ("a", "b")}
            if any(len(n) != 3 or not all(0 <= v < math.inf for v in n) for n in numbers.values()):
                raise ValueError
            iso = None if model["iso"] is None else float(model["iso"])
            camera = None if model["camera"] is None else str(model["camera"])
            models.append({"camera": camera, "iso": iso} | numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not hold the noise of sensors.", "Give what 'srraw calibrate noise' wrote."
        ) from error
    return tuple(models)
