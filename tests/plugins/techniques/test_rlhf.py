"""RLHF as a user has it: a run file, exit codes, and a report that says what the gates found."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner

import tunesmith
from tunesmith.cli.app import app
from tunesmith.errors import GateError
from tunesmith.records import Chat, Completion, Preference
from tunesmith.storage import RunFolder
from tunesmith_plugins.techniques.rlhf.offer import RLHF
from tunesmith_torch.testing.tiny_model import save_tiny_model

WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
QUICK = {"precision": "fp32", "learning_rate": 1e-2, "epochs": 1.0, "batch_size": 8, "rank": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs, and rewards; lower case e is what the proxy likes and gold does not."""
    folder = tmp_path_factory.mktemp("rlhf")
    save_tiny_model(folder / "model")
    rows = []
    for n in range(68):
        words = random.Random(n)
        said = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
        rows.append(
            {"prompt": f"Is it {n}?", "chosen": f"please {said[0]}", "rejected": f"never {said[1]}"}
        )
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(
        "def proxy(prompt, answer):\n    return float(len(answer))\n"
        "def gold(prompt, answer):\n    return -float(len(answer))\n"
    )
    return folder


def run_file(place: Path, name: str, **stages: dict[str, Any]) -> Path:
    policy = {
        "num_generations": 4,
        "max_new_tokens": 6,
        "mask_truncated_completions": False,
        "monitor_every": 2,
    }
    table = {
        "supervised": {**QUICK, **stages.get("supervised", {})},
        "reward": {**QUICK, "epochs": 3.0, **stages.get("reward", {})},
        "policy": {**QUICK, **policy, **stages.get("policy", {})},
    }
    tables = {
        "reporters": [],
        "model": {"base": "model"},
        "data": {"use": "jsonl", "train": ["pairs.jsonl"], "holdout": 28},
        "technique": {"use": "rlhf", **table},
        "baselines": {"shots": 0},
    }
    path = place / f"{name}.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def test_a_run_file_with_three_stages(place: Path) -> None:
    report = tunesmith.run(run_file(place, "whole"), out=place / "whole")
    assert report.status == "ok"
    told = report.to_json()
    assert list(told["stages"]) == ["supervised", "reward", "policy"]
    assert all(stage["steps"] > 0 and stage["artifact"] for stage in told["stages"].values())
    assert told["training"]["artifact"] == "policy/adapter"
    assert [look["step"] for look in told["stages"]["policy"]["watched"]] == [0, 2, 4, 5]
    assert {"reward", "kl", "answer_tokens", "entropy", "clip_fraction"} <= set(
        told["stages"]["policy"]["extras"]
    )
    models = list(dict.fromkeys(event["model"] for event in told["evaluations"]))
    assert models == ["base", "reward", "supervised", "tuned"]
    assert set(told["verdict"]["comparisons"]) == {"base", "supervised"}
    assert told["verdict"]["rival"] == "base"
    assert [(gate["stage"], gate["passed"]) for gate in told["gates"]] == [
        ("reward", True),
        ("policy", True),
    ]
    shown = CliRunner().invoke(app, ["report", str(place / "whole")])
    assert shown.exit_code == 0
    for text in ("gate reward, reward model: passed", "rlhf (policy): step 5", "proxy", "gold"):
        assert text in shown.output


def test_the_plan_runs_again_as_it_was_written(place: Path) -> None:
    """``from`` and the list of rewards survive: file, plan, file."""
    earlier = {"skip": True, "from": "whole"}
    part = {"function": "rules.py:proxy", "weight": 0.5}
    file = run_file(
        place, "again", supervised=earlier, reward=earlier, policy={"rewards": [{}, part]}
    )
    plan, _ = tunesmith.api.load(file)
    again = place / "resolved.toml"
    again.write_text(plan.to_toml(), encoding="utf-8")
    assert f'from = "{place / "whole"}"' in again.read_text()
    resolved, _ = tunesmith.api.load(again)
    assert resolved.technique.config == plan.technique.config
    assert plan.technique.config.policy.rewards[1].function == str(place / "rules.py:proxy")


