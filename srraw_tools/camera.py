"""What capture needs of a camera, and libgphoto2 behind it. All calls of libgphoto2 are in this file."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from srraw_tools.errors import UserError

BATTERY = "batterylevel"  # libgphoto2's name for it on all bodies that tell
BUSY_RETRIES = 5
BUSY_WAIT_S = 0.5
CHATTER_S = 1.0  # bodies report their properties without end: how long to look for a file among that

# libgphoto2's result codes, and what helps (libgphoto2 and its users' experience).
REMEDIES = {
    -3: ("The camera's card or memory is full.", "Empty the card, or give --delete-on-card."),
    -7: (
        "The connection to the camera was lost.",
        "Check the cable, wake the camera; then --resume.",
    ),
    -10: ("The camera did not answer in time.", "Wake it, check the cable; then --resume."),
    -52: ("The camera was unplugged.", "Plug it in again; then --resume."),
    -53: (
        "Another program holds the camera.",
        "Often a desktop's file manager does: run 'gio mount -s gphoto2', then replug the camera.",
    ),
    -60: ("The USB device cannot be locked.", "Close other programs that use the camera."),
    -105: ("No camera was found.", "Plug it in by USB, switch it on, and set its USB mode to PC Remote."),
    -110: ("The camera is busy.", "Wait until its card light is off; then --resume."),
    -112: ("The camera reports an error.", "Switch it off and on; then --resume."),
    -114: ("The camera is out of space.", "Empty the card."),
}
BUSY, UNSPECIFIED = -110, -1
LOST = (-7, -10, -52, -105, -110, -112)  # after these the session with the camera is begun anew


class CameraLost(UserError):
    """The session with the camera is over; it may go on after `reconnect`."""


@dataclass(frozen=True)
class CardFile:
    """A file on the camera, by its folder and name there."""

    folder: str
    name: str


class Camera(Protocol):
    """What capture needs. Every method raises UserError with a remedy when the camera fails."""

    model: str
    serial: str | None
    by_hand: bool  # whether a person releases the shutter, not `shoot`, which waits for the files then

    def value(self, name: str) -> str | None:
        """The value of a setting by the camera's own name for it; None where it has no such setting."""

    def choices(self, name: str) -> tuple[str, ...]:
        """The values that a setting can take; empty where the camera does not list them."""

    def set_value(self, name: str, value: str) -> None:
        """Set a setting to one of its choices. Anything else is refused: it can crash a camera's driver."""

    def shoot(self, settle_s: float, files: int = 0) -> list[CardFile]:
        """Release the shutter; the files that the camera made.

        It is waited for until the camera is silent for `settle_s`, or has announced so many `files`; 0 is for
        a number that nobody knows.
        """

    def new_files(self, silence_s: float) -> list[CardFile]:
        """The files that the camera announces, until it has been silent for `silence_s`."""

    def download(self, file: CardFile, path: Path) -> str:
        """Copy a file from the camera to `path`; the SHA-256 of the bytes that the camera sent."""

    def delete(self, file: CardFile) -> None:
        """Delete a file on the camera."""

    def card_files(self) -> list[CardFile]:
        """All files on the camera's card; none where the camera does not show its card to a computer."""

    def reconnect(self) -> None:
        """Begin the session anew, after CameraLost."""

    def close(self) -> None:
        """Let the camera go."""


def number_of(value: str) -> float | None:
    """The number that a camera's word for a setting means: "f/20" 20, "1/60" and "0.0166s" 0.0166."""
    match = re.fullmatch(r"\s*(?:[fF]/?)?\s*([\d.]+)(?:\s*/\s*([\d.]+))?\s*(?:s|sec|mm)?\s*", value)
    if not match:
        return None
    try:
        return float(match[1]) / float(match[2] or 1)
    except (ValueError, ZeroDivisionError):
        return None


def same_value(a: float, b: float, tolerance: float) -> bool:
    """Whether two settings are the same but for the camera's rounding, a fraction of them."""
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def choice_for(choices: tuple[str, ...], wanted: float, tolerance: float) -> str | None:
    """The camera's word for a number: the nearest of its choices, if that is the same but for rounding."""
    numbers = {choice: number for choice in choices if (number := number_of(choice)) is not None}
    if not numbers:
        return None
    nearest = min(numbers, key=lambda choice: abs(numbers[choice] - wanted))
    return nearest if same_value(numbers[nearest], wanted, tolerance) else None


def connect(gp: ModuleType | Any | None = None) -> GphotoCamera:
    """Open the first camera that libgphoto2 finds.

    Args:
        gp: the gphoto2 module; given by tests that inject faults.

    Raises:
        UserError: gphoto2 is not installed, no camera is there, or another program holds it.
    """
    if gp is None:
        os.environ["LANGUAGE"] = "C"  # libgphoto2 translates the choices of settings otherwise
        try:
            import gphoto2 as gp
        except ImportError as error:
            raise UserError(
                "Tethering needs gphoto2, which is not installed here.",
                "Install it with 'pip install gphoto2'; it does not exist for Windows.",
            ) from error
    return GphotoCamera(gp)


