"""A model against itself: measured on some rows and on all rows, the paired difference is 0.

A baseline is measured on a part of the test rows, and the tuned model on all of them. Every
evaluator has to decode and score both alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from bench import RIGHT
from tunesmith_echo.offer import BREVITY

from tunesmith.catalog import Catalog
from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.data.subset import Subset
from tunesmith.events import Measured
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.evaluate import evaluate_model
from tunesmith.offers import EvaluatorOffer, Metric, Offered, Plugin
from tunesmith.options import Options
from tunesmith.plan import Component
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    ToolCall,
    UnpairedPreference,
    last_exchange,
)
from tunesmith.signals import StopSignalHandler
from tunesmith.testing import FakeTextModel
from tunesmith_evidence.pairs import read_pairs
from tunesmith_evidence.statistics import compare

FIXTURES = Path(__file__).parents[2] / "fixtures"
PLUGIN = Plugin(name="p", distribution="tunesmith", version="1", module="m")
PARTS = ([0, 1, 2, 3, 4, 5], [3, 7, 11, 15], [19])
"""Rows of the baselines. The longest answer, and the rarest label, is in the last row."""
WORDS = "well, let me think about this for a while before I say what I believe it is: "


class NoOptions(Options):
    """None."""


class FirstLabels:
    """An evaluator of a third party that derives a limit and labels from the rows it is given."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> list[Measurement]:
        exchanges = [last_exchange(record) for record in records]
        labels = {answer.text for _, answer in exchanges}
        limit = max(len(answer.text) for _, answer in exchanges)
        answers = [a.text for a in model.generate([p for p, _ in exchanges], limit)]
        named = [next((w for w in reversed(a.split()) if w in labels), "") for a in answers]
        right = (float(n == a.text) for n, (_, a) in zip(named, exchanges, strict=True))
        return [Measurement(metric="named", values=tuple(right), outputs=tuple(answers))]


FIRST_LABELS = EvaluatorOffer(
    name="first-labels",
    summary="-",
    config=NoOptions,
    build=lambda options: FirstLabels(),
    metrics=(Metric(name="named", higher_is_better=True, bounds=(0, 1)),),
    generates=True,
)


def texts(answers: Sequence[str], said: Callable[[int, str], str]) -> Case:
    """Return rows with these answers, and what the model says: the words before it are many."""
    rows = [
        Completion(source=f"r:{n}", prompt=f"q{n}", completion=a) for n, a in enumerate(answers)
    ]
    spoken = {row.prompt: said(n, row.completion) for n, row in enumerate(rows)}
    logprobs = {text: [-0.01 * n] * 3 for n, text in enumerate(spoken.values())}
    return Case(rows, FakeTextModel(answers=spoken, logprobs=logprobs))


@dataclass(frozen=True)
class Case:
    """Rows and a model that is right in some of them, with the options of the evaluator."""

    rows: Sequence[Record]
    model: FakeTextModel
    options: dict[str, Any] = field(default_factory=dict)

    def given(self, **options: Any) -> Case:
        return replace(self, options=options)


LABELS = [["red", "green", "blue"][n % 3] for n in range(19)] + ["ultraviolet " * 12 + "pink"]
LABELLED = texts(LABELS, lambda n, a: WORDS + (a if n % 4 else "pink"))
NUMBERS = texts(
    [f"{n}" for n in range(19)] + ["1 " * 30 + "#### 19"],
    lambda n, a: WORDS + WORDS + WORDS + (f"#### {n}" if n % 3 else "#### 7"),
)
OBJECTS = texts(
    [json.dumps({"kind": ["a", "b"][n % 2], "n": n}) for n in range(19)]
    + [json.dumps({"kind": "c", "n": 1, "text": "long " * 20})],
    lambda n, a: json.dumps(json.loads(a) | {"why": WORDS * 3}) if n % 2 else a if n % 3 else "{}",
)
PROGRAMS = replace(
    texts(["x = 1"] * 20, lambda n, a: f"x = 0 {'+ 0 ' * 50}+ 1" if n % 2 else "x = 2"),
    rows=[
        Completion(
            source=f"r:{n}",
            prompt=f"q{n}",
            completion="x = 1" if n < 19 else "x = 1  # " + "long " * 20,
            slices=(("test", "assert x == 1"),),
        )
        for n in range(20)
    ],
)
PAIRS = Case(
    [
        Preference(
            source=f"r:{n}",
            prompt=(Message("user", f"q{n}"),),
            chosen=f"good {n}",
            rejected=f"bad {n}",
        )
        for n in range(20)
    ],
    FakeTextModel(logprobs={f"good {n}": [-0.1 * n] for n in range(20)}, unknown=-0.4),
)
RATED = Case(
    [
        UnpairedPreference(
            source=f"r:{n}",
            prompt=(Message("user", f"q{n}"),),
            completion=f"c {n}",
            label=n % 3 > 0,
        )
        for n in range(20)
    ],
    FakeTextModel(logprobs={f"c {n}": [-0.1 * n] for n in range(20)}),
)
CALLS = Case(
    [
        Chat(
            source=f"r:{n}",
            messages=(
                Message("user", f"q{n}"),
                Message(
                    "assistant",
                    "",
                    tool_calls=(ToolCall("find", json.dumps({"n": n, "s": "x " * 40 * (n > 18)})),),
                ),
            ),
        )
        for n in range(20)
    ],
    FakeTextModel(
        answers={
            f"q{n}": WORDS * (8 * (n % 2)) + json.dumps({"name": "find", "arguments": {"n": n}})
            for n in range(20)
        }
    ),
)  # fmt: skip
SPEC = spec_from_file_location("api1_measure", FIXTURES / "plugins_api1" / "api1_measure.py")
assert SPEC is not None and SPEC.loader is not None
API1 = module_from_spec(SPEC)
SPEC.loader.exec_module(API1)
CASES: dict[str, Case] = {
    "classification": LABELLED,
    "code": PROGRAMS.given(execute_generated_code=True),
    "constrained-match": LABELLED.given(labels=sorted(set(LABELS))),
    "exact-match": LABELLED.given(extract=r"(\w+)$"),
    "json": OBJECTS,
    "loss": LABELLED,
    "numeric": NUMBERS,
    "preference-accuracy": PAIRS,
    "repeatability": LABELLED.given(rows=7),
    "reward-margin": RATED,
    "kl": LABELLED,
    "length": LABELLED,
    "win-rate": LABELLED,
    "judge": LABELLED,
    "text-overlap": LABELLED,
    "tool-call": CALLS,
    "brevity": LABELLED,
    "right": LABELLED,
    "api1-same": LABELLED,
    "first-labels": LABELLED,
}
OTHERS = {
    "constrained-json": "its model has to be constrained, which tests of generation do",
    "canaries": "rows of its own, and only of a tuned model",
    "forgetting": "rows of its own, and only of a tuned model",
    "general-loss": "texts of its own, of base and tuned model",
    "general-skills": "prompts of its own, of base and tuned model",
    "memorization": "rows of its own, and only of a tuned model",
    "review": "its threshold comes from validation rows, which test_review.py has",
    "safety": "rows of its own, and only of a tuned model",
}
"""Evaluators without a baseline on a part of the test rows, and the reason."""


