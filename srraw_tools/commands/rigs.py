"""`srraw rigs`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from srraw_tools.commands.options import PATH, NumberList, json_option, overwrite_option, print_json
from srraw_tools.errors import UserError
from srraw_tools.terminal import print_table


@click.group("rigs", invoke_without_command=True)
@click.option("--show", "name", help="Print the TOML of this rig, to be adapted to another camera.")
@json_option
@click.pass_context
def rigs(context: click.Context, name: str | None, as_json: bool) -> None:
    """List the rigs that came with srraw; check one; write one for the camera that is connected.

    Example: srraw rigs --show sony-fe-24-240 > mine.toml
    """
    from srraw_tools.rig import installed_rigs, toml_of

    if context.invoked_subcommand:
        return
    if name:
        click.echo(toml_of(name), nl=False)
        return
    found = installed_rigs()
    if as_json:
        print_json([asdict(rig) for rig in found.values()])
        return
    print_table(
        ("rig", ">lens", "description"),
        [(rig.name, f"{rig.lens_mm[0]:g}-{rig.lens_mm[1]:g} mm", rig.description) for rig in found.values()],
    )


@rigs.command("check")
@click.argument("file", type=PATH)
@json_option
def check_rig(file: Path, as_json: bool) -> None:
    """Say what is wrong with the rig in FILE, or what it tells srraw.

    Example: srraw rigs check mine.toml
    """
    from srraw_tools.rig import read_rig

    rig = read_rig(file)
    if as_json:
        print_json(asdict(rig))
        return
    click.echo(f"{file} is a rig: {rig.name}, for {', '.join(rig.models)}.")
    rows = [("focal lengths", ", ".join(f"{focal:g}" for focal in rig.stops_mm) + " mm")]
    rows += [(f"set {name}", str(value)) for name, value in rig.settings.items()]
    rows += [(f"{name} is called", " or ".join(names)) for name, names in rig.names.items()]
    rows += [("focal length may be off by", f"{rig.focal_tolerance:.0%}")]
    rows += [(f"check {name}", f"{value:g}") for name, value in rig.checks.items()]
    print_table(("what", "value"), rows)


@rigs.command("new")
@click.option(
    "--lens", "lens_mm", type=NumberList(), required=True, help="Its focal lengths, such as 24,240."
)
@click.option("--name", help="Of the rig.  [default: the file's]")
@click.option("--out", type=PATH, default=Path("mine.toml"), show_default=True, help="The file to write.")
@click.option(
    "--virtual", type=PATH, help="Try it with libgphoto2's virtual camera and this simulated sequence."
)
@overwrite_option
def new_rig(
    lens_mm: tuple[float, ...], name: str | None, out: Path, virtual: Path | None, overwrite: bool
) -> None:
    """Write a rig for the camera that is connected, from what it says of itself.

    Look it through, adapt it, and shoot with 'srraw capture --rig FILE'.

    Example: srraw rigs new --lens 24,240 --out mine.toml
    """
    from srraw_tools.camera_process import CameraProcess
    from srraw_tools.files import replacing
    from srraw_tools.new_rig import rig_toml
    from srraw_tools.rig import read_rig

    if len(lens_mm) != 2 or lens_mm[0] > lens_mm[1]:
        raise UserError(
            "--lens takes the shortest and the longest focal length.", "24,240, say.", wrong_use=True
        )
    if not (name or out.stem).isprintable():
        raise UserError(f"{name or out.stem!r} cannot be the name of a rig.", "Give --name.", wrong_use=True)
    if out.suffix != ".toml":
        raise UserError(f"{out} is not the name of a rig.", "Give --out a name in .toml.", wrong_use=True)
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already.", "Give --overwrite or another --out.", wrong_use=True)
    with ExitStack() as stack:
        if virtual:
            from srraw_tools.simulate.virtual_card import inserted

            stack.enter_context(inserted(virtual))
        camera = CameraProcess()
        stack.callback(camera.close)
        text, model = rig_toml(camera, name or out.stem, (lens_mm[0], lens_mm[1])), camera.model
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
        read_rig(temporary)
    click.echo(text, nl=False)
    click.echo(f"Written for {model}: {out}", err=True)
