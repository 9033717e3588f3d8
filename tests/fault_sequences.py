"""Shoot sequences while cable, camera, disk and program fail at random moments, and count what went wrong.

Used by a test, and by benchmarks/capture_faults.py with more seeds.
"""

from __future__ import annotations

import errno
import random
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
from fake_gphoto2 import FakeCamera, fake_gp

from srraw_tools.camera import CameraLost, CardFile, GphotoCamera
from srraw_tools.capture import Turn, capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.exif import read_exif
from srraw_tools.files import sha256_of
from srraw_tools.making import stem_being_made
from srraw_tools.rig import find_rig
from srraw_tools.sequence import read_sequence

FOCALS = (24.0, 50.0, 100.0, 240.0)
RIG = replace(find_rig("virtual"), ring="person", settle_s=0.002)
MOST_ATTEMPTS = 40
# Faults by the call of libgphoto2 that they befall; "crash" stands for a driver's process that ended.
WISHES = (None,) * 8 + (Turn.BACK, Turn.AGAIN)  # one in five rings is turned to a shot that was made
CAMERA_FAULTS = {
    "init": (-53, -105),
    "config": (-7, "null", "crash"),
    "set": (-7, -110, -1, "crash"),
    "capture": (-110, -7, -10, -1, -105, "crash"),  # before the shutter
    "captured": (-110, -7, -10, -1, "crash", "stale", "late", "silent"),  # after it
    "event": (-7, -110, "crash"),
    "list": (-7, "crash"),
    "download": (-7, -1, -110, "crash", "cut", "empty"),
    "delete": (-7, -1, "crash"),
}
DISK_FAULTS = ("srraw_tools.making.os.replace", "srraw_tools.making.os.fsync",
               "srraw_tools.files.os.replace", "srraw_tools.files.os.fsync",
               "srraw_tools.making.sync_folder", "srraw_tools.making.shutil.copyfile",
               "srraw_tools.making.shutil.rmtree")  # fmt: skip


class Killed(BaseException):
    """The program ends here, as by SIGKILL: nothing of it runs after."""


@dataclass
class Outcome:
    """What befell a sequence, and what came of it."""

    faults: list[str]
    released: int = 0
    resumed: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    incomplete: int = 0
    again: int = 0  # released beyond the plan, because of a fault or a wish


