"""What decides the paper's comparison, one thing at a time, on the data that `paper.py data` made.

    python benchmarks/studies.py misaligned --folder DIR                 L1, CX and CoBi on shifted targets
    python benchmarks/studies.py ablations --folder DIR --weights DIR    weight_spatial and lambda
    python benchmarks/studies.py sensor --folder DIR --photos PHOTOS     the sensor less one thing (Figure 4)
    python benchmarks/studies.py rendering --folder DIR --photos PHOTOS  what a mosaic has, and a picture not

All train the small networks of two cores. What was made or trained before is not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from paper import OURS, SENSOR, SIZES, evaluate, make_data, print_differences, train

from srraw_tools import shards
from srraw_tools.raw import decode_srgb, mosaic_light
from srraw_tools.simulate.sensor import FULL_WELL_ISO100

STEPS, RATE = 1600, str(SIZES["small"].rates[0])
COMMON = ("--zoom", "4", "--preset", "demo", "--batch", "8", "--crop", "32", "--seed", "1")

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

SPATIAL_WEIGHTS, LAMBDAS = (0.0, 0.1, 1.0), (0.0, 0.1, 1.0, 10.0)
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
    parser.add_argument("what", choices=("misaligned", "ablations", "sensor", "rendering"))
    parser.add_argument("--folder", type=Path, required=True, help="of paper.py")
    parser.add_argument("--photos", type=Path, help="a folder of at least 12 photographs")
    parser.add_argument("--weights", type=Path, help="a folder of public weights")
    parser.add_argument("--isos", type=int, nargs="+", default=[SENSOR.iso], help="for rendering")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    folder, photos, weights = arguments.folder, arguments.photos, arguments.weights
    steps, jobs = arguments.steps, arguments.jobs
    if arguments.what == "misaligned":
        compare_losses(folder, steps, jobs)
    elif arguments.what == "ablations":
        ablate(folder, weights, steps, jobs)
    elif arguments.what == "sensor":
        compare_sensors(folder, photos, weights, steps, jobs)
    else:
        compare_renderings(folder, photos, weights, arguments.isos, steps, jobs)


# --- misalignment -----------------------------------------------------------------------------------------


def compare_losses(folder: Path, steps: int, jobs: int) -> None:
    """The raw network by three losses on pairs whose targets are shifted; tested on pairs that are not."""
    runs = []
    for shift in SHIFTS_PX:
        data = folder / "shifted" / f"{shift}.h5"
        if not data.exists():
            data.parent.mkdir(exist_ok=True)
            shift_targets(folder / "srraw.h5", data, shift)
        for name, own in LOSSES.items():
            first = steps if name == "L1" else steps // 4
            options = (*COMMON, *own, "--l1-steps", str(first))
            runs.append((data, folder / "shifted" / f"{name}-{shift}", options))
    train(runs, steps, jobs)
    models = [out / "model.pt" for _, out, _ in runs]
    evaluate(folder / "srraw.h5", models, folder / "shifted", None, protocols=("as-is",))


def ablate(folder: Path, weights: Path, steps: int, jobs: int) -> None:
    """The raw network by CoBi with other weights of its terms: w_s without VGG, lambda with it."""
    common = (*COMMON, "--l1-steps", str(steps // 4))
    vgg = ("--vgg-weights", str(weights / "vgg_normalised_conv3_1.pth"))
    runs = [(f"spatial-{weight:g}", (*common, "--weight-spatial", str(weight))) for weight in SPATIAL_WEIGHTS]
    runs += [(f"lambda-{weight:g}", (*common, *vgg, "--lambda-vgg", str(weight))) for weight in LAMBDAS]
    done = [(folder / "srraw.h5", folder / "ablations" / name, options) for name, options in runs]
    train(done, steps, jobs)
    models = [out / "model.pt" for _, out, _ in done]
    evaluate(folder / "srraw.h5", models, folder / "ablations", weights, protocols=("as-is",))


def compare_sensors(folder: Path, photos: Path, weights: Path | None, steps: int, jobs: int) -> None:
    """The raw network trained on the same scenes as each of SENSORS shot them, tested on the whole sensor."""
    options = (*COMMON, "--learning-rate", RATE)
    runs = [(folder / "srraw.h5", folder / "sensors" / "whole", options)]
    for name, sensor in SENSORS.items():
        data = folder / "sensors" / f"{name}-data"
        if not (data / "srraw.h5").exists():
            data.mkdir(parents=True, exist_ok=True)
            make_data(data, photos, jobs, sensor, ("train", "val"))
        runs.append((data / "srraw.h5", folder / "sensors" / name, options))
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


# --- renderings -------------------------------------------------------------------------------------------


def compare_renderings(
    folder: Path, photos: Path, weights: Path | None, isos: list[int], steps: int, jobs: int
) -> None:
    """Ours, Ours-png, and png of an imitated camera JPEG, all scenes shot at each ISO.

    The exposure stays: at four times the ISO there is a fourth of the light.
    """
    runs: dict[int, list[tuple[Path, Path, tuple[str, ...]]]] = {}
    for iso in isos:
        data = folder if iso == SENSOR.iso else folder / "rendering" / f"{iso}-data"
        out = folder / "rendering" / str(iso)
        out.mkdir(parents=True, exist_ok=True)
        if not (data / "srraw.h5").exists():
            data.mkdir(exist_ok=True)
            make_data(data, photos, jobs, replace(SENSOR, iso=iso))
        print(f"ISO {iso}: {what_rendering_loses(data / 'srraw.h5')}")
        if not (out / "jpeg.h5").exists():
            with_camera_jpegs(data / "srraw.h5", out / "jpeg.h5", iso)
        common = (*COMMON, "--learning-rate", RATE)
        files = {"raw": data / "srraw.h5", "png": data / "srraw.h5", "jpeg": out / "jpeg.h5"}
        runs[iso] = [
            (file, out / name, (*common, *OURS["raw" if name == "raw" else "png"]))
            for name, file in files.items()
        ]
    train([run for of_iso in runs.values() for run in of_iso], steps, jobs)
    for iso, ((data, raw, _), (_, png, _), (jpegs, jpeg, _)) in runs.items():
        for file, other in ((data, png), (jpegs, jpeg)):
            tables = folder / "rendering" / str(iso) / f"tables-{other.name}"
            tables.mkdir(exist_ok=True)
            models = [raw / "model.pt", other / "model.pt"]
            evaluate(file, models, tables, weights, protocols=("registered",), public=False)
            print_differences(tables / "eval-registered" / "metrics.json")


def what_rendering_loses(path: Path) -> str:
    """How far the test pairs' 8-bit renderings, brought back to sensor light, lie from their mosaics."""
    departures, lost = [], []
    with shards.open(path) as reader:
        for pair in reader.select(zoom=4, split="test"):
            data = reader.read(pair, None, ("raw", "rgb"))
            light = mosaic_light(data.raw, pair.black_level, pair.white_level)
            linear = decode_srgb(data.rgb.astype(np.float32) / 255)
            camera = linear @ np.linalg.inv(pair.color_matrix).T / np.asarray(pair.rgb_wb)
            electrons = FULL_WELL_ISO100 * 100 / pair.iso
            noise = np.sqrt(np.maximum(light, 0) / electrons + (SENSOR.read_noise_e / electrons) ** 2)
            inside = ((data.rgb > 0) & (data.rgb < 255)).all(axis=2)
            departures.append(((mosaic_of(camera, pair.cfa) - light) / noise)[inside])
            lost.append(1 - inside.mean())
    departures = np.concatenate(departures)
    return (
        f"inside the range, the rendering departs from the mosaic by {np.sqrt(np.mean(departures**2)):.2f} "
        f"of the noise's deviation (root mean square), {np.abs(departures).max():.2f} at most; "
        f"{np.mean(lost):.1%} of the pixels are at 0 or 255 in a channel."
    )


