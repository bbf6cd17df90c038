"""The task with a known optimum: its rule, its judge, and the picture of what came of it."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.benchmarks import curves, known_optimum
from tests.benchmarks.known_optimum import chance, gold

from tunesmith_torch.rewards import FunctionReward


def test_the_rule_in_the_run_is_the_rule(tmp_path: Path) -> None:
    path = tmp_path / "rule.py"
    path.write_text(known_optimum.RULE.format(happy=known_optimum.HAPPY))
    rule = FunctionReward.read(f"{path}:gold")
    draw = random.Random(0)
    for _ in range(200):
        answer = known_optimum.continuation(known_optimum.opening(draw), draw)
        assert rule.rewards(["p"], [answer]) == [gold(answer)]


def test_the_best_answer() -> None:
    assert gold("happy happy") == pytest.approx(0.95)
    assert gold("happy happy fun") < 0.95
    assert gold("They were happy.") == pytest.approx(0.5 - 3 / 40)
    assert gold("") == 0


def test_the_judge_is_as_sure_as_bradley_and_terry_say() -> None:
    one, other = "happy glad", "no no"
    assert chance(one, other) == pytest.approx(1 / (1 + math.exp(-known_optimum.SCALE)))
    assert chance(one, other) + chance(other, one) == pytest.approx(1)


def worlds() -> list[dict[str, Any]]:
    line = [{"step": step, "gold": step / 10, "kl": step / 5} for step in (0, 5, 10)]
    return [
        {
            "gold": {name: (0.1 if name == "sft" else 0.6) + seed / 100 for name in curves.NAMES},
            "curves": {name: line for name in curves.COLOURS},
            **dict.fromkeys(("accuracy", "expected_accuracy", "rule_accuracy", "ceiling"), 0.7),
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
