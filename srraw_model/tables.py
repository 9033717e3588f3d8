"""Scores -> tables: means with intervals, the paper's Tables 1 and 2; as Markdown, CSV, JSON and a page."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from srraw_model.baselines import ThenBicubic
from srraw_model.evaluate import (
    BICUBIC,
    CROP_PX,
    PROTOCOLS,
    RECORD_FILE,
    TARGET,
    Evaluation,
    Score,
    System,
    crop_file,
)
from srraw_tools import __version__, pages
from srraw_tools.errors import UserError
from srraw_tools.files import replacing, write_json
from srraw_tools.terminal import counted

METRICS = ("psnr_db", "ssim", "lpips")
DRAWS, COVERED = 2000, 0.95  # of the bootstrap
TABLE_FILE, SCORES_FILE, PAGE_FILE = "metrics.md", "metrics.csv", "metrics.html"
MOST_ON_PAGE = 48  # pairs whose pictures the page shows

NAMES = {
    "bicubic": "Bicubic",
    "srgan": "SRGAN",
    "srresnet": "SRResNet",
    "lapsrn": "LapSRN",
    "johnson": "Johnson",
    "esrgan": "ESRGAN",
    "png": "Ours-png",
    "syn-raw": "Ours-syn-raw",
    "syn-calibrated": "Ours-syn-calibrated",
    "raw": "Ours",
}
_BASELINES = ("srgan", "srresnet", "lapsrn", "johnson", "esrgan")
# The rows of the paper's tables, from top to bottom. (a): from bicubic, as the paper has it; (b): real pairs.
PAPER_TABLES: dict[int, tuple[System, ...]] = {
    1: (
        (BICUBIC, ""),
        *((name, "a") for name in _BASELINES),
        ("raw", ""),
        *((name, "b") for name in _BASELINES),
    ),
    2: ((BICUBIC, ""), ("png", ""), ("syn-raw", ""), ("syn-calibrated", ""), ("raw", "")),
}
# Zhang et al., "Zoom to Learn, Learn to Zoom", CVPR 2019, Tables 1 and 2: PSNR dB, SSIM, LPIPS on SR-RAW.
PAPER_RESULTS: dict[int, dict[str, tuple[float, float, float]]] = {
    4: {
        "bicubic": (20.15, 0.615, 0.344),
        "srgan": (20.31, 0.384, 0.260),
        "srresnet": (23.13, 0.683, 0.364),
        "lapsrn": (21.01, 0.632, 0.324),
        "johnson": (18.83, 0.354, 0.270),
        "esrgan": (22.12, 0.603, 0.311),
        "png": (22.34, 0.589, 0.305),
        "syn-raw": (23.98, 0.677, 0.231),
        "raw": (26.88, 0.781, 0.190),
    },
    8: {
        "bicubic": (14.71, 0.488, 0.525),
        "srgan": (19.23, 0.393, 0.395),
        "srresnet": (19.48, 0.633, 0.416),
        "lapsrn": (17.55, 0.539, 0.525),
        "johnson": (18.18, 0.421, 0.394),
        "esrgan": (20.68, 0.662, 0.416),
        "png": (21.21, 0.638, 0.584),
        "syn-raw": (22.02, 0.643, 0.473),
        "raw": (24.73, 0.779, 0.311),
    },
}


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def limits(self) -> tuple[float, float] | tuple[str, str]:
        """Low and high; empty where there is no interval."""
        return (self.low, self.high) if math.isfinite(self.low) else ("", "")

    def told(self, digits: int, *, signed: bool = False, gap: str = " ") -> str:
        """For a table: 25.03 (24.11 to 25.94); the value alone where there is no interval."""
        value, low, high = (
            f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"
            for number in (self.value, self.low, self.high)
        )
        return f"{value}{gap}({low} to {high})" if math.isfinite(self.low) else value


@dataclass(frozen=True)
class Row:
    """A model over all pairs.

    Attributes:
        means: by metric; a metric that was not computed is missing.
        over_bicubic: the mean of each pair's difference to bicubic.
        counted: mean share of the valid pixels that were compared.
        failed: number of pairs that the protocol failed on.
    """

    model: str
    means: dict[str, Mean]
    over_bicubic: dict[str, Mean]
    counted: float
    failed: int

    @property
    def label(self) -> str:
        """The model, and what went wrong with it."""
        return f"{self.model} (protocol failed on {self.failed})" if self.failed else self.model


def rows_of(scores: Sequence[Score]) -> list[Row]:
    """A row for every model, in the order in which the models came.

    The intervals are those of the percentile bootstrap over whole sequences (Efron & Tibshirani 1993), since
    the pairs of a scene are alike; every model is drawn with the same sequences.
    """
    by_model: dict[str, list[Score]] = {}
    for score in scores:
        by_model.setdefault(score.model, []).append(score)
    reference = {score.pair: score for score in by_model.get(BICUBIC, [])}
    rows = []
    for model, own in by_model.items():
        means, over = {}, {}
        for metric in METRICS:
            values = [getattr(score, metric) for score in own]
            if any(value is None for value in values):
                continue
            sequences = [score.sequence for score in own]
            means[metric] = bootstrapped(values, sequences)
            if reference and model != BICUBIC:
                pairs = zip(values, own, strict=True)
                differences = [value - getattr(reference[score.pair], metric) for value, score in pairs]
                over[metric] = bootstrapped(differences, sequences)
        counted = float(np.mean([score.counted for score in own]))
        rows.append(Row(model, means, over, counted, sum(score.failed for score in own)))
    return rows


def bootstrapped(values: Sequence[float], sequences: Sequence[str]) -> Mean:
    """The mean of values, one for each pair, and its interval over draws of whole sequences.

    Where all values are of one sequence nothing tells how they scatter: the interval is infinite.
    """
    names = sorted(set(sequences))
    number = np.array([names.index(name) for name in sequences])
    array = np.asarray(values, np.float64)
    value = float(array.mean())
    if len(names) < 2 or not np.isfinite(array).all():
        return Mean(value, -math.inf, math.inf)
    sums = np.bincount(number, array)
    counts = np.bincount(number)
    drawn = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Mean(value, float(low), float(high))


def columns_of(evaluation: Evaluation) -> tuple[str, ...]:
    """The head of the table of means."""
    lpips = f"LPIPS ({evaluation.lpips.backbone})" if evaluation.lpips else "LPIPS"
    return "model", "PSNR dB", "SSIM", lpips


def cells_of(row: Row, *, gap: str = " ") -> tuple[str, ...]:
    """A row of that table, as printed; `gap` stands between a value and its interval."""
    return row.label, *_told(row.means, gap=gap)


def paper_table(
    evaluation: Evaluation, rows: Sequence[Row], number: int, *, gap: str = " "
) -> list[tuple[str, ...]]:
    """The rows of the paper's Table 1 or 2 from the models that were evaluated.

    (a) is a baseline that learnt to undo bicubic, as in the paper, or public weights; (b) learnt from the
    real pairs. A system that is not among the models reads 'not trained'. Where the set is SR-RAW, the
    paper's own numbers follow in the last three cells.
    """
    own = {row.model: row for row in rows}
    systems = {BICUBIC: (BICUBIC, ""), **evaluation.systems}
    printed = []
    for system in PAPER_TABLES[number]:
        name, kind = system
        title = f"{NAMES[name]} ({kind})" if kind else NAMES[name]
        published: tuple[str, ...] = ()
        if evaluation.published:
            known = PAPER_RESULTS.get(evaluation.zoom, {}).get(name) if kind != "b" else None
            published = tuple(f"{value:g}" for value in known) if known else ("-",) * 3
        models = [model for model, of in systems.items() if of == system and model in own]
        for model in models:
            marked = f"{title}, failed on {own[model].failed}" if own[model].failed else title
            usual = len(models) == 1 and not _is_unusual(evaluation.networks.get(model), model)
            shown = marked if usual else f"{marked}: {model}"
            printed.append((shown, *_told(own[model].means, gap=gap), *published))
        if not models:
            printed.append((title, "not trained", "", "", *published))
    return printed


def _is_unusual(network: nn.Module | None, label: str) -> bool:
    """Whether a model is not what the paper's row means: its label then says what it is."""
    ours = label.startswith(NAMES["raw"])
    return isinstance(network, ThenBicubic) or (ours and ("CoBi" not in label or "fine-tuned" in label))


