"""What stands between this computer and a camera: the USB, who holds it, whether it opens, room to write."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from srraw_tools.camera import BATTERY, Camera
from srraw_tools.errors import UserError

OK, LOOK, WRONG = "ok", "look", "wrong"
STILL_IMAGE = "06"  # USB's class of devices that speak PTP
DEVICES, PROCESSES, USB_FILES = Path("/sys/bus/usb/devices"), Path("/proc"), Path("/dev/bus/usb")
LIBRARIES = ("gphoto2", "rawpy", "opencv-contrib-python", "h5py", "numpy")
LEAST_FREE = 5e9  # bytes: some sequences of 24 megapixels
EARLIEST = time.mktime((2025, 1, 1, 0, 0, 0, 0, 0, -1))  # a clock before this was never set
CLOCK_NAMES = ("datetime", "datetimeutc")
CLOCK_OFF_S = 3600.0
BATTERY_LOW = 25.0  # percent


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at: `state` is ok, look (it may trouble you) or wrong."""

    what: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class UsbCamera:
    """A device on the USB that offers pictures: its name, and the file behind which it lies."""

    name: str
    file: Path


def examine(connect: Callable[[], Camera], folder: Path) -> Iterator[Diagnosis]:
    """Look at everything that a capture needs; no finding keeps another from being told.

    Args:
        connect: opens the camera.
        folder: where sequences would be written.
    """
    yield from _libraries()
    cameras = usb_cameras()
    if not cameras and sys.platform.startswith("linux"):
        yield Diagnosis(
            "USB",
            LOOK,
            "no device on it offers pictures",
            "Plug the camera in, switch it on, and set its USB mode to PC Remote, not mass storage.",
        )
    for camera in cameras:
        yield from about_usb_camera(camera)
    yield from about_connection(connect)
    yield from about_folder(folder)
    if time.time() < EARLIEST:
        yield Diagnosis(
            "clock", WRONG, "this computer's clock is not set", "Set it: shots are sorted by time."
        )


def usb_cameras(devices: Path = DEVICES) -> list[UsbCamera]:
    """The devices that speak PTP, as Linux lists them; none where it does not."""
    found = {}
    for interface in sorted(devices.glob("*:*/bInterfaceClass")):
        if _read(interface) != STILL_IMAGE:
            continue
        device = devices / interface.parent.name.split(":")[0]
        bus, number = _read(device / "busnum"), _read(device / "devnum")
        if bus.isdigit() and number.isdigit():
            name = " ".join(filter(None, (_read(device / "manufacturer"), _read(device / "product"))))
            found[device] = UsbCamera(
                name or "a camera", USB_FILES / f"{int(bus):03d}" / f"{int(number):03d}"
            )
    return list(found.values())


def about_usb_camera(camera: UsbCamera, processes: Path = PROCESSES) -> Iterator[Diagnosis]:
    """Whether we may use it, and who else does."""
    yield Diagnosis("USB", OK, f"{camera.name} at {camera.file}")
    if not os.access(camera.file, os.R_OK | os.W_OK):
        yield Diagnosis(
            "rights",
            WRONG,
            f"{camera.file} may not be written by you",
            "Install libgphoto2's udev rules (Debian: libgphoto2-6), or join the group plugdev; replug.",
        )
    for name in holders(camera.file, processes):
        yield Diagnosis(
            "held", WRONG, f"{name} holds the camera", f"End {name} ('gio mount -s gphoto2'), then replug."
        )


def holders(file: Path, processes: Path = PROCESSES) -> list[str]:
    """The names of programs that have a file open, as far as we may look."""
    found = set()
    for process in processes.glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and any(
                os.readlink(handle) == str(file) for handle in (process / "fd").iterdir()
            ):
                found.add(_read(process / "comm") or f"process {process.name}")
        except OSError:
            continue  # it ended, or is somebody else's
    return sorted(found)


def about_connection(connect: Callable[[], Camera]) -> Iterator[Diagnosis]:
    """Whether the camera opens, and what it says of itself."""
    try:
        camera = connect()
    except UserError as error:
        yield Diagnosis("camera", WRONG, error.message.rstrip("."), error.hint)
        return
    try:
        yield Diagnosis("camera", OK, f"{camera.model} opens")
        battery = _percent(camera.value(BATTERY))
        if battery is not None:
            low = battery < BATTERY_LOW
            yield Diagnosis(
                "battery",
                LOOK if low else OK,
                f"{battery:.0f} %",
                "Charge it; take a second one." if low else "",
            )
        clock = next((text for name in CLOCK_NAMES if (text := camera.value(name))), "")
        if clock.isdigit() and abs(int(clock) - time.time()) > CLOCK_OFF_S:
            off = (int(clock) - time.time()) / 3600
            yield Diagnosis(
                "camera's clock",
                LOOK,
                f"{off:+.1f} h off",
                "Set it: shots of two cameras are matched by time.",
            )
    except UserError as error:
        yield Diagnosis("camera", WRONG, error.message.rstrip("."), error.hint)
    finally:
        camera.close()


def about_folder(folder: Path) -> Iterator[Diagnosis]:
    """Whether sequences can be written, and how many."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Diagnosis("disk", WRONG, f"{there} cannot be written", "Give another --out.")
        return
    free = shutil.disk_usage(there).free
    little = free < LEAST_FREE
    yield Diagnosis(
        "disk",
        LOOK if little else OK,
        f"{free / 1e9:.1f} GB free",
        "Make room, or give another --out." if little else "",
    )


def _libraries() -> Iterator[Diagnosis]:
    for name in LIBRARIES:
        try:
            yield Diagnosis(name, OK, metadata.version(name))
        except metadata.PackageNotFoundError:
            need = "Tethering needs it: " if name == "gphoto2" else ""
            yield Diagnosis(name, WRONG, "not installed", f"{need}pip install {name}")


def _percent(text: str | None) -> float | None:
    number = (text or "").rstrip("% ")
    return float(number) if number.replace(".", "", 1).isdigit() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
