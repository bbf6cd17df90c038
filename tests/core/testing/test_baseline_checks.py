"""The checks of baselines: a baseline with a fault fails exactly the right ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import pytest
from bench import plugin

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith.records import last_exchange
from tunesmith.testing import run_checks
from tunesmith.testing.checks import REGISTERED_CHECKS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.classify.function_model import FunctionModel

ALL_CHECKS = [check.name for check in REGISTERED_CHECKS if check.kind == "baseline"]
Answer = Callable[[Sequence[str]], Sequence[str]]


class NoOptions(Options):
    """No options."""


def answer_with(change: str, answer: str, built: int) -> Answer:
    """Return the function that gives one answer to all texts, with one fault."""
    faults: dict[str, Answer] = {
        "looks at the batch": lambda texts: [f"{answer} {len(texts)}" for _ in texts],
        "looks at the order": lambda texts: [f"{answer} {min(n, 1)}" for n, _ in enumerate(texts)],
        "differs": lambda texts: [f"{answer} {built}" for _ in texts],
        "drops one": lambda texts: [answer for _ in texts[1:]],
    }
    return faults.get(change, lambda texts: [answer for _ in texts])


class Faulty:
    """A baseline that repeats the answer of the first training row, with one fault."""

    count = 0

    def __init__(self, change: str) -> None:
        self.change = change
        Faulty.count += 1
        self.number = Faulty.count

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        if self.change == "asks the model":
            task.base()
        if self.change == "changes rows" and isinstance(task.train, list):
            task.train.reverse()
        rows = [last_exchange(record) for record in task.train]
        if self.change == "needs rows":
            assert rows[1]
        text = rows[0][1].text if rows else ""
        classifier = FunctionModel(answer_with(self.change, text, self.number))
        model = FakeTextModel() if self.change == "scores" else classifier
        yield BaselineVariant(name="one", model=model)
        yield BaselineVariant(name="one" if self.change == "same names" else "two", model=model)


def baseline_module(change: str) -> ModuleType:
    """Return a plugin with the baseline."""
    offer = BaselineOffer(
        name="faulty",
        summary="a baseline",
        config=NoOptions,
        build=lambda options: Faulty(change),
        solution="classifier",
        cost=1,
    )
    module = ModuleType("kit_specimen")
    module.__file__ = __file__.replace("test_baseline_checks.py", "specimen/kit_specimen.py")
    vars(module).update(vars(plugin(baselines=lambda: [offer])))
    return module


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("asks the model", ALL_CHECKS),
        ("changes rows", ["leaves_training_rows_unchanged"]),
        ("needs rows", ["copes_with_few_rows"]),
        ("looks at the batch", ["does_not_depend_on_other_prompts"]),
        ("looks at the order", ["does_not_depend_on_other_prompts"]),
        ("differs", ["knows_only_its_training_rows", "solves_the_same_way_twice"]),
        ("drops one", ["answers_every_prompt", "does_not_depend_on_other_prompts"]),
        ("scores", ["classifiers_refuse_to_score"]),
        ("same names", ["variants_have_names_of_their_own"]),
    ],
)
def test_a_faulty_baseline_fails_the_right_checks(change: str, promises: list[str]) -> None:
    results = run_checks(baseline_module(change))
    found = {r.check for r in results if r.state == "failed"} - {"import_is_light"}  # has no file
    assert sorted(found) == sorted(promises)
