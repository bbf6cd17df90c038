"""Over-trained and clean tiny runs are told apart, with seeds that the threshold has not seen."""

from __future__ import annotations

import pytest
from tests.benchmarks import memorized


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_forty_overtrained_and_forty_clean_runs() -> None:
    trials = list(memorized.run_trials(memorized.FIRST_SEED))
    overtrained, clean = memorized.shares_memorized(trials)
    text = [(t.seed, t.overtrained, t.fit.state, t.fit.values, t.known) for t in trials]
    assert memorized.are_overtrained(trials), text
    assert len(trials) == 2 * memorized.RUNS == 80
    assert overtrained >= 0.95 and clean <= 0.05, text
