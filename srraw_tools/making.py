"""The shot that is being made, on the disk at every moment, so that nothing of it is lost or made twice."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath

from srraw_tools.camera import Camera, CardFile
from srraw_tools.checks import Finding
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_FORMATS, file_format, read_exif
from srraw_tools.files import read_json, replacing, sha256_of, sync_folder, write_json
from srraw_tools.raw import RawImage, read_raw
from srraw_tools.rig import Rig
from srraw_tools.sequence import SEQUENCE_FILE, Shot, shot_from_file
from srraw_tools.shot_facts import ShotFacts, facts_of

UNDER_WAY = ".capture"  # folder of the shot that is being made: its journal, and its downloads
JOURNAL = "journal.json"
ROOM_BYTES = 300_000_000  # on the disk before a shot: raw, JPEG and the copy of both
MOST_FILES = 4  # that a shot makes
LATE_S = 5.0  # silence after which a raw file that was not announced with its shot will not come any more


@dataclass(frozen=True)
class Step:
    """One shot of a plan.

    Attributes:
        stem: of its file's name.
        closing: it is the first focal length once more, at the end.
        by_phone: a phone shoots it, whose focal length is that for a frame of 36 x 24 mm.
    """

    focal_mm: float
    stem: str
    closing: bool = False
    by_phone: bool = False


@dataclass(frozen=True)
class Taken:
    """What came of a shot: nothing, something that is wrong, or a shot with what its raw file shows."""

    shot: Shot | None = None
    raw: RawImage | None = None
    facts: ShotFacts | None = None
    findings: tuple[Finding, ...] = ()


def read_taken(raw: Path, jpeg: Path | None, step: Step, sha256: str) -> Taken:
    """A shot from its files; where the raw file cannot be read, what is wrong with it."""
    try:
        image = read_raw(raw)
    except UserError as error:  # such as of a file whose transfer was cut short
        what = error.message.removesuffix(".").replace(str(raw), "its raw file")
        return Taken(findings=(Finding("file", what, "shoot it again"),))
    name = jpeg.name if jpeg else None
    shot = shot_from_file(raw, step.focal_mm, equivalent=step.by_phone, jpeg=name, sha256=sha256)
    return Taken(shot, image, facts_of(image))


def stem_being_made(folder: Path) -> str | None:
    """The stem of the shot that a killed program was making in a sequence's folder."""
    try:
        return str(read_json(folder / UNDER_WAY / JOURNAL)["stem"])
    except (UserError, KeyError, TypeError):
        return None


