"""`srraw doctor`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from srraw_tools.commands.options import PATH, json_option, print_json
from srraw_tools.terminal import print_table


@click.command("doctor")
@click.option(
    "--out", type=PATH, default=Path("sequences"), show_default=True, help="Where sequences would be written."
)
@click.option(
    "--virtual", type=PATH, help="Try it with libgphoto2's virtual camera and a simulated sequence."
)
@json_option
def doctor(out: Path, virtual: Path | None, as_json: bool) -> None:
    """Say what stands between this computer and a camera, and what helps.

    Looks for the camera on the USB, for programs that hold it and for the right to use it, opens it, and
    looks at its battery and clock, at the disk and at the libraries. Exit status 1 where something is wrong.

    Example: srraw doctor
    """
    from srraw_tools.camera_process import CameraProcess
    from srraw_tools.doctor import WRONG, examine

    with ExitStack() as stack:
        if virtual:
            from srraw_tools.simulate.virtual_card import inserted

            stack.enter_context(inserted(virtual))
        found = list(examine(CameraProcess, out))
    if as_json:
        print_json([asdict(diagnosis) for diagnosis in found])
    else:
        print_table(
            ("", "what", "found", "what helps"),
            [(d.state, d.what, d.found, d.remedy) for d in found],
        )
    if any(diagnosis.state == WRONG for diagnosis in found):
        raise SystemExit(1)