def unlisted_models(evaluation: Evaluation, number: int) -> list[str]:
    """Those of the models that the paper's table has no row for."""
    return [model for model, of in evaluation.systems.items() if of not in PAPER_TABLES[number]]


def paper_columns(evaluation: Evaluation) -> tuple[str, ...]:
    """The head of `paper_table`."""
    published = ("paper's PSNR dB", "SSIM", "LPIPS") if evaluation.published else ()
    return "system", *columns_of(evaluation)[1:], *published


def record_of(evaluation: Evaluation, scores: Sequence[Score]) -> dict[str, Any]:
    """What was compared, the scores and their means, as JSON keeps them: what is infinite is null."""

    def plain(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()
        }

    def means(found: Mapping[str, Mean]) -> dict[str, Any]:
        return {metric: plain(asdict(mean)) for metric, mean in found.items()}

    return {
        "created_by": f"srraw {__version__}",
        "protocol": protocol_of(evaluation),
        "options": evaluation.options,
        "inputs": evaluation.pairs,
        "models": evaluation.hashes,
        "problems": list(evaluation.problems),
        "mean": [
            {
                "model": row.model,
                "mean": means(row.means),
                "over_bicubic": means(row.over_bicubic),
                "counted": row.counted,
                "failed": row.failed,
            }
            for row in rows_of(scores)
        ],
        "pairs": [plain(asdict(score)) for score in scores],
    }