class FaultyCamera(FakeCamera):
    """A camera whose calls fail by chance; what it shoots lies on a card that outlives every session."""

    def _fail(self, call):
        gp = self.gp
        if call not in CAMERA_FAULTS or gp.random.random() >= gp.rate:
            return None
        fault = gp.random.choice(CAMERA_FAULTS[call])
        gp.outcome.faults.append(f"{call} {fault}")
        if fault == "crash":
            raise CameraLost("The camera's driver crashed.", "Then --resume.")
        if isinstance(fault, int):
            raise gp.GPhoto2Error(fault)
        return fault

    def get_single_config(self, name):
        widget = super().get_single_config(name)
        if self._fail("config") == "null":
            return type(widget)(None, widget.choices)
        return widget

    def capture(self, kind):
        gp = self.gp
        self._fail("capture")
        gp.outcome.released += 1
        name = f"DSC{gp.outcome.released:05d}.ARW"
        path = gp.home / name
        write_dng(
            path,
            gp.pixels.integers(512, 9000, (32, 48), dtype=np.uint16),
            focal_mm=gp.ring,
            taken_at=datetime(2026, 1, 1) + timedelta(seconds=10 * gp.outcome.released),
        )
        gp.files[name] = path
        gp.card.append(CardFile("/store", name))
        fault = self._fail("captured")
        if fault == "stale" and len(gp.card) > 1:
            return gp.card[-2]  # an earlier file; the new one is not announced
        event = (gp.GP_EVENT_FILE_ADDED, gp.card[-1])
        if fault == "late":
            gp.delayed = [(gp.random.randrange(1, 30), event)]
        elif fault != "silent":
            gp.pending.append(event)
        return gp.card[-1]

    def folder_list_files(self, folder):
        self._fail("list")
        return [(file.name, None) for file in self.gp.card if file.folder == folder]

    def file_get(self, folder, name, kind):
        fault = self._fail("download")
        data = self.gp.files[name].read_bytes()
        data = {"cut": data[: len(data) // 2], "empty": b""}.get(fault, data)
        return type("File", (), {"get_data_and_size": lambda self: data})()


def run(seed: int, rate: float = 0.04) -> Outcome:
    """Shoot one sequence among faults, resuming until it is complete, and look at what there is then.

    Args:
        rate: the chance of a fault at every call.
    """
    outcome = Outcome([])
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        gp = fake_gp([], {})
        gp.Camera = lambda: FaultyCamera(gp)
        gp.random, gp.pixels = random.Random(seed), np.random.default_rng(seed)
        gp.rate, gp.home, gp.outcome, gp.ring = rate, Path(home), outcome, None
        gp.wishes = 0
        folder, backup = Path(home) / "s", Path(home) / "usb"
        backed, emptied = gp.random.random() < 0.5, gp.random.random() < 0.5
        for name, seconds in {"capture.RECONNECT_S": 0, "making.LATE_S": 0.002, "camera.BUSY_WAIT_S": 0.002,
                              "camera.CHATTER_S": 0.002,
                              "camera_settings.READ_BACK_S": 0.002}.items():  # fmt: skip
            stack.enter_context(patch(f"srraw_tools.{name}", seconds))
        for name in DISK_FAULTS:
            _break(stack, name, gp)
        listed: dict[str, str] = {}
        for _ in range(MOST_ATTEMPTS):
            try:
                _shoot(gp, folder, backup if backed else None, emptied)
            except (UserError, Killed):
                outcome.resumed += 1
            outcome.lost += _lost(folder, listed)
            if _complete(folder) and not (folder / ".capture").exists():
                break
        gp.rate = 0
        _judge(gp, folder, backup / "s" if backed else None, outcome)
    return outcome


def _break(stack, name, gp):
    """Let a function of the disk fail, or the program end before or after it, by chance."""
    module, _, function = name.rpartition(".")
    original = getattr(__import__("os") if ".os." in name else shutil, function, None)
    if function == "sync_folder":
        from srraw_tools.files import sync_folder as original

    def faulty(*arguments, **options):
        fault = gp.random.choice(("full", "before", "after")) if gp.random.random() < gp.rate / 4 else None
        if fault:
            gp.outcome.faults.append(f"{function} {fault}")
        if fault == "before":
            raise Killed
        if fault == "full" and function != "rmtree":
            raise OSError(errno.ENOSPC, "No space left on device")
        done = original(*arguments, **options)
        if fault == "after":
            raise Killed
        return done

    stack.enter_context(patch(f"{module}.{function}", faulty))


def _shoot(gp, folder, backup, delete_on_card):
    gp.pending, gp.delayed = [], []  # events do not outlive a session
    camera = GphotoCamera(gp)
    begun = (folder / "sequence.json").is_file()

    def turn(focal):
        gp.ring, wish = focal, gp.random.choice(WISHES)
        gp.wishes += wish is not None
        return wish

    for _ in capture_sequence(
        camera,
        folder,
        RIG,
        focal_mm=FOCALS,
        expected=Expected(f_number=20),
        turn_ring=turn,
        shoot_again=lambda findings: True,
        resume=begun,
        delete_on_card=delete_on_card,
        backup=backup,
    ):
        pass


def _complete(folder):
    return (folder / "sequence.json").is_file() and read_sequence(folder).complete


def _lost(folder, listed):
    """How many of the shots that were ever written down have no whole file of theirs any more.

    The shot that is being made again may have taken its file's place already, as its journal tells.
    """
    if not (folder / "sequence.json").is_file():
        return len(listed)
    listed |= {shot.file: shot.sha256 for shot in read_sequence(folder).shots}
    being_made = stem_being_made(folder)
    others = {file: sha256 for file, sha256 in listed.items() if Path(file).stem != being_made}
    return sum(not (folder / f).is_file() or sha256_of(folder / f) != h for f, h in others.items())


def _judge(gp, folder, backup, outcome):
    if not _complete(folder):
        outcome.incomplete = 1
        return
    shots = read_sequence(folder).shots
    kept = [sha256_of(path) for path in sorted(folder.glob("0*.*"))]
    made = {sha256_of(path): name for name, path in gp.files.items()}
    on_card = {file.name for file in gp.card}
    outcome.again = outcome.released - len(FOCALS)
    outcome.duplicated = len(kept) - len(set(kept)) + abs(len(kept) - len(FOCALS))
    longest_first = sorted(FOCALS, reverse=True)
    for shot in shots:
        focal = read_exif(folder / shot.file).focal_mm
        right = focal == shot.focal_planned == longest_first[int(Path(shot.file).stem) - 1]
        outcome.wrong += not right
        outcome.lost += sha256_of(folder / shot.file) not in made
        if backup:
            copy = backup / shot.file
            outcome.lost += not copy.is_file() or sha256_of(copy) != shot.sha256
    # Whatever the camera made lies in the folder or still on its card, but for what was shot again.
    gone = sum(name not in on_card and sha not in kept for sha, name in made.items())
    outcome.lost += max(0, gone - gp.wishes)
