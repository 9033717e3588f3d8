"""A phone and a tethered camera as one: the short focal lengths of a sequence come from the phone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from srraw_tools.camera import Camera, CardFile
from srraw_tools.rig import Rig
from srraw_tools.watched_folder import WatchedFolder

PHONE = "phone:"  # before a folder on the phone's side


class PairCamera:
    """What `camera.Camera` asks for, of two devices on one tripod.

    The phone's raw files appear in a watched folder; its settings are made on the phone. Which of the two
    shoots is decided by `turn_to`.
    """

    def __init__(self, phone: WatchedFolder, camera: Camera, rig: Rig) -> None:
        self._phone, self._camera, self._rig = phone, camera, rig
        self._by_phone = False
        self.model, self.serial = f"{camera.model} and a phone", camera.serial

    def turn_to(self, focal_mm: float) -> None:
        """The next shot is of this focal length."""
        self._by_phone = focal_mm in self._rig.phone_mm

    @property
    def by_hand(self) -> bool:
        return self._by_phone

    def value(self, name: str) -> str | None:
        return self._phone.value(name) if self._by_phone else self._camera.value(name)

    def choices(self, name: str) -> tuple[str, ...]:
        return self._phone.choices(name) if self._by_phone else self._camera.choices(name)

    def set_value(self, name: str, value: str) -> None:
        (self._phone if self._by_phone else self._camera).set_value(name, value)

    def shoot(self, settle_s: float, files: int = 0) -> list[CardFile]:
        if self._by_phone:
            return _of_phone(self._phone.shoot(settle_s, files))
        return self._camera.shoot(settle_s, files)

    def new_files(self, silence_s: float) -> list[CardFile]:
        if self._by_phone:
            return _of_phone(self._phone.new_files(silence_s))
        return self._camera.new_files(silence_s)

    def card_files(self) -> list[CardFile]:
        return _of_phone(self._phone.card_files()) + self._camera.card_files()

    def download(self, file: CardFile, path: Path) -> str:
        side, own = self._side(file)
        return side.download(own, path)

    def delete(self, file: CardFile) -> None:
        side, own = self._side(file)
        side.delete(own)

    def reconnect(self) -> None:
        self._phone.reconnect()
        self._camera.reconnect()

    def close(self) -> None:
        self._phone.close()
        self._camera.close()

    def _side(self, file: CardFile) -> tuple[Camera, CardFile]:
        if file.folder.startswith(PHONE):
            return self._phone, replace(file, folder=file.folder.removeprefix(PHONE))
        return self._camera, file


def _of_phone(files: list[CardFile]) -> list[CardFile]:
    return [replace(file, folder=PHONE + file.folder) for file in files]