def mosaic_of(image: np.ndarray, cfa: str) -> np.ndarray:
    """(H, W, 3) under a colour filter array."""
    mosaic = np.empty(image.shape[:2], image.dtype)
    for place, colour in enumerate(cfa):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = image[rows, columns, "RGB".index(colour)]
    return mosaic


def with_camera_jpegs(source: Path, out: Path, iso: int) -> None:
    """The same pairs, but for `rgb`, which is what a camera might have made of the shot."""
    with shards.open(source) as reader, shards.new_shard(out, {"zooms": [4], "compression": "none"}) as add:
        for pair in reader.select(zoom=4):
            data = reader.read(pair)
            add(pair, replace(data, rgb=camera_jpeg(data.rgb, 3 * np.sqrt(iso / 400))))


def camera_jpeg(rgb: np.ndarray, strength: float) -> np.ndarray:
    """An imitation of a camera's JPEG; its strengths are guesses, and were not tuned.

    Noise reduction by non-local means, sharpening, an S-shaped tone curve, JPEG of quality 90 with half the
    colour resolution.

    Args:
        rgb: (H, W, 3) uint8 sRGB.
        strength: of the noise reduction, in 8-bit values.
    """
    smooth = cv2.fastNlMeansDenoisingColored(rgb, None, strength, strength, 5, 15)
    sharp = cv2.addWeighted(smooth, 1.5, cv2.GaussianBlur(smooth, (0, 0), 1.0), -0.5, 0)
    x = np.linspace(0, 1, 256)
    toned = cv2.LUT(sharp, np.rint(255 * (0.7 * x + 0.3 * (3 * x**2 - 2 * x**3))).astype(np.uint8))
    half_colour = int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, half_colour]
    _, coded = cv2.imencode(".jpg", toned[..., ::-1], options)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


if __name__ == "__main__":
    main()
