"""Tests of choosing and measuring baselines."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import Field
from tests.fixtures.python.bench import (
    RIGHT,
    ZERO_SHOT,
    Bench,
    catalog_of,
    echo_plugin,
    offering,
    rows,
)

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.errors import ConfigError, PluginError, PromptTooLongError, UsageError
from tunesmith.execution.baselines import BaselineChoice
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.execute import load_report
from tunesmith.execution.suitable_baselines import SAMPLE_ROWS, choose_baselines
from tunesmith.options import Options
from tunesmith.testing.fakes import FakeTextModel


class TableOptions(Options):
    """Options of a baseline that looks answers up."""

    sizes: list[int] = Field([2, 6], description="Number of cities that each variant knows.")
    fault: str = Field("", description="An error that the baseline raises.")


@dataclass
class Table:
    """Answers by the number at the beginning of the prompt, as a training row does."""

    options: TableOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        if self.options.fault:
            raise UsageError(self.options.fault)
        SEEN.append(task)
        answers = {r.prompt[0]: r.completion for r in task.train}  # type: ignore[attr-defined]
        for size in self.options.sizes:
            known = {key: answers[key] for key in sorted(answers)[:size]}
            yield BaselineVariant(name=f"size={size}", model=FakeTextModel(answers=ByNumber(known)))


class ByNumber(dict[str, str]):
    """Answers by the first character of a prompt."""

    def get(self, prompt: Any, default: Any = "") -> Any:
        return super().get(str(prompt)[0], default)


SEEN: list[BaselineTask] = []
TABLE = replace(
    ZERO_SHOT,
    name="table",
    config=TableOptions,
    build=Table,
    solution="classifier",
    cost=10,
    needs_model=False,
    suits=lambda records: len(records) > 3,
    is_configured=lambda options: options.sizes == [3],
)


@pytest.fixture
def table_bench(tmp_path: Any) -> Bench:
    SEEN.clear()
    return Bench(tmp_path, catalog_of(table=offering("baselines", TABLE)))


def test_the_variant_is_chosen_on_validation_rows_and_scored_once(table_bench: Bench) -> None:
    report = table_bench.run(baselines={"use": ["table"]}, split={"validation_size": 12})
    chosen = report.baselines["table"]
    assert (chosen.variant, chosen.validation_score, chosen.validation_rows) == ("size=6", 1.0, 12)
    assert [v["name"] for v in chosen.variants] == ["size=2", "size=6"]
    assert chosen.variants[0]["score"] < 1.0
    measured = report.measured["table", "right", "right"]
    assert (measured.value, measured.n) == (1.0, report.data.test)  # type: ignore[union-attr]
    (task,) = SEEN
    sources = {record.source for record in task.train}
    assert len(sources) == report.data.train  # type: ignore[union-attr]
    rows = (table_bench.root / "out" / measured.records).read_text().splitlines()
    assert not sources & {json.loads(line)["source"] for line in rows}


def test_without_validation_rows_the_variant_is_chosen_out_of_fold(table_bench: Bench) -> None:
    report = table_bench.run(baselines={"use": ["table"]})
    data, chosen = report.data, report.baselines["table"]
    assert data is not None and data.validation == 0 and data.train < 100
    assert chosen.variant == "size=6", "the first variant knows two cities only"
    assert (chosen.validation_score, chosen.validation_rows, chosen.folds) == (1.0, data.train, 5)
    assert [v["score"] < 1.0 for v in chosen.variants] == [True, False]
    *folds, everything = sorted(({r.source for r in task.train} for task in SEEN), key=len)
    skipped = [everything - seen for seen in folds]
    assert len(skipped) == 5 and min(map(len, skipped)) > 0
    assert sum(map(len, skipped)) == data.train == len(set().union(*skipped))


@pytest.mark.parametrize(("sizes", "verb"), [([2, 6], "choosing"), ([6], "scoring")])
def test_a_baseline_with_one_variant_is_scored_without_a_choice(
    table_bench: Bench, sizes: list[int], verb: str
) -> None:
    """The verdict needs its score on validation rows, and the scores are the same."""
    options = {"use": ["table"], "table": {"sizes": sizes}}
    report = table_bench.run(baselines=options, split={"validation_size": 12})
    chosen = report.baselines["table"]
    assert (chosen.variant, chosen.validation_score, chosen.validation_rows) == ("size=6", 1.0, 12)
    events = (table_bench.root / "out" / "events.jsonl").read_text()
    assert f'"{verb}: table size=6"' in events


class Memory:
    """Knows the training rows by heart. Its variants are named by what they have learned."""

    def __init__(self, options: TableOptions) -> None:
        self.sizes = options.sizes

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        known = {r.prompt: r.completion for r in task.train}  # type: ignore[attr-defined]
        for size in self.sizes[: 1 if len(known) < 48 else 2]:
            yield BaselineVariant(
                name=f"{size} of {len(known)}", model=FakeTextModel(answers=known)
            )


def test_a_row_is_never_scored_by_what_has_learned_from_it(tmp_path: Any) -> None:
    bench = Bench(tmp_path, catalog_of(memory=offering("baselines", replace(TABLE, build=Memory))))
    chosen = bench.run(baselines={"use": ["table"]}).baselines["table"]
    assert [variant["score"] for variant in chosen.variants] == [0.0, 0.0]


def test_a_costly_baseline_is_scored_out_of_fold_on_twenty_rows(tmp_path: Any) -> None:
    strong = replace(TABLE, name="strong", needs_model=True, solution="prompt")
    bench = Bench(tmp_path, catalog_of(strong=offering("baselines", strong)))
    chosen = bench.run(baselines={"use": ["strong"]}).baselines["strong"]
    assert (chosen.variant, chosen.validation_score, chosen.validation_rows) == ("size=6", 1.0, 20)
    assert [v["rows"] for v in chosen.variants] == [10, 20], "the worse one stopped half-way"


def test_many_rows_without_validation_rows_have_no_folds(table_bench: Bench) -> None:
    table_bench.write_rows(rows(1300))
    report = table_bench.run(baselines={"use": ["table"]}, split={"validation_size": 0})
    assert report.data is not None and report.data.train > 1_000
    chosen = report.baselines["table"]
    assert (chosen.variant, chosen.validation_score, chosen.folds) == ("size=2", None, 0)
    reason = "there are no validation rows to compare variants on"
    assert [(v["name"], v["reason"]) for v in chosen.not_tried] == [("size=6", reason)]


def test_costly_baselines_are_scored_on_the_same_random_rows(table_bench: Bench) -> None:
    use = ["table", "zero-shot", "random-shots"]
    table_bench.write_rows(rows(1300))
    table_bench.run(
        baselines={"use": use, "rows": 5}, data={"test_size": 20}, split={"validation_size": 0}
    )
    scored = {}
    for name in [*use, "tuned"]:
        path = table_bench.root / "out" / "evaluations" / f"{name}.right.jsonl"
        scored[name] = [json.loads(line)["row"] for line in path.read_text().splitlines()]
    assert scored["zero-shot"] == scored["random-shots"] and len(scored["zero-shot"]) == 5
    assert scored["table"] == scored["tuned"] == [*range(20)]


def test_the_strongest_costly_baseline_is_scored_on_all_rows_if_there_is_time(
    tmp_path: Any,
) -> None:
    strong = replace(TABLE, name="strong", needs_model=True, is_reference=True, solution="prompt")
    bench = Bench(tmp_path, catalog_of(strong=offering("baselines", strong)))
    baselines: dict[str, Any] = {"use": ["strong", "zero-shot"], "rows": 5}
    split, data = {"validation_size": 12}, {"test_size": 20}
    measured = bench.run(baselines=baselines, split=split, data=data).measured
    assert measured["strong", "right", "right"].n == 20
    assert measured["zero-shot", "right", "right"].n == 5
    plan = bench.plan(baselines=baselines, evaluators=[{"use": "right"}])
    (strongest, _), emit = plan.baselines, SimpleNamespace(report=load_report(bench.folder()))
    nothing: Any = None
    choice = BaselineChoice(plan, nothing, nothing, plan.evaluators[0], nothing, emit)  # type: ignore[arg-type]
    assert choice.select_rows(strongest, 20, 1e6) == range(20)
    assert len(choice.select_rows(strongest, 20, 0.0)) == 5
    # A metric of all rows together, whose parts cannot be computed, is compared on all rows only.
    for compute, count in ((None, 20), (sum, 5)):
        metric = replace(RIGHT.metrics[0], is_row_mean=False, compute=compute)
        joint = replace(RIGHT, metrics=(metric,))
        evaluator = plan.evaluators[0]
        evaluator = replace(evaluator, offered=replace(evaluator.offered, offer=joint))
        asked = replace(choice, evaluator=evaluator).select_rows(strongest, 20, 0.0)
        assert len(asked) == count


def test_a_costly_baseline_is_scored_on_few_rows_if_a_free_one_is_stronger(tmp_path: Any) -> None:
    free = replace(TABLE, name="free")
    costly = replace(TABLE, name="costly", cost=99, needs_model=True, solution="prompt")
    sizes, baselines = {"sizes": [2]}, {"use": ["free", "costly"], "rows": 5}
    for weak, rows_of_costly in (("costly", 5), ("free", 20)):
        root = tmp_path / weak
        root.mkdir()
        offers = {o.name: offering("baselines", o) for o in (free, costly)}
        measured = Bench(root, catalog_of(**offers)).run(
            baselines={**baselines, weak: sizes},
            split={"validation_size": 12},
            data={"test_size": 20},
        ).measured  # fmt: skip
        assert measured["costly", "right", "right"].n == rows_of_costly
        assert measured["free", "right", "right"].n == 20


def test_default_baselines_suit_the_rows_and_can_be_measured(table_bench: Bench) -> None:
    plan = table_bench.plan()
    (evaluator,) = [c for c in table_bench.plan(evaluators=[{"use": "right"}]).evaluators]
    scoring = replace(
        evaluator,
        offered=replace(evaluator.offered, offer=replace(evaluator.offer, generates=False)),
    )

    def names(train: Any, evaluator: Any) -> list[str]:
        return [baseline.offer.name for baseline in choose_baselines(plan, train, evaluator)]

    assert names([*range(9)], evaluator) == ["table", "zero-shot", "random-shots"]
    assert names([*range(3)], evaluator) == ["zero-shot", "random-shots"]
    assert names([*range(9)], scoring) == ["zero-shot", "random-shots"]
    assert names([*range(3 * SAMPLE_ROWS)], evaluator)[0] == "table"
    plan = table_bench.plan(baselines={"table": {"sizes": [3]}})
    assert names([*range(3)], evaluator) == ["table", "zero-shot", "random-shots"], "configured"
    named = table_bench.plan(baselines={"use": ["table"]})
    assert [r.offer.name for r in choose_baselines(named, [], evaluator)] == ["table"]


def test_a_baseline_without_time_or_variants_is_skipped_with_the_reason(table_bench: Bench) -> None:
    report = table_bench.run(baselines={"use": ["table"], "table": {"sizes": []}})
    assert "no variant" in report.baselines["table"].skipped
    assert "table" not in {name for name, _, _ in report.measured}


def test_a_default_baseline_that_fails_is_skipped_and_a_named_one_is_an_error(
    tmp_path: Any,
) -> None:
    always = replace(TABLE, solution="prompt", suits=bool)
    bench = Bench(tmp_path, catalog_of(table=offering("baselines", always)))
    report = bench.run(baselines={"table": {"fault": "no luck"}})
    assert report.baselines["table"].skipped == "no luck"
    with pytest.raises(UsageError, match="no luck"):
        bench.run(folder="two", baselines={"use": ["table"], "table": {"fault": "no luck"}})


def test_a_fault_of_a_baseline_names_its_plugin(tmp_path: Any) -> None:
    broken = replace(TABLE, build=lambda options: None)
    bench = Bench(tmp_path, catalog_of(table=offering("baselines", broken)))
    with pytest.raises(PluginError, match="table"):
        bench.run(baselines={"use": ["table"]})


def test_a_base_model_that_cannot_be_opened_is_the_fault_of_the_technique(tmp_path: Any) -> None:
    """Not of the baseline that asks for it first."""

    def fail(*_: object, **__: object) -> FakeTextModel:
        raise NotImplementedError

    bench = Bench(tmp_path, catalog_of(echo=echo_plugin(open=fail)))
    with pytest.raises(PluginError, match=r'"file:echo".*NotImplementedError.*\(test_baselines'):
        bench.run(baselines={"use": ["zero-shot"]})


def test_a_resumed_run_takes_the_variant_that_was_chosen(table_bench: Bench) -> None:
    table_bench.run(baselines={"use": ["table"]}, split={"validation_size": 12})
    (table_bench.root / "out" / "evaluations" / "table.right.jsonl").unlink()
    report = table_bench.run(
        resume=True, baselines={"use": ["table"]}, split={"validation_size": 12}
    )
    events = [e for e in table_bench.events() if e["event"] == "baseline-chosen"]
    assert [e["baseline"] for e in events].count("table") == 1, "nothing is chosen twice"
    assert report.measured["table", "right", "right"].value == 1.0


class Clock:
    """A clock that a variant advances when it answers, so that a budget runs out at will."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@dataclass
