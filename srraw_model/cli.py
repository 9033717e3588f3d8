"""`srraw-train`, `srraw-eval` and `srraw-zoom`: parse, call, print. torch is imported when a command runs."""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srraw_model.options import OPTION_FIELDS, PRESET, PRESETS
from srraw_tools import __version__
from srraw_tools.commands.options import (
    PATH,
    dry_run_option,
    finish,
    json_option,
    models_option,
    overwrite_option,
    print_json,
    quiet_option,
)
from srraw_tools.errors import SystemErrorsTold, UserError
from srraw_tools.terminal import PLAIN_EVERY_S, counted, duration, print_table, size, with_progress

if TYPE_CHECKING:
    from srraw_model.evaluate import Score
    from srraw_model.run_log import StepRecord
    from srraw_model.train import Training

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _zoom_option(told: str) -> Callable[..., Any]:
    """--zoom as a number, or None."""
    return click.option(
        "--zoom",
        type=click.Choice(["2", "4", "8"]),
        callback=lambda _context, _option, value: value and int(value),
        help=told,
    )


zoom_option = _zoom_option("The checkpoint's unless given.")
device_option = click.option("--device", help="cpu, cuda or cuda:N; a GPU where there is one unless given.")
version_option = click.version_option(__version__, prog_name="srraw")


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every field of the training's options as an option, None unless given."""
    for name, about in reversed(OPTION_FIELDS.items()):
        kind, choices, told = (about.metadata[key] for key in ("kind", "choices", "told"))
        flag, callback = f"--{name.replace('_', '-')}", None
        if about.default not in (None, False):
            told += f"  [default: {'on' if about.default is True else about.default}]"
        if kind is bool:
            flag += f"/--no-{name.replace('_', '-')}"
        if kind is tuple:
            callback, kind = _split_names, str
        elif choices:
            callback = _kind_of(kind)
            kind = click.Choice([str(choice) for choice in choices])
        elif name == "preset":
            told += f"  [default: {PRESET}]"
            kind = click.Choice(list(PRESETS))
        kind = PATH if kind is Path else kind
        command = click.option(flag, name, type=kind, default=None, help=told, callback=callback)(command)
    return command


