"""A camera whose driver runs in another process: a crash or an endless wait there is an error here.

libgphoto2 parses what hundreds of bodies send, and some of them end its process or keep it waiting for ever.
A request is a line of JSON on that process's standard input, the answer a line on its standard output. A
process that dies, or does not answer in time, is replaced when the caller asks for `reconnect`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from srraw_tools.camera import Camera, CameraLost, CardFile, connect
from srraw_tools.errors import UserError

# How long an answer may take, in seconds. Sony's bodies give a shot up at 35 s, a raw of 100 MB by USB 2
# takes 5 s, and a full card of some thousand files about as long to list.
LIMIT_S = {"connect": 30.0, "shoot": 90.0, "download": 120.0, "card_files": 60.0, "new_files": 30.0}
OTHER_LIMIT_S = 15.0
CALLS = ("value", "choices", "set_value", "shoot", "new_files", "download", "delete", "card_files")


class CameraProcess:
    """A `Camera`, each call of which is answered by another process.

    Args:
        command: starts that process; given by tests that inject faults.
        limit_s: seconds that a call may take, by its name; by default LIMIT_S.
    """

    by_hand = False

    def __init__(self, command: list[str] | None = None, limit_s: dict[str, float] | None = None) -> None:
        self._command = command or [sys.executable, "-P", "-m", "srraw_tools.camera_process"]
        self._limit_s = LIMIT_S if limit_s is None else limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self.model, self.serial = "", None
        self.reconnect()

    def reconnect(self) -> None:
        self.close()
        package = Path(__file__).parents[1]
        search = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            process_group=0,  # Ctrl-C is for the program that a person sees
        )
        self._unread = b""
        try:
            self.model, self.serial = self._ask("connect")
        except UserError:
            self.close()
            raise

    def value(self, name: str) -> str | None:
        return self._ask("value", name)

    def choices(self, name: str) -> tuple[str, ...]:
        return tuple(self._ask("choices", name))

    def set_value(self, name: str, value: str) -> None:
        self._ask("set_value", name, value)

    def shoot(self, settle_s: float, files: int = 0) -> list[CardFile]:
        return [CardFile(**file) for file in self._ask("shoot", settle_s, files)]

    def new_files(self, silence_s: float) -> list[CardFile]:
        return [CardFile(**file) for file in self._ask("new_files", silence_s)]

    def download(self, file: CardFile, path: Path) -> str:
        return self._ask("download", asdict(file), os.path.abspath(path))

    def delete(self, file: CardFile) -> None:
        self._ask("delete", asdict(file))

    def card_files(self) -> list[CardFile]:
        return [CardFile(**file) for file in self._ask("card_files")]

    def close(self) -> None:
        """Let the camera go, and end the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            process.stdin.close()  # the end of its input lets it release the camera and end
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Have the other process make a call.

        Raises:
            CameraLost: it died, did not answer in time, or says that the camera is gone.
            UserError: what went wrong with the camera otherwise.
        """
        if self._process is None:
            raise CameraLost("The camera is not connected.", "Plug it in and switch it on; then --resume.")
        try:
            self._process.stdin.write(json.dumps([call, arguments]).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._answer(self._limit_s.get(call, OTHER_LIMIT_S))
        except TimeoutError as error:
            self._kill()
            raise CameraLost(
                f"The camera did not answer '{call}' in time.", "Wake it, check the cable; then --resume."
            ) from error
        except (EOFError, OSError) as error:
            status = self._kill()
            known = {-int(number): number.name for number in signal.Signals}
            raise CameraLost(
                f"The camera's driver crashed at '{call}' ({known.get(status, f'exit status {status}')}).",
                "Switch the camera off and on; then --resume.",
            ) from error
        except BaseException:
            self._kill()  # an answer that is still to come would be taken for the next one
            raise
        if "problem" in answer:
            message, hint, wrong_use, lost = answer["problem"]
            if lost:
                raise CameraLost(message, hint)
            raise UserError(message, hint, wrong_use=wrong_use)
        return answer["value"]

    def _answer(self, limit_s: float) -> dict[str, Any]:
        """Raises EOFError where the process ends first, TimeoutError where it takes longer than the limit."""
        deadline = time.monotonic() + limit_s
        stream = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            read = os.read(stream, 1 << 16)
            if not read:
                raise EOFError
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _kill(self) -> int:
        """End the process at once; its exit status, its own where it had ended already."""
        process, self._process = self._process, None
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5 if process.stdout.closed else 0.1)
        process.kill()
        process.stdout.close()
        with suppress(OSError):
            process.stdin.close()
        return process.wait()


# --- in the process that holds the camera -----------------------------------------------------------------


def serve(gp: Any | None = None) -> None:
    """Answer requests until the input ends.

    Args:
        gp: the gphoto2 module; given by tests that inject faults.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # drivers print
    camera: Camera | None = None
    try:
        for line in requests:
            call, arguments = json.loads(line)
            try:
                if call == "connect":
                    camera = connect(gp)
                    answer: dict[str, Any] = {"value": [camera.model, camera.serial]}
                else:
                    answer = {"value": _call(camera, call, arguments)}
            except UserError as error:
                lost = isinstance(error, CameraLost)
                answer = {"problem": [error.message, error.hint, error.exit_code == 2, lost]}
            except OSError as error:
                problem = f"Cannot write the download: {error.strerror or error}."
                answer = {"problem": [problem, "Free some space; then --resume.", False, False]}
            _send(answers, answer)
    except BrokenPipeError:
        pass  # whoever asked is gone
    finally:
        if camera is not None:
            camera.close()


def _call(camera: Camera, call: str, arguments: list[Any]) -> Any:
    if call not in CALLS:
        raise UserError(f"{call!r} is no call of a camera.")
    if call in ("download", "delete"):
        arguments[0] = CardFile(**arguments[0])
    if call == "download":
        arguments[1] = Path(arguments[1])
    value = getattr(camera, call)(*arguments)
    if call in ("shoot", "new_files", "card_files"):
        return [asdict(file) for file in value]
    return value


def _send(answers: IO[bytes], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    serve()
