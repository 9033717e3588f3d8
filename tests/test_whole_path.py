"""The whole path once, small, as a user types it: simulate, capture, align, pack, train, evaluate, zoom."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import cv2
import pytest

pytest.importorskip("gphoto2", reason="libgphoto2 does not exist for this system")

TOOLS = "from srraw_tools.cli import main; main()"
MODEL = "from srraw_model.cli import {0}; {0}()"


def test_from_a_scene_to_a_zoomed_photograph(tmp_path):
    def run(program, *arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    run(TOOLS, "simulate", "--out", "scenes", "--count", "3", "--size", "528x352", "--seed", "5")
    for scene in ("00001", "00002", "00003"):
        assert "Complete: 7 shots" in run(TOOLS, "capture", "--virtual", f"scenes/{scene}")
    assert "12 pairs of 3 sequences, 0 rejected" in run(TOOLS, "align")
    (tmp_path / "split.csv").write_text("sequence,split\n00001,train\n00002,val\n00003,test\n")
    assert "9 pairs packed" in run(TOOLS, "pack", "--zoom", "4", "--split-file", "split.csv")
    run(MODEL.format("train"), "srraw.h5", "--preset", "demo", "--steps", "8", "--out", "run")
    # The paper's full network, a few steps of it, with its whole loss but VGG.
    run(
        MODEL.format("train"),
        "srraw.h5",
        "--preset",
        "paper-4x",
        "--crop",
        "16",
        "--steps",
        "2",
        "--out",
        "paper",
    )
    table = run(MODEL.format("evaluate"), "srraw.h5", "--models", "run/model.pt", "--out", "eval")
    assert "bicubic" in table
    assert "demo" in table
    with open(tmp_path / "eval" / "metrics.csv", newline="") as file:
        assert (
            len(list(csv.reader(file))) >= 1 + 2 * 3
        )  # bicubic and the model, on three pairs of the test split
    photo = "sequences/00003/00006.dng"
    run(MODEL.format("zoom"), photo, "--checkpoint", "run/model.pt", "--zoom", "4", "-o", "zoomed.png")
    assert cv2.imread(str(tmp_path / "zoomed.png")).shape == (4 * 352, 4 * 528, 3)
