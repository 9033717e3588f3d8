"""Decode files in a process of its own, so that what crashes a decoder costs one file and not the run.

LibRaw parses the formats of hundreds of cameras. A malformed file may end its process, keep it busy for ever,
or make it ask for all memory there is. So a second process does the reading, file after file. When it dies,
the file that it was reading is to blame, and the next file gets a new one. What decoders print goes nowhere.

A request is a line of JSON on that process's standard input; the answer is a line of JSON on its standard
output, and behind it the bytes of the arrays that the line announces.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from srraw_tools.errors import UserError

try:
    import fcntl
    import resource
except ImportError:  # Windows: a crash costs one file there too, but nothing limits time and memory
    fcntl = resource = None

NAMES = {"raw": "LibRaw", "picture": "OpenCV"}  # what decodes, in words
LIMIT_S = (60.0, 2.0)  # for any file, and for each megabyte of it: hundred times what a good one takes
LIMIT_BYTES = (4 << 30, 64)  # of address space for any file, and for each byte of it
READY = b"ready\n"
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1"}  # nothing here multiplies matrices

Decoded = tuple[dict[str, Any], list[npt.NDArray[Any]]]

_lock = threading.Lock()
_readers: dict[int, subprocess.Popen[bytes]] = {}  # by the process that started it: a fork starts its own


def decode(decoder: str, path: Path, **options: Any) -> Decoded:
    """Have a file decoded by another process.

    Args:
        decoder: "raw" for libraw.decode, "picture" for picture.decode.
        options: keyword arguments of the decoder.

    Returns:
        What the decoder's function returns: plain values that JSON can hold, and arrays.

    Raises:
        UserError: the decoder's own; or the file made it crash, or kept it busy for too long.
    """
    size = path.stat().st_size if path.exists() else 0
    limit_s = round(LIMIT_S[0] + LIMIT_S[1] * size / 1e6)
    request = {
        "decoder": decoder,
        "path": str(path),
        "folder": os.getcwd(),
        "options": options,
        "limit_s": limit_s,
        "limit_bytes": LIMIT_BYTES[0] + LIMIT_BYTES[1] * size,
    }
    with _lock:
        reader = _reader()
        try:
            answer, arrays = _ask(reader, request)
        except (EOFError, OSError) as error:
            status = _end(reader)
            raise UserError(
                _last_words(path, NAMES[decoder], status, limit_s),
                "Copy it from the card again, or set it aside.",
            ) from error
        except BaseException:
            reader.kill()  # what is left in the pipe would be taken for the next answer
            _end(reader)
            raise
    if "problem" in answer:
        message, hint, wrong_use = answer["problem"]
        raise UserError(message, hint, wrong_use=wrong_use)
    if "bug" in answer:
        raise RuntimeError(f"Decoding {path} failed.\n{answer['bug']}")
    return answer["values"], arrays


def _reader() -> subprocess.Popen[bytes]:
    reader = _readers.get(os.getpid())
    if reader is not None and reader.poll() is None:
        return reader
    package = Path(__file__).parents[1]
    search = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    reader = subprocess.Popen(
        [sys.executable, "-P", "-m", "srraw_tools.isolation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **SINGLE_THREADED, "PYTHONPATH": os.pathsep.join(search)},
        process_group=0,  # Ctrl-C is for the program that a person sees
    )
    _readers[os.getpid()] = reader
    with suppress(AttributeError, OSError):  # Linux: a longer pipe is faster
        fcntl.fcntl(reader.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
    if reader.stdout.readline() != READY:
        raise RuntimeError(f"The process that decodes files did not start; its status is {_end(reader)}.")
    return reader


def _ask(reader: subprocess.Popen[bytes], request: dict[str, Any]) -> Decoded:
    """Raises EOFError or OSError where the reader dies before it has answered."""
    reader.stdin.write(json.dumps(request).encode() + b"\n")
    reader.stdin.flush()
    line = reader.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    arrays = []
    for kind, shape in answer["arrays"]:
        array = np.empty(shape, kind)
        if reader.stdout.readinto(_bytes_of(array)) != array.nbytes:
            raise EOFError
        arrays.append(array)
    return answer, arrays


@atexit.register
def _end_own() -> None:
    reader = _readers.get(os.getpid())
    if reader is not None:
        _end(reader)


def _end(reader: subprocess.Popen[bytes]) -> int:
    """Its exit status, after the end of its input has ended it."""
    _readers.pop(os.getpid(), None)
    with suppress(OSError):
        reader.stdin.close()
    reader.stdout.close()
    try:
        return reader.wait(10)
    except subprocess.TimeoutExpired:
        reader.kill()
        return reader.wait()


def _last_words(path: Path, name: str, status: int, limit_s: float) -> str:
    if hasattr(signal, "SIGALRM") and status == -signal.SIGALRM:
        return f"{path} is damaged: {name} was not done with it after {limit_s} s."
    known = {-int(number): number.name for number in signal.Signals}
    return f"{path} is damaged: {name} crashed on it ({known.get(status, f'exit status {status}')})."


# --- in the process that decodes --------------------------------------------------------------------------


def _serve() -> None:
    from srraw_tools import libraw, picture

    decoders = {"raw": libraw.decode, "picture": picture.decode}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    answers.write(READY)
    answers.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    for line in requests:
        request = json.loads(line)
        os.chdir(request["folder"])
        _send(answers, *_answer(decoders[request["decoder"]], request))  # no name keeps the arrays after


def _answer(function: Callable[..., Decoded], request: dict[str, Any]) -> Decoded:
    path = Path(request["path"])
    _limit(request["limit_s"], request["limit_bytes"])
    try:
        values, arrays = function(path, **request["options"])
        return {"values": values}, arrays
    except UserError as error:
        return {"problem": [error.message, error.hint, error.exit_code == 2]}, []
    except MemoryError:
        name = NAMES[request["decoder"]]
        return {"problem": [f"{path} is damaged: {name} asks for too much memory for it.", "", False]}, []
    except Exception:
        return {"bug": traceback.format_exc()}, []
    finally:
        if resource:
            signal.alarm(0)


def _limit(seconds: int, memory: int) -> None:
    """Let the system end this process after so many seconds, give it no more memory, keep no core file."""
    if resource is None:
        return
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or memory < hard:
        with suppress(ValueError, OSError):  # macOS knows this limit and does not set it
            resource.setrlimit(resource.RLIMIT_AS, (memory, hard))


def _send(answers: IO[bytes], answer: dict[str, Any], arrays: list[npt.NDArray[Any]]) -> None:
    answer["arrays"] = [(array.dtype.str, array.shape) for array in arrays]
    answers.write(json.dumps(answer).encode() + b"\n")
    for array in arrays:
        answers.write(_bytes_of(array))
    answers.flush()


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(array)).cast("B")


if __name__ == "__main__":
    _serve()