def _split_names(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    return None if value is None else tuple(part for part in value.split(",") if part)


def _kind_of(kind: type) -> Callable[..., Any]:
    return lambda _context, _option, value: None if value is None else kind(value)


@click.command("srraw-train", cls=SystemErrorsTold, context_settings=SETTINGS)
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, default=Path("run"), show_default=True, help="Folder of the run.")
@click.option(
    "--config", type=PATH, help="TOML file of any options from --preset on; the command line goes before it."
)
@click.option("--print-config", is_flag=True, help="Print all options as such a file, and stop.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, by its own options.")
@overwrite_option
@dry_run_option
@json_option
@quiet_option
@_training_options
@version_option
def train(data: Path, print_config: bool, dry_run: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a network on the pairs in DATA, an srraw.h5: ours, a variant of it, or a baseline.

    Writes model.pt, log.jsonl and samples/ into --out. Ctrl-C and SIGTERM save before they end the run, and
    --resume goes on with it: it needs no other option again but --vgg-weights or --download-vgg, and those of
    this computer (--workers, --device, --compile, --no-channels-last), and may be given more --steps.

    Presets: paper-4x and paper-8x, the paper's network and loss; small, the same network and a sparser loss,
    in minutes on two cores; demo, a small network.

    In several processes, on one GPU each: torchrun --nproc-per-node N -m srraw_model.train DATA ...

    Example: srraw-train srraw.h5 --preset demo --out run
    """
    from srraw_model.options import config_text
    from srraw_model.preparing import plan_record
    from srraw_model.train import CHECKPOINT_FILE, prepare_training
    from srraw_model.train import train as train_steps

    if print_config and as_json:
        raise UserError(
            "--print-config and --json exclude each other.",
            "--dry-run --json tells all options, too.",
            wrong_use=True,
        )
    if print_config and not options["resume"]:
        options["overwrite"] = True  # nothing is written
    training = prepare_training(data, **options)
    if print_config and training.ranks.first:
        click.echo(config_text(training.options, training.run), nl=False)
    as_json = as_json and training.ranks.first
    quiet = quiet or as_json or not training.ranks.first
    if dry_run and as_json:
        print_json(plan_record(training))
    if not quiet and not print_config:
        _tell_plan(training)
    if print_config or dry_run:
        training.ranks.leave()
        return
    with _stop_asked(second_ends=training.ranks.count == 1) as stop:
        steps = train_steps(training)
        stopped = False
        for _ in _with_training_progress(steps, training, quiet):
            stopped = training.ranks.any(bool(stop), training.device)
            if stopped:
                break
        stopped = stopped and training.step < training.options.steps
        steps.close()
        training.ranks.leave()
    if as_json:
        reached = {"label": training.label, "step": training.step}
        print_json({"model": str(training.out / CHECKPOINT_FILE), **reached})
    if stopped:
        if training.ranks.first:
            click.echo(f"Saved step {training.step} in {training.out}; go on with --resume.", err=True)
        if signal.SIGINT in stop:  # so that a script around it stops too
            raise SystemExit(130)
    elif not quiet:
        done = f"{training.out / CHECKPOINT_FILE}: {training.label}, {counted(training.step, 'step')}."
        click.echo(_filled(done))


@click.command("srraw-eval", cls=SystemErrorsTold, context_settings=SETTINGS)
@click.argument("data", type=PATH)
@models_option(
    "Each a model.pt, or public weights: lapsrn:FILE, srgan:FILE, esrgan:FILE. Bicubic is always there."
)
@_zoom_option("The models' unless given, or the only one in DATA.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Which pairs to evaluate on.",
)
@click.option(
    "--protocol",
    type=click.Choice(["as-is", "registered", "aligned"]),
    default="as-is",
    show_default=True,
    help="registered: each result is first brought onto its target by one global similarity. aligned: the "
    "target follows the result by dense flow, and the result's colours follow the target.",
)
@click.option("--table", type=click.Choice(["1", "2"]), help="Also print the paper's table of this number.")
@click.option(
    "--lpips",
    type=click.Choice(["alex", "vgg", "squeeze"]),
    default="squeeze",
    show_default=True,
    help="LPIPS's backbone.",
)
@click.option("--lpips-backbone", type=PATH, help="Its weights in torchvision's layout.")
@click.option("--lpips-linear", type=PATH, help="LPIPS v0.1's linear layers for it.")
@click.option("--download-lpips", is_flag=True, help="Take the public files of both, fetched once.")
@device_option
@click.option("--out", type=PATH, default=Path("eval"), show_default=True, help="Folder for the tables.")
@overwrite_option
@dry_run_option
@json_option
@quiet_option
@version_option
def evaluate(
    data: Path,
    table: str | None,
    out: Path,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Compare models with bicubic on the pairs in DATA: PSNR, SSIM, LPIPS.

    Writes metrics.md, metrics.csv, metrics.json and metrics.html, a page with crops to look at, into --out.
    What these hold already is not computed again; further models and pairs are added.

    --table 1 puts the models into the rows of the paper's comparison with baselines, --table 2 into those of
    its comparison with variants; what is missing reads 'not trained'.

    Example: srraw-eval srraw.h5 --models run/model.pt,lapsrn:LapSRN_x4.mat --protocol registered
    """
    from srraw_model.evaluate import (
        BICUBIC,
        RECORD_FILE,
        evaluate_models,
        known_scores,
        prepare_evaluation,
    )
    from srraw_model.tables import (
        cells_of,
        columns_of,
        paper_columns,
        paper_table,
        protocol_of,
        record_of,
        rows_of,
        unlisted_models,
        write_tables,
    )
    from srraw_tools.files import write_json

    evaluation = prepare_evaluation(data, **options)
    known = {} if overwrite else known_scores(evaluation, out)
    number = int(table) if table else None
    total = len(evaluation.pairs) * (1 + len(evaluation.networks))
    if dry_run and as_json:
        planned = {"options": evaluation.options, "pairs": list(evaluation.pairs)}
        models = [BICUBIC, *evaluation.networks]
        print_json({**planned, "models": models, "known": len(known), "out": str(out)})
        return
    if dry_run:
        told = f"{counted(total, 'picture')} of {counted(len(evaluation.pairs), 'pair')}"
        click.echo(f"{told}, {len(known)} of them known already:")
        for model in (BICUBIC, *evaluation.networks):
            click.echo(f"  {model}")
        click.echo(click.wrap_text(protocol_of(evaluation), 80))
        click.echo(f"Tables and crops would be written into {out}.")
        return
    tracked = with_progress(
        evaluate_models(evaluation, known, out=out),
        total,
        "Evaluating",
        unit="pictures",
        quiet=quiet or as_json,
    )
    scores: list[Score] = []
    kept, last, fresh = dict(known), [BICUBIC, *evaluation.networks][-1], False
    for score in tracked:
        scores.append(score)
        fresh |= (score.pair, score.model) not in known
        kept[score.pair, score.model] = score
        if fresh and score.model == last:  # a pair is done: keep it, come what may
            write_json(out / RECORD_FILE, record_of(evaluation, list(kept.values())))
            fresh = False
    written = write_tables(evaluation, scores, out, table=number)
    if as_json:
        print_json(record_of(evaluation, scores))
    elif not quiet:
        rows = rows_of(scores)
        if number:
            head, *numbers = paper_columns(evaluation)
            printed = paper_table(evaluation, rows, number, gap="\n")
        else:
            head, *numbers = columns_of(evaluation)
            printed = [cells_of(row, gap="\n") for row in rows]
        print_table((head, *(f">{name}" for name in numbers)), printed)
        click.echo(click.wrap_text(protocol_of(evaluation), 80))
        unlisted = unlisted_models(evaluation, number) if number else []
        if unlisted:
            click.echo(f"\nNot in Table {number}, but in {written[0]}:")
            for model in unlisted:
                click.echo(f"  {model}")
        click.echo(f"\nWritten: {', '.join(str(path) for path in written)}.")
        if known:
            click.echo(f"{len(known)} of {total} pictures were evaluated before.")
    finish(list(evaluation.problems))


class _CropType(click.ParamType):
    name = "x,y,w,h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            x, y, width, height = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not four whole numbers such as 100,200,640,480.", param, ctx)
        return x, y, width, height


