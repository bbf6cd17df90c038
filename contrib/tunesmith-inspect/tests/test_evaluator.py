"""Scores equal those of inspect alone; logs are read back by inspect and by ``compare``."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from inspect_ai import eval as evaluate
from inspect_ai.log import list_eval_logs, read_eval_log, write_eval_log
from inspect_ai.model import get_model
from inspect_ai.scorer import value_to_float
from task_files import write_task

import tunesmith
from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith.storage import RunFolder
from tunesmith.testing import FakeTextModel
from tunesmith_cli.app import app
from tunesmith_inspect.evaluator import Inspect, to_number
from tunesmith_inspect.log_command import command
from tunesmith_inspect.offer import InspectOptions
from tunesmith_inspect.run_logs import make_logs
from tunesmith_inspect.text_model_api import cut
from tunesmith_torch.generation.open_model import open_text_model
from tunesmith_torch.options.training import TrainingOptions

ANSWERS = {
    "What is the capital of France?": "It is Paris.",
    "What is the capital of Italy?": "Milan",
    "What is the capital of Spain?": "Madrid, I think",
    "What is the capital of Austria?": "Graz\nVienna",
}


def measure(model: TextModel, path: Path, **options: Any) -> Measurement:
    table = {"task": f"{path}:capitals", "log_dir": str(path.parent / "logs"), **options}
    (found,) = Inspect(from_table(InspectOptions, table)).measure(model, [])
    return found


def test_values_follow_the_answers(tmp_path: Path) -> None:
    model = FakeTextModel(answers=ANSWERS)
    found = measure(model, write_task(tmp_path))
    assert found.values == (1, 0, 1, 1)
    assert found.outputs is not None and found.outputs[1] == "Milan"
    assert [call for call, _ in model.calls] == ["generate"], "prompts are not answered together"


def test_scores_equal_those_of_inspect_alone(tiny_model: Path, tmp_path: Path) -> None:
    # "e" occurs in some of the random answers of the tiny model.
    path = write_task(tmp_path)
    path.write_text(path.read_text().replace("target=t", "target=t[1]"))
    options = from_table(TrainingOptions, {"precision": "fp32"})
    ours = open_text_model(tiny_model, None, device="cpu", options=options)
    found = measure(ours, path, max_new_tokens=12)
    theirs = get_model(
        "hf/local", model_path=str(tiny_model), device="cpu", do_sample=False, memoize=False
    )
    (log,) = evaluate(
        f"{path}@capitals",
        model=theirs,
        display="none",
        log_dir=str(tmp_path / "theirs"),
        max_tokens=12,
    )
    assert log.status == "success", log.error
    assert log.samples is not None and log.results is not None and found.outputs is not None
    assert [s.output.completion for s in log.samples] == [*found.outputs]
    accuracy = log.results.scores[0].metrics["accuracy"].value
    assert math.fsum(found.values) / len(found.values) == pytest.approx(accuracy)


def test_compare_reads_the_logs(tmp_path: Path) -> None:
    files = []
    for name, answers in {"first": ANSWERS, "second": dict.fromkeys(ANSWERS, "Rome")}.items():
        measure(FakeTextModel(answers=answers), write_task(tmp_path), log_dir=str(tmp_path / name))
        (info,) = list_eval_logs(str(tmp_path / name))
        files.append(str(tmp_path / f"{name}.json"))
        write_eval_log(read_eval_log(info), files[-1])
    done = CliRunner().invoke(app, ["compare", *files, "--json"])
    assert done.exit_code == 0, done.output
    found = str(json.loads(done.stdout))
    # Of four samples, only Italy is right in the second log: 1 0 1 1 against 0 1 0 0.
    assert "'difference': -0.5" in found and "'won': 1, 'lost': 3" in found and "'n': 4" in found


def test_epochs_are_averaged(tmp_path: Path) -> None:
    path = write_task(tmp_path, scorer="scorer=includes(), epochs=2")
    assert measure(FakeTextModel(answers=ANSWERS), path).values == (1, 0, 1, 1)


@pytest.mark.parametrize(
    ("options", "replaced", "message"),
    [
        ({"scorer": "model"}, {}, "no scorer 'model'"),
        ({}, {"solver": "solver=generate(temperature=1.0)"}, "random answers"),
        ({}, {"solver": "solver=undefined()"}, "cannot be run"),
    ],
)
def test_unsuitable_tasks_are_explained(
    options: dict[str, Any], replaced: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        measure(FakeTextModel(answers=ANSWERS), write_task(tmp_path, **replaced), **options)


def test_missing_tasks_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be run|tasks"):
        measure(FakeTextModel(), tmp_path / "missing.py")


@pytest.mark.parametrize(
    ("value", "number"),
    [("C", 1), ("I", 0), ("P", 0.5), ("N", 0), ("Yes", 1), ("0.25", 0.25), (True, 1), (3, 3)],
)
def test_values_are_read_as_inspect_reads_them(value: Any, number: float) -> None:
    assert to_number(value, "task") == number == value_to_float()(value)


@pytest.mark.parametrize("value", ["unknown", "", "nan", math.nan, [1], {"a": 1}])
def test_values_that_inspect_counts_as_zero_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="for a sample"):
        to_number(value, "task")


def test_an_interrupted_log_command_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    logs = [("a", None), ("b", None)]
    monkeypatch.setattr("tunesmith_inspect.run_logs.make_logs", lambda *given: logs)
    monkeypatch.setattr("tunesmith_inspect.log_command.load_report", lambda folder: None)
    monkeypatch.setattr("tunesmith_inspect.log_command.RunFolder.open", RunFolder)

    def write(log: object, path: Path) -> None:
        assert path.name == "a.eval", "the disk is full"
        path.touch()

    monkeypatch.setattr("inspect_ai.log.write_eval_log", write)
    failed = CliRunner().invoke(command, [str(run), "--out", str(tmp_path / "logs")])
    assert "the disk is full" in str(failed.exception)
    assert [path.name for path in tmp_path.iterdir() if "inspect" in path.name] == []
    assert not (tmp_path / "logs").exists()


def test_stop_texts_end_an_answer() -> None:
    assert cut("a\nb", ["x", "\n"]) == "a" and cut("a", []) == "a"


def test_the_readme_runs_and_its_logs_are_read_back(
    readme_run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path)
    changes = {"technique.max_steps": 3, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=changes)
    scores = {m.model: m for m in run.report.measured.values() if m.evaluator == "inspect"}
    assert {*scores} == {"base", "tuned"} and scores["tuned"].n == 4
    warnings = [f.message for f in run.report.findings if "inspect" in f.message]
    assert not warnings, "it changed global state"
    logs = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "inspect-logs"))]
    assert len(logs) == 2 and {log.status for log in logs} == {"success"}
    done = CliRunner().invoke(command, [str(run.path)])
    assert done.exit_code == 0, done.output
    check_logs(run, run.path / "inspect")
    assert CliRunner().invoke(command, [str(run.path)]).exit_code != 0


def check_logs(run: Any, folder: Path) -> None:
    """Compare the logs of a run with its report."""
    logs = {path.stem: read_eval_log(str(path)) for path in folder.glob("*.eval")}
    measured = {(m.model, m.evaluator) for m in run.report.measured.values()}
    assert {*logs} == {name for name, _ in make_logs(run.report, run.path)}
    assert {*logs} == {f"{model}.{evaluator}" for model, evaluator in measured}
    (exact,) = [m for m in run.report.tuned if m.metric == "exact-match"]
    log = logs["tuned.exact-match"]
    assert log.results is not None and log.samples is not None
    metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    assert metrics == {"mean": exact.value, "low": exact.low, "high": exact.high}
    values = [sample.scores["exact-match"].value for sample in log.samples if sample.scores]
    assert statistics.mean(float(str(value)) for value in values) == pytest.approx(exact.value)
    prompts = [sample.input[-1].text for sample in log.samples if not isinstance(sample.input, str)]
    assert "The wifi in room 4 is down" in prompts or len(prompts) == 3