class Slow:
    """A costly baseline. Each of its variants takes some seconds for each row, or fails."""

    clock: Clock
    variants_: dict[str, dict[str, Any]]

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        known = {r.prompt: r.completion for r in task.train}  # type: ignore[attr-defined]
        for name, about in self.variants_.items():
            if "unbuilt" in about:
                raise UsageError(about["unbuilt"])
            yield BaselineVariant(name=name, model=SlowModel(self.clock, about, known))


class SlowModel(FakeTextModel):
    """Answers right where a number that the prompt begins with is below ``right``."""

    def __init__(self, clock: Clock, about: dict[str, Any], known: dict[str, str]) -> None:
        self.clock, self.about, self.asked = clock, about, 0
        answers = {f"{n}": a for n, a in [(p[0], a) for p, a in known.items()]}
        shown = sorted(answers)[: about.get("right", 0)]
        super().__init__(answers=ByNumber({key: answers[key] for key in shown}))

    def generate(self, prompts: Any, max_new_tokens: int, *, progress: Any = None) -> Any:
        self.asked += len(prompts)
        if "fails" in self.about and self.asked > self.about.get("after", 0):
            raise UsageError(self.about["fails"])
        self.clock.now += self.about.get("seconds", 0.0) * len(prompts)
        return super().generate(prompts, max_new_tokens, progress=progress)


