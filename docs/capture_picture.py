"""The picture of the guided session in capture.md, from the code that draws it.

    python docs/capture_picture.py SEQUENCE docs/images/capture.svg

SEQUENCE is a simulated sequence of the seven usual focal lengths.
"""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

from rich.console import Console

from srraw_tools.guided_screen import Screen, ShotView, render
from srraw_tools.making import Step
from srraw_tools.raw import read_raw
from srraw_tools.sequence import read_sequence
from srraw_tools.shot_facts import facts_of


def main(sequence_folder: Path, out: Path) -> None:
    sequence = read_sequence(sequence_folder)
    shots = sorted(sequence.shots, key=lambda shot: shot.focal_planned)
    steps = tuple(Step(shot.focal_planned, Path(shot.file).stem) for shot in shots)
    steps += (Step(shots[0].focal_planned, "closing", closing=True),)
    last = shots[3]
    screen = Screen(
        Path("sequences/00012"),
        "Sony Alpha-A7S II",
        "sony-fe-24-240",
        steps,
        clipped_limit=0.05,
        done=dict(zip(steps[:4], shots[:4], strict=True)),
        now=steps[4],
        doing="turn",
        auto=True,
        live_mm=91.0,
        believed=True,
        last=ShotView(last, facts_of(read_raw(sequence.folder / last.file))),
        message=f"{last.focal_planned:g} mm: {last.file}",
        battery_percent=61.0,
        free_bytes=214 * 10**9,
        shot_bytes=50 * 10**6,
        started=time.monotonic() - 94,
    )
    console = Console(width=80, height=24, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render(screen), height=24)
    svg = console.export_svg(title="srraw capture --auto --closing-shot")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts of another site
    out.write_text(svg.replace("Fira Code", "DejaVu Sans Mono"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
