"""Raters who vote at the same time: seconds of a vote and of a pair's pictures; votes lost or doubled.

    python benchmarks/study_load.py study --raters 200 --votes 10

The server runs as `srraw-study serve` does, on a copy of the study; the raters ask it over this machine's
own network. Each loads three pictures, looks at them for about --look seconds, and votes.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np

from srraw_model.study.plan import read_plan
from srraw_model.study.votes import DATABASE, votes_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--votes", type=int, default=10)
    parser.add_argument("--look", type=float, default=3.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        shutil.copytree(arguments.study, study, ignore=shutil.ignore_patterns(f"{DATABASE}*"))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        code = "from srraw_model.study.cli import study; study()"
        server = subprocess.Popen([sys.executable, "-c", code, "serve", str(study), "--port", str(port)])
        try:
            asyncio.run(answers(port))
            began = time.perf_counter()
            pictures, votes = asyncio.run(rate(port, arguments.raters, arguments.votes, arguments.look))
            seconds = time.perf_counter() - began
        finally:
            server.terminate()
            server.wait()
        kept = Counter((vote.rater, vote.position) for vote in votes_of(study, read_plan(study)))
    print(f"{arguments.raters} raters at once, {len(votes)} votes in {seconds:.1f} s")
    for name, found in (("a pair's pictures", pictures), ("a vote", votes)):
        print(f"{name:18s} median {np.median(found):.3f} s, 95 % {np.quantile(found, 0.95):.3f} s")
    print(f"lost {len(votes) - len(kept)}, doubled {sum(count - 1 for count in kept.values())}")


async def answers(port: int) -> None:
    """Wait until the server does."""
    async with httpx2.AsyncClient() as client:
        for _ in range(300):
            try:
                await client.get(f"http://127.0.0.1:{port}/r/nobodynobody")
            except httpx2.ConnectError:
                await asyncio.sleep(0.1)
            else:
                return
    raise SystemExit("The server did not start.")


async def rate(port: int, raters: int, count: int, look_s: float) -> tuple[list[float], list[float]]:
    """Seconds of each pair's pictures and of each vote, of raters who all begin at once."""
    rng = np.random.default_rng(0)
    pictures: list[float] = []
    votes: list[float] = []

    async def one() -> None:
        base = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base, follow_redirects=True, timeout=120) as client:
            page = (await client.get("/")).url.path
            state = (await client.get(f"{page}/trial")).json()
            for _ in range(count):
                trial, began = state["trial"], time.perf_counter()
                names = [trial[side] for side in ("left", "right", "input") if trial[side]]
                for got in await asyncio.gather(*(client.get(f"/images/{name}") for name in names)):
                    got.raise_for_status()
                pictures.append(time.perf_counter() - began)
                await asyncio.sleep(look_s * rng.uniform(0.3, 1.7))
                began = time.perf_counter()
                vote = {"position": state["position"], "answer": "left", "seconds": 1.0}
                got = await client.post(f"{page}/vote", json=vote)
                got.raise_for_status()
                state = got.json()
                votes.append(time.perf_counter() - began)

    await asyncio.gather(*(one() for _ in range(raters)))
    return pictures, votes


if __name__ == "__main__":
    main()
