"""The best of several samples by a reward, and the reviews of rewards and judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.contracts import BaselineTask, Finding, Generation
from tunesmith.errors import UsageError
from tunesmith.execution.suitable_baselines import can_measure
from tunesmith.options import from_table
from tunesmith.records import Completion, Message, Preference, Prompt
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.baselines.best_of_n import BEST_OF_N, BestOfNModel, BestOfNOptions
from tunesmith_plugins.baselines.best_of_n import review as review_baseline
from tunesmith_plugins.evaluators.preference_accuracy import PREFERENCE_ACCURACY
from tunesmith_plugins.evaluators.win_rate import WIN_RATE, WinRateOptions
from tunesmith_plugins.evaluators.win_rate import review as review_judges
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions

ROWS = [Completion(source=f"r:{n}", prompt=f"q{n}", completion="x") for n in range(3)]
PAIRS = [Preference(source="p", prompt=(Message("user", "q"),), chosen="a", rejected="b")]


@dataclass
class Numbering(FakeTextModel):
    """Its samples of a prompt are numbered in an order that depends on the seed."""

    def sample(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, seed: int, **options: Any
    ) -> Sequence[Generation]:
        seen: dict[Prompt, int] = {}
        answers = []
        for prompt in prompts:
            number = seen[prompt] = seen.get(prompt, -1) + 1
            answers.append(Generation(f"{(number + seed) % 4}", 1, "stop"))
        options["progress"](len(prompts))
        return answers


class Table:
    """A reward by answer."""

    def __init__(self, **rewards: float) -> None:
        self.table = {name[1:]: value for name, value in rewards.items()}

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [self.table.get(text, 0.0) for text in completions]


def test_the_sample_with_the_highest_reward_is_the_answer() -> None:
    done: list[int] = []
    best = BestOfNModel(Numbering(), Table(_2=1.0, _3=0.5), count=4, temperature=1.0, seed=0)
    answers = best.generate(["a", "b", "a"], 8, progress=done.append)
    assert [a.text for a in answers] == ["2", "2", "2"]
    assert done == [2], "progress counts prompts, equal ones once"
    two = BestOfNModel(Numbering(), Table(_2=1.0, _3=0.5), count=2, temperature=1.0, seed=3)
    assert [a.text for a in two.generate(["a"], 8, progress=print)] == ["3"]
    equal = BestOfNModel(Numbering(), Table(), count=4, temperature=1.0, seed=1)
    assert [a.text for a in equal.generate(["a"], 8, progress=print)] == ["1"], "the first one"


def test_the_baseline_asks_with_the_system_prompt(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def short(prompt, answer):\n    return -float(len(answer))\n")
    task = BaselineTask(train=ROWS, base=Numbering, seed=2, system_prompt="Be brief.")
    options = BestOfNOptions(reward=f"{path}:short")
    [variant] = BEST_OF_N.build(options).variants(task)
    assert variant.name == "n=4" and isinstance(variant.model, BestOfNModel)
    assert variant.model.seed == 2
    assert variant.model.model.system == "Be brief."  # type: ignore[attr-defined]
    assert BEST_OF_N.is_configured(options) and not BEST_OF_N.is_configured(BestOfNOptions())
    assert list(BEST_OF_N.build(BestOfNOptions()).variants(task)) == []


def test_it_is_measured_by_answers_only() -> None:
    with pytest.raises(UsageError, match="cannot compute the log-probability"):
        BestOfNModel(FakeTextModel(), Table(), 4, 1.0, 0).score(["a"], ["b"])
    judged, scored = (SimpleNamespace(offer=offer) for offer in (WIN_RATE, PREFERENCE_ACCURACY))
    assert can_measure(judged, BEST_OF_N)  # type: ignore[arg-type]
    assert not can_measure(scored, BEST_OF_N)  # type: ignore[arg-type]


def plan(technique: Any, *judges: WinRateOptions, use: Any = None, **best: Any) -> Any:
    """Return the part of a plan that the reviews read."""
    offers = {"best-of-n": BestOfNOptions(**best)}
    return SimpleNamespace(
        technique=SimpleNamespace(config=technique),
        evaluators=[SimpleNamespace(offer=WIN_RATE, id="win-rate", config=j) for j in judges],
        baseline_options=SimpleNamespace(use=use),
        baselines=[
            SimpleNamespace(offer=SimpleNamespace(name=n), config=c) for n, c in offers.items()
        ],
    )


def rlhf(**policy: Any) -> RlhfOptions:
    reward = policy.pop("reward", {"skip": True})
    return from_table(RlhfOptions, {"reward": reward, "policy": policy})


RULES = {"rewards": [{"function": "rules.py:proxy"}], "monitor": {"gold": "rules.py:gold"}}


def judge(technique: Any, *judges: WinRateOptions, rows: Any = PAIRS) -> list[Finding]:
    return list(review_judges(plan(technique, *judges), rows))


def test_a_judge_that_is_trained_on_is_a_warning() -> None:
    [finding] = judge(rlhf(**RULES), WinRateOptions(reward="rules.py:proxy"))
    assert finding.level == "warning" and "trained on" in finding.message
    assert 'reward = "rules.py:gold"' in finding.hint
    assert judge(rlhf(**RULES), WinRateOptions(reward="rules.py:gold")) == []
    assert judge(rlhf(**RULES), WinRateOptions(reward="runs/other/reward")) == []
    named = rlhf(rewards=[{"plugin": "package.rules:good"}])
    assert judge(named, WinRateOptions(plugin="package.rules:good"))
    skipped = rlhf(skip=True, rewards=[{"function": "rules.py:proxy"}], reward={})
    assert judge(skipped, WinRateOptions(reward="rules.py:proxy")) == []


def test_the_reward_model_of_the_run_is_no_judge() -> None:
    own = rlhf(reward={})
    [finding] = judge(own, WinRateOptions())
    assert finding.level == "warning" and "does not measure the baselines" in finding.message
    given = rlhf(reward={"skip": True, "from": "runs/one/reward"})
    assert judge(given, WinRateOptions(reward="runs/one/reward"))
    assert judge(given, WinRateOptions(reward="runs/one"))
    assert judge(given, WinRateOptions(reward="runs/two")) == []


def test_pairs_without_a_judge_are_compared_by_probabilities() -> None:
    [finding] = judge(from_table(PreferenceOptions, {}))
    assert (
        finding.level == "info"
        and "preference-accuracy only compares how probable" in finding.message
    )
    assert judge(from_table(PreferenceOptions, {}), rows=ROWS) == []
    [finding] = judge(rlhf(**RULES))
    assert 'reward = "rules.py:gold"' in finding.hint


@pytest.mark.parametrize(
    ("technique", "options", "expected"),
    [
        (rlhf(**RULES), {}, [("info", 'reward = "rules.py:proxy"')]),
        (rlhf(rewards=[{"plugin": "a.b:c"}]), {}, [("info", 'plugin = "a.b:c"')]),
        (rlhf(reward={}), {}, [("info", "folder of a trained reward model")]),
        (rlhf(**RULES), {"reward": "rules.py:proxy"}, []),
        (rlhf(**RULES), {"use": ["zero-shot"]}, []),
        (rlhf(**RULES), {"use": ["best-of-n"]}, [("error", "`reward`")]),
        (from_table(PreferenceOptions, {}), {}, []),
    ],
)
def test_the_baseline_is_proposed_where_there_are_rewards(
    technique: Any, options: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    found = list(review_baseline(plan(technique, **options)))
    assert [finding.level for finding in found] == [level for level, _ in expected]
    for finding, (_, hint) in zip(found, expected, strict=True):
        assert hint in finding.hint
