"""Single keys from a terminal, as they are pressed."""

from __future__ import annotations

import codecs
import os
import select
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import termios
    import tty
except ImportError:  # Windows has no such terminals
    termios = None  # type: ignore[assignment]

ENTER = "enter"
LEAST = (72, 22)  # columns and lines of a full screen
DRAWN = "█▁✓▸╭┏"  # among what a full screen is made of
DUMB = ("", "dumb", "unknown")  # terminals on which nothing can be drawn


def has_keys() -> bool:
    """Whether a person sits at a terminal that gives single keys, and shows LEAST columns and lines."""
    if termios is None or sys.stdin is None or sys.stdout is None:
        return False
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") in DUMB:
        return False
    try:
        DRAWN.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    columns, lines = shutil.get_terminal_size()
    return columns >= LEAST[0] and lines >= LEAST[1]


class Keys:
    """The keys that are pressed, one at a time, in lower case; Return and the space bar are ENTER."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode

    def forget(self) -> None:
        """Drop what was pressed until now: it was not meant for the next question."""
        termios.tcflush(self._stream, termios.TCIFLUSH)

    def pressed(self, wait_s: float) -> str | None:
        """The next key, or None where there is none for that long. An arrow or function key is none.

        Raises:
            KeyboardInterrupt: the terminal is gone.
        """
        ready, _, _ = select.select([self._stream], [], [], wait_s)
        if not ready:
            return None
        try:
            read = os.read(self._stream, 64)
        except OSError:  # so it ends where its window was closed
            read = b""
        if not read:
            raise KeyboardInterrupt
        text = self._decode(read)
        if not text or text[0] == "\x1b":
            return None
        return ENTER if text[0] in "\r\n " else text[0].lower()


@contextmanager
def single_keys() -> Iterator[Keys]:
    """Have the terminal of standard input give keys at once and unseen; it is set back in the end."""
    stream = sys.stdin.fileno()
    before = termios.tcgetattr(stream)
    tty.setcbreak(stream)
    try:
        yield Keys(stream)
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
