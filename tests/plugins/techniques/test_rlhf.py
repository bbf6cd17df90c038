"""RLHF from a run file: stages, exit codes, and the results of the gates in the report."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner
from tables import tables

import tunesmith
from tunesmith.errors import GateError
from tunesmith.records import Chat, Completion, Preference
from tunesmith.storage import RunFolder
from tunesmith_cli.app import app
from tunesmith_plugins.techniques.rlhf.offer import RLHF
from tunesmith_torch.testing.tiny_model import save_tiny_model

WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
QUICK = {
    "precision": "fp32",
    "learning_rate": 1e-2,
    "epochs": 1.0,
    "batch_size": 8,
    "adapter__rank": 4,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a model, pairs, and two rewards: the proxy prefers long answers, gold short ones."""
    folder = tmp_path_factory.mktemp("rlhf")
    save_tiny_model(folder / "model")
    rows = []
    for n in range(68):
        words = random.Random(n)
        texts = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
        rows.append(
            {
                "prompt": f"Is it {n}?",
                "chosen": f"please {texts[0]}",
                "rejected": f"never {texts[1]}",
            }
        )
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(
        "def proxy(prompt, answer):\n    return float(len(answer))\n"
        "def gold(prompt, answer):\n    return -float(len(answer))\n"
    )
    return folder


def run_file(project: Path, name: str, **stages: dict[str, Any]) -> Path:
    policy = {
        "generation__num_generations": 4,
        "generation__max_new_tokens": 6,
        "loss__mask_truncated_completions": False,
        "monitor__every": 2,
    }
    table = {
        "supervised": tables(**{**QUICK, **stages.get("supervised", {})}),
        "reward": tables(**{**QUICK, "epochs": 3.0, **stages.get("reward", {})}),
        "policy": tables(**{**QUICK, **policy, **stages.get("policy", {})}),
    }
    content = {
        "reporters": [],
        "model": {"base": "model"},
        "data": {"use": "jsonl", "train": ["pairs.jsonl"], "test_size": 20},
        "technique": {"use": "rlhf", **table},
        "baselines": {"use": ["zero-shot"]},
    }
    path = project / f"{name}.toml"
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


@pytest.mark.processes
def test_run_file_with_three_stages(project: Path) -> None:
    report = tunesmith.run(run_file(project, "three-stages"), out=project / "three-stages").report
    assert report.status == "ok"
    content = report.to_json()
    assert list(content["stages"]) == ["supervised", "reward", "policy"]
    assert all(stage["steps"] > 0 and stage["artifact"] for stage in content["stages"].values())
    assert content["training"]["artifact"] == "policy/adapter"
    assert [evaluation["step"] for evaluation in content["stages"]["policy"]["monitored"]] == [
        0,
        2,
        4,
        5,
    ]
    assert {"reward", "kl", "completion_length", "entropy", "clip_fraction"} <= set(
        content["stages"]["policy"]["metrics"]
    )
    models = list(dict.fromkeys(event["model"] for event in content["evaluations"]))
    assert models == ["zero-shot", "reward", "supervised", "tuned"]
    assert set(content["verdict"]["comparisons"]) == {"zero-shot", "supervised"}
    assert content["verdict"]["baseline"] == "zero-shot"
    assert [(gate["stage"], gate["passed"]) for gate in content["gates"]] == [
        ("reward", True),
        ("policy", True),
    ]
    shown = CliRunner().invoke(app, ["report", str(project / "three-stages")])
    assert shown.exit_code == 0
    for text in ("gate reward, reward model: passed", "rlhf (policy): step 5"):
        assert text in shown.output
    assert re.search(r"step +reward +gold_reward", shown.output)


def test_resolved_plan_can_be_loaded_again(project: Path) -> None:
    """``from`` and the list of rewards are kept from file to plan to file."""
    skipped = {"skip": True, "from": "three-stages"}
    part = {"function": "rules.py:proxy", "weight": 0.5}
    file = run_file(
        project, "again", supervised=skipped, reward=skipped, policy={"rewards": [{}, part]}
    )
    plan, _ = tunesmith.api.load_plan(file)
    resolved_file = project / "resolved.toml"
    resolved_file.write_text(plan.to_toml(), encoding="utf-8")
    assert f'from = "{project / "three-stages"}"' in resolved_file.read_text()
    resolved, _ = tunesmith.api.load_plan(resolved_file)
    assert resolved.technique.config == plan.technique.config
    assert plan.technique.config.policy.rewards[1].function == str(project / "rules.py:proxy")


