"""Twelve architectures against the independent computation, and what no result may depend on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.architectures.cases import FAST, fast_cases
from tests.architectures.compare import FAST_RUNS, Setting, examine
from tests.architectures.models import Case, save_model
from tests.architectures.sizes import Sizes
from transformers.utils import chat_template_utils

from tunesmith.contracts import Generation, TextModel
from tunesmith.records import Message
from tunesmith_plugins.techniques.full.offer import FULL
from tunesmith_plugins.techniques.full.options import FullOptions

SIZES = Sizes(layers=2)
SETTING = Setting(lengths=(3, 60, 9), sizes=SIZES, runs=FAST_RUNS)
SHORT = ((Message("user", "What is the capital?"),), "Paris")
LONG = ((Message("user", "this ticket is about the invoice " * 16),), "yes no " * 12)
OTHER = ((Message("user", "What is the delivery about?"),), "no refund yet")


QUICK = ("llama", "gemma3_text", "mixtral", "deepseek_v3", "mamba")
"""A dense one, a windowed one, a mixture, latent attention, a recurrent one."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[] if str(case) in QUICK else [pytest.mark.long])
        for case in fast_cases()
    ],
)
def test_results_equal_the_independent_computation(case: Case, tmp_path: Path) -> None:
    result = examine(case, SETTING, tmp_path)
    assert (result.verdict, result.reason, result.trace) == ("exact", "", "")
    (numbers,) = result.numbers.values()
    assert len(numbers["steps"]) == 3
    assert {numbers[name]["answers"] for name in ("zero-shot", "tuned")} == {3}


@pytest.fixture(scope="module", params=FAST)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """An architecture as users evaluate it."""
    folder = tmp_path_factory.mktemp("model")
    save_model(Case(request.param), SIZES, 0, folder)
    return open_model(folder)


def open_model(folder: Path) -> TextModel:
    return FULL.build(FullOptions(precision="fp32")).open(folder, None, device="cpu")


def losses(model: TextModel, rows: Sequence[tuple[tuple[Message, ...], str]]) -> list[list[float]]:
    scores = model.score([prompt for prompt, _ in rows], [answer for _, answer in rows])
    return [list(score.logprobs) for score in scores]


def answers(model: TextModel, rows: Sequence[tuple[tuple[Message, ...], str]]) -> list[Generation]:
    return model.generate([prompt for prompt, _ in rows], 6)


def test_a_row_does_not_depend_on_a_longer_one_on_others_or_on_their_order(
    model: TextModel,
) -> None:
    alone = losses(model, [SHORT])[0]
    first_answer = answers(model, [SHORT])[0]
    for rows in ([SHORT, LONG], [LONG, OTHER, SHORT], [SHORT, SHORT, OTHER]):
        place = rows.index(SHORT)
        assert losses(model, rows)[place] == pytest.approx(alone, abs=2e-5)
        assert answers(model, rows)[place].ids == first_answer.ids


class AnotherDay(datetime):
    """A clock that is years ahead."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return datetime(2031, 2, 3, tzinfo=UTC)


def test_results_do_not_depend_on_the_date(
    model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [SHORT, OTHER]
    expected = losses(model, rows), answers(model, rows)
    monkeypatch.setattr(chat_template_utils, "datetime", AnotherDay)
    assert (losses(model, rows), answers(model, rows)) == expected
