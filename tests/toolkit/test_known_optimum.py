"""The task with a known optimum: its rule, its judge, and the picture of what came of it."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.benchmarks import curves, known_optimum, known_rule
from tests.benchmarks.known_rule import accuracy, ceiling, chance, expected_accuracy, gold

from tunesmith_torch.rlhf.reward_functions import FunctionReward


def test_the_rule_in_the_run_is_the_rule(tmp_path: Path) -> None:
    path = tmp_path / "rule.py"
    path.write_text(known_rule.RULE.format(happy=known_rule.HAPPY))
    rule = FunctionReward.read(f"{path}:gold")
    draw = random.Random(0)
    for _ in range(200):
        answer = known_rule.continuation(known_rule.opening(draw), draw)
        assert rule.rewards(["p"], [answer]) == [gold(answer)]


def test_the_best_answer() -> None:
    assert gold("happy happy") == pytest.approx(0.95)
    assert gold("happy happy fun") < 0.95
    assert gold("They were happy.") == pytest.approx(0.5 - 3 / 40)
    assert gold("") == 0


def test_the_judge_is_as_sure_as_bradley_and_terry_say() -> None:
    one, other = "happy glad", "no no"
    assert chance(one, other) == pytest.approx(1 / (1 + math.exp(-known_rule.SCALE)))
    assert chance(one, other) + chance(other, one) == pytest.approx(1)


ANSWERS = ("happy glad", "They were happy.", "no", "Mom said no.", "", "Tom was sad. Tom smiled.")


def judged(draw: random.Random, one: str, other: str) -> dict[str, str]:
    first = draw.random() < chance(one, other)
    better, worse = (one, other) if first else (other, one)
    return {"prompt": "p", "chosen": better, "rejected": worse}


def test_the_ceiling_is_bayes() -> None:
    """No way of choosing, of all there are, is expected to agree with the judge more often."""
    draw = random.Random(1)
    rows = [judged(draw, one, other) for one, other in itertools.combinations(ANSWERS, 2)][:10]
    ways = itertools.product((1.0, -1.0), repeat=len(rows))
    best = max(expected_accuracy(rows, gaps) for gaps in ways)
    assert best == pytest.approx(ceiling(rows))
    by_rule = [gold(row["chosen"]) - gold(row["rejected"]) for row in rows]
    assert expected_accuracy(rows, by_rule) == pytest.approx(ceiling(rows))


def test_what_is_expected_is_what_comes_of_many_draws() -> None:
    """The judge is asked again and again; accuracies come to what was expected of them."""
    draw = random.Random(2)
    asked = list(itertools.combinations(ANSWERS, 2)) * 2000
    rows = [judged(draw, one, other) for one, other in asked]
    for judge in (gold, lambda answer: -len(answer)):
        gaps = [judge(row["chosen"]) - judge(row["rejected"]) for row in rows]
        assert accuracy(gaps) == pytest.approx(expected_accuracy(rows, gaps), abs=0.01)


def worlds() -> list[dict[str, Any]]:
    line = [{"step": step, "gold": step / 10, "kl": step / 5} for step in (0, 5, 10)]
    return [
        {
            "gold": {name: (0.1 if name == "sft" else 0.6) + seed / 100 for name in curves.NAMES},
            "curves": {name: line for name in curves.COLOURS},
            **dict.fromkeys(known_optimum.REWARD_FIGURES, 0.7),
        }
        for seed in range(5)
    ]


def test_table_and_curves(tmp_path: Path) -> None:
    result = {"worlds": worlds(), "summary": known_optimum.summary(worlds())}
    assert all(result["summary"][name]["beyond"] for name in curves.NAMES)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{curves.BEGIN}\nformer\n{curves.END}\nafter\n")
    curves.write(result, page)
    text = page.read_text()
    assert "PPO" in text
    assert "former" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    lines = ElementTree.fromstring(page.with_suffix(".svg").read_text())
    assert len(lines.findall(".//{*}polyline")) == 6


def test_no_gain_is_said() -> None:
    same = worlds()
    for world in same:
        world["gold"]["ppo"] = world["gold"]["sft"]
    assert not known_optimum.summary(same)["ppo"]["beyond"]