@pytest.mark.processes
def test_reward_hacking_ends_with_exit_code_6(project: Path) -> None:
    """The best checkpoint is kept and evaluated, and the report contains the failed gate."""
    policy = {
        "rewards": [{"function": "rules.py:proxy"}],
        "monitor__gold": "rules.py:gold",
        "loss__kl_coef": 0.0,
        "monitor__max_kl": 0.0,
        "generation__num_generations": 8,
        "epochs": 12.0,
        "learning_rate": 3e-2,
        "schedule__type": "constant",
        "monitor__every": 5,
    }
    file = run_file(project, "hacked", reward={"skip": True}, policy=policy)
    with pytest.raises(GateError, match="while the gold reward fell") as caught:
        tunesmith.run(file, out=project / "hacked")
    assert caught.value.exit_code == 6
    report = tunesmith.api.read_report(project / "hacked")
    assert report.status == "failed"
    assert {event.model for event in report.measured.values()} == {
        "zero-shot",
        "supervised",
        "tuned",
    }
    assert report.to_json()["verdict"]
    assert (RunFolder.open(project / "hacked").path / "policy" / "adapter").is_dir()
    shown = CliRunner().invoke(app, ["report", str(project / "hacked")])
    assert "gate policy, divergence: not passed" in shown.output
    accepting = run_file(
        project,
        "accepted",
        reward={"skip": True},
        policy={**policy, "monitor__accept_divergence": True},
    )
    assert tunesmith.run(accepting, out=project / "accepted").report.status == "ok"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return float('nan')", 5, "reward score: must return a finite number, got nan"),
        ("return 'good'", 5, "reward score: must return a finite number, got 'good'"),
        ("raise OSError('no such list')", 5, "OSError: no such list (broken.py:2)"),
        ("return undefined", 5, "NameError"),
        ("retrun 1", 2, "cannot be run: SyntaxError"),
    ],
)
@pytest.mark.parametrize("where", ["rewards", "gold"])
def test_broken_reward_function_is_reported_before_training(
    project: Path, tmp_path: Path, body: str, code: int, message: str, where: str
) -> None:
    (project / "broken.py").write_text(
        f"def score(prompt, answer):\n    {body}\n", encoding="utf-8"
    )
    policy: dict[str, Any] = {"rewards": [{"function": "rules.py:proxy"}]}
    broken = "broken.py:score"
    policy |= {"monitor__gold": broken} if where == "gold" else {"rewards": [{"function": broken}]}
    file = run_file(project, "broken", reward={"skip": True}, policy=policy)
    ran = CliRunner().invoke(app, ["run", str(file), "--set", f"run.folder={tmp_path}"])
    assert ran.exit_code == code
    assert message in ran.output
    (folder,) = tmp_path.iterdir()
    assert not (folder / "supervised").exists()
    assert message in CliRunner().invoke(app, ["report", str(folder)]).output


def test_constant_reward_ends_with_exit_code_6(project: Path) -> None:
    (project / "same.py").write_text("def score(prompt, answer):\n    return 1\n", encoding="utf-8")
    policy = {"rewards": [{"function": "same.py:score"}], "max_steps": 1}
    file = run_file(project, "same", reward={"skip": True}, policy=policy)
    with pytest.raises(GateError, match="nothing was learned") as caught:
        tunesmith.run(file, out=project / "same")
    assert caught.value.exit_code == 6


def test_plan_review_warns_about_disabled_gates(project: Path) -> None:
    plan, catalog = tunesmith.api.load_plan(
        run_file(project, "open", reward={"gate__accept_weak": True})
    )
    levels = {finding.where: finding.level for _, finding in catalog.review_plan(plan)}
    assert levels["technique.reward.gate.accept_weak"] == "warning"
    assert levels["technique.policy.monitor.gold"] == "info"


def test_accepts_conversations_and_pairs() -> None:
    assert RLHF.accepts == {Chat, Completion, Preference}
