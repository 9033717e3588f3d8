"""What `srraw-zoom` of a whole photograph takes: seconds, peak memory and size of the file, by format.

    python benchmarks/zoom.py photo.dng                                 random weights, the preset `demo`
    python benchmarks/zoom.py photo.dng --checkpoint run/model.pt

Each format is written by a process of its own, whose greatest resident memory the system reports when it has
ended (Linux; Python, torch and what is mapped of files included).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from srraw_model.checkpoint import Checkpoint, save_checkpoint
from srraw_model.options import PRESETS
from srraw_model.variants import make_trained

FORMATS = (("png", 16), ("png", 8), ("tif", 16), ("tif", 8), ("jpg", 8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tile", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoint = arguments.checkpoint or write_random(Path(folder) / "model.pt")
        print("| format | s | peak memory, GB | file, GB |\n|---|---|---|---|")
        for suffix, bits in FORMATS:
            out = Path(folder) / f"out.{suffix}"
            given = [arguments.photo, "--checkpoint", checkpoint, "--tile", arguments.tile, "-o", out]
            code = "from srraw_model.cli import zoom; zoom()"
            command = [sys.executable, "-c", code, *map(str, given), "--bits", str(bits), "--quiet"]
            started = time.monotonic()
            process = subprocess.Popen(command)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
            if status:
                raise SystemExit(f"{suffix} failed")
            peak, size = usage.ru_maxrss * 1024 / 1e9, out.stat().st_size / 1e9
            print(f"| {suffix}, {bits} bits | {seconds:.0f} | {peak:.2f} | {size:.2f} |", flush=True)
            out.unlink()


def write_random(path: Path) -> Path:
    """A checkpoint of the preset `demo` with random weights."""
    demo = PRESETS["demo"]
    network = {"name": demo["network"], "zoom": 4, "channels": demo["channels"], "blocks": demo["blocks"]}
    torch.manual_seed(0)
    weights = make_trained(**network).state_dict()
    save_checkpoint(path, Checkpoint("random weights", network, weights, 0, {}, {}, {}))
    return path


if __name__ == "__main__":
    main()