@click.command("srraw-zoom", cls=SystemErrorsTold, context_settings=SETTINGS)
@click.argument("photo", type=PATH, required=False)
@click.option("--checkpoint", type=PATH, required=True, help="The model.pt that srraw-train wrote.")
@zoom_option
@click.option("--crop", type=_CropType(), help="Part of the raw's frame, in its pixels, before it is turned.")
@click.option(
    "--tile",
    type=int,
    default=256,
    show_default=True,
    help="Side of a tile in pixels of the raw, even: larger is faster and takes more memory.",
)
@device_option
@click.option("-o", "--out", type=PATH, help="The picture to write, a .png, .tif or .jpg, with EXIF.")
@click.option(
    "--bits",
    type=click.Choice(["8", "16"]),
    callback=_kind_of(int),
    help="Of a value. 16 for PNG and TIFF unless given; JPEG has 8.",
)
@click.option("--quality", type=int, default=95, show_default=True, help="Of JPEG, 1 to 100.")
@click.option(
    "--onnx", type=PATH, help="Write the network as this ONNX file; without PHOTO that is all (srraw[onnx])."
)
@overwrite_option
@dry_run_option
@json_option
@quiet_option
@version_option
def zoom(
    photo: Path | None,
    checkpoint: Path,
    zoom: int | None,
    out: Path | None,
    onnx: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Zoom PHOTO, a raw file, with a trained network.

    The picture is upright by the file's orientation flag; --crop is in the frame as the sensor read it. What
    the photograph tells of camera, lens and exposure is carried over.

    Example: srraw-zoom photo.dng --checkpoint run/model.pt -o photo.tif
    """
    if photo is None and onnx is None:
        raise UserError("There is nothing to do.", "Give a raw file and -o, or --onnx.", wrong_use=True)
    if (photo is None) != (out is None):
        raise UserError("A raw file and -o PICTURE go together.", "Give both.", wrong_use=True)
    for file in (out, onnx):
        if file is not None and file.exists() and not overwrite:
            raise UserError(f"{file} exists.", "Give --overwrite or another name.", wrong_use=True)
    if onnx is not None:
        from srraw_model.checkpoint import load_checkpoint
        from srraw_model.onnx_export import check_onnx, export_onnx, onnx_metadata

        check_onnx(onnx)
    job = None
    record: dict[str, Any] = {}
    if photo is not None:
        from srraw_model.zoom import plan_record, prepare_zoom, zoom_photo

        job = prepare_zoom(photo, checkpoint=checkpoint, zoom=zoom, out=out, **options)
        for note in job.raw.notes:
            click.echo(f"Note: {photo}: {note}.", err=True)
        record = plan_record(job)
    if onnx is not None:
        trained = load_checkpoint(checkpoint, zoom=zoom)
        says = onnx_metadata(trained)
        record["onnx"] = {"out": str(onnx), **says}
        if not dry_run:
            export_onnx(trained, onnx)
        if not as_json and not quiet:
            click.echo(f"{onnx}: {trained.zoom}X by {trained.label}.")
            for name in ("input", "output"):
                click.echo(_filled(says[name], f"  {name}: "))
    if job is not None and not dry_run:
        for _ in with_progress(zoom_photo(job), job.tiles, "Zooming", unit="tiles", quiet=quiet or as_json):
            pass
    if as_json:
        print_json(record)
    elif job is not None and (dry_run or not quiet):
        height, width = job.size
        click.echo(f"{out}: {width} x {height}, {job.bits} bits, {job.network.zoom}X by {job.label}.")
        if dry_run:
            needs = (
                f"{counted(job.tiles, 'tile')}; about {size(record['memory_bytes'])} of memory; "
                f"{size(job.scratch_bytes)} of scratch beside the picture until it is done."
            )
            click.echo(_filled(needs))


def _filled(text: str, label: str = "") -> str:
    """Text for people in 80 columns, below each other behind a label; what can be copied stays whole."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 80, initial_indent=label, subsequent_indent=" " * len(label), **whole)


def _tell_plan(training: Training) -> None:
    """What will be trained, on what, and where it goes."""
    options, data = training.options, training.data
    processes = f" in {training.ranks.count} processes" if training.ranks.count > 1 else ""
    learns = (
        f"{options.system}, {options.zoom}X: {training.parameters:,} parameters, "
        f"{counted(len(data.pairs), 'pair')} of {data.path}, {counted(options.batch, 'crop')} of "
        f"{options.crop} x {options.crop} a step on {training.device}"
        f"{processes}."
    )
    first = f" from {training.step} on" if training.step else ""
    *begins, (main, _) = training.losses(options.steps).items()
    losses = "".join(f"the first {count} with {name}, then " for name, count in begins) + main
    steps = f"{counted(options.steps, 'step')}{first}: {losses}; into {training.out}."
    for text in (learns, steps, *training.notes):
        click.echo(_filled(text))


def _with_training_progress(
    records: Iterator[StepRecord], training: Training, quiet: bool
) -> Iterator[StepRecord]:
    """Show loss, speed and time left: a bar on a terminal, else a line now and then."""
    total, first = training.options.steps, training.step
    if quiet:
        yield from records
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total, completed=first)
            for record in records:
                told = f"{record.loss_name} {record.loss:.4f}, {record.seconds:.2f} s a step"
                bar.update(task, completed=record.step, description=told)
                yield record
        return
    started = said = time.monotonic()
    phase = None
    for record in records:
        now = time.monotonic()
        if record.loss_name != phase:  # whose steps cost something else
            phase, first, started = record.loss_name, record.step - 1, now - record.seconds
        if now - said >= PLAIN_EVERY_S or record.step == total:
            a_step = (now - started) / (record.step - first)
            click.echo(
                f"step {record.step} of {total}, {record.loss_name} {record.loss:.4f}, "
                f"{a_step:.3f} s a step, {duration(a_step * (total - record.step))} left",
                err=True,
            )
            said = now
        yield record


@contextmanager
def _stop_asked(*, second_ends: bool) -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM comes, then holds the signal.

    A second ends the program at once. Without `second_ends` it does nothing: torchrun passes on what a batch
    system has told all processes itself, and kills what does not end in 30 seconds.
    """
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        if second_ends:
            signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
