"""Random training crops out of shards, beside plain memory maps; packing; memory; faults.

    python benchmarks/shards.py reading                     crops a second, warm and cold
    python benchmarks/shards.py loader                      the same through PyTorch's loader
    python benchmarks/shards.py memory                      of a reader on 200 GB of sparse shards
    python benchmarks/shards.py handles                     2000 shards, 1024 files open at a time
    python benchmarks/shards.py packing --sequences DIR     how much of two cores is spent on pictures
    python benchmarks/shards.py kills --sequences DIR       packing killed at 50 random moments

A crop is 64 x 64 pixels of the mosaic with 256 x 256 x 3 of the target. The pairs of the first two are drawn:
smooth pictures with noise, 1504 x 1000 pixels of mosaic each. All methods read the same arrays at the same
places, in turns; each figure is the median over the rounds, and a share is the median of the rounds' shares,
so that other work on the machine weighs on all alike. `--folder` keeps what was made, where there is no room
in the temporary folder. The sequences of the last two are aligned ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import cv2
import h5py
import numpy as np

from srraw_tools import shards
from srraw_tools.chunks import CHECKSUMS
from srraw_tools.dng import write_dng
from srraw_tools.new_shards import links_into, write_index
from srraw_tools.pack import pack_sequences
from srraw_tools.raw import read_raw
from srraw_tools.sequence import find_sequences
from srraw_tools.shards import Pair, PairData

HEIGHT, WIDTH, ZOOM = 1000, 1504, 4
CROP = 64
READ = ("raw", "target")
Place = tuple[int, int, int]  # pair, x, y
COMPRESSIONS = ("none", "bitshuffle", "gzip")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("reading", "loader", "memory", "handles", "packing", "kills"))
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--sequences", type=Path, help="aligned sequences, for packing and kills")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--crops", type=int, default=1000, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gigabytes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
        if arguments.what == "reading":
            compare_reading(folder, arguments.pairs, arguments.crops, arguments.rounds)
        elif arguments.what == "loader":
            compare_loaders(folder, arguments.pairs, arguments.rounds)
        elif arguments.what == "memory":
            measure_memory(folder, arguments.gigabytes, arguments.crops)
        elif arguments.what == "handles":
            read_many_shards(folder)
        elif arguments.what == "packing":
            measure_packing(folder, arguments.sequences, arguments.jobs)
        else:
            kill_packing(folder, arguments.sequences, arguments.kills, arguments.jobs)


# --- reading ----------------------------------------------------------------------------------------------


def compare_reading(folder: Path, pairs: int, crops: int, rounds: int) -> None:
    make_sets(folder, pairs)
    for path in folder.iterdir():  # into the system's cache
        if path.is_file():
            path.read_bytes()
    maps = [{name: np.load(folder / f"{n}-{name}.npy", mmap_mode="r") for name in READ} for n in range(pairs)]
    files = {kind: folder / f"{kind}.h5" for kind in COMPRESSIONS}
    readers = {kind: shards.open(path) for kind, path in files.items()}
    groups = h5py.File(files["none"], "r")["pairs"].values()
    sliced = [{name: group[name] for name in READ} for group in groups]

    def by_map(n: int, x: int, y: int) -> None:
        for name, zoom in (("raw", 1), ("target", ZOOM)):
            np.array(maps[n][name][zoom * y : zoom * (y + CROP), zoom * x : zoom * (x + CROP)])

    def by_h5py(n: int, x: int, y: int) -> None:
        for name, zoom in (("raw", 1), ("target", ZOOM)):
            sliced[n][name][zoom * y : zoom * (y + CROP), zoom * x : zoom * (x + CROP)]

    def by(reader: shards.Reader) -> Callable[[int, int, int], object]:
        return lambda n, x, y: reader.read(reader.pairs[n], (x, y, CROP, CROP), READ)

    def by_all(n: int, x: int, y: int) -> None:
        reader = readers["none"]
        reader.read(reader.pairs[n], (x, y, CROP, CROP))

    warm = {
        "numpy.memmap": by_map,
        "h5py's slicing": by_h5py,
        "srraw": by(readers["none"]),
        "srraw, all four arrays": by_all,
        "srraw, bitshuffle": by(readers["bitshuffle"]),
    }
    print(f"\nWarm, {pairs} pairs, {rounds} rounds of {crops} crops")
    table(rates(warm, pairs, crops, rounds))

    def fresh(kind: str) -> Callable[[int, int, int], object]:
        """Every band is verified at every crop: each read is a first one."""

        def read(n: int, x: int, y: int) -> None:
            reader = readers[kind]
            for array in reader._chunks(reader.pairs[n]).values():
                array._verified[:] = 0
            reader.read(reader.pairs[n], (x, y, CROP, CROP), READ)

        return read

    print("\nWarm, everything verified at every crop")
    first = {"numpy.memmap": by_map, "srraw": fresh("none"), "srraw, bitshuffle": fresh("bitshuffle")}
    table(rates(first, pairs, crops // 2, rounds))

    print("\nCold: the system's cache of the files dropped before each round of 100 crops")
    cold = {
        "numpy.memmap": by_map,
        "h5py's slicing": by_h5py,
        "srraw": fresh("none"),
        "srraw, bitshuffle": fresh("bitshuffle"),
    }

    def drop() -> None:
        for pair in maps:
            for array in pair.values():
                array._mmap.madvise(4)  # MADV_DONTNEED: the cache keeps what is mapped
        for path in folder.iterdir():
            if path.is_file():
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)

    table(rates(cold, pairs, 100, 3, drop))
    seconds = decoding_s(folder)
    per_second = rates({"srraw": warm["srraw"]}, pairs, crops, 3)["srraw"]
    print(f"\nDecoding two raw files of 12 megapixels for a crop: {1 / seconds:.2f} a second")
    print(f"srraw gives {median(per_second) * seconds:.0f} times as many")


def rates(
    methods: dict[str, Callable[[int, int, int], object]],
    pairs: int,
    crops: int,
    rounds: int,
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Crops a second of each method in each round; all read the same places, in turns."""
    found: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        places = list(random_places(pairs, crops, number))
        for name, read in methods.items():
            before()
            started = time.perf_counter()
            for place in places:
                read(*place)
            if number:  # the first round opens and verifies
                found[name].append(crops / (time.perf_counter() - started))
    return found