class Making:
    """The shot that is being made, on the disk at every moment: its journal and its downloads.

    The journal holds the step's stem, the files that lay on the card before the shutter was released, and
    each verified download with its SHA-256 and its place on the card.
    """

    def __init__(self, camera: Camera, folder: Path, backup: Path | None, delete_on_card: bool) -> None:
        self.camera, self.folder, self.backup = camera, folder, backup
        self.delete_on_card = delete_on_card
        self.home = folder / UNDER_WAY
        self.stem: str | None = None
        self.before: list[CardFile] | None = None
        self.copies: dict[Path, tuple[CardFile, str]] = {}  # verified: where on the card, SHA-256
        self.kept: list[CardFile] = []
        self._names: dict[Path, str] = {}  # of the shot that was looked at: download, its name to be
        self._read()

    def _read(self) -> None:
        """Take the journal up; a download whose bytes are not those noted is none."""
        if not (self.home / JOURNAL).is_file():
            return
        record = read_json(self.home / JOURNAL)
        try:
            stem, before = str(record["stem"]), [CardFile(*file) for file in record["before"]]
            noted = {
                self.home / Path(name).name: (CardFile(*file), str(sha256))
                for name, (file, sha256) in record["downloads"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.home / JOURNAL} is damaged.", f"Remove {self.home}.") from error
        self.stem, self.before = stem, before
        self.copies = {
            path: noted[path] for path in noted if path.is_file() and sha256_of(path) == noted[path][1]
        }

    def _write(self) -> None:
        record = {
            "stem": self.stem,
            "before": [list(asdict(file).values()) for file in self.before or []],
            "downloads": {p.name: [list(asdict(f).values()), h] for p, (f, h) in self.copies.items()},
        }
        write_json(self.home / JOURNAL, record)

    def forget(self) -> None:
        """Nothing is being made. What lies on the card stays there."""
        self.stem, self.copies, self.kept = None, {}, []
        shutil.rmtree(self.home, ignore_errors=True)

    def look_at_card(self, drop_new: bool = True) -> None:
        """What lies there by now, such as a file that came late, is not of the shot that comes.

        It is looked at as the shutter is released; where a person does that, as they are asked to.

        Args:
            drop_new: False where nobody is asked: what came since the last shot may be this one.
        """
        if drop_new:
            self.camera.new_files(0)
        self.before = self.camera.card_files()

    def shoot(self, step: Step, rig: Rig) -> Taken:
        """One shot: release, download what the camera made, and verify it. `place` gives it its name."""
        self._look_for_room()
        with _writing_into(self.folder):
            self.home.mkdir(exist_ok=True)
        if not self.camera.by_hand:
            self.look_at_card()
        self.stem, self.copies = step.stem, {}
        self._write()
        self._download(self.camera.shoot(rig.settle_s, rig.files))
        if not _of_format(self.copies, RAW_FORMATS):
            self._download(self.camera.new_files(LATE_S))
        return self._look(step)

    def recovered(self, step: Step) -> Taken:
        """The shot that was being made when the camera was lost or the program killed, if it was this one.

        It is downloaded and verified, or it is the only raw file that is new on the card. Among several, none
        can be told to be this one, and all stay on the card, where more files than one shot makes are not
        even downloaded.
        """
        if self.stem != step.stem:
            return Taken()
        known = {file for file, _ in self.copies.values()} | set(self.before or [])
        new = [file for file in self.camera.card_files() if file not in known]
        if len(new) <= MOST_FILES:
            self._look_for_room()
            self._download(new)
        if len(_of_format(self.copies, RAW_FORMATS)) != 1:
            return Taken()
        return self._look(step)

    def finish(self, kept: bool) -> str:
        """The shot is written down: only now may its files go from the card, and the journal with them.

        Args:
            kept: the shot counts; one that does not stays on the card, as the disk will hold another one.

        Returns:
            Why a file could not be deleted on the card, if so.
        """
        problem = ""
        for file in self.kept if kept and self.delete_on_card else ():
            try:
                self.camera.delete(file)
            except UserError as error:  # it stays on the card then, and nothing is lost
                problem = str(error)
        self.forget()
        return problem

    def back_up(self, shot: Shot) -> None:
        """Copy a shot and sequence.json to the second folder, and read the copies back."""
        if self.backup is None:
            return
        for name in filter(None, (shot.file, shot.jpeg, SEQUENCE_FILE)):
            source, copy = self.folder / name, self.backup / name
            wanted = shot.sha256 if name == shot.file and shot.sha256 else sha256_of(source)
            if copy.is_file() and sha256_of(copy) == wanted:
                continue
            with replacing(copy) as temporary:
                shutil.copyfile(source, temporary)
            if sha256_of(copy) != wanted:
                raise UserError(f"The backup {copy} is damaged.", "Check its disk; then --resume.")
        with _writing_into(self.backup):
            _remove_others(self.backup, PurePath(shot.file).stem, (shot.file, shot.jpeg))

    def _look_for_room(self) -> None:
        for folder in filter(None, (self.folder, self.backup)):
            try:
                free = shutil.disk_usage(folder).free
            except OSError as error:
                what = "The backup" if folder == self.backup else "The folder"
                problem = f"{what} {folder} is gone: {error.strerror}."
                raise UserError(problem, "Plug its disk in again; then --resume.") from error
            if free < ROOM_BYTES:
                raise UserError(f"The disk of {folder} is full.", "Free some space; then --resume.")

    def _download(self, files: list[CardFile]) -> None:
        """Copy files from the camera to the disk, and compare each with what the camera sent."""
        with _writing_into(self.folder):
            for file in files:
                path = self.home / f"{len(self.copies):02d}.part"
                sent = self.camera.download(file, path)
                with open(path, "rb") as written:
                    os.fsync(written.fileno())
                if sha256_of(path) != sent:
                    path.unlink()
                    raise UserError(
                        f"The copy of {file.name} on the disk is damaged.", "Check the disk; then --resume."
                    )
                self.copies[path] = (file, sent)
                self._write()

    def place(self) -> None:
        """Give the shot's files their names. Only now does it replace one that was made before it."""
        # The raw file comes last: where it is, the shot is whole.
        with _writing_into(self.folder):
            _remove_others(self.folder, self.stem, tuple(self._names.values()))
            for path in reversed(self._names):
                os.replace(path, self.folder / self._names[path])
            sync_folder(self.folder)
        self.kept = [self.copies[path][0] for path in self._names]

    def _look(self, step: Step) -> Taken:
        """The raw file among the downloads, with its JPEG, and the names that they are to have."""
        raws = _of_format(self.copies, RAW_FORMATS)
        if not raws:
            remedy = "set the camera's image quality to RAW, or RAW and JPEG, and shoot it again"
            return Taken(findings=(Finding("file", "the camera made no raw file", remedy),))
        taken = read_taken(raws[0], None, step, self.copies[raws[0]][1])
        if taken.shot is None:
            return taken
        # A JPEG that came late belongs to the shot before.
        jpegs = _of_format(self.copies, ("JPG",))
        jpegs = [path for path in jpegs if _same_second(read_exif(path).taken_at, taken.shot.taken_at)]
        self._names = {path: f"{step.stem}.{file_format(path)}" for path in (raws[0], *jpegs[:1])}
        jpeg = self._names[jpegs[0]] if jpegs else None
        return replace(taken, shot=replace(taken.shot, file=self._names[raws[0]], jpeg=jpeg))


def _remove_others(folder: Path, stem: str, names: tuple[str | None, ...]) -> None:
    """Remove what an earlier shot has left under this one's stem, such as a JPEG where this one has none."""
    for name in (f"{stem}.{suffix}" for suffix in (*RAW_FORMATS, "JPG")):
        if name not in names:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = (
            "Free some space; then --resume." if full else "Is its disk there, and writable? Then --resume."
        )
        raise UserError(f"Cannot write into {folder}: {error.strerror or error}.", hint) from error


def _of_format(paths: Iterable[Path], formats: tuple[str, ...]) -> list[Path]:
    """Those of the files whose content is of one of these formats, in their order."""
    found = []
    for path in paths:
        with suppress(UserError):  # a sound note or a film, say; it stays on the card
            if file_format(path) in formats:
                found.append(path)
    return found


def _same_second(a: str | None, b: str | None) -> bool:
    return a is None or b is None or a[:19] == b[:19]
