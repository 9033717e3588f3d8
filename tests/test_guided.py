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
from types import SimpleNamespace

import pytest
from fake_gphoto2 import FakeWidget, fake_gp
from rich.console import Console

from srraw_tools.camera import GphotoCamera
from srraw_tools.capture import Turn
from srraw_tools.checks import Finding
from srraw_tools.commands.guided import Guide, LeaveScene
from srraw_tools.guided_screen import Screen, ShotView, bars, big, render
from srraw_tools.keys import Keys
from srraw_tools.live_focal import LiveFocal
from srraw_tools.making import Step
from srraw_tools.raw import read_raw
from srraw_tools.rig import find_rig
from srraw_tools.scene_watch import SceneWatch
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
        doing="turn",
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


class Fingers:
    """Keys that are pressed one after the other; None is a moment without one."""

    def __init__(self, *keys, tick):
        self.keys, self.tick = list(keys), tick

    def forget(self):
        pass

    def pressed(self, wait_s):
        self.tick()
        return self.keys.pop(0)


@pytest.fixture
def guide(screen, monkeypatch):
    """Makes a guide of a camera whose ring is turned by the clock: 24, 30, then 35 mm for good."""
    gp = fake_gp([], {})
    gp.config["focallength"] = FakeWidget("24", [])
    gp.config["batterylevel"] = FakeWidget("61%", [])
    clock, ring = SimpleNamespace(now=0.0), ["24", "30", "33", "35"]

    def tick():
        clock.now += 1.0
        gp.config["focallength"].value = ring.pop(0) if len(ring) > 1 else ring[0]

    monkeypatch.setattr("srraw_tools.live_focal.time", SimpleNamespace(monotonic=lambda: clock.now))
    rig, camera = find_rig("nikon-24-200"), GphotoCamera(gp)
    released = []

    def make(*keys, auto=False):
        live = LiveFocal(camera, rig)
        live.read()
        live.compare(24.0)
        fingers, watch = Fingers(*keys, tick=tick), SceneWatch(rig)
        made = Guide(replace(screen, auto=auto), fingers, camera, live, watch, released.append, frozenset())
        made.released = released
        return made

    return make


def test_with_auto_it_shoots_when_the_ring_rests_where_it_should(guide):
    auto = guide(*[None] * 20, auto=True)
    assert auto.turn_ring(35.0) is Turn.SHOOT
    assert len(auto._keys.keys) == 14  # two looks after the ring came to rest
    assert auto.released == [35.0]
    assert auto.screen.live_mm == 35
    assert auto.screen.battery_percent == 61
    by_hand = guide(*[None] * 5, "enter")
    assert by_hand.turn_ring(35.0) is Turn.SHOOT
    assert by_hand._keys.keys == []  # it waited for the key, wherever the ring stood


@pytest.mark.parametrize(("key", "wish"), [("s", Turn.SKIP), ("b", Turn.BACK), ("a", Turn.AGAIN)])
def test_a_key_is_a_wish_and_releases_nothing(guide, key, wish):
    asked = guide(None, "x", key)
    assert asked.turn_ring(35.0) is wish
    assert asked.released == []


@pytest.mark.parametrize(("keys", "to_next"), [(("q",), False), (("n", None, "n"), True)])
def test_leaving_a_scene_that_is_not_complete(guide, keys, to_next):
    with pytest.raises(LeaveScene) as left:
        guide(*keys).turn_ring(35.0)
    assert left.value.to_next is to_next


def test_a_scene_that_is_complete_is_left_at_once(guide):
    complete = guide("n")
    complete.screen = replace(complete.screen, done=dict.fromkeys(STEPS, complete.screen.last.shot))
    with pytest.raises(LeaveScene) as left:
        complete.turn_ring(35.0)
    assert left.value.to_next


def test_a_shot_without_a_raw_file_can_only_be_left_out(screen):
    finding = Finding("file", "the camera made no raw file", "set its image quality to RAW")
    text = printed(replace(screen, doing="judge", last=ShotView(findings=(finding,))))
    assert "no raw file" in text
    assert "[k] leave it out" in text
    assert "keep it" not in text


@pytest.mark.parametrize(("key", "to_next"), [("q", False), ("n", True)])
def test_a_person_who_waits_for_a_file_may_leave(guide, key, to_next):
    waiting = guide(None, "x", key)
    waiting.while_waiting()
    waiting.while_waiting()
    with pytest.raises(LeaveScene) as left:
        waiting.while_waiting()
    assert left.value.to_next is to_next


@pytest.mark.parametrize(("term", "encoding"), [("dumb", "utf-8"), ("", "utf-8"), ("xterm", "latin-1")])
def test_a_terminal_that_cannot_draw_gets_lines(simulated, tmp_path, monkeypatch, term, encoding):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    status, text = at_a_terminal([], "--virtual", simulated / "00001", "--focal", "35", cwd=tmp_path)
    assert status == 0, text
    assert "Turn the ring" not in text


def test_what_is_wrong_is_shot_again_or_kept(guide):
    findings = (Finding("iso", "it was shot with ISO 800", "shoot it again"),)
    assert guide("x", "enter").shoot_again(findings) is True
    assert guide(None, "k").shoot_again(findings) is False


def at_a_terminal(script, *arguments, cwd, size=(24, 80), limit_s=300):
    """Run `srraw capture` at a terminal; press keys as their screens appear: (pattern, keys)."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        os.chdir(cwd)
        command = "import sys; from srraw_tools.cli import main; sys.exit(main())"
        own_size = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        os.execve(sys.executable, [sys.executable, "-c", command, "capture", *map(str, arguments)], own_size)
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
    assert status == 0
    assert "1 of 1 scenes complete" in text
    assert not (tmp_path / "sequences" / "00002").exists()  # nothing of it was shot
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


def test_a_terminal_that_is_too_small_gets_lines(simulated, tmp_path):
    status, text = at_a_terminal(
        [], "--virtual", simulated / "00001", "--focal", "35,150", cwd=tmp_path, size=(15, 60)
    )
    assert status == 0
    assert "Complete: 2 shots" in text
    assert "Turn the ring" not in text


def test_a_window_that_is_closed_ends_the_session(tmp_path):
    here, there = os.pipe()
    os.close(there)
    with pytest.raises(KeyboardInterrupt):
        Keys(here).pressed(0.1)
    os.close(here)
    terminal, window = pty.openpty()
    os.close(terminal)
    with pytest.raises(KeyboardInterrupt):
        Keys(window).pressed(0.1)
    os.close(window)
