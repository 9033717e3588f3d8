"""The paper's comparison on simulated sequences, everything seeded.

    python benchmarks/paper.py data  --folder DIR --photos PHOTOS   60 sequences, aligned and packed
    python benchmarks/paper.py train --folder DIR --weights DIR     every system at three learning rates
    python benchmarks/paper.py curves --folder DIR                  how each run went, and which is used
    python benchmarks/paper.py tables --folder DIR --weights DIR    Tables 1 and 2 of those
    python benchmarks/paper.py misaligned --folder DIR              L1, CX and CoBi on pairs that are shifted
    python benchmarks/paper.py ablations --folder DIR --weights DIR weight_spatial and lambda, one at a time
    python benchmarks/paper.py sensor --folder DIR --photos PHOTOS  the sensor less one thing (Figure 4)

Forty sequences are of made-up scenes, twenty of photographs. Those of training and validation hold hills,
walls, murals and balls, those of test signs, charts, posts and branches (the ground below is of one kind);
no photograph and no seed is in two splits. The camera has a low-pass filter, crosstalk, ISO 400 and an
exposure that drifts; its noise, levels and pattern are the same for all.

Every system sees the same number of crops, of the same size, at the same three learning rates; of the three
runs that counts which is best on validation crops. What was made or trained before is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

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

# Training sets shot by a sensor that lacks one thing; 8 bits, and a pixel of which a hundredth sees light.
SENSORS = {
    "no-filter": replace(SENSOR, aa_filter_px=0.0),
    "8-bit": replace(SENSOR, black_level=8, white_level=255),
    "no-crosstalk": replace(SENSOR, crosstalk=0.0),
    "fill-0.1": replace(SENSOR, fill_factor=0.1),
    "none-of-these": replace(
        SENSOR, aa_filter_px=0.0, black_level=8, white_level=255, crosstalk=0.0, fill_factor=0.1
    ),
}

RATES = (2e-3, 1e-3, 5e-4)
STEPS, VALIDATIONS = 1600, 8  # of the studies
STEPS_OF_SYSTEMS, COBI_STEPS = 6400, 300
COMMON = ("--zoom", "4", "--preset", "demo", "--batch", "8", "--crop", "32", "--seed", "1")
SMALL_RESNET = ("--blocks", "6", "--channels", "32")
OURS = {name: ("--variant", name) for name in ("raw", "png", "syn-raw", "syn-calibrated")}
BASELINES = {
    "srresnet-a": ("--baseline", "srresnet", "--pairs", "bicubic", *SMALL_RESNET),
    "srresnet-b": ("--baseline", "srresnet", "--pairs", "real", *SMALL_RESNET),
}
SYSTEMS = OURS | BASELINES
# Chosen on validation (docs/results.md); conv1_2 is most of VGG's cost.
DEEP = ("--lambda-vgg", "0.1", "--leave-out", "conv1_2")
SPATIAL_WEIGHTS, LAMBDAS = (0.0, 0.1, 1.0), (0.0, 0.1, 1.0, 10.0)
RISES_DB = 0.1  # in the last quarter of a run, which then is marked as not at its end

SHIFTS_PX = (0, 2, 8, 16, 40, 80)
# The preset's w_s is 1; 0.1 is the default of the loss.
LOSSES = {
    "L1": (),
    "CX": ("--loss", "cx"),
    "CoBi": ("--loss", "cobi"),
    "CoBi-0.1": ("--loss", "cobi", "--weight-spatial", "0.1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=("data", "train", "curves", "tables", "misaligned", "ablations", "sensor"),
    )
    parser.add_argument("--folder", type=Path, required=True, help="what was made there is not made again")
    parser.add_argument("--photos", type=Path, help="a folder of at least 12 photographs")
    parser.add_argument("--weights", type=Path, help="a folder of public weights, for tables")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="for train: which of them")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    folder, jobs = arguments.folder, arguments.jobs
    steps = arguments.steps or (STEPS_OF_SYSTEMS if arguments.what == "train" else STEPS)
    if arguments.what == "data":
        make_data(folder, arguments.photos, jobs)
    elif arguments.what == "train":
        train_systems(folder, arguments.systems.split(","), arguments.weights, steps, jobs)
    elif arguments.what == "curves":
        print_curves(folder)
    elif arguments.what == "tables":
        models = [best(folder, name) for name in SYSTEMS]
        for table in ("1", "2"):
            evaluate(folder / "srraw.h5", models, folder, arguments.weights, "--table", table)
    elif arguments.what == "misaligned":
        compare_losses(folder, steps, jobs)
    elif arguments.what == "ablations":
        ablate(folder, arguments.weights, steps, jobs)
    else:
        compare_sensors(folder, arguments.photos, arguments.weights, steps, jobs)


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


def train_systems(folder: Path, names: list[str], weights: Path, steps: int, jobs: int) -> None:
    """Systems at every rate, `jobs` runs at a time, one thread each; ours end by COBI_STEPS of CoBi."""
    noise = folder / "noise.json"
    if "syn-calibrated" in names and not noise.exists():
        make_noise(folder, noise)
    of_ours = (*DEEP, "--vgg-weights", str(weights / "vgg_normalised_conv3_1.pth"))
    of_ours += ("--l1-steps", str(steps - COBI_STEPS))
    own = dict.fromkeys(OURS, of_ours)
    own["syn-calibrated"] += ("--noise", str(noise))
    runs = [
        (
            folder / "srraw.h5",
            run_of(folder, name, rate),
            (*SYSTEMS[name], *own.get(name, ()), "--learning-rate", str(rate)),
        )
        for rate in RATES
        for name in names
    ]
    train(runs, steps, jobs)


def make_noise(folder: Path, out: Path) -> None:
    """The sensor's noise, from the sequences of training alone."""
    with (folder / "split.csv").open(newline="") as file:
        names = [row["sequence"] for row in csv.DictReader(file) if row["split"] == "train"]
    sequences = [str(folder / "sequences" / name) for name in names]
    subprocess.run(["srraw", "calibrate", "noise", *sequences, "--out", str(out)], check=True)


