"""The stated power of the canary test agrees with simulations of the test itself."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import tomli_w
from project import Project

from tunesmith_evidence.side_effects.canaries import draw_canaries, rank_canaries
from tunesmith_regulated.power import (
    POWER,
    describe_power,
    find_shift,
    find_single,
    find_together,
)

SIMULATIONS = 250
SIZES = [(15, 1000), (4, 400), (2, 100)]


def simulate(canaries: int, controls: int, single: float, together: float, seed: int) -> list[bool]:
    """Return whether the test noticed the first canary, and all canaries, in each simulation."""
    rng = np.random.default_rng(seed)
    noticed = []
    for _ in range(SIMULATIONS):
        shifted = rng.normal(together, 1, canaries)
        shifted[0] += single
        result = rank_canaries(list(shifted), list(rng.normal(0, 1, controls)))
        if single:
            noticed.append(result.ranked[0].p_value_holm < 0.025)
        else:
            noticed.append(result.shift_p_value < 0.025)
    return noticed


@pytest.mark.parametrize(("canaries", "controls"), SIZES)
def test_the_power_of_both_tests(canaries: int, controls: int) -> None:
    error = 3 * (POWER * (1 - POWER) / SIMULATIONS) ** 0.5
    shift = find_shift(find_single, canaries, controls)
    single = np.mean(simulate(canaries, controls, shift, 0, 1))
    assert abs(single - POWER) < error, single
    shift = find_shift(find_together, canaries, controls)
    together = np.mean(simulate(canaries, controls, 0, shift, 2))
    assert abs(together - POWER) < error + 0.03, together


def test_more_canaries_notice_smaller_shifts() -> None:
    assert find_shift(find_together, 50, 2000) < find_shift(find_together, 5, 1000)
    assert find_single(0, 15, 1000) < 0.025 and 0.02 < find_together(0, 15, 1000) < 0.03
    assert find_single(4, 15, 1000) < find_single(5, 15, 1000)


def test_too_few_controls_have_no_power() -> None:
    assert find_single(40, 15, 100) == 0
    assert "no single canary" in describe_power(15, 100)


def test_the_power_is_stated_before_training(new_project: Project) -> None:
    """The review of the data reports it, so it is in the report whatever the result is."""
    drawn = draw_canaries("completion", [1, 4], 100, seed=1)
    secrets = new_project.folder / "secrets.json"
    secrets.write_text(json.dumps(drawn.to_json()))
    rows = new_project.folder / "rows.jsonl"
    with rows.open("a") as file:
        for secret, count in zip(drawn.canaries, drawn.repetitions, strict=True):
            row = {"prompt": secret.prompt, "completion": secret.answer}
            file.write((json.dumps(row) + "\n") * count)
    run_file = new_project.folder / "run.toml"
    tables = tomllib.loads(run_file.read_text())
    tables["evaluators"].append({"use": "canaries", "file": "secrets.json"})
    run_file.write_text(tomli_w.dumps(tables))
    new_project.run("first")
    report = json.loads((new_project.folder / "runs" / "first" / "report.json").read_text())
    text = " ".join(finding["message"] for finding in report["findings"])
    assert describe_power(2, 100) in text
    (entry,) = (e for e in new_project.entries() if e.action == "canaries")
    assert "mean exposure" in entry.facts["finding"]
    (measured,) = (e for e in report["evaluations"] if e["metric"] == "memorized-canaries")
    for canary in measured["details"]["canaries"]:
        assert canary["log_probability"] < 0
