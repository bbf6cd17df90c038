"""The matrix itself: a wrong number, a crash and a hang are seen, and the page is up to date."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.architectures import page, workers
from tests.architectures.cases import all_cases, fast_cases, select
from tests.architectures.compare import Result, Setting, different_answers, max_difference
from tests.architectures.models import Case
from tests.architectures.reference import Answer, tokenize
from tests.architectures.rows import make_rows
from tests.architectures.sizes import KIND, Sizes, tiny_config

from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

SETTING = Setting()


def found(case: Case, setting: Setting, folder: Path) -> Result:
    (folder / "here").touch()
    return Result(str(case), case.model_type)


def ends(case: Case, setting: Setting, folder: Path) -> Result:
    if case.model_type == "bad":
        os._exit(3)
    return found(case, setting, folder)


def hangs(case: Case, setting: Setting, folder: Path) -> Result:
    if case.model_type == "bad":
        time.sleep(60)
    return found(case, setting, folder)


def verdicts(work: workers.Work) -> dict[str, tuple[str, str]]:
    cases = [Case("good"), Case("bad"), Case("also good")]
    results = workers.examine_all(cases, SETTING, work=work, limit=1.0)
    return {r.name: (r.verdict, r.reason) for r in results}


@pytest.mark.parametrize(
    ("work", "reason"),
    [(ends, "the process ended with 3"), (hangs, "no result after 1 seconds")],
)
def test_a_crash_or_a_hang_ends_one_architecture_only(work: workers.Work, reason: str) -> None:
    results = verdicts(work)
    assert results.pop("bad") == ("crash", reason)
    assert results == {"good": ("exact", ""), "also good": ("exact", "")}


def test_the_worst_verdict_is_kept_with_its_first_reason() -> None:
    result = Result("x", "x")
    for verdict, reason in (("refused", "a"), ("wrong", "b"), ("refused", "c"), ("wrong", "d")):
        result.fail(verdict, reason)
    assert (result.verdict, result.reason) == ("wrong", "b")


def test_a_difference_is_relative_and_the_largest() -> None:
    assert max_difference([(2.0, 1.0), (4.0, 1.0)], [(2.0, 1.0), (5.0, 1.0)], 0) == 0.2
    assert not max_difference([(float("nan"), 1.0)], [(2.0, 1.0)], 0) <= 1


def test_answers_may_differ_from_a_tie_on_only() -> None:
    tokenizer = build_tiny_tokenizer()
    ids = tokenizer("the capital of", add_special_tokens=False)["input_ids"]
    first = tokenizer.decode(ids[:2])
    clear, tied = Answer(ids, [1.0] * len(ids)), Answer(ids, [1.0, 1.0, 1e-6, *[1.0] * len(ids)])
    assert different_answers([first + "other"], [clear], tokenizer) == 1
    assert different_answers([first + "other"], [tied], tokenizer) == 0
    assert different_answers(["x" + first], [tied], tokenizer) == 1


def test_rows_are_longer_and_shorter_than_every_limit() -> None:
    tokenizer, sizes = build_tiny_tokenizer(), Sizes()
    for shared in (True, False):
        rows = make_rows(0, SETTING.lengths, shared=shared).train
        lengths = [len(tokenize(tokenizer, row).ids) for row in rows]
        assert max(lengths) > sizes.original_context > sizes.chunk > sizes.window
        assert shared or min(lengths) < sizes.original_context
        assert max(lengths) < sizes.context


def test_configs_are_small_and_mix_their_layers() -> None:
    config = tiny_config("gemma3_text", Sizes(), {})
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.hidden_size == 32
    assert tiny_config("llama", Sizes(hidden=64), {"attention_bias": True}).attention_bias
    assert KIND["sliding_window"] == "window"


def test_cases_are_many_and_can_be_selected() -> None:
    cases = all_cases(Sizes())
    assert len({str(case) for case in cases}) == len(cases) > 200
    assert {str(case) for case in fast_cases()} <= {str(case) for case in cases}
    assert [str(c) for c in select(cases, ["mixtral (window)"])] == ["mixtral (window)"]


def test_the_page_is_written_from_the_stored_results() -> None:
    stored = page.read()
    assert page.PAGE.read_text(encoding="utf-8") == page.render(stored), (
        "run python -m tests.architectures --render"
    )


def test_each_verdict_is_counted_and_explained() -> None:
    stored = page.read()
    example = stored["results"][0]
    results = [
        {**example, "name": f"model-{verdict}", "verdict": verdict, "reason": f"for {verdict}"}
        for verdict in page.VERDICTS
    ]
    text = page.render({**stored, "results": results})
    for verdict in page.VERDICTS:
        assert f"| {verdict} | 1 |" in text
        assert f"`model-{verdict}`" in text
        assert verdict == "exact" or f"for {verdict}" in text