def run_of(folder: Path, name: str, rate: float) -> Path:
    """The folder of a run."""
    return folder / "runs" / f"{name}-{rate:g}"


def train(runs: list[tuple[Path, Path, tuple[str, ...]]], steps: int, jobs: int) -> None:
    """Runs (data, folder, options), those first that were not done before."""

    def one(run: tuple[Path, Path, tuple[str, ...]]) -> Path:
        data, out, options = run
        if out.exists() and curve(out)[-1][0] >= steps:
            return out
        command = [sys.executable, "-m", "srraw_model.train", str(data), "--out", str(out), *COMMON]
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


def best(folder: Path, name: str) -> Path:
    """The checkpoint of a system that is best on the validation crops."""
    runs = [run for rate in RATES if (run := run_of(folder, name, rate)).exists()]
    return max(runs, key=lambda run: curve(run)[-1][1]) / "model.pt"


def print_curves(folder: Path) -> None:
    """PSNR on validation over the steps; * where it still rises, > what is used."""
    for name in SYSTEMS:
        for rate in RATES:
            run = run_of(folder, name, rate)
            if not run.exists():
                print(f"  {run.name:20s} not trained")
                continue
            found = curve(run)
            rise = found[-1][1] - found[-1 - len(found) // 4][1]
            used, mark = ">" if best(folder, name).parent == run else " ", "*" if rise > RISES_DB else " "
            print(f"{used} {run.name:20s}{mark}" + " ".join(f"{db:6.2f}" for _, db in found))


PROTOCOLS = ("as-is", "registered", "aligned")


def evaluate(
    data: Path,
    models: list[Path],
    folder: Path,
    weights: Path | None,
    *options: str,
    protocols: tuple[str, ...] = PROTOCOLS,
) -> None:
    """Print srraw-eval's table of models under each protocol."""
    chosen = [str(model) for model in models]
    lpips: list[str] = []
    if weights:
        chosen.append(f"lapsrn:{weights / 'LapSRN_x4.mat'}")
        chosen.append(f"srgan:{weights / 'srgan_leftthomas_netG_epoch_4_100.pth'}")
        lpips = ["--lpips-backbone", str(weights / "squeezenet1_1_fp16_torchvision_layout.pth")]
        lpips += ["--lpips-linear", str(weights / "lpips_v0.1_squeeze.pth")]
    for protocol in protocols:
        command = ["srraw-eval", str(data), "--zoom", "4", "--models", ",".join(chosen), *lpips]
        command += ["--protocol", protocol, "--out", str(folder / f"eval-{protocol}"), *options]
        subprocess.run(command, check=True)


# --- misalignment -----------------------------------------------------------------------------------------


def compare_losses(folder: Path, steps: int, jobs: int) -> None:
    """The raw network by three losses on pairs whose targets are shifted; tested on pairs that are not."""
    runs = []
    for shift in SHIFTS_PX:
        data = folder / "shifted" / f"{shift}.h5"
        if not data.exists():
            data.parent.mkdir(exist_ok=True)
            shift_targets(folder / "srraw.h5", data, shift)
        for name, options in LOSSES.items():
            first = steps if name == "L1" else steps // 4
            runs.append((data, folder / "shifted" / f"{name}-{shift}", (*options, "--l1-steps", str(first))))
    train(runs, steps, jobs)
    models = [out / "model.pt" for _, out, _ in runs]
    evaluate(folder / "srraw.h5", models, folder / "shifted", None, protocols=("as-is",))


def ablate(folder: Path, weights: Path, steps: int, jobs: int) -> None:
    """The raw network by CoBi with other weights of its terms: w_s without VGG, lambda with it."""
    first = ("--l1-steps", str(steps // 4))
    vgg = ("--vgg-weights", str(weights / "vgg_normalised_conv3_1.pth"))
    runs = [(f"spatial-{weight:g}", ("--weight-spatial", str(weight), *first)) for weight in SPATIAL_WEIGHTS]
    runs += [(f"lambda-{weight:g}", ("--lambda-vgg", str(weight), *vgg, *first)) for weight in LAMBDAS]
    done = [(folder / "srraw.h5", folder / "ablations" / name, options) for name, options in runs]
    train(done, steps, jobs)
    models = [out / "model.pt" for _, out, _ in done]
    evaluate(folder / "srraw.h5", models, folder / "ablations", weights, protocols=("as-is",))


def compare_sensors(folder: Path, photos: Path, weights: Path | None, steps: int, jobs: int) -> None:
    """The raw network trained on the same scenes as each of SENSORS shot them, tested on the whole sensor."""
    rate = str(RATES[0])
    runs = [(folder / "srraw.h5", folder / "sensors" / "whole", ("--learning-rate", rate))]
    for name, sensor in SENSORS.items():
        data = folder / "sensors" / f"{name}-data"
        if not (data / "srraw.h5").exists():
            data.mkdir(parents=True, exist_ok=True)
            make_data(data, photos, jobs, sensor, ("train", "val"))
        runs.append((data / "srraw.h5", folder / "sensors" / name, ("--learning-rate", rate)))
    train(runs, steps, jobs)
    models = [out / "model.pt" for _, out, _ in runs]
    evaluate(folder / "srraw.h5", models, folder / "sensors", weights, protocols=("registered",))


def shift_targets(source: Path, out: Path, length_px: int) -> None:
    """Pairs of 4X whose targets lie `length_px` off in a direction of its own."""
    with shards.open(source) as reader, shards.new_shard(out, {"zooms": [4], "compression": "none"}) as add:
        for number, pair in enumerate(reader.select(zoom=4)):
            data = reader.read(pair)
            angle = np.random.default_rng((7, number)).uniform(0, 2 * np.pi)
            dx, dy = (round(length_px * turn) for turn in (np.cos(angle), np.sin(angle)))
            if pair.split != "test":
                data = replace(data, target=shifted(data.target, dx, dy), valid=shifted(data.valid, dx, dy))
            add(pair, data)


def shifted(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """An image moved by whole pixels; zero where nothing was."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = image[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return out


if __name__ == "__main__":
    main()
