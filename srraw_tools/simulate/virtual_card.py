"""The card of libgphoto2's virtual camera, fed with a simulated sequence.

The virtual camera answers a capture with a copy of the first file on its card whose name ends in .jpg,
whatever that holds. "Turning its zoom ring" is writing the raw file of another focal length over it. The file
must keep its size, which the library has read once: all raws of a card are padded to the longest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from srraw_tools.errors import UserError
from srraw_tools.sequence import read_sequence


def raws_to_shoot(sequence_folder: Path, focal_mm: tuple[float, ...]) -> dict[float, Path]:
    """The raw files of a sequence by focal length in mm.

    Raises:
        UserError: the folder holds no sequence, one without focal lengths, or not all of those to be shot.
    """
    sequence = read_sequence(sequence_folder)
    raws = {shot.focal_nominal: sequence_folder / shot.file for shot in sequence.shots if shot.focal_nominal}
    if not raws or not all(path.is_file() for path in raws.values()):
        raise UserError(f"{sequence_folder} holds no whole sequence to shoot from.", wrong_use=True)
    if missing := [focal for focal in focal_mm if focal not in raws]:
        raise UserError(
            f"{sequence_folder} has no shot at {', '.join(f'{focal:g}' for focal in missing)} mm.",
            f"It has {', '.join(f'{focal:g}' for focal in sorted(raws))}; choose --focal among them.",
            wrong_use=True,
        )
    return raws


@contextmanager
def inserted(sequence_folder: Path, focal_mm: tuple[float, ...] = ()) -> Iterator[Callable[[float], None]]:
    """Put a card with a simulated sequence into the virtual camera, before gphoto2 is imported.

    Sets VCAMERADIR, and XDG_CONFIG_HOME to a folder of its own, while the card is in.

    Args:
        focal_mm: to be shot.

    Yields:
        A function that turns the zoom ring to a focal length in mm.

    Raises:
        UserError: as `raws_to_shoot`.
    """
    raws = raws_to_shoot(sequence_folder, focal_mm)
    size = max(path.stat().st_size for path in raws.values())
    with tempfile.TemporaryDirectory(prefix="srraw-card-") as folder:
        card = Path(folder) / "card"
        card.mkdir()
        image = card / "scene.jpg"
        image.write_bytes(bytes(size))
        before = {name: os.environ.get(name) for name in ("VCAMERADIR", "XDG_CONFIG_HOME")}
        os.environ["VCAMERADIR"] = str(card)
        os.environ["XDG_CONFIG_HOME"] = str(Path(folder) / "config")

        def turn(focal_mm: float) -> None:
            data = raws[focal_mm].read_bytes()
            with open(image, "r+b") as file:
                file.write(data + bytes(size - len(data)))

        turn(next(iter(raws)))
        try:
            yield turn
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
