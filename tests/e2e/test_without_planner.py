"""Without the plugin ``estimate`` every technique trains, and nothing is predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner, Result

from tunesmith.offers import TechniqueOffer
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Preference
from tunesmith_cli.app import app

pytestmark = pytest.mark.processes

QUICK = {"epochs": 1.0, "batch_size": 8, "learning_rate": 1e-2}
STAGES = {
    "supervised": QUICK,
    "reward": {**QUICK, "gate": {"accept_weak": True}},
    "policy": {
        **QUICK,
        "generation": {"num_generations": 2, "max_new_tokens": 4},
        "monitor": {"every": 2},
    },
}


def techniques() -> dict[str, TechniqueOffer[Any]]:
    """Return the built-in techniques that train, by name."""
    from tunesmith.catalog import Catalog

    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    offers = [o.offer for o in catalog.offers(TechniqueOffer)]
    return {offer.name: offer for offer in offers if offer.promises.trains}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    pairs = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(*arguments: str, planner: bool = False) -> Result:
    return CliRunner().invoke(app, [*([] if planner else ["--no-plugin", "estimate"]), *arguments])


def write_run(here: Path, model: Path, name: str) -> None:
    is_paired = Preference in techniques()[name].accepts
    tables = {
        "model": {"base": str(model)},
        "data": {
            "use": "jsonl",
            "train": "pairs.jsonl" if is_paired else "rows.jsonl",
            "test_size": 8,
        },
        "technique": {"use": name, **(STAGES if name == "rlhf" else QUICK)},
        "evaluators": [{"use": "preference-accuracy" if is_paired else "loss"}],
        "baselines": {"use": ["zero-shot"]},
    }
    (here / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


@pytest.mark.parametrize("name", techniques())
def test_a_technique_trains_without_the_planner(here: Path, tiny_folder: Path, name: str) -> None:
    write_run(here, tiny_folder, name)
    done = command("run", "run.toml", "--out", "out", "--force")
    assert done.exit_code == 0, done.output
    kinds = [
        json.loads(line)["event"] for line in Path("out/events.jsonl").read_text().splitlines()
    ]
    assert "training-finished" in kinds and "forecast" not in kinds
    assert json.loads(Path("out/report.json").read_text())["forecast"] == {}
    assert not (here / "state").exists()


def test_the_planner_predicts_and_calibrates(here: Path, tiny_folder: Path) -> None:
    """The same run with the plugin: what the test above finds missing is there."""
    write_run(here, tiny_folder, "lora")
    assert command("-q", "run", "run.toml", "--out", "out", planner=True).exit_code == 0
    assert json.loads(Path("out/report.json").read_text())["forecast"]["technique"] == "lora"


def test_the_commands_and_the_table_are_those_of_the_plugin(here: Path, tiny_folder: Path) -> None:
    write_run(here, tiny_folder, "lora")
    assert 'no such command "plan"' in command("plan", "run.toml").stderr
    refused = command("check", "run.toml", "--set", "estimate.prices=ours.toml")
    assert refused.exit_code == 2 and "estimate: unknown table" in refused.stderr
    assert command("check", "run.toml").exit_code == 0


def test_a_run_of_the_planner_is_resumed_without_it(here: Path, tiny_folder: Path) -> None:
    write_run(here, tiny_folder, "lora")
    gate = ("--set", "gate.at_least={preference-accuracy = 2.0}")
    done = command("run", "run.toml", "--out", "out", *gate, planner=True)
    assert done.exit_code == 6, done.output
    assert command("resume", "out").exit_code == 6
    assert json.loads(Path("out/report.json").read_text())["forecast"]["technique"] == "lora"
