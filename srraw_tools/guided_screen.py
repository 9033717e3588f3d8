"""What the full screen of a guided capture shows: from a state, which is plain data, to what is printed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from rich import box
from rich.align import Align
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from srraw_tools.checks import Finding, setting_text
from srraw_tools.making import Step
from srraw_tools.sequence import Shot
from srraw_tools.shot_facts import ShotFacts
from srraw_tools.terminal import duration, size

LOW_BATTERY = 20.0  # percent
FEW_SHOTS = 50  # that still fit on the disk
LEVELS = " ▁▂▃▄▅▆▇█"
DIGITS = {  # five rows of three, to be read from three metres
    "0": "███ █ █ █ █ █ █ ███",
    "1": " █  ██   █   █  ███",
    "2": "███   █ ███ █   ███",
    "3": "███   █ ███   █ ███",
    "4": "█ █ █ █ ███   █   █",
    "5": "███ █   ███   █ ███",
    "6": "███ █   ███ █ █ ███",
    "7": "███   █   █   █   █",
    "8": "███ █ █ ███ █ █ ███",
    "9": "███ █ █ ███   █ ███",
    ".": "                 █ ",
}


@dataclass(frozen=True)
class ShotView:
    """A shot that was taken, and what is known of it."""

    shot: Shot | None = None
    facts: ShotFacts | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Screen:
    """All that the screen shows.

    Attributes:
        folder: of the sequence.
        steps: the plan; `done` those with a shot that counts, `skipped` those left out.
        now: the step that is due; None at the end.
        doing: what is going on: "wait", "turn", "shoot", "await" (a person's own finger), "judge" or "end".
        auto: it shoots by itself once the lens stands right.
        live_mm: the focal length that the camera tells; `believed` once a shot has confirmed it, and with a
            question mark until then.
        last: the shot that was taken last; `sharpness_before` that of the one before, where both are of the
            same focal length.
        scene: what is wrong with the pictures together; None while they are being compared.
        message: the last thing that happened.
        battery_percent, free_bytes: None where unknown.
        started: of the sequence, seconds of time.monotonic.
        clipped_limit: share of a colour's pixels that may be clipped.
    """

    folder: Path
    camera: str
    rig: str
    steps: tuple[Step, ...]
    clipped_limit: float
    done: dict[Step, Shot] = field(default_factory=dict)
    skipped: frozenset[Step] = frozenset()
    now: Step | None = None
    doing: str = "wait"
    auto: bool = False
    live_mm: float | None = None
    believed: bool = False
    last: ShotView = field(default_factory=ShotView)
    sharpness_before: float | None = None
    scene: tuple[Finding, ...] | None = ()
    message: str = ""
    battery_percent: float | None = None
    free_bytes: int | None = None
    shot_bytes: int = 0
    started: float = 0.0


def render(screen: Screen) -> RenderableType:
    """The whole screen; it fits 80 columns by 24 lines."""
    layout = Layout()
    layout.split_column(
        Layout(_header(screen), size=1),
        Layout(name="middle"),
        Layout(_said(screen), size=6),
        Layout(_keys(screen), size=1),
    )
    layout["middle"].split_row(Layout(name="left", size=36), Layout(_last(screen)))
    layout["left"].split_column(Layout(_task(screen), size=8), Layout(_plan(screen)))
    return layout


def _header(screen: Screen) -> RenderableType:
    facts = Text(justify="right", no_wrap=True, overflow="ellipsis")
    if screen.battery_percent is not None:
        low = screen.battery_percent < LOW_BATTERY
        facts.append(f"battery {screen.battery_percent:.0f} %", "bold red" if low else "")
        facts.append("  ")
    if screen.free_bytes is not None:
        room = screen.free_bytes // screen.shot_bytes if screen.shot_bytes else None
        few = room is not None and room < FEW_SHOTS
        told = f"{size(screen.free_bytes)} free" + (f", {room} shots" if few else "")
        facts.append(told, "bold red" if few else "")
        facts.append("  ")
    facts.append(time.strftime("%H:%M"))
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(justify="right", no_wrap=True)
    name = Text(no_wrap=True, overflow="ellipsis")
    name.append(screen.folder.name, "bold")
    name.append(f"  {screen.camera}, rig {screen.rig}")
    line.add_row(name, facts)
    return line


def _task(screen: Screen) -> RenderableType:
    step = screen.now
    if step is None:
        missing = len(screen.steps) - len(screen.done)
        text = Text(f"{missing} to be shot" if missing else "Complete", "bold", justify="center")
        return Panel(Align.center(text, vertical="middle"), box=box.ROUNDED, title="Scene")
    titles = {"turn": "Turn the ring to", "shoot": "Hands off", "judge": "Look at this shot"}
    titles["await"] = "Take the picture"
    title = titles.get(screen.doing, "")
    if step.closing and screen.doing == "turn":
        title = "Closing shot: back to"
    lines = [Text(row, "bold" if screen.doing == "turn" else "dim") for row in big(f"{step.focal_mm:g}")]
    lines.append(_live(screen, step))
    return Panel(Align.center(Group(*lines)), box=box.ROUNDED, title=title)


def _live(screen: Screen, step: Step) -> Text:
    if screen.doing in ("shoot", "await"):
        return Text("shooting" if screen.doing == "shoot" else "its file is waited for")
    if screen.live_mm is None:
        return Text("mm")
    near = abs(screen.live_mm / step.focal_mm - 1) <= 0.02
    arrow = "" if near else "  turn longer" if screen.live_mm < step.focal_mm else "  turn shorter"
    sure = "" if screen.believed else "?"
    return Text(f"mm, now {screen.live_mm:g}{sure}{arrow}", "green" if near else "yellow")


def big(number: str) -> list[str]:
    """A number in five lines of large digits."""
    glyphs = [DIGITS[character].ljust(19) for character in number]
    return ["  ".join(glyph[4 * row : 4 * row + 3] for glyph in glyphs) for row in range(5)]


def _plan(screen: Screen) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    half = -(-len(screen.steps) // 2)
    for pair in zip_longest(screen.steps[:half], screen.steps[half:]):
        cells: list[Text] = []
        for step in filter(None, pair):
            shot, due = screen.done.get(step), step == screen.now
            mark = ("✓", "green") if shot else ("-", "yellow") if step in screen.skipped else (" ", "")
            name = f"{step.focal_mm:g} mm" + (" again" if step.closing else "")
            cells += [Text("▸" if due else " ", "bold"), Text(*mark), Text(name, "bold" if due else "")]
        table.add_row(*cells)
    took = duration(time.monotonic() - screen.started)
    title = f"{len(screen.done)} of {len(screen.steps)}, {took}"
    return Panel(table, box=box.ROUNDED, title=title)


def _last(screen: Screen) -> RenderableType:
    shot, facts = screen.last.shot, screen.last.facts
    if shot is None:
        return Panel(Text("", "dim"), box=box.ROUNDED, title="Last shot")
    focal = f"{shot.focal_mm:g} mm" if shot.focal_mm else "focal length unknown"
    lines: list[RenderableType] = [Text("  ".join(filter(None, (focal, shot.lens))), overflow="ellipsis")]
    values = {name: getattr(shot, name) for name in ("f_number", "exposure_s", "iso")}
    lines.append(Text("  ".join(setting_text(name, value) for name, value in values.items() if value)))
    lines.append(Text(f"{(shot.taken_at or '')[11:19]}  {shot.file}", "dim"))
    if facts is not None:
        before = f", before {screen.sharpness_before:.3f}" if screen.sharpness_before else ""
        lines.append(Text(f"sharpness {facts.sharpness:.3f}{before}"))
        for name, colour, histogram, clipped in zip(
            "RGB", ("red", "green", "blue"), facts.histogram, facts.clipped, strict=True
        ):
            row = Text(f"{name} ", f"bold {colour}")
            row.append(bars(histogram), colour)
            over = clipped > screen.clipped_limit
            row.append(f" {clipped:.1%}", "bold white on red" if over else "")
            lines.append(row)
        lines.append(Text("  shadows                  clipped", "dim"))
    return Panel(Group(*lines), box=box.ROUNDED, title="Last shot")


def bars(shares: tuple[float, ...]) -> str:
    """A histogram in one line; a share counts by its cube root, so that small ones still show."""
    most = max(shares) or 1.0
    return "".join(LEVELS[round((share / most) ** (1 / 3) * (len(LEVELS) - 1))] for share in shares)


def _said(screen: Screen) -> RenderableType:
    findings = screen.last.findings if screen.doing == "judge" else screen.scene or ()
    if findings:
        lines = [_finding(finding) for finding in findings[:4]]
        if len(findings) > 4:
            lines[-1] = Text(f"... and {len(findings) - 3} more")
        title = "Wrong" if screen.doing == "judge" else "The pictures together"
        return Panel(Group(*lines), box=box.HEAVY, title=title, border_style="red")
    comparing = screen.scene is None and screen.doing == "end"
    good = screen.doing == "end" and screen.scene == () and len(screen.done) == len(screen.steps)
    told = "Comparing the pictures ..." if comparing else screen.message
    if good:
        told = "The pictures fit together. " + screen.message
    return Panel(Text(told), box=box.ROUNDED, border_style="green" if good else "dim")


def _finding(finding: Finding) -> Text:
    text = Text(overflow="ellipsis", no_wrap=False)
    if finding.shot:
        text.append(f"{finding.shot}: ", "bold")
    text.append(f"{finding.what}; ")
    text.append(finding.remedy, "bold")
    return text


KEYS = {
    "turn": "[Enter] shoot  [a]gain the last  [s]kip  [b]ack  [n]ext scene  [q]uit",
    "judge": "[Enter] shoot it again  [k]eep it  [q]uit",
    "missing": "[Enter] shoot it again  [k] leave it out  [q]uit",
    "end": "[Enter] or [n] next scene  [a]gain the last  [b]ack  [q]uit",
    "await": "[n]ext scene  [q]uit",
    "wait": " ",  # a line that is empty would show its own outline
    "shoot": " ",
}


def _keys(screen: Screen) -> RenderableType:
    if screen.doing == "turn" and screen.auto:
        waits = "[Enter] or by itself" if screen.believed else "[Enter] shoot, then by itself"
        return Text(f"{waits}  [a]gain  [s]kip  [b]ack  [n]ext scene  [q]uit", "reverse", no_wrap=True)
    missing = screen.doing == "judge" and screen.last.shot is None
    return Text(KEYS["missing" if missing else screen.doing], "reverse", no_wrap=True, overflow="ellipsis")