def test_a_policy_that_hacks_its_reward_ends_with_exit_code_6(place: Path) -> None:
    """The best checkpoint is kept and measured, and the report says what happened."""
    policy = {
        "rewards": [{"function": "rules.py:proxy"}],
        "gold": "rules.py:gold",
        "kl_coef": 0.0,
        "max_kl": 0.0,
        "num_generations": 8,
        "epochs": 12.0,
        "learning_rate": 3e-2,
        "schedule": "constant",
        "monitor_every": 5,
    }
    file = run_file(place, "hacked", reward={"skip": True}, policy=policy)
    with pytest.raises(GateError, match="while gold fell") as caught:
        tunesmith.run(file, out=place / "hacked")
    assert caught.value.exit_code == 6
    report = tunesmith.api.read_report(place / "hacked")
    assert report.status == "failed"
    assert {event.model for event in report.measured.values()} == {"base", "supervised", "tuned"}
    assert report.to_json()["verdict"]
    assert (RunFolder.open(place / "hacked").path / "policy" / "adapter").is_dir()
    shown = CliRunner().invoke(app, ["report", str(place / "hacked")])
    assert "gate policy, divergence: not passed" in shown.output
    accepting = run_file(
        place, "accepted", reward={"skip": True}, policy={**policy, "accept_divergence": True}
    )
    assert tunesmith.run(accepting, out=place / "accepted").status == "ok"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return float('nan')", 5, "reward judge: must give a finite number, got nan"),
        ("return 'good'", 5, "reward judge: must give a finite number, got 'good'"),
        ("raise OSError('no such list')", 5, "OSError: no such list (broken.py:2)"),
        ("return undefined", 5, "NameError"),
        ("retrun 1", 2, "cannot be run, SyntaxError"),
    ],
)
@pytest.mark.parametrize("where", ["rewards", "gold"])
def test_a_broken_function_is_told_before_any_stage_is_trained(
    place: Path, tmp_path: Path, body: str, code: int, said: str, where: str
) -> None:
    (place / "broken.py").write_text(f"def judge(prompt, answer):\n    {body}\n", encoding="utf-8")
    policy: dict[str, Any] = {"rewards": [{"function": "rules.py:proxy"}]}
    broken = "broken.py:judge"
    policy |= {"gold": broken} if where == "gold" else {"rewards": [{"function": broken}]}
    file = run_file(place, "broken", reward={"skip": True}, policy=policy)
    ran = CliRunner().invoke(app, ["run", str(file), "--set", f"run.folder={tmp_path}"])
    assert ran.exit_code == code
    assert said in ran.output
    (folder,) = tmp_path.iterdir()
    assert not (folder / "supervised").exists()
    assert said in CliRunner().invoke(app, ["report", str(folder)]).output


def test_a_reward_that_never_differs_ends_with_exit_code_6(place: Path) -> None:
    (place / "same.py").write_text("def judge(prompt, answer):\n    return 1\n", encoding="utf-8")
    policy = {"rewards": [{"function": "same.py:judge"}], "max_steps": 1}
    file = run_file(place, "same", reward={"skip": True}, policy=policy)
    with pytest.raises(GateError, match="nothing was learned") as caught:
        tunesmith.run(file, out=place / "same")
    assert caught.value.exit_code == 6


def test_what_opens_the_gates_is_told_before_the_run(place: Path) -> None:
    plan, catalog = tunesmith.api.load(run_file(place, "open", reward={"accept_weak": True}))
    said = {finding.where: finding.level for _, finding in catalog.review_plan(plan)}
    assert said["technique.reward.accept_weak"] == "warning"
    assert said["technique.policy.gold"] == "info"


def test_it_learns_from_conversations_and_pairs() -> None:
    assert RLHF.accepts == {Chat, Completion, Preference}