def offers() -> dict[str, EvaluatorOffer[Any]]:
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    found = [o.offer for o in catalog.offers(EvaluatorOffer)]
    return {o.name: o for o in (*found, BREVITY, RIGHT, FIRST_LABELS, *API1.tunesmith_evaluators())}


def test_every_evaluator_is_compared() -> None:
    assert sorted([*CASES, *OTHERS]) == sorted(offers())
    assert not CASES.keys() & OTHERS.keys()


class _Log:
    def report(self, event: Any) -> list[Any]:
        return []

    def append(self, line: dict[str, Any], *, durable: bool) -> None:
        """Discard the line."""


def evaluate(
    folder: Path, label: str, offer: EvaluatorOffer[Any], case: Case, rows: list[int] | None
) -> list[Measured]:
    """Evaluate the model of a case on some rows, as a run does."""
    other = FakeTextModel(answers={f"q{n}": "red and green" for n in range(20)}, unknown=-1.0)
    run = RunContext(
        model=folder, device="cpu", artifacts={}, open=lambda path: other, test=case.rows
    )
    emit = Emitter(_Log(), _Log(), [], StopSignalHandler())  # type: ignore[arg-type]
    component = Component(Offered(PLUGIN, offer), offer.config(**case.options), offer.name)
    records = case.rows if rows is None else Subset(case.rows, rows)
    return evaluate_model(label, case.model, component, records, emit, run, folder, PLUGIN, rows)


@pytest.mark.parametrize(
    ("name", "rows"),
    # Programs take a tenth of a second each.
    [(name, rows) for name in CASES for rows in (PARTS[1:2] if name == "code" else PARTS)],
)
def test_a_model_equals_itself(
    name: str, rows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, case = offers()[name], CASES[name]
    if name == "win-rate":
        path = tmp_path / "reward.py"
        path.write_text("def reward(prompt, answer):\n    return len(answer)\n")
        case = case.given(reward=f"{path}:reward")
    if name == "judge":
        module = import_module("tunesmith_plugins.evaluators.judge")
        monkeypatch.setattr(module, "open_judge", lambda *a: lambda asked: longer(asked))
        case = case.given(model="m")
    if name == "kl":
        case = replace(case, model=replace(case.model, logprobs={}))
    tuned = {e.metric: e for e in evaluate(tmp_path, "tuned", offer, case, None)}
    part = {e.metric: e for e in evaluate(tmp_path, "zero-shot", offer, case, rows)}
    assert tuned and (part.keys() == tuned.keys() or name == "repeatability")
    for metric, event in part.items():
        pairs = read_pairs(tmp_path, event, tuned[metric], {m.name: m for m in offer.metrics})
        # `repeatability` asks some rows again; the others have no weight, and are no pairs.
        assert len(pairs) == len(rows) or (name == "repeatability" and len(pairs))
        assert pairs.baseline_values == pairs.tuned_values, metric
        if any(pairs.weights or [1.0]):
            found = compare(
                pairs.baseline_values, pairs.tuned_values, event.higher_is_better,
                weights=pairs.weights, bounds=event.bounds,
            )  # fmt: skip
            assert found.difference.value == 0.0 and found.outcome == "unclear"


def longer(prompts: Sequence[str]) -> list[str]:
    """Judge by the number of words, as a judge of a test may."""
    verdicts = []
    for prompt in prompts:
        first, _, second = prompt.partition("end of answer A")
        words = len(first.rpartition("answer A]")[2].split()), len(second.split())
        verdicts.append("A" if words[0] > words[1] else "B")
    return verdicts
