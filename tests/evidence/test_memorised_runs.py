"""Over-trained and clean tiny runs are told apart, with seeds that the threshold has not seen."""

from __future__ import annotations

import pytest
from tests.benchmarks import memorised


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_forty_overtrained_and_forty_clean_runs() -> None:
    trials = list(memorised.run_trials(memorised.FIRST_SEED))
    overtrained, clean = memorised.shares_memorised(trials)
    text = [(t.seed, t.overtrained, t.fit.state, t.fit.values, t.known) for t in trials]
    assert memorised.are_overtrained(trials), text
    assert len(trials) == 2 * memorised.RUNS == 80
    assert overtrained >= 0.95 and clean <= 0.05, text
