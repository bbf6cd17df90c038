"""``tunesmith advise``, with a plugin that needs no tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from tunesmith.events import Measured, RivalChosen
from tunesmith.testing import sample_event
from tunesmith_evidence.ladder import Rung
from tunesmith_plugins.commands.advise.advice import (
    Costs,
    Difference,
    Probe,
    decide,
    extrapolate_probes,
    list_arguments,
)
from tunesmith_plugins.commands.advise.command import find_margin
from tunesmith_plugins.commands.advise.offer import ADVISE, AdviseOptions
from tunesmith_plugins.verdict.offer import VERDICT, VerdictOptions

Tunesmith = Callable[..., Result]


def test_advise_measures_rivals_and_probes(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,zero-shot,advise")
    rows = "".join(f"say w{n}\tSAY W{n}\n" for n in range(104))
    (tmp_path / "data.tsv").write_text(rows)
    with (tmp_path / "run.toml").open("a") as file:
        file.write("[split]\ndev = 0\n[advise]\nvolume = 10\nknowledge_changes = 'weekly'\n")
    done = tunesmith("advise", "run.toml", "--out", "advice", "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "tunesmith.advice/1"
    assert [probe["rows"] for probe in found["probes"]] == [10, 20, 40]
    assert "zero-shot" in [rung["rival"] for rung in found["rungs"]]
    assert "did not reduce" in found["expected"]["reason"]
    assert found["word"] == "FINE-TUNE", found
    assert "weekly" in found["arguments"][0]["reason"]
    # The rows are "say w7"; the strongest rival is the bare question.
    assert found["prompt_tokens"] == {"rival": 2.0, "tuned": 2.0}
    shown = tunesmith("advise", "run.toml", "--out", "again", "-q")
    assert "2,000 with the rival, 2,000 tuned" in shown.stdout
    assert "FINE-TUNE" in shown.stdout and "cannot be extrapolated" in shown.stdout


def test_the_margin_is_that_of_the_verdict() -> None:
    def plan(*tables: Any) -> Any:
        return SimpleNamespace(tables=tables)

    verdict = SimpleNamespace(offer=VERDICT, config=VerdictOptions(margin=0.05))
    advice = SimpleNamespace(offer=ADVISE, config=AdviseOptions())
    assert find_margin(plan(advice, verdict)) == 0.05
    assert find_margin(plan(advice)) == 0.02


def probe(rows: int, right: int, of: int = 96) -> Probe:
    """Return a probe after this many rows, with this many answers right."""
    values = {row: float(row < right) for row in range(of)}
    measured = sample_event(Measured, metric="exact-match", value=right / of, n=of)
    return Probe(rows, measured, values, 1.0)


def test_nothing_is_extrapolated_from_probes_that_have_not_begun_to_learn() -> None:
    """The last of three is on its way up: a power law through all of them would be far too low."""
    majority = sample_event(Measured, model="majority", value=12 / 96)
    late = [probe(10, 0), probe(20, 12), probe(40, 20)]
    found = extrapolate_probes(late, 100, majority)
    assert found.reason == "after 10 and 20 rows it is no better than majority"
    assert extrapolate_probes(late, 100).reason == (
        "after 10 rows it is no better than a model that gets nothing right"
    )
    early = [probe(10, 20), probe(20, 40), probe(40, 60)]
    assert not extrapolate_probes(early, 100, majority).reason


def difference(name: str, cost: int, value: float, low: float, high: float) -> Difference:
    solution: Any = "prompt" if cost >= 100 else "classifier"
    chosen = RivalChosen(rival=name, solution=solution, cost=cost)
    return Difference(Rung(chosen, None), value, low, high)


def test_words() -> None:
    cheap = difference("linear", 20, -0.01, -0.02, 0.01)
    prompt = difference("zero-shot", 100, 0.2, 0.1, 0.3)
    assert decide([prompt, cheap], 0.02, True)[0] == "SMALL CLASSIFIER"
    assert decide([prompt], 0.02, True)[0] == "FINE-TUNE"
    assert decide([difference("zero-shot", 100, 0.0, -0.1, 0.01)], 0.02, True)[0] == "PROMPT"
    assert decide([cheap], 0.02, False)[0] == "NOT ENOUGH EVIDENCE"
    assert decide([difference("linear", 20, 0.1, -0.1, 0.3)], 0.02, True)[0] == (
        "NOT ENOUGH EVIDENCE"
    )
    assert decide([], 0.02, True)[0] == "NOT ENOUGH EVIDENCE"


def test_arguments() -> None:
    costs = Costs(2.0, 1.0, 3600.0, 3.6)
    assert costs.break_even == 3600 and costs.per_thousand(2.0) == pytest.approx(2.0)

    def sides(costs: Costs = costs, **options: Any) -> list[str]:
        return [side for side, _ in list_arguments(AdviseOptions(**options), costs)]

    assert sides() == []
    assert sides(volume=5000) == ["for tuning"] and sides(volume=10) == ["against tuning"]
    assert sides(latency_limit=1.5) == ["for tuning"] and sides(latency_limit=3) == []
    assert sides(variety="wide", knowledge_changes="daily") == ["against tuning"] * 2
    assert sides(Costs(1.0, 1.0, 9.0, None), volume=10**9) == ["against tuning"]
