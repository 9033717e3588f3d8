"""A folder as a camera, for one that cannot be tethered: a card reader, a sync, a program fills it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path, PurePath

from srraw_tools.camera import CameraLost, CardFile
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_SUFFIXES

POLL_S = 0.2
LEAST_STILL_S = 0.6  # without growing, after which a file counts as whole
NO_RAW_S = 20.0  # after a JPEG, say, in which its raw file may still come: a phone's sync takes its time
PICTURES = (*RAW_SUFFIXES, ".jpg", ".jpeg", ".heic", ".heif", ".png", ".tif", ".tiff")
UNFINISHED = (
    ".part",
    ".partial",
    ".tmp",
    ".crdownload",
    ".download",
)  # what programs call what they still write


class WatchedFolder:
    """What `camera.Camera` asks for, over a folder: a person releases the shutter, the file appears here.

    A file that grows after it was taken is a new one: its first part was not all of it.

    Attributes:
        waiting: called again and again while a file is waited for; what it raises ends that.
    """

    model = "Watched folder"
    serial = None
    by_hand = True

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there is no such folder."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder} is no folder to watch.", "Make it, or give another.", wrong_use=True)
        self.waiting: Callable[[], None] = lambda: None
        self._raws: set[PurePath] = set()  # that were taken, without their suffix
        self._known = self._sizes()

    def value(self, name: str) -> str | None:
        """A folder has no settings."""
        return None

    def choices(self, name: str) -> tuple[str, ...]:
        """Likewise."""
        return ()

    def set_value(self, name: str, value: str) -> None:
        """Raises UserError: settings are made on the camera itself."""
        raise UserError(f"A watched folder cannot set {name}.", "Set it on the camera itself.")

    def shoot(self, settle_s: float, files: int = 0) -> list[CardFile]:
        """Wait, for as long as it takes, until a whole raw file is there; it, and those that come with it.

        Of several raw files that come together the oldest is given; the others are of the shots that follow.
        Pictures without a raw file are given after NO_RAW_S, but those that come late, beside a raw file that
        was taken before; anything else that appears is left alone.
        """
        settle_s = max(settle_s, LEAST_STILL_S)
        return self._still(
            lambda new: settle_s if any(map(_is_raw, new)) else NO_RAW_S, self._is_shot, _one_shot
        )

    def new_files(self, silence_s: float) -> list[CardFile]:
        """The files that are new and whole; with 0 what is there by now, whole or not."""
        return self._still(lambda new: silence_s, lambda file: True, dict, even_none=True)

    def _still(
        self,
        silence_s: Callable[[dict[CardFile, int]], float],
        wanted: Callable[[CardFile], bool],
        chosen: Callable[[dict[CardFile, int]], dict[CardFile, int]],
        even_none: bool = False,
    ) -> list[CardFile]:
        """Those chosen of the wanted files that are new, once nothing has changed for as long as they ask."""
        seen: dict[CardFile, int] = {}
        still_since = time.monotonic()
        while True:
            new = {
                file: size
                for file, size in self._sizes().items()
                if self._known.get(file) != size and wanted(file)
            }
            if new != seen:
                seen, still_since = new, time.monotonic()
            if (new or even_none) and time.monotonic() - still_since >= silence_s(new):
                found = chosen({file: size for file, size in new.items() if size or silence_s(new) == 0})
                if found or even_none:
                    self._known |= found
                    self._raws |= {_stem(file) for file in found if _is_raw(file)}
                    return list(found)
            self.waiting()
            time.sleep(POLL_S)

    def _is_shot(self, file: CardFile) -> bool:
        is_picture = PurePath(file.name).suffix.lower() in PICTURES
        return is_picture and (_is_raw(file) or _stem(file) not in self._raws)

    def download(self, file: CardFile, path: Path) -> str:
        """Copy it; raises CameraLost where it is gone."""
        try:
            data = (self.folder / file.folder / file.name).read_bytes()
        except OSError as error:
            raise CameraLost(
                f"{file.name} cannot be read from {self.folder}: {error.strerror}.",
                "Look after it; then --resume.",
            ) from error
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def delete(self, file: CardFile) -> None:
        """Remove it from the watched folder; raises UserError where that cannot be."""
        try:
            (self.folder / file.folder / file.name).unlink(missing_ok=True)
        except OSError as error:
            problem = f"{file.name} cannot be deleted in {self.folder}: {error.strerror}."
            raise UserError(problem, "Is it write-protected?") from error

    def card_files(self) -> list[CardFile]:
        """All files in the folder and below it but hidden and unfinished ones, the oldest first.

        Raises:
            CameraLost: the folder is gone.
        """
        return list(self._sizes())

    def _sizes(self) -> dict[CardFile, int]:
        """Their sizes, in the order of `card_files`."""
        self.reconnect()
        found = []
        for home, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith(".") or PurePath(name).suffix.lower() in UNFINISHED:
                    continue
                try:
                    status = os.stat(os.path.join(home, name))
                except OSError:  # a sync has just removed it
                    continue
                folder = str(Path(home).relative_to(self.folder))
                found.append((status.st_mtime, name, CardFile(folder, name), status.st_size))
        return {file: size for _, _, file, size in sorted(found, key=lambda one: one[:2])}

    def reconnect(self) -> None:
        """Look whether the folder is there again; raises CameraLost where it is not."""
        if not self.folder.is_dir():
            raise CameraLost(f"{self.folder} is gone.", "Mount it again; then --resume.")

    def close(self) -> None:
        """There is nothing to let go."""


def _one_shot(files: dict[CardFile, int]) -> dict[CardFile, int]:
    """Without the raw files after the first one, and what shares their names."""
    stems = list(dict.fromkeys(_stem(file) for file in files if _is_raw(file)))
    return {file: size for file, size in files.items() if _stem(file) not in stems[1:]}


def _is_raw(file: CardFile) -> bool:
    return PurePath(file.name).suffix.lower() in RAW_SUFFIXES


def _stem(file: CardFile) -> PurePath:
    return PurePath(file.folder, file.name).with_suffix("")
