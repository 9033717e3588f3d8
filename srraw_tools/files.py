"""Files that are whole or not there: written under a temporary name, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays
    fcntl = None

PARTIAL = ".srraw-partial"  # in the name of every temporary file


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, the file there becomes `path`.

    A reader sees the old file or the new one, whole; after a failure the old one is still there and the
    temporary one is gone. What killed processes left in the folder goes too. The temporary name keeps the
    suffix, from which some writers choose the format.

    Args:
        durable: flush the file to the disk before it gets its name, so that a power cut leaves it whole too.

    Raises:
        UserError: the file cannot be written (no space, no permission, no such folder).
    """
    path = Path(path)
    temporary: Path | None = None
    handle = None
    try:
        _remove_leftovers(path.parent)
        handle, temporary = _new_temporary(path)
        yield temporary
        if durable:
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # not the operating system's: a library's own error in the block
            raise
        raise UserError(
            f"Cannot write {path}: {error.strerror}.", "Free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, whole or not at all. NaN and infinities are refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: it is not JSON ({error}).",
            "Remove it and run the step that writes it again.",
        ) from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut (where the system can)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def only_one(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock that ends with its process, however that ends. The file `path` is there while it is held.

    Where the file system has no locks, nothing is locked.

    Raises:
        UserError: another process holds it (`refusal` says what that means), or the file cannot be written.
    """
    try:
        handle = _locked(path)
    except BlockingIOError as error:
        raise UserError(refusal, "Wait until it is done.") from error
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.", "Choose another folder.") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether another process holds the lock `path` of `only_one`."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def _locked(path: Path) -> int:
    """A handle of a file, new or not, that is locked. Raises BlockingIOError where another process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                        raise
            if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder has just removed it


def _new_temporary(path: Path) -> tuple[int | None, Path]:
    """An empty file beside `path`, and the handle that keeps it locked, at most while its process lives."""
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=f"{PARTIAL}{path.suffix}", dir=path.parent
        )
        os.chmod(name, 0o666 & ~_umask())
        if fcntl is None:
            os.close(handle)
            return None, Path(name)
        with suppress(OSError):  # a file system without locks: then nobody takes it for a leftover either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: those that nobody holds locked."""
    for leftover in folder.glob(f".*{PARTIAL}*") if fcntl else ():
        with suppress(OSError), open(leftover, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def _umask() -> int:
    """The process's file creation mask; mkstemp makes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
