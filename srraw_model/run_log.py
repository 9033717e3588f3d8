"""What a run says of its steps: a line of JSON now and then, and the same for TensorBoard where asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from srraw_tools.errors import UserError
from srraw_tools.files import replacing

LOG_FILE, TENSORBOARD_FOLDER = "log.jsonl", "tensorboard"


@dataclass(frozen=True)
class StepRecord:
    """A training step, as logged.

    Attributes:
        learning_rate: of this step.
        loss_name: such as "L1" or "CoBi".
        parts: of the loss, before their weights.
        gradient_norm: before it is clipped.
        seconds: of the whole step, from asking for its crops.
        cost: seconds of its parts: `data` (waiting for the crops), `network`, `optimiser`, and of the loss
            its own name, or `cobi_rgb` and, with VGG, `features` and `cobi_vgg`; all forward and backward.
        validation_db: mean PSNR of the validation crops, at checkpoints.
    """

    step: int
    loss_name: str
    loss: float
    parts: dict[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float
    cost: dict[str, float] = field(default_factory=dict)
    validation_db: float | None = None


@contextmanager
def writing_log(run: Path, *, begun_at: int, tensorboard: bool) -> Iterator[Callable[[StepRecord], None]]:
    """A function that logs a step, at once on the disk.

    Args:
        run: the folder of the run, whose log `begin_log` has made.
        begun_at: the step after which this part of the run begins.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """
    board = None
    if tensorboard:
        board = summary_writer()(str(run / TENSORBOARD_FOLDER), purge_step=begun_at + 1)
    with open(run / LOG_FILE, "a", encoding="utf-8") as log:

        def write(record: StepRecord) -> None:
            log.write(json.dumps(asdict(record)) + "\n")
            log.flush()
            if board is None:
                return
            board.add_scalar(f"loss/{record.loss_name}", record.loss, record.step)
            for name, value in record.parts.items():
                board.add_scalar(f"loss/{name}", value, record.step)
            board.add_scalar("learning_rate", record.learning_rate, record.step)
            board.add_scalar("gradient_norm", record.gradient_norm, record.step)
            board.add_scalar("seconds", record.seconds, record.step)
            for part, seconds in record.cost.items():
                board.add_scalar(f"seconds/{part}", seconds, record.step)
            if record.validation_db is not None:
                board.add_scalar("validation/psnr_db", record.validation_db, record.step)
            board.flush()

        try:
            yield write
        finally:
            if board is not None:
                board.close()


def begin_log(run: Path, step: int) -> None:
    """Make the log of a run that begins after `step`: what was logged of later steps goes."""
    kept = _lines_until(run / LOG_FILE, step)
    with replacing(run / LOG_FILE) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    if not step:  # of a resumed run TensorBoard itself drops what comes after purge_step
        for events in (run / TENSORBOARD_FOLDER).glob("events.out.tfevents.*"):
            events.unlink()


def summary_writer() -> type:
    """TensorBoard's writer.

    Raises:
        UserError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard is not installed, and --tensorboard was asked for.",
            "Install it with pip install 'srraw[tensorboard]', or give --no-tensorboard and read log.jsonl.",
            wrong_use=True,
        ) from error
    return SummaryWriter


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of a log up to a step; a line that a power cut left unfinished is not one of them."""
    if not step or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    return kept