class GphotoCamera:
    """A camera behind libgphoto2: one USB session, one thread."""

    by_hand = False

    def __init__(self, gp: ModuleType | Any) -> None:
        self._gp = gp
        self.reconnect()

    def reconnect(self) -> None:
        self._camera = self._gp.Camera()
        with self._explained("connect to the camera"):
            self._camera.init()
            self.model: str = self._camera.get_abilities().model
        self.serial: str | None = self.value("serialnumber")

    def close(self) -> None:
        with suppress(self._gp.GPhoto2Error):  # it may be gone already
            self._camera.exit()

    def value(self, name: str) -> str | None:
        widget = self._widget(name)
        with self._explained(f"read {name}"):
            value = None if widget is None else widget.get_value()
        return None if value is None else str(value)  # libgphoto2 gives NULL for what it cannot name

    def card_files(self) -> list[CardFile]:
        gp, files, folders = self._gp, [], ["/"]
        try:
            while folders:
                folder = folders.pop()
                files += [CardFile(folder, name) for name, _ in self._camera.folder_list_files(folder)]
                inside = [name for name, _ in self._camera.folder_list_folders(folder)]
                folders += [f"{folder.rstrip('/')}/{name}" for name in inside]
        except gp.GPhoto2Error as error:
            if error.code in LOST:
                raise _explain(error, "list the card") from error
            return []  # such as Sony's bodies in PC Remote mode
        return files

    def choices(self, name: str) -> tuple[str, ...]:
        widget = self._widget(name)
        if widget is None or widget.get_type() not in (self._gp.GP_WIDGET_RADIO, self._gp.GP_WIDGET_MENU):
            return ()
        with self._explained(f"read the choices of {name}"):
            return tuple(str(choice) for choice in widget.get_choices() if choice is not None)

    def set_value(self, name: str, value: str) -> None:
        choices = self.choices(name)
        if value not in choices:
            raise UserError(
                f"The camera cannot set {name} to {value!r}.",
                f"It offers {', '.join(choices)}." if choices else "Set it on the camera itself.",
            )
        with self._explained(f"set {name}"):
            widget = self._camera.get_single_config(name)
            widget.set_value(value)
            self._camera.set_single_config(name, widget)

    def shoot(self, settle_s: float, files: int = 0) -> list[CardFile]:
        gp = self._gp
        self.new_files(0)  # what an earlier shot left behind would be taken for this one's
        for attempt in range(BUSY_RETRIES):
            try:
                path = self._camera.capture(gp.GP_CAPTURE_IMAGE)
                break
            except gp.GPhoto2Error as error:
                if error.code != BUSY or attempt == BUSY_RETRIES - 1:
                    raise _explain(error, "shoot") from error
                # It may have shot all the same; releasing again would make a second file of this shot.
                if found := self.new_files(BUSY_WAIT_S):
                    return found + [file for file in self.new_files(settle_s) if file not in found]
        found = [CardFile(path.folder, path.name)]
        if files != 1:
            found += [file for file in self.new_files(settle_s, files) if file not in found]
        return found

    def download(self, file: CardFile, path: Path) -> str:
        camera_file = self._fetch(file)  # its bytes live as long as it does
        with self._explained(f"download {file.name}"):
            data = camera_file.get_data_and_size()
        if data is None or not len(data):
            problem = f"The camera sent nothing for {file.name}."
            raise CameraLost(problem, "Switch it off and on; then --resume.")
        data = memoryview(data)
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def delete(self, file: CardFile) -> None:
        with self._explained(f"delete {file.name}"):
            self._camera.file_delete(file.folder, file.name)

    def new_files(self, silence_s: float, most: int = 0) -> list[CardFile]:
        gp, files = self._gp, []
        heard = time.monotonic()
        with self._explained("listen to the camera"):
            while True:
                kind, data = self._camera.wait_for_event(20)
                now = time.monotonic()
                if kind == gp.GP_EVENT_FILE_ADDED:
                    files.append(CardFile(data.folder, data.name))
                    if most and len(files) >= most:
                        return files
                silent = kind == gp.GP_EVENT_TIMEOUT
                if kind in (gp.GP_EVENT_FILE_ADDED, gp.GP_EVENT_CAPTURE_COMPLETE):
                    heard = now
                elif now - heard >= silence_s + (0 if silent else CHATTER_S):
                    return files
                elif silent:
                    time.sleep(0.005)  # the virtual camera answers at once

    def _fetch(self, file: CardFile) -> Any:
        with self._explained(f"download {file.name}"):
            return self._camera.file_get(file.folder, file.name, self._gp.GP_FILE_TYPE_NORMAL)

    def _widget(self, name: str) -> Any | None:
        """A setting's widget; None where the camera does not have it."""
        gp = self._gp
        try:
            return self._camera.get_single_config(name)
        except gp.GPhoto2Error as error:
            if error.code in (gp.GP_ERROR_BAD_PARAMETERS, gp.GP_ERROR_NOT_SUPPORTED):
                return None
            raise _explain(error, f"read {name}") from error

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._gp.GPhoto2Error as error:
            raise _explain(error, what) from error


def _explain(error: Any, what: str) -> UserError:
    """libgphoto2's error as a sentence with what helps."""
    if (what, error.code) == ("shoot", UNSPECIFIED):
        return UserError(
            "The camera did not shoot.",
            "Set it to manual focus and PC Remote, and look whether its card is full; then --resume.",
        )
    message, hint = REMEDIES.get(
        error.code,
        (
            f"Could not {what}: libgphoto2 says '{error.string}' ({error.code}).",
            "Switch the camera off and on and try again.",
        ),
    )
    return (CameraLost if error.code in LOST else UserError)(message, hint)