def slow_bench(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    baselines: dict[str, dict[str, dict[str, Any]]],
    **plugins: Any,
) -> Bench:
    """Return a bench with costly baselines, the cheapest first, and a clock that they advance."""
    clock = Clock()
    monkeypatch.setattr("tunesmith.execution.baselines.time", clock)

    def offer_of(place: int, name: str) -> Any:
        return replace(
            TABLE, name=name, cost=100 + place, needs_model=True, solution="prompt", suits=bool,
            build=lambda options: Slow(clock, baselines[name]),
        )  # fmt: skip

    offers = [offer_of(place, name) for place, name in enumerate(baselines)]
    plugins |= {o.name: offering("baselines", o) for o in offers}
    return Bench(tmp_path, catalog_of(**plugins))


def test_no_costly_baseline_starves_and_the_most_promising_one_goes_on(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows of one second each: the first of each, then the others of the better one."""
    weak = {f"weak {n}": {"seconds": 1.0, "right": 1} for n in range(3)}
    strong = {f"strong {n}": {"seconds": 1.0, "right": 5} for n in range(3)}
    bench = slow_bench(tmp_path, monkeypatch, {"weak": weak, "strong": strong})
    report = bench.run(baselines={"budget": "35s"}, split={"validation_size": 12})
    tried = {
        name: [v["name"] for v in report.baselines[name].variants] for name in ("weak", "strong")
    }
    assert tried == {"weak": ["weak 0"], "strong": ["strong 0", "strong 1"]}
    assert report.baselines["weak"].not_tried == [
        {"name": f"weak {n}", "reason": "the time limit [baselines] budget was reached"}
        for n in (1, 2)
    ]
    assert [v["name"] for v in report.baselines["strong"].not_tried] == ["strong 2"]
    assert all(name in {model for model, _, _ in report.measured} for name in ("weak", "strong"))


def test_a_variant_that_fails_leaves_those_that_do_not(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = {"good": {"right": 6}, "long": {"fails": "no room"}, "next": {"unbuilt": "no rows"}}
    bench = slow_bench(tmp_path, monkeypatch, {"shots": shots})
    chosen = bench.run(split={"validation_size": 12}).baselines["shots"]
    assert (chosen.variant, chosen.skipped) == ("good", "")
    assert chosen.not_tried == [
        {"name": "", "reason": "no rows"},
        {"name": "long", "reason": "no room"},
    ]
    with pytest.raises(UsageError, match="no rows"):
        bench.run(folder="named", baselines={"use": ["shots"]}, split={"validation_size": 12})


def test_close_variants_are_compared_on_more_rows(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All on 10 rows, the better half on 20 and so on: ten rows choose almost by chance."""
    four = {f"right={right}": {"right": right} for right in (1, 5, 2, 6)}
    nine = {f"right={right}, {n}": {"right": right} for n in range(3) for right in (1, 5, 6)}
    bench = slow_bench(tmp_path, monkeypatch, {"four": four, "nine": nine})
    bench.write_rows(rows(400))
    report = bench.run(split={"validation_size": 100})
    chosen = report.baselines["four"]
    assert chosen.variant == "right=6"
    counts = {v["name"]: v["rows"] for v in chosen.variants}
    assert counts == {"right=1": 10, "right=5": 20, "right=2": 10, "right=6": 20}
    assert chosen.validation_rows == 20
    rows_of = Counter(v["rows"] for v in report.baselines["nine"].variants)
    assert rows_of == {10: 4, 20: 2, 40: 1, 80: 2}, "nine, five, three, two"


@pytest.mark.parametrize("failing", ["right=6", "right=5"])
def test_a_variant_that_fails_on_more_rows_does_not_spare_another_one_its_rows(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    variants: dict[str, Any] = {f"right={right}": {"right": right} for right in (1, 5, 2, 6)}
    variants[failing] |= {"fails": "no room", "after": 10}
    bench = slow_bench(tmp_path, monkeypatch, {"shots": variants})
    bench.write_rows(rows(400))
    chosen = bench.run(split={"validation_size": 60}).baselines["shots"]
    score = {"right=6": 1.0, "right=5": pytest.approx(0.8, abs=0.25)}[failing]
    failed = {"name": failing, "reason": "no room", "score": score, "rows": 10}
    assert chosen.not_tried == [failed], "it keeps its score so far"
    (other,) = {"right=6", "right=5"} - {failing}
    assert (chosen.variant, chosen.validation_rows) == (other, 20)


def test_the_worse_variants_are_left_if_the_better_ones_fail_on_more_rows(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = {
        "poor": {"right": 1},
        "fair": {"right": 3},
        "good": {"right": 5, "fails": "no room", "after": 10},
        "best": {"right": 6, "fails": "no room", "after": 10},
    }
    bench = slow_bench(tmp_path, monkeypatch, {"shots": shots})
    bench.write_rows(rows(400))
    chosen = bench.run(split={"validation_size": 60}).baselines["shots"]
    assert (chosen.variant, chosen.skipped, chosen.validation_rows) == ("fair", "", 20)
    assert [variant["name"] for variant in chosen.not_tried] == ["best", "good"]


def test_each_variant_states_why_it_was_not_chosen(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = {f"right={right}": {"right": right} for right in (1, 5, 2, 6)}
    bench = slow_bench(tmp_path, monkeypatch, {"four": four, "slow": SLOW_PAIR})
    bench.write_rows(rows(110))
    split = {"validation_size": 44}
    baselines = bench.run(baselines={"budget": "55s"}, split=split).baselines
    assert {v["name"]: v["reason"] for v in baselines["four"].variants} == {
        "right=1": "after 10 rows: not in the better half",
        "right=2": "after 10 rows: not in the better half",
        "right=5": "after 20 rows: not in the better half",
        "right=6": "",
    }
    no_time = "after 10 rows: the time limit [baselines] budget was reached"
    assert [v["reason"] for v in baselines["slow"].variants] == ["", no_time]


def test_a_variant_of_a_free_baseline_states_why_it_was_not_chosen(table_bench: Bench) -> None:
    report = table_bench.run(baselines={"use": ["table"]}, split={"validation_size": 12})
    reasons = [v["reason"] for v in report.baselines["table"].variants]
    assert reasons == ["after 12 rows: not better than the chosen variant", ""]


SLOW_PAIR = {name: {"seconds": 2.5, "right": 3} for name in ("slow", "slower")}


@pytest.mark.parametrize("count", [1, 4])
def test_a_baseline_without_a_right_answer_needs_few_rows(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """It is scored on 20 validation rows (10 if it has one variant) and on 20 test rows."""
    zero = {f"zero {n}": {"right": 0} for n in range(count)}
    one = {"one": {"right": 1}}
    bench = slow_bench(
        tmp_path, monkeypatch, {"zero": zero, "one": one, "best": {"b": {"right": 6}}}
    )
    monkeypatch.setattr("tunesmith.options.DEFAULT_BASELINE_ROWS", 25)
    bench.write_rows(rows(110))
    settings: dict[str, Any] = {"split": {"validation_size": 24}, "data": {"test_size": 30}}
    report = bench.run(**settings)
    chosen = report.baselines["zero"]
    assert (chosen.validation_rows, chosen.test_rows) == (20 if count > 1 else 10, 20)
    counts = {name: report.measured[name, "right", "right"].n for name in ("zero", "one", "best")}
    assert counts == {"zero": 20, "one": 25, "best": 30}
    assert report.baselines["one"].test_rows is None
    answered = {
        name: {row["row"] for row in read_rows(bench.root / "out" / event.records, "right")}
        for (name, _, _), event in report.measured.items()
    }
    assert answered["zero"] < answered["one"], "weak baselines are compared on the same rows"
    monkeypatch.setattr("tunesmith.options.DEFAULT_BASELINE_ROWS", 100)
    all_rows = bench.run(folder="all", **settings).measured
    assert [all_rows[name, "right", "right"].n for name in ("zero", "one")] == [20, 30]
    asked = bench.run(folder="asked", baselines={"rows": 25}, **settings)
    assert asked.measured["zero", "right", "right"].n == 25, "the run file's number counts"


def test_a_share_of_wrong_answers_is_worst_at_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best baseline has 0 wrong answers, and is not taken for one without a right answer."""
    metric = replace(RIGHT.metrics[0], higher_is_better=False)
    inverted = offering("evaluators", replace(RIGHT, metrics=(metric,)))
    variants = {"zero": {"z": {"right": 0}}, "best": {"b": {"right": 6}}}
    bench = slow_bench(tmp_path, monkeypatch, variants, right=inverted)
    report = bench.run(
        evaluators=[{"use": "file:right:right", "inverted": True}], split={"validation_size": 12}
    )
    assert [report.baselines[name].test_rows for name in ("zero", "best")] == [20, None]


class Omitting(Table):
    """Leaves its second variant out."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        first, second = super().variants(task)
        yield from (first, replace(second, omitted="too many tokens"))


def test_a_variant_that_the_baseline_leaves_out_is_reported_and_not_compared(
    tmp_path: Any,
) -> None:
    offer = replace(TABLE, build=Omitting)
    bench = Bench(tmp_path, catalog_of(table=offering("baselines", offer)))
    chosen = bench.run(baselines={"use": ["table"]}, split={"validation_size": 12})
    event = chosen.baselines["table"]
    assert event.omitted == [{"name": "size=6", "reason": "too many tokens"}]
    assert [v["name"] for v in event.variants] == ["size=2"] and not event.not_tried


def test_a_baseline_depends_neither_on_the_others_nor_on_unused_time(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the number of its test rows may differ: the strongest baseline gets all of them."""
    monkeypatch.setattr("tunesmith.options.DEFAULT_BASELINE_ROWS", 12)
    rng = random.Random(1)
    specs = {
        name: {
            f"{name} {n}": {"right": rng.randrange(7), "seconds": rng.random()}
            for n in range(rng.randint(1, 5))
        }
        for name in ("one", "two", "three")
    }

    def measure(names: list[str], budget: str) -> dict[str, Any]:
        root = tmp_path / f"{len(names)}{names[0]}{budget}"
        root.mkdir()
        bench = slow_bench(root, monkeypatch, {name: specs[name] for name in names})
        bench.write_rows(rows(110))
        report = bench.run(baselines={"budget": budget}, split={"validation_size": 44})
        return {name: outcome(bench, report, name) for name in names}

    def outcome(bench: Bench, report: Any, name: str) -> tuple[Any, dict[int, float]]:
        chosen = report.baselines[name]
        tried = [[v[key] for key in ("name", "score", "rows", "reason")] for v in chosen.variants]
        path = bench.root / "out" / report.measured[name, "right", "right"].records
        values = {row["row"]: row["right"]["value"] for row in read_rows(path, "right")}
        return (chosen.variant, chosen.validation_score, chosen.test_rows, tried), values

    together = measure([*specs], "10h")
    pairs = (["one", "two"], ["two", "three"])
    others = [measure([*specs][::-1], "20h"), *(measure(names, "10h") for names in pairs)]
    for name, (choice, values) in ((n, o) for other in others for n, o in other.items()):
        assert choice == together[name][0]
        shared = values.keys() & together[name][1].keys()
        assert len(shared) >= min(len(values), len(together[name][1]))
        assert all(values[row] == together[name][1][row] for row in shared)


@dataclass
class Picky(Table):
    """Refuses training rows that are fewer than all of them."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        if len(task.train) < 48:
            raise UsageError("too few rows")
        yield from super().variants(task)


@pytest.mark.parametrize("needs_model", [False, True])
def test_a_default_baseline_that_refuses_a_fold_is_skipped(
    tmp_path: Any, needs_model: bool
) -> None:
    picky = replace(TABLE, build=Picky, needs_model=needs_model, solution="prompt", suits=bool)
    bench = Bench(tmp_path, catalog_of(table=offering("baselines", picky)))
    assert bench.run().baselines["table"].skipped == "too few rows"
    with pytest.raises(UsageError, match="too few rows"):
        bench.run(folder="named", baselines={"use": ["table"]})


def test_variants_of_one_name_are_a_fault_of_the_plugin(tmp_path: Any) -> None:
    """A resumed run, and the winner, find the variant by its name."""
    bench = Bench(tmp_path, catalog_of(table=offering("baselines", TABLE)))
    with pytest.raises(PluginError, match=r'"file:table" returned two variants named "size=2"'):
        bench.run(
            baselines={"use": ["table"], "table": {"sizes": [2, 2]}}, split={"validation_size": 12}
        )


class Narrow(FakeTextModel):
    """Has room for answers of eight tokens."""

    def generate(self, prompts: Any, max_new_tokens: int, *, progress: Any = None) -> Any:
        if max_new_tokens > 8:
            raise PromptTooLongError("longer than the model's context", prompts)
        return super().generate(prompts, max_new_tokens, progress=progress)


class NarrowTable(Table):
    """Answers with models that have little room."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        for variant in super().variants(task):
            yield replace(variant, model=Narrow(answers=variant.model.answers))  # type: ignore[attr-defined]


def test_a_baseline_without_room_for_a_later_evaluator_keeps_what_was_chosen(tmp_path: Any) -> None:
    """What was measured by the deciding evaluator is the variant that the report names."""
    narrow = replace(TABLE, build=NarrowTable, needs_model=True, solution="prompt")
    bench = Bench(tmp_path, catalog_of(table=offering("baselines", narrow)))
    evaluators = [{"use": "right"}, {"use": "right", "limit": 20}]
    report = bench.run(
        evaluators=evaluators, baselines={"use": ["table"]}, split={"validation_size": 12}
    )
    chosen = report.baselines["table"]
    assert report.measured["table", "right", "right"].value == 1.0
    assert (chosen.variant, chosen.validation_score, chosen.skipped) == ("size=6", 1.0, "")
    (finding,) = [n for n in report.findings if n.source == "baselines.table"]
    assert "longer than the model's context" in finding.message


def test_a_baseline_that_suits_the_rows_and_is_not_named_is_reported(table_bench: Bench) -> None:
    report = table_bench.run(baselines={"use": ["table"]}, split={"validation_size": 12})
    left = {name: event for name, event in report.baselines.items() if event.excluded}
    assert set(left) == {"zero-shot", "random-shots"}
    assert left["zero-shot"].skipped == "[baselines] use does not name it"
    assert (
        not table_bench.run(folder="all", split={"validation_size": 12})
        .baselines["zero-shot"]
        .excluded
    )


@pytest.mark.parametrize(
    ("baselines", "where", "what"),
    [
        ({"use": ["tabel"]}, "baselines.use", "tabel"),
        ({"use": ["zero-shot"], "table": {"sizes": [3]}}, "baselines.table", "has no effect"),
        ({"table": {"size": 3}}, "baselines.table.size", "unknown key"),
        ({"table": 3}, "baselines.table", "must be a table"),
        ({"tabel": {}}, "baselines.tabel", "unknown key"),
        ({"budget": "soon"}, "baselines.budget", "soon"),
    ],
)
def test_faults_in_the_table(
    table_bench: Bench, baselines: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        table_bench.plan(baselines=baselines)
    (problem,) = caught.value.problems
    assert problem.where == where and what in f"{problem.what} {problem.hint}"


def test_the_gate_names_baselines_of_the_run(table_bench: Bench) -> None:
    assert table_bench.plan(gate={"must_beat": ["table"]}).gate.must_beat == ["table"]
    with pytest.raises(ConfigError, match='did you mean "zero-shot"'):
        table_bench.plan(gate={"must_beat": ["base"]})
    with pytest.raises(ConfigError, match='"table"'):
        table_bench.plan(gate={"must_beat": ["table"]}, baselines={"use": []})


def test_the_stored_plan_has_the_options_of_baselines(table_bench: Bench) -> None:
    plan = table_bench.plan(baselines={"table": {"sizes": [4]}})
    assert plan.to_json()["baselines"]["table"]["sizes"] == [4]
    assert plan.baseline_options.budget_seconds == 300


def test_all_evaluators_measure_the_reference_and_the_first_kind_the_other_costly_ones(
    tmp_path: Any,
) -> None:
    scoring = replace(RIGHT, name="scoring", generates=False, default_for=lambda records: False)
    shots = replace(ZERO_SHOT, name="shots", is_reference=False)
    bench = Bench(
        tmp_path,
        catalog_of(more=offering("evaluators", scoring), shots=offering("baselines", shots, TABLE)),
    )
    report = bench.run(
        evaluators=[{"use": "right"}, {"use": "scoring"}],
        baselines={"use": ["table", "zero-shot", "shots"]},
    )
    measured = {(model, evaluator) for model, evaluator, _ in report.measured}
    assert {model for model, evaluator in measured if evaluator == "scoring"} == {
        "zero-shot",
        "tuned",
    }
    assert {"table", "zero-shot", "shots", "tuned"} == {m for m, e in measured if e == "right"}
