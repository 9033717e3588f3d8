"""A folder as a camera, for one that cannot be tethered: a card reader, a sync, a program fills it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from srraw_tools.camera import CameraLost, CardFile
from srraw_tools.errors import UserError

POLL_S = 0.2
LEAST_STILL_S = 0.6  # without growing, after which a file counts as whole
UNFINISHED = (
    ".part",
    ".partial",
    ".tmp",
    ".crdownload",
    ".download",
)  # what programs call what they still write


class WatchedFolder:
    """What `camera.Camera` asks for, over a folder: a person releases the shutter, the file appears here."""

    model = "Watched folder"
    serial = None

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there is no such folder."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder} is no folder to watch.", "Make it, or give another.", wrong_use=True)
        self._known = set(self.card_files())

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
        """Wait, for as long as it takes, until a whole file is there; it, and those that come with it."""
        found: list[CardFile] = []
        while not found:
            found = self.new_files(max(settle_s, LEAST_STILL_S))
        return found

    def new_files(self, silence_s: float) -> list[CardFile]:
        """The files that are new and whole; with 0 what is there by now, whole or not."""
        sizes: dict[CardFile, int] = {}
        still_since = time.monotonic()
        while True:
            now = {file: self._size(file) for file in self.card_files() if file not in self._known}
            if now != sizes:
                sizes, still_since = now, time.monotonic()
            if time.monotonic() - still_since >= silence_s:
                new = [file for file, size in sizes.items() if size > 0 or silence_s == 0]
                self._known.update(new)
                return new
            time.sleep(POLL_S)

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
        """Remove it from the watched folder."""
        (self.folder / file.folder / file.name).unlink(missing_ok=True)

    def card_files(self) -> list[CardFile]:
        """All files in the folder and below it but hidden and unfinished ones, the oldest first."""
        try:
            paths = [path for path in self.folder.rglob("*") if path.is_file()]
            paths.sort(key=lambda path: (path.stat().st_mtime, path.name))
        except OSError as error:
            raise CameraLost(f"{self.folder} cannot be read: {error.strerror}.", "Then --resume.") from error
        return [
            CardFile(str(path.parent.relative_to(self.folder)), path.name)
            for path in paths
            if not path.name.startswith(".") and path.suffix.lower() not in UNFINISHED
        ]

    def reconnect(self) -> None:
        """Look whether the folder is there again; raises CameraLost where it is not."""
        if not self.folder.is_dir():
            raise CameraLost(f"{self.folder} is gone.", "Mount it again; then --resume.")

    def close(self) -> None:
        """There is nothing to let go."""

    def _size(self, file: CardFile) -> int:
        try:
            return (self.folder / file.folder / file.name).stat().st_size
        except OSError:
            return 0
