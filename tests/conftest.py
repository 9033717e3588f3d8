"""Small real data for the tests, made once."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

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
