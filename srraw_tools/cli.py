"""`srraw`: one short command per verb, each in a file of its own in commands/."""

from __future__ import annotations

import click

from srraw_tools import __version__
from srraw_tools.commands.align import align
from srraw_tools.commands.calibrate import calibrate
from srraw_tools.commands.capture import capture
from srraw_tools.commands.check import check
from srraw_tools.commands.doctor import doctor
from srraw_tools.commands.export import export
from srraw_tools.commands.import_ import import_files
from srraw_tools.commands.inspect import inspect
from srraw_tools.commands.pack import pack
from srraw_tools.commands.rigs import rigs
from srraw_tools.commands.simulate import simulate
from srraw_tools.commands.stats import stats
from srraw_tools.commands.verify import verify
from srraw_tools.errors import SystemErrorsToldInGroup


@click.group(
    cls=SystemErrorsToldInGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="srraw")
def main() -> None:
    """Make real zoom data with your camera: capture, align, pack."""


for command in (
    capture,
    check,
    import_files,
    simulate,
    align,
    pack,
    verify,
    stats,
    export,
    inspect,
    rigs,
    doctor,
    calibrate,
):
    main.add_command(command)
