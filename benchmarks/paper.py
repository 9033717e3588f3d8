"""The paper's comparison on simulated sequences, everything seeded.

    python benchmarks/paper.py data   --folder DIR --photos PHOTOS   60 sequences, aligned and packed
    python benchmarks/paper.py train  --folder DIR --weights DIR     every system at three learning rates
    python benchmarks/paper.py curves --folder DIR                   how each run went, and which is used
    python benchmarks/paper.py tables --folder DIR --weights DIR     Tables 1 and 2 of those, and a picture

Forty sequences are of made-up scenes, twenty of photographs. Those of training and validation hold hills,
walls, murals and balls, those of test signs, charts, posts and branches (the ground below is of one kind);
no photograph and no seed is in two splits. The camera has a low-pass filter, crosstalk, ISO 400 and an
exposure that drifts; its noise, levels and pattern are the same for all.

Every system sees the same number of crops, of the same size, at the same three learning rates; of the three
runs that counts which is best on validation crops. Where there is a CUDA GPU, networks and losses are the
papers' (--size real); two cores train small ones. What was made or trained before is not made again.
studies.py takes it further.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import cuda

from srraw_model.evaluate import detailed_crop, picture_of, prepare_evaluation
from srraw_model.pictures import side_by_side, target_picture
from srraw_model.tables import bootstrapped
from srraw_tools import shards
from srraw_tools.align import align_sequences
from srraw_tools.errors import UserError
from srraw_tools.pack import pack_sequences
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.plan import Plan
from srraw_tools.simulate.shoot import simulate_sequences
from srraw_tools.terminal import with_progress

OPTICS, SENSOR = Optics(drift_ev=0.05), Sensor(iso=400, aa_filter_px=0.4, crosstalk=0.1)
TRAINED_ON, TESTED_ON = ("hill", "wall", "mural", "ball"), ("sign", "chart", "post", "branch")


@dataclass(frozen=True)
class Group:
    """Sequences of a split: `count` of made-up scenes, and `of_each` of each photograph [first, last)."""

    split: str
    seed: int
    objects: tuple[str, ...]
    count: int
    photographs: tuple[int, int] = (0, 0)
    of_each: int = 1


GROUPS = (
    Group("train", 100, TRAINED_ON, 28),
    Group("train", 200, TRAINED_ON, 0, (0, 6), of_each=2),
    Group("val", 300, TRAINED_ON, 3, (6, 7)),
    Group("test", 400, TESTED_ON, 9),
    Group("test", 500, TESTED_ON, 0, (7, 12)),
    Group("test", 600, TESTED_ON, 0, (7, 9)),
)

OURS = {name: ("--variant", name) for name in ("raw", "png", "syn-raw", "syn-calibrated")}
BASELINES = {
    f"{name}-{row}": ("--baseline", name, "--pairs", pairs)
    for name in ("srresnet", "srgan", "lapsrn", "johnson", "esrgan")
    for row, pairs in (("a", "bicubic"), ("b", "real"))
}
SYSTEMS = OURS | BASELINES


@dataclass(frozen=True)
class Size:
    """What all systems are trained with.

    Attributes:
        presets, crops: by zoom; crops in mosaic pixels.
        common, ours, resnet: further options of all, of ours, and of SRResNet.
        vgg: the file of VGG-19 in --weights.
        cobi_steps: the last steps of ours, a quarter at most, after those of L1; None: as the preset has it.
        systems: those that are trained unless told otherwise.
    """

    presets: dict[int, str]
    crops: dict[int, int]
    batch: int
    common: tuple[str, ...]
    ours: tuple[str, ...]
    resnet: tuple[str, ...]
    vgg: str
    rates: tuple[float, ...]
    steps: int
    cobi_steps: int | None
    systems: tuple[str, ...]


SIZES = {
    "small": Size(
        presets={4: "demo", 8: "demo"},
        crops={4: 32, 8: 16},
        batch=8,
        common=(),
        # Chosen on validation (docs/results.md); conv1_2 is most of VGG's cost.
        ours=("--lambda-vgg", "0.1", "--leave-out", "conv1_2"),
        resnet=("--blocks", "6", "--channels", "32"),
        vgg="vgg_normalised_conv3_1.pth",
        rates=(2e-3, 1e-3, 5e-4),
        steps=6400,
        cobi_steps=300,
        systems=("raw", "png", "syn-raw", "srresnet-a", "srresnet-b"),
    ),
    "real": Size(
        presets={4: "paper-4x", 8: "paper-8x"},
        crops={4: 64, 8: 64},
        batch=4,
        common=("--workers", "4"),
        ours=(),
        resnet=(),
        vgg="vgg19-dcbb9e9d.pth",
        rates=(2e-4, 1e-4, 5e-5),
        steps=20_000,
        cobi_steps=None,
        systems=tuple(SYSTEMS),
    ),
}
VALIDATIONS = 8
RISES_DB = 0.1  # in the last quarter of a run, which then is marked as not at its end


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("data", "train", "curves", "tables"))
    parser.add_argument("--folder", type=Path, required=True, help="what was made there is not made again")
    parser.add_argument("--photos", type=Path, help="a folder of at least 12 photographs")
    parser.add_argument("--weights", type=Path, help="a folder of public weights")
    parser.add_argument("--zoom", type=int, choices=(4, 8), default=4)
    parser.add_argument("--size", choices=tuple(SIZES), default="real" if cuda.is_available() else "small")
    parser.add_argument(
        "--systems", nargs="+", choices=tuple(SYSTEMS), help="to be trained, not the usual ones"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    folder, weights, zoom, size = arguments.folder, arguments.weights, arguments.zoom, SIZES[arguments.size]
    runs = folder / f"runs-{arguments.size}-{zoom}x"
    if arguments.what == "train" and not weights:
        parser.error("train needs --weights, a folder with " + size.vgg)
    if arguments.what == "data":
        make_data(folder, arguments.photos, arguments.jobs)
    elif arguments.what == "train":
        names = arguments.systems or size.systems
        steps = arguments.steps or size.steps
        options = {name: options_of(name, folder, weights, zoom, size, steps) for name in names}
        train(
            [
                (
                    folder / "srraw.h5",
                    runs / f"{name}-{rate:g}",
                    (*options[name], "--learning-rate", str(rate)),
                )
                for rate in size.rates
                for name in names
            ],
            steps,
            arguments.jobs,
        )
    elif arguments.what == "curves":
        print_curves(runs, size.rates)
    else:
        models = [run / "model.pt" for name in SYSTEMS if (run := best(runs, name, size.rates))]
        for table in ("1", "2"):
            options = ("--table", table)
            evaluate(folder / "srraw.h5", models, runs, weights, zoom=zoom, options=options)
        print_differences(runs / "eval-registered" / "metrics.json")
        draw(folder / "srraw.h5", models, runs, weights, zoom)


# --- data -------------------------------------------------------------------------------------------------


def make_data(
    folder: Path,
    photos: Path,
    jobs: int,
    sensor: Sensor = SENSOR,
    wanted: tuple[str, ...] = ("train", "val", "test"),
) -> None:
    """Sequences, alignments, split.csv and srraw.h5 in a folder."""
    photographs = sorted(photos.glob("*.jp*g"))
    plans, splits = [], []
    for group in (group for group in GROUPS if group.split in wanted):
        scenes = [None] * group.count
        scenes += [photographs[n] for n in range(*group.photographs) for _ in range(group.of_each)]
        for index, scene in enumerate(scenes):
            name = f"{len(plans) + 1:05d}"
            plans.append(
                Plan(
                    name, group.seed, index, scene=scene, optics=OPTICS, sensor=sensor, objects=group.objects
                )
            )
            splits.append((name, group.split))
    sequences = folder / "sequences"
    shots = simulate_sequences(sequences, plans, jobs=jobs)
    for plan, result in with_progress(shots, 7 * len(plans), "Simulating", unit="shots"):
        if isinstance(result, UserError):
            raise SystemExit(f"{plan.name}: {result}")
    folders = [sequences / plan.name for plan in plans]
    rejected = 0
    aligned = align_sequences(folders, jobs=jobs)
    for path, found in with_progress(aligned, len(folders), "Aligning", unit="sequences"):
        if isinstance(found, UserError):
            raise SystemExit(f"{path}: {found}")
        rejected += sum(pair.status != "ok" for pair in found.pairs)
    print(f"{len(folders)} sequences aligned, {rejected} pairs rejected.")
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sequence", "split"), *splits])
    packed = pack_sequences(folders, out=folder / "srraw.h5", split_file=folder / "split.csv", jobs=jobs)
    count = sum(1 for _ in with_progress(packed, 4 * len(folders), "Packing", unit="pairs"))
    print(f"{count} pairs in {folder / 'srraw.h5'}.")


# --- training ---------------------------------------------------------------------------------------------


def options_of(name: str, folder: Path, weights: Path, zoom: int, size: Size, steps: int) -> tuple[str, ...]:
    """The options of a system's runs, but for the learning rate."""
    options = (*SYSTEMS[name], "--zoom", str(zoom), "--preset", size.presets[zoom], "--seed", "1")
    options += ("--batch", str(size.batch), "--crop", str(size.crops[zoom]), *size.common)
    if name.startswith("srresnet"):
        options += size.resnet
    if name in OURS:
        options += size.ours
        if size.cobi_steps is not None:
            options += ("--l1-steps", str(steps - min(size.cobi_steps, steps // 4)))
    if name in OURS or name.startswith(("srgan", "esrgan", "johnson")):
        options += ("--vgg-weights", str(weights / size.vgg))
    if name == "syn-calibrated":
        noise = folder / "noise.json"
        if not noise.exists():
            make_noise(folder, noise)
        options += ("--noise", str(noise))
    return options


def make_noise(folder: Path, out: Path) -> None:
    """The sensor's noise, from the sequences of training alone."""
    with (folder / "split.csv").open(newline="") as file:
        names = [row["sequence"] for row in csv.DictReader(file) if row["split"] == "train"]
    sequences = [str(folder / "sequences" / name) for name in names]
    subprocess.run(["srraw", "calibrate", "noise", *sequences, "--out", str(out)], check=True)


def train(runs: list[tuple[Path, Path, tuple[str, ...]]], steps: int, jobs: int) -> None:
    """Runs (data, folder, options), those first that were not done before."""

    def one(run: tuple[Path, Path, tuple[str, ...]]) -> Path:
        data, out, options = run
        if out.exists() and curve(out)[-1][0] >= steps:
            return out
        command = [sys.executable, "-m", "srraw_model.train", str(data), "--out", str(out)]
        command += ["--steps", str(steps), "--save-every", str(steps // VALIDATIONS), *options, "--overwrite"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{out.name}: {done.stderr}")
        return out

    with ThreadPoolExecutor(jobs) as pool:
        for out in with_progress(pool.map(one, runs), len(runs), "Training", unit="runs"):
            print(f"{out.name}: {curve(out)[-1][1]:.2f} dB", flush=True)


def curve(run: Path) -> list[tuple[int, float]]:
    """(step, PSNR in dB of the validation crops) of a run."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["validation_db"]) for line in lines if line.get("validation_db")] or [(0, 0)]


def best(runs: Path, name: str, rates: tuple[float, ...]) -> Path | None:
    """The run of a system that is best on the validation crops, if there is one."""
    found = [run for rate in rates if (run := runs / f"{name}-{rate:g}").exists()]
    return max(found, key=lambda run: curve(run)[-1][1], default=None)


def print_curves(runs: Path, rates: tuple[float, ...]) -> None:
    """PSNR on validation over the steps; * where it still rises, > what is used."""
    for name in SYSTEMS:
        done = [run for rate in rates if (run := runs / f"{name}-{rate:g}").exists()]
        if not done:
            print(f"  {name:20s} not trained")
        for run in done:
            found = curve(run)
            rise = found[-1][1] - found[-1 - len(found) // 4][1]
            used, mark = ">" if best(runs, name, rates) == run else " ", "*" if rise > RISES_DB else " "
            print(f"{used} {run.name:20s}{mark}" + " ".join(f"{db:6.2f}" for _, db in found))


PROTOCOLS = ("as-is", "registered", "aligned")


def public_models(weights: Path | None, zoom: int) -> list[str]:
    """Public weights, as srraw-eval takes them."""
    if weights is None:
        return []
    files = {"lapsrn": f"LapSRN_x{zoom}.mat", "srgan": f"srgan_leftthomas_netG_epoch_{zoom}_100.pth"}
    return [f"{name}:{weights / file}" for name, file in files.items()]


def evaluate(
    data: Path,
    models: list[Path],
    out: Path,
    weights: Path | None,
    *,
    zoom: int = 4,
    options: tuple[str, ...] = (),
    protocols: tuple[str, ...] = PROTOCOLS,
    public: bool = True,
) -> None:
    """Print srraw-eval's table of models under each protocol; `public`: beside the public ones."""
    chosen = [*(str(model) for model in models), *(public_models(weights, zoom) if public else ())]
    lpips: list[str] = []
    if weights:
        lpips = ["--lpips-backbone", str(weights / "squeezenet1_1_fp16_torchvision_layout.pth")]
        lpips += ["--lpips-linear", str(weights / "lpips_v0.1_squeeze.pth")]
    for protocol in protocols:
        command = ["srraw-eval", str(data), "--zoom", str(zoom), "--models", ",".join(chosen), *lpips]
        command += ["--protocol", protocol, "--out", str(out / f"eval-{protocol}"), *options]
        subprocess.run(command, check=True)


def print_differences(record: Path) -> None:
    """Ours less every other system, pair by pair: mean and 95 % interval over sequences."""
    by_model: dict[str, dict[str, dict]] = {}
    for score in json.loads(record.read_text())["pairs"]:
        by_model.setdefault(score["model"], {})[score["pair"]] = score
    ours = next(model for model in by_model if model.startswith("Ours:"))
    print(f"{ours} less")
    for model, scores in by_model.items():
        cells = []
        for metric, digits in (("psnr_db", 2), ("ssim", 4), ("lpips", 4)):
            if model == ours or scores[next(iter(scores))][metric] is None:
                continue
            differences = [by_model[ours][pair][metric] - score[metric] for pair, score in scores.items()]
            mean = bootstrapped(differences, [score["sequence"] for score in scores.values()])
            cells.append(mean.told(digits, signed=True))
        if cells:
            print(f"| {model} | {' | '.join(cells)} |")


def draw(data: Path, models: list[Path], out: Path, weights: Path | None, zoom: int) -> None:
    """The pairs at the quartiles of the first model's gain over bicubic, by all systems: pictures.png.

    From left to right: bicubic, the public models, the others from last to first, the target.
    """
    chosen = [*public_models(weights, zoom), *reversed(models)]
    evaluation = prepare_evaluation(data, models=chosen, zoom=zoom)
    scores = {name: {} for name in ("bicubic", list(evaluation.networks)[-1])}
    for score in json.loads((out / "eval-registered" / "metrics.json").read_text())["pairs"]:
        if score["model"] in scores:
            scores[score["model"]][score["pair"]] = score["psnr_db"]
    before, after = scores.values()
    by_gain = sorted(before, key=lambda pair: after[pair] - before[pair])
    rows = []
    with shards.open(data) as reader:
        pairs = {pair.name: pair for pair in reader.pairs}
        for quarter in (1, 2, 3):
            pair = pairs[by_gain[quarter * len(by_gain) // 4]]
            read = reader.read(pair)
            target = target_picture(pair, read)
            crop = detailed_crop(target, read.valid, 192)
            shown = [picture_of(evaluation, name, pair, read) for name in ("bicubic", *evaluation.networks)]
            rows.append(side_by_side([picture[crop] for picture in (*shown, target)]))
    white = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    Image.fromarray(np.concatenate([rows[0], white, rows[1], white, rows[2]])).save(out / "pictures.png")


if __name__ == "__main__":
    main()
