"""The full screen of `srraw capture`: what it shows, and a whole session at a real terminal."""

from __future__ import annotations

import codecs
import io
import os
import re
import select
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from srraw_tools.checks import Finding
from srraw_tools.guided_screen import Screen, ShotView, bars, big, render
from srraw_tools.making import Step
from srraw_tools.raw import read_raw
from srraw_tools.sequence import read_sequence
from srraw_tools.shot_facts import BINS, facts_of

termios = pytest.importorskip("termios", reason="this system has no such terminals")
import fcntl  # noqa: E402
import pty  # noqa: E402
import struct  # noqa: E402

STEPS = tuple(Step(float(focal), f"{7 - n:05d}") for n, focal in enumerate((24, 35, 50, 70, 100, 150, 240)))


@pytest.fixture
def screen(simulated):
    sequence = read_sequence(simulated / "00001")
    shot = sequence.shots[-1]
    last = ShotView(shot, facts_of(read_raw(sequence.folder / shot.file)))
    return Screen(
        Path("sequences/00003"),
        "Sony Alpha-A7r II",
        "sony-fe-24-240",
        STEPS,
        clipped_limit=0.05,
        done={STEPS[0]: shot},
        now=STEPS[1],
        live_mm=33.0,
        last=last,
        battery_percent=80.0,
        free_bytes=214 * 10**9,
        shot_bytes=50 * 10**6,
        started=time.monotonic(),
    )


def printed(screen, width=80, height=24):
    console = Console(width=width, height=height, record=True, file=io.StringIO(), color_system=None)
    console.print(render(screen), height=height)
    return console.export_text()


def test_it_fits_80_columns_by_24_lines_and_says_what_to_do(screen):
    lines = printed(screen).splitlines()
    assert len(lines) == 24
    assert max(map(len, lines)) == 80
    text = "\n".join(lines)
    for told in ("Turn the ring to", "now 33?  turn longer", "battery 80 %", "214 GB free", "1 of 7"):
        assert told in text
    for told in (
        "24 mm",
        "f/20",
        "1/50 s",
        "ISO 100",
        "sharpness",
        "[Enter] shoot",
        "[s]kip",
        "[b]ack",
        "240 mm",
    ):
        assert told in text
    assert all(row.rstrip() in text for row in big("35"))


def test_what_is_wrong_comes_with_what_to_do_about_it(screen):
    finding = Finding(
        "focal_mm", "the lens was at 40 mm instead of 35 mm", "turn the ring and shoot it again"
    )
    judged = replace(screen, doing="judge", last=replace(screen.last, findings=(finding,)))
    text = printed(judged)
    assert "the lens was at 40 mm instead of 35 mm; turn the ring and shoot it again" in text
    assert "[k]eep it" in text
    together = replace(screen, doing="end", now=None, scene=(replace(finding, shot="00006.dng"),))
    assert "00006.dng: the lens was at 40 mm" in printed(together)
    assert "Comparing the pictures" in printed(replace(together, scene=None))


def test_little_battery_and_room_are_told_before_they_are_gone(screen):
    console = Console(width=80, force_terminal=True, color_system="standard", file=io.StringIO())
    for poor in (replace(screen, battery_percent=9.0), replace(screen, free_bytes=10**9)):
        with console.capture() as captured:
            console.print(render(poor), height=24)
        assert re.search(r"\x1b\[1;31m(battery 9 %|1 GB free, 20 shots)", captured.get())


def test_a_histogram_shows_a_few_clipped_pixels():
    shares = [0.0] * BINS
    shares[5], shares[-1] = 0.99, 0.01
    line = bars(tuple(shares))
    assert len(line) == BINS
    assert line[5] == "█"
    assert line[-1] not in " █"
    assert set(line) == {" ", line[5], line[-1]}


def at_a_terminal(script, *arguments, cwd, limit_s=60):
    """Run `srraw capture` at a terminal of 80 x 24; press keys as their screens appear: (pattern, keys)."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        command = "import sys; from srraw_tools.cli import main; sys.exit(main())"
        os.execv(sys.executable, [sys.executable, "-c", command, "capture", *map(str, arguments)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    text, since, left = "", 0, list(script)
    deadline, decode = time.monotonic() + limit_s, codecs.getincrementaldecoder("utf-8")("replace").decode
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                read = os.read(terminal, 1 << 16)
            except OSError:
                break
            if not read:
                break
            text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", decode(read))
        if left and re.search(left[0][0], text[since:], re.DOTALL):
            time.sleep(0.3)  # a person's
            since = len(text)
            os.write(terminal, left.pop(0)[1].encode())
    else:
        os.kill(process, 9)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert not left, text[-4000:]
    return status, text


def test_a_whole_session_by_keys(simulated, tmp_path):
    """Shoot, skip, go back, shoot the last again, the closing shot; then a second scene, left incomplete."""
    status, text = at_a_terminal(
        [
            ("Turn the ring.*0 of 4", "\r"),
            ("Hands off.*Turn the ring.*1 of 4", "s"),
            ("▸   150 mm", "b"),
            ("▸ - 70 mm", " "),
            ("Hands off.*Turn the ring.*2 of 4", "a"),
            ("▸ ✓ 70 mm", "\r"),
            ("Hands off.*Turn the ring.*2 of 4", "\r"),
            ("Hands off.*back to.*3 of 4", "\r"),
            ("The pictures (together|fit together)", "n"),
            ("00002 .*Turn the ring.*0 of 4", "n"),
            ("Press n once more", "q"),
        ],
        *("--virtual", simulated / "00001", "--focal", "35,70,150", "--closing-shot"),
        cwd=tmp_path,
    )
    assert status == 1  # of the second scene nothing was shot
    assert "1 of 2 scenes complete" in text
    assert "00002 is not complete: 35, 70, 150 mm and the closing shot to be shot" in text
    sequence = read_sequence(tmp_path / "sequences" / "00001")
    assert sequence.complete
    assert [shot.focal_mm for shot in sequence.shots] == [150, 70, 35]
    assert (sequence.closing.file, sequence.closing.focal_mm) == ("closing.dng", 35)


def test_quitting_loses_nothing_and_resume_goes_on(simulated, tmp_path):
    shared = ("--virtual", simulated / "00001", "--focal", "35,150")
    status, text = at_a_terminal(
        [("Turn the ring.*0 of 2", "\r"), ("Hands off.*Turn the ring.*1 of 2", "\x03")], *shared, cwd=tmp_path
    )
    assert status == 1
    assert "150 mm to be shot. Go on with --resume" in text
    status, text = at_a_terminal(
        [("Turn the ring.*1 of 2", "\r"), ("Complete", "q")], *shared, "--resume", cwd=tmp_path
    )
    assert status == 0
    assert read_sequence(tmp_path / "sequences" / "00001").complete