def random_places(pairs: int, crops: int, seed: int) -> Iterator[Place]:
    rng = np.random.default_rng(seed)
    for _ in range(crops):
        x, y = (int(rng.integers((side - CROP) // 2)) * 2 for side in (WIDTH, HEIGHT))
        yield int(rng.integers(pairs)), x, y


def table(found: dict[str, list[float]]) -> None:
    base = next(iter(found.values()))
    print(f"{'':26s}{'crops/s':>10s}{'share':>8s}")
    for name, values in found.items():
        share = median(value / of for value, of in zip(values, base, strict=True))
        print(f"{name:26s}{median(values):10.0f}{share:8.0%}")


def decoding_s(folder: Path) -> float:
    """Seconds of what a crop takes without shards: the short shot's mosaic and the long one's light."""
    rng = np.random.default_rng(0)
    for name in ("low", "high"):
        noise = rng.normal(4000, 300, (3000, 4000)).clip(0, 16383).astype(np.uint16)
        write_dng(folder / f"{name}.dng", noise)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        read_raw(folder / "low.dng")
        read_raw(folder / "high.dng", demosaic=True)
        times.append(time.perf_counter() - started)
    return median(times[1:])


def make_sets(folder: Path, pairs: int) -> None:
    """The same pairs as arrays of numpy and in shards of every compression, unless they are there."""
    if all((folder / f"{kind}.h5").exists() for kind in COMPRESSIONS):
        return
    for kind in COMPRESSIONS:
        with shards.new_shard(folder / f"{kind}.h5", {"zooms": [ZOOM], "compression": kind}) as add:
            for number in range(pairs):
                pair, data = draw_pair(number)
                add(pair, data)
                for name in READ if kind == "none" else ():
                    np.save(folder / f"{number}-{name}.npy", getattr(data, name))


def draw_pair(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[Pair, PairData]:
    """A smooth picture with the noise of a sensor, (height, width) in mosaic pixels."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.uniform(500, 20000, (height // 16, width // 16, 3)).astype(np.float32)
    light = cv2.resize(coarse, (ZOOM * width, ZOOM * height), interpolation=cv2.INTER_CUBIC)
    light += rng.normal(0, 60, light.shape).astype(np.float32)
    target = light.clip(0, 65535).astype(np.uint16)
    raw = (target[::ZOOM, ::ZOOM, 1] // 4 + 512).copy()
    rgb = (target[::ZOOM, ::ZOOM] >> 8).astype(np.uint8)
    valid = np.ones((ZOOM * height, ZOOM * width), np.uint8)
    return named_pair(f"{seed:05d}_4x_00006_00002", size), PairData(raw, rgb, target, valid)


def named_pair(name: str, size: tuple[int, int]) -> Pair:
    return Pair(
        name=name,
        sequence=name[:5],
        split="train",
        zoom=ZOOM,
        size=size,
        cfa="RGGB",
        black_level=(512.0,) * 4,
        white_level=16383,
        camera_wb=(2.0, 1.0, 1.0, 1.5),
        color_matrix=np.eye(3),
        gain=(1.0, 1.0, 1.0),
        target_space="camera",
        target_cfa="RGGB",
        target_camera_wb=(2.0, 1.0, 1.0, 1.5),
        target_color_matrix=np.eye(3),
        crop=(0, 0, size[1], size[0]),
        low_to_high=np.diag([4.0, 4.0, 1.0]),
        scale_offset=1.0,
    )


# --- loader -----------------------------------------------------------------------------------------------


def compare_loaders(folder: Path, pairs: int, rounds: int) -> None:
    import torch
    from torch.utils.data import DataLoader

    from srraw_model.dataset import Crops, crop_numbers

    torch.set_num_threads(1)
    make_sets(folder, pairs)
    crops = Crops(folder / "none.h5", zoom=ZOOM, crop=CROP)
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, values in found.items():
            first = 800 * number
            loader = DataLoader(
                crops, batch_size=8, sampler=crop_numbers(first, first + 800), num_workers=workers
            )
            batches = iter(loader)
            next(batches)  # the workers have started
            started = time.perf_counter()
            count = 8 * sum(1 for _ in batches)
            values.append(count / (time.perf_counter() - started))
    print("\nSamples a second of PyTorch's loader, decoded, rendered, turned")
    for workers, values in found.items():
        print(f"  {workers} worker{'s' * (workers > 1)}: {median(values):.0f}")
    gains = [two / one for one, two in zip(found[1], found[2], strict=True)]
    print(f"  two give {median(gains):.2f} times one (rounds: {', '.join(f'{g:.2f}' for g in gains)})")


# --- memory -----------------------------------------------------------------------------------------------


def measure_memory(folder: Path, gigabytes: int, crops: int) -> None:
    """Shards whose arrays are holes: they read as zeros, and take no room."""
    size = (3000, 4000)  # mosaic pixels: 1.3 GB a pair
    pair_bytes = size[0] * size[1] * (2 + 3 + ZOOM * ZOOM * 7)
    count = max(1, round(gigabytes * 1e9 / pair_bytes))
    path = folder / "sparse.h5"
    for number in range(count):
        writing = shards.added_shard if number else shards.new_shard
        with writing(path, {"zooms": [ZOOM], "compression": "none"}) as add:
            write_holes(add, named_pair(f"{number:05d}_4x_00006_00002", size))
    apparent = sum(p.stat().st_size for p in folder.glob("sparse-*.h5"))
    taken = sum(p.stat().st_blocks * 512 for p in folder.glob("sparse-*.h5"))
    program = (
        "import resource, sys, numpy as np\n"
        "from srraw_tools import shards\n"
        "rng = np.random.default_rng(0)\n"
        "with shards.open(sys.argv[1]) as reader:\n"
        "    for _ in range(int(sys.argv[2])):\n"
        "        pair = reader.pairs[rng.integers(len(reader.pairs))]\n"
        "        x, y = (int(rng.integers((side - 64) // 2)) * 2 for side in pair.size[::-1])\n"
        "        reader.read(pair, (x, y, 64, 64))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, str(crops)], capture_output=True, text=True, check=True
    )
    print(f"{count} shards of {apparent / 1e9:.0f} GB that take {taken / 1e9:.2f} GB of the disk")
    print(f"Most memory of a reader over {crops} random crops: {float(done.stdout):.0f} MB")


def write_holes(add: shards.NewShard, pair: Pair) -> None:
    """A pair whose chunks are allocated and never written, with the checksums of zeros."""
    import zlib

    from srraw_tools import pairs
    from srraw_tools.chunks import BAND, BAND_ROWS, CHUNK, even_share

    group = add.file["pairs"].create_group(pair.name)
    height, width = pair.size
    for name, zoom, kind, colours in (
        ("raw", 1, np.uint16, ()),
        ("rgb", 1, np.uint8, (3,)),
        ("target", ZOOM, np.uint16, (3,)),
        ("valid", ZOOM, np.uint8, ()),
    ):
        sides = [zoom * even_share(n, most) for n, most in zip(pair.size, CHUNK, strict=True)]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((*sides, *colours))
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((zoom * height, zoom * width, *colours))
        kind_id = h5py.h5t.py_create(np.dtype(kind))
        dataset = h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind_id, space, properties))
        row_bytes = sides[1] * int(np.prod(colours, dtype=int)) * np.dtype(kind).itemsize
        band = zoom * BAND
        bands = [min(band, sides[0] - start) for start in range(0, sides[0], band)]
        column = np.array([zlib.crc32(bytes(rows * row_bytes)) for rows in bands], np.uint32)
        grid = [-(-zoom * n // side) for n, side in zip(pair.size, sides, strict=True)]
        dataset.attrs[CHECKSUMS] = np.tile(column[None, :, None], (grid[0], 1, grid[1]))
        dataset.attrs[BAND_ROWS] = band
    pairs.write_attributes(group, pair)


def read_many_shards(folder: Path, count: int = 2000) -> None:
    options, links = {"zooms": [ZOOM], "compression": "none"}, {}
    _, data = draw_pair(0, (16, 16))
    for number in range(count):
        path = folder / f"many-{number + 1:04d}.h5"
        data.raw[0, 0] = number
        with shards.new_shard(path, options, durable=False) as add:
            add(named_pair(f"{number:05d}_4x_00006_00002", (16, 16)), data)
        links |= links_into(path)
    write_index(folder / "many.h5", options, links)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    started = time.perf_counter()
    with shards.open(folder / "many.h5") as reader:
        opened_s = time.perf_counter() - started
        wrong = sum(
            int(reader.read(pair).raw[0, 0]) != number
            for _ in range(2)
            for number, pair in enumerate(reader.pairs)
        )
        print(f"{len(reader.pairs)} pairs opened in {opened_s:.1f} s, {wrong} read wrong")


# --- packing ----------------------------------------------------------------------------------------------


def measure_packing(folder: Path, sequences: Path, jobs: int) -> None:
    """Seconds of the workers in decoding, rendering and warping, over those that the cores had."""
    folders = find_sequences([sequences])
    out = folder / "packed.h5"
    started = time.perf_counter()
    records = list(pack_sequences(folders, out=out, jobs=jobs, overwrite=out.exists()))
    seconds = time.perf_counter() - started
    made = sum(record.made_s for record in records)
    written = sum(record.bytes for record in records)
    used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    print(f"{len(records)} pairs, {written / 1e9:.2f} GB in {seconds:.1f} s with {jobs} jobs")
    print(f"decoding, rendering and warping: {made / (jobs * seconds):.0%} of {jobs} x {seconds:.1f} s")
    print(f"this process, the writer: {used[1].ru_utime + used[1].ru_stime:.1f} s of processor time")


def kill_packing(folder: Path, sequences: Path, kills: int, jobs: int) -> None:
    """Kill packing at random moments; nothing written may be lost, and the end must be as undisturbed."""
    folders = find_sequences([sequences])
    once, killed = folder / "once", folder / "killed"
    for path in (once, killed):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    started = time.perf_counter()
    list(pack_sequences(folders, out=once / "srraw.h5", zooms=(4,), shard_size=40_000_000))
    whole_s = time.perf_counter() - started
    program = "from srraw_tools.cli import main; main()"
    command = [sys.executable, "-c", program, "pack", *folders, "--out", killed / "srraw.h5", "--zoom", "4"]
    command += ["--shard-size", "40MB", "--jobs", str(jobs)]
    rng, lost, seen, killed_times, finished = np.random.default_rng(0), 0, set(), 0, 0
    while killed_times < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0, 0.7 * whole_s))
            finished += 1
            shutil.rmtree(killed)  # once more from the beginning
            killed.mkdir()
            seen = set()
            continue
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed_times += 1
        if (killed / "srraw.h5").exists():
            with shards.open(killed / "srraw.h5") as reader:
                damages = [text for pair in reader.pairs for text in reader.damages(pair)]
                now = {pair.name for pair in reader.pairs}
            lost += len(seen - now) + len(damages) + len(reader.problems)
            seen = now
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = [{p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} for path in (once, killed)]
    print(
        json.dumps(
            {
                "kills": killed_times,
                "runs that were done before": finished,
                "pairs lost or damaged": lost,
                "same bytes as undisturbed": files[0] == files[1],
            }
        )
    )


if __name__ == "__main__":
    main()