def protocol_of(evaluation: Evaluation) -> str:
    """How the numbers come about, in sentences."""
    name = evaluation.options["protocol"]
    lpips = (
        f"LPIPS v0.1 ({evaluation.lpips.backbone}) on a rectangle of valid pixels."
        if evaluation.lpips
        else "LPIPS was not computed: no weights were given."
    )
    intervals = "In brackets: 95 % intervals, by bootstrap over sequences."
    if evaluation.sequences < 2:
        intervals = "All pairs are of one sequence, which tells no interval."
    return (
        f"{evaluation.zoom}X, split '{evaluation.split}', {counted(len(evaluation.pairs), 'pair')}. "
        f"Protocol: {name} ({PROTOCOLS[name]}). "
        "8-bit sRGB, RGB, data range 1, all valid target pixels, no border cut off. SSIM: Gaussian "
        "window 11x11, sigma 1.5, on windows that are wholly valid. Bicubic: the demosaiced low shot's "
        "8-bit sRGB, Keys's cubic with a = -1/2, areas kept. Baselines see "
        f"that same sRGB. {lpips} {intervals}"
    )


def write_tables(
    evaluation: Evaluation, scores: Sequence[Score], out: Path, *, table: int | None = None
) -> tuple[Path, ...]:
    """Write the means, and every pair, as JSON, Markdown, CSV and a page with crops into the folder `out`.

    Args:
        table: of the paper, 1 or 2, to be printed as well.

    Returns:
        The Markdown, the CSV and the HTML file. What was there is replaced; `known_scores` says whether it
        may be.

    Raises:
        UserError: something cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {out}: {error.strerror}.", "Give another --out.") from error
    rows = rows_of(scores)
    write_json(out / RECORD_FILE, record_of(evaluation, scores))
    with replacing(out / TABLE_FILE) as temporary:
        lines = _markdown_lines(evaluation, scores, rows, table)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (
        replacing(out / SCORES_FILE) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        limits = [f"{metric}_{limit}" for metric in METRICS for limit in ("low", "high")]
        writer.writerow(
            ["pair", "sequence", "model", *METRICS, "lpips_backbone", "counted", "failed", *limits]
        )
        backbone = evaluation.lpips.backbone if evaluation.lpips else ""
        for s in scores:
            lpips = "" if s.lpips is None else s.lpips
            writer.writerow(
                [s.pair, s.sequence, s.model, s.psnr_db, s.ssim, lpips, backbone, s.counted, s.failed]
                + [""] * len(limits)
            )
        for row in rows:
            means = [row.means.get(metric) for metric in METRICS]
            values = [mean.value if mean else "" for mean in means]
            known = [limit for mean in means for limit in (mean.limits if mean else ("", ""))]
            writer.writerow(["mean", "", row.model, *values, backbone, row.counted, row.failed, *known])
    _write_page(evaluation, scores, rows, out, table)
    return out / TABLE_FILE, out / SCORES_FILE, out / PAGE_FILE


def _markdown_lines(
    evaluation: Evaluation, scores: Sequence[Score], rows: Sequence[Row], table: int | None
) -> list[str]:
    columns = columns_of(evaluation)
    lines = ["# Evaluation", "", protocol_of(evaluation), ""]
    lines += [f"{problem}" for problem in evaluation.problems]
    if table is not None:
        lines += [
            f"## Table {table}",
            "",
            *_markdown(paper_columns(evaluation), paper_table(evaluation, rows, table)),
        ]
        lines += ["", "## All models", ""]
    lines += _markdown(columns, [cells_of(row) for row in rows])
    better = [(row.label, *_told(row.over_bicubic, signed=True)) for row in rows if row.over_bicubic]
    if better:
        lines += ["", "## Difference to bicubic, pair by pair", "", *_markdown(columns, better)]
    if any(row.counted < 1 for row in rows):
        shares = [(row.model, f"{row.counted:.1%}") for row in rows]
        lines += [
            "",
            "## Share of the valid pixels that were compared",
            "",
            *_markdown(("model", "share"), shares),
        ]
    every = [(s.pair, f"{s.model} (protocol failed)" if s.failed else s.model, *_one(s)) for s in scores]
    return [*lines, "", "## Every pair", "", *_markdown(("pair", *columns), every)]


def _write_page(
    evaluation: Evaluation, scores: Sequence[Score], rows: Sequence[Row], out: Path, table: int | None
) -> None:
    models = [row.model for row in rows]
    by_pair: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_pair.setdefault(score.pair, {})[score.model] = score
    # The page shows pairs evenly over the gain of the last model over bicubic, the worst first.
    names = sorted(
        by_pair, key=lambda pair: by_pair[pair][models[-1]].psnr_db - by_pair[pair][BICUBIC].psnr_db
    )
    shown = [names[i] for i in sorted(set(np.linspace(0, len(names) - 1, MOST_ON_PAGE).astype(int)))]
    pairs = []
    for pair in shown:
        files = {model: crop_file(evaluation, out, pair, model) for model in (*models, TARGET)}
        if all(file.exists() for file in files.values()):
            crops = {model: file.read_bytes() for model, file in files.items()}
            with Image.open(files[TARGET]) as target:
                size = target.height, target.width
            pairs.append((pair, size, crops, {model: _one(score) for model, score in by_pair[pair].items()}))
    pages.write_page(
        out / PAGE_FILE,
        "evaluation.html",
        title=f"{evaluation.data.name}, {evaluation.zoom}X",
        protocol=protocol_of(evaluation),
        problems=evaluation.problems,
        columns=columns_of(evaluation),
        rows=[cells_of(row) for row in rows],
        better=[(row.label, *_told(row.over_bicubic, signed=True)) for row in rows if row.over_bicubic],
        table=table,
        paper_columns=paper_columns(evaluation),
        paper_rows=paper_table(evaluation, rows, table) if table else [],
        models=models,
        target=TARGET,
        pairs=pairs,
        pair_count=len(names),
        crop_px=CROP_PX,
    )


def _told(means: Mapping[str, Mean], *, signed: bool = False, gap: str = " ") -> tuple[str, ...]:
    return tuple(
        means[metric].told(2 if metric == "psnr_db" else 4, signed=signed, gap=gap)
        if metric in means
        else "-"
        for metric in METRICS
    )


def _one(score: Score) -> tuple[str, str, str]:
    lpips = "-" if score.lpips is None else f"{score.lpips:.4f}"
    return f"{score.psnr_db:.2f}", f"{score.ssim:.4f}", lpips


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    texts = 2 if columns[0] == "pair" else 1  # the columns behind hold numbers
    ruler = ["---" if i < texts else "---:" for i in range(len(columns))]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ruler, *rows)]
