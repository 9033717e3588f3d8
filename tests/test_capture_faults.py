"""Whatever fails at whatever moment: no shot is lost, none is kept twice, none gets another one's name."""

from __future__ import annotations

import pytest
from fault_sequences import run


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_cost_no_shot(seed):
    outcome = run(seed)
    assert outcome.faults
    assert (outcome.lost, outcome.duplicated, outcome.wrong, outcome.incomplete) == (0, 0, 0, 0), outcome
