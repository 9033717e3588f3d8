"""Seconds and most memory of srraw-zoom on a whole photograph, for each kind of file.

python benchmarks/zoom.py photo.dng --checkpoint run/model.pt
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = (("a.png", "8"), ("a.png", "16"), ("a.tif", "16"), ("a.jpg", "8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    arguments = parser.parse_args()
    print("file   bits  seconds  peak MB  file MB")
    with tempfile.TemporaryDirectory() as folder:
        for name, bits in FILES:
            out = Path(folder) / name
            command = [sys.executable, "-c", "from srraw_model.cli import zoom; zoom()", str(arguments.photo)]
            command += ["--checkpoint", str(arguments.checkpoint), "-o", str(out), "--bits", bits, "--quiet"]
            started = time.perf_counter()
            process = subprocess.Popen(command)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} failed.")
            seconds, size = time.perf_counter() - started, out.stat().st_size / 1e6
            print(
                f"{name}  {bits:>4}  {seconds:7.1f}  {usage.ru_maxrss * 1.024e-3:7.0f}  {size:7.0f}",
                flush=True,
            )
            out.unlink()


if __name__ == "__main__":
    main()
