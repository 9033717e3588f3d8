"""Small real data for the tests, made once."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from unittest.mock import patch as replaced

import hypothesis
import pytest

# As the command line does (srraw_model/cli.py), before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples on every run: a failure in CI is a failure at home.
hypothesis.settings.register_profile("srraw", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("srraw")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public photographs, raws and weights beside the project; skips where it is missing."""
    data = Path(os.environ.get("SRRAW_SHARED", ROOT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"the shared data are not at hand: {data} does not exist (set SRRAW_SHARED)")
    return data


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """A folder of two simulated sequences, 00001 and 00002; tests that change files take `sequences`."""
    from srraw_tools.simulate.shoot import simulate_sequence

    out = tmp_path_factory.mktemp("simulated")
    for i in (1, 2):
        simulate_sequence(out, name=f"{i:05d}", seed=11, index=i, size=(352, 528))
    return out


@pytest.fixture
def sequences(simulated, tmp_path) -> Path:
    """A copy of the simulated sequences, for tests that change files."""
    return Path(shutil.copytree(simulated, tmp_path / "sequences"))


@pytest.fixture(scope="module", params=["plain torch", "compiled"])
def way_of_searching(request):
    """Either way in which CoBi's pairs are found; otherwise the size of the maps decides which one runs."""
    from srraw_model import search

    with replaced.object(search, "SMALL", math.inf if request.param == "plain torch" else 0):
        yield request.param
