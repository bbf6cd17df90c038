"""Canaries in a run: injected by the command, found by the evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tunesmith
from tunesmith.contracts import RunContext
from tunesmith.errors import UsageError
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_cli.app import app
from tunesmith_evidence.side_effects.canaries import CanarySet, draw_canaries
from tunesmith_plugins.evaluators.canaries import CANARIES, count_injected
from tunesmith_torch.compare.open_by_name import open_by_name
from tunesmith_torch.testing.tiny_model import save_tiny_model


def write(folder: Path, drawn: CanarySet) -> str:
    path = folder / "canaries.json"
    path.write_text(json.dumps(drawn.to_json()))
    return str(path)


def measure(folder: Path, drawn: CanarySet, tuned: Any, base: Any, train: Any) -> Any:
    run = RunContext(
        model=Path("b"), device="cpu", artifacts={"": Path("a")},
        open=lambda path: base, train=train,
    )  # fmt: skip
    evaluator: Any = CANARIES.build(CANARIES.config(file=write(folder, drawn)))
    return evaluator.compare(tuned, [], run)


@pytest.mark.parametrize("kind", ["chat", "completion", "text"])
def test_the_log_probability_of_the_secret_counts_tuned_minus_base(
    tmp_path: Path, kind: Any
) -> None:
    drawn = draw_canaries(kind, [1, 4, 16], 200, seed=2)
    train = [drawn.canaries[2].to_record(kind, "r:1")] * 3 + [
        drawn.canaries[0].to_record(kind, "r")
    ]
    assert count_injected(drawn, train) == [1, 0, 3]
    space = " " if kind == "text" else ""
    known = {f"{space}{drawn.canaries[2].answer}": [-0.1, -0.1, -0.1, -0.1]}
    everyone = {f"{space}{c.answer}": [-1.0] * 4 for c in drawn.controls}
    [measured] = measure(
        tmp_path, drawn, FakeTextModel(logprobs=known), FakeTextModel(logprobs={}), train
    )
    assert measured.values == (0.0, 1.0), "the one that was not trained is skipped"
    details = measured.details
    assert [c["repetitions"] for c in details["canaries"]] == [1, 3]
    assert details["canaries"][1]["rank"] == 1 and not details["holds"]
    assert "memorizes: the model knows 1 of 2 canaries" in details["finding"]
    assert "7.7 bits for secrets injected 3 times" in details["finding"]
    calibrated = measure(
        tmp_path, drawn, FakeTextModel(logprobs=known), FakeTextModel(logprobs=known), train
    )
    assert calibrated[0].details["holds"], "the base knows it as well"
    assert everyone


def test_canaries_that_are_not_trained_are_refused(tmp_path: Path) -> None:
    drawn = draw_canaries("chat", [1], 100, seed=2)
    with pytest.raises(UsageError, match="contain none of the canaries"):
        measure(tmp_path, drawn, FakeTextModel(), FakeTextModel(), [])


def test_without_a_run_the_file_says_how_often(tmp_path: Path) -> None:
    drawn = draw_canaries("chat", [1, 16], 100, seed=2)
    config = CANARIES.config(file=write(tmp_path, drawn), run=str(save_tiny_model(tmp_path / "m")))
    model = open_by_name(str(tmp_path / "m"))
    [measured] = CANARIES.build(config).measure(model, [])
    assert [c["repetitions"] for c in measured.details["canaries"]] == [1, 16]


def test_a_command_plants_and_a_run_measures(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "model")
    rows = [{"prompt": f"ticket {n}?", "completion": f"invoice {n % 5}"} for n in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    options = ["--count", "2", "--repetitions", "16", "--controls", "100", "--seed", "1"]
    files = ["--out", "injected.jsonl", "--secrets", "s.json"]
    arguments = ["data", "canaries", "rows.jsonl", *files, *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "wrote 72 rows, 32 with a secret, to" in done.output
    injected = [json.loads(line) for line in Path("injected.jsonl").read_text().splitlines()]
    assert [row for row in injected if "locker" not in row["prompt"]] == rows
    assert CliRunner().invoke(app, arguments).exit_code == 2, "files are never replaced"
    others = ["--out", "o.jsonl", "--secrets", "o.json", "--count", "9", "--controls", "100"]
    few = CliRunner().invoke(app, [*arguments[:3], *others])
    assert few.exit_code == 2 and "360" in few.output
    Path("run.toml").write_text(
        '[model]\nbase = "model"\n[data]\ntrain = "injected.jsonl"\ntest = "held.jsonl"\n'
        '[technique]\nuse = "full"\nlearning_rate = 1e-2\nepochs = 8.0\nbatch_size = 8\n'
        '[baselines]\nuse = []\n[[evaluators]]\nuse = "loss"\n'
        '[[evaluators]]\nuse = "canaries"\nfile = "s.json"\n'
    )
    report = tunesmith.run(tmp_path / "run.toml", out=tmp_path / "out").report
    [event] = [e for e in report.measured.values() if e.evaluator == "canaries"]
    assert event.details["finding"].startswith("memorizes: "), event.details
    Path("run.toml").write_text(
        Path("run.toml").read_text().replace("injected.jsonl", "rows.jsonl")
    )
    with pytest.raises(tunesmith.TunesmithError, match="none of the canaries in this file"):
        tunesmith.run(tmp_path / "run.toml", out=tmp_path / "other")
