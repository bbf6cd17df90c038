"""The task with a known optimum: its rule, its noisy choices, and its table and curves."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.benchmarks import curves, known_optimum, known_rule
from tests.benchmarks.known_rule import (
    accuracy,
    bayes_accuracy,
    expected_accuracy,
    gold_reward,
    preference_probability,
)

from tunesmith_torch.rlhf.reward_functions import FunctionReward


def test_the_rule_of_the_run_equals_the_rule(tmp_path: Path) -> None:
    path = tmp_path / "rule.py"
    path.write_text(known_rule.RULE.format(happy=known_rule.HAPPY))
    rule = FunctionReward.from_file(f"{path}:gold")
    rng = random.Random(0)
    for _ in range(200):
        continuation = known_rule.sample_continuation(known_rule.sample_topic(rng), rng)
        assert rule.rewards(["p"], [continuation]) == [gold_reward(continuation)]


def test_two_happy_words_are_best() -> None:
    assert gold_reward("happy happy") == pytest.approx(0.95)
    assert gold_reward("happy happy fun") < 0.95
    assert gold_reward("They were happy.") == pytest.approx(0.5 - 3 / 40)
    assert gold_reward("") == 0


def test_choices_follow_the_bradley_terry_model() -> None:
    first, second = "happy glad", "no no"
    assert preference_probability(first, second) == pytest.approx(
        1 / (1 + math.exp(-known_rule.LABEL_SCALE))
    )
    assert preference_probability(first, second) + preference_probability(
        second, first
    ) == pytest.approx(1)


CONTINUATIONS = (
    "happy glad",
    "They were happy.",
    "no",
    "Mom said no.",
    "",
    "Tom was sad. Tom smiled.",
)


def choose_noisily(rng: random.Random, first: str, second: str) -> dict[str, str]:
    chooses_first = rng.random() < preference_probability(first, second)
    chosen, rejected = (first, second) if chooses_first else (second, first)
    return {"prompt": "p", "chosen": chosen, "rejected": rejected}


def test_no_guess_is_better_than_the_bayes_accuracy() -> None:
    """Of all possible guesses, none has a higher expected accuracy."""
    rng = random.Random(1)
    rows = [choose_noisily(rng, *pair) for pair in itertools.combinations(CONTINUATIONS, 2)][:10]
    guesses = itertools.product((1.0, -1.0), repeat=len(rows))
    best = max(expected_accuracy(rows, gaps) for gaps in guesses)
    assert best == pytest.approx(bayes_accuracy(rows))
    by_rule = [gold_reward(row["chosen"]) - gold_reward(row["rejected"]) for row in rows]
    assert expected_accuracy(rows, by_rule) == pytest.approx(bayes_accuracy(rows))


def test_the_accuracy_of_many_choices_is_the_expected_one() -> None:
    rng = random.Random(2)
    pairs = list(itertools.combinations(CONTINUATIONS, 2)) * 2000
    rows = [choose_noisily(rng, *pair) for pair in pairs]
    for reward in (gold_reward, lambda continuation: -len(continuation)):
        gaps = [reward(row["chosen"]) - reward(row["rejected"]) for row in rows]
        assert accuracy(gaps) == pytest.approx(expected_accuracy(rows, gaps), abs=0.01)


def experiments() -> list[dict[str, Any]]:
    line = [{"step": step, "gold_reward": step / 10, "kl": step / 5} for step in (0, 5, 10)]
    return [
        {
            "gold": {name: (0.1 if name == "sft" else 0.6) + seed / 100 for name in curves.NAMES},
            "curves": {name: line for name in curves.COLORS},
            **dict.fromkeys(known_optimum.REWARD_METRICS, 0.7),
        }
        for seed in range(5)
    ]


def test_table_and_curves(tmp_path: Path) -> None:
    result = {"experiments": experiments(), "summary": known_optimum.summarize(experiments())}
    assert all(result["summary"][name]["above_sft"] for name in curves.NAMES)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{curves.BEGIN}\nprevious\n{curves.END}\nafter\n")
    curves.write(result, page)
    text = page.read_text()
    assert "PPO" in text
    assert "previous" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    lines = ElementTree.fromstring(page.with_suffix(".svg").read_text())
    assert len(lines.findall(".//{*}polyline")) == 6


def test_a_policy_without_gain_is_not_above_the_fine_tuned_model() -> None:
    results = experiments()
    for experiment in results:
        experiment["gold"]["ppo"] = experiment["gold"]["sft"]
    assert not known_optimum.summarize(results)["ppo"]["above_sft"]
