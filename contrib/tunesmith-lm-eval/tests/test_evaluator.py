"""Scores equal those of the harness alone, and are compared row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from task_files import write_generation, write_task

import tunesmith
from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError, UsageError
from tunesmith.options import from_table
from tunesmith.records import Message
from tunesmith.testing import FakeTextModel
from tunesmith_lm_eval.evaluator import LmEval
from tunesmith_lm_eval.harness_model import HarnessModel, cut, move_spaces, read_limit, to_prompt
from tunesmith_lm_eval.offer import LmEvalOptions
from tunesmith_torch.generation.open_model import open_text_model
from tunesmith_torch.options.training import TrainingOptions

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def ours(tiny_model: Path) -> TextModel:
    options = from_table(TrainingOptions, {"precision": "fp32"})
    return open_text_model(tiny_model, None, device="cpu", options=options)


@pytest.fixture(scope="module")
def theirs(tiny_model: Path) -> HFLM:
    return HFLM(pretrained=str(tiny_model), dtype="float32", device="cpu", batch_size=4)


def measure(model: TextModel, **options: Any) -> Measurement:
    (found,) = LmEval(from_table(LmEvalOptions, options)).measure(model, [])
    return found


@pytest.fixture(scope="module")
def alone(theirs: HFLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of the harness alone on both tasks, with two worked examples."""
    folder = tmp_path_factory.mktemp("tasks")
    tasks = [str(write_task(folder)), str(write_generation(folder))]
    return simple_evaluate(
        theirs,
        tasks=tasks,
        num_fewshot=2,
        bootstrap_iters=0,
        random_seed=None,
        task_manager=TaskManager(include_defaults=False),
    )


@pytest.mark.parametrize(
    ("task", "metric"), [("capitals", "acc"), ("capitals", "acc_norm"), ("towns", "exact_match")]
)
def test_scores_equal_those_of_the_harness_alone(
    task: str, metric: str, ours: TextModel, alone: dict[str, Any], tmp_path: Path
) -> None:
    path = write_task(tmp_path) if task == "capitals" else write_generation(tmp_path)
    found = measure(ours, task=str(path), metric=metric, num_fewshot=2)
    samples = alone["samples"][task]
    assert list(found.values) == [sample[metric] for sample in samples]
    mean = math.fsum(found.values) / len(found.values)
    assert mean == pytest.approx(alone["results"][task][f"{metric},none"])
    assert found.records is not None and len(found.records) == 20
    if task == "towns":
        answers = [sample["filtered_resps"][0] for sample in samples]
        assert found.outputs is not None and [*found.outputs] == answers


def test_log_probabilities_equal_those_of_the_harness(ours: TextModel, theirs: HFLM) -> None:
    pairs = [("The capital of France is", " Paris"), ("Yes or no? ", "yes"), ("One\n", "two three")]
    requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    found = [value for value, _ in HarnessModel(ours).loglikelihood(requests)]
    expected = [value for value, _ in theirs.loglikelihood(requests)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_generated_answers_equal_those_of_the_harness(ours: TextModel, theirs: HFLM) -> None:
    settings = {"until": ["e"], "max_gen_toks": 12, "do_sample": False}
    texts = ["The capital of France is", "One two three", "def add(a, b):"]
    requests = [Instance("generate_until", {}, (t, settings), n) for n, t in enumerate(texts)]
    assert HarnessModel(ours).generate_until(requests) == theirs.generate_until(requests)


def test_generated_answers_are_scored_by_the_harness(tmp_path: Path) -> None:
    task = write_generation(tmp_path)
    answers = {f"Land: {land}\nTown:": f" {town}\nand more" for land, town in
               [("France 0", "Paris"), ("Italy 1", "Rome"), ("Spain 2", "Lisbon")]}  # fmt: skip
    found = measure(FakeTextModel(answers=answers), task=str(task), limit=4)
    assert found.values == (1, 1, 0, 0)
    assert found.outputs is not None and found.outputs[0].strip() == "Paris"


def test_chat_asks_in_conversations(ours: TextModel, theirs: HFLM, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    differences = []
    for model in (HarnessModel(ours), theirs):
        context = model.apply_chat_template(turns)
        requests = [Instance("loglikelihood", {}, (context, a), 0) for a in ("Hello", "Yes")]
        first, second = (value for value, _ in model.loglikelihood(requests))
        differences.append(first - second)  # the harness also scores the line break before both
    assert differences[0] == pytest.approx(differences[1], abs=1e-4)
    asked = FakeTextModel(answers={"Land: France 0\nTown:": " Paris"})
    task = write_generation(tmp_path)
    assert measure(asked, task=str(task), chat=True, limit=2).values == (1, 0)
    mark = HarnessModel(FakeTextModel()).apply_chat_template([{"role": "user", "content": "Hi"}])
    assert to_prompt(mark) == (Message("user", "Hi"),) and to_prompt("Hi") == "Hi"


def test_worked_examples_are_turns_of_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    generate = FakeTextModel.generate

    def record(self: FakeTextModel, prompts: Any, *others: Any) -> Any:
        asked.extend(prompts)
        return generate(self, prompts, *others)

    monkeypatch.setattr(FakeTextModel, "generate", record)
    task = str(write_generation(tmp_path))
    measure(FakeTextModel(), task=task, chat=True, num_fewshot=2, limit=1)
    roles = [message.role for message in asked[0]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, 256),
        ({"max_gen_toks": 5, "max_tokens": 9}, 5),
        ({"max_new_tokens": 6}, 6),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
    ],
)
def test_every_name_of_the_token_limit_is_read(settings: dict[str, Any], limit: int) -> None:
    assert read_limit({"do_sample": False, **settings}) == limit


def test_spaces_move_to_the_answer_and_stop_texts_end_it() -> None:
    assert move_spaces("a:  ", "b") == ("a:", "  b")
    assert cut("one\ntwo", ["three", "\n"]) == "one" and cut("one", None) == "one"


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"metric": "f1"}, {}, "no metric 'f1'"),
        ({"filter": "strict"}, {}, "no filter 'strict'"),
        ({}, {"metric_list": [{"metric": "acc", "higher_is_better": False}]}, "lower values"),
        ({}, {"output_type": "loglikelihood_rolling"}, "not supported"),
    ],
)
def test_unsuitable_tasks_are_refused(
    options: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    task = write_task(tmp_path, rows=3, **changes)
    with pytest.raises(UsageError, match=message):
        measure(FakeTextModel(), task=str(task), **options)


def test_unknown_tasks_and_missing_data_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such task"):
        measure(FakeTextModel(), task=str(tmp_path / "missing.yaml"))
    with pytest.raises(DataError, match="arc_easy: the task cannot be loaded"):
        measure(FakeTextModel(), task="arc_easy")  # the data of a named task is on the Hub
    task = write_task(tmp_path, dataset_kwargs={"data_files": {"test": "missing.jsonl"}})
    with pytest.raises(DataError, match="cannot be loaded"):
        measure(FakeTextModel(), task=str(task))


def test_sampling_is_refused(tmp_path: Path) -> None:
    task = write_generation(tmp_path, do_sample=True, temperature=0.7)
    with pytest.raises(UsageError, match="greedy"):
        measure(FakeTextModel(), task=str(task), limit=2)


def test_the_readme_runs_and_compares_the_models(
    readme_run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path)
    options = {
        "technique.max_steps": 4,
        "technique.learning_rate": 0.01,
        "baselines.use": ["majority"],
    }
    run = tunesmith.run(readme_run_file, set=options)
    scores = {m.model: m for m in run.report.measured.values() if m.evaluator == "lm-eval"}
    assert {*scores} == {"base", "tuned"} and scores["tuned"].n == 20
    (effect,) = [e for e in run.report.verdict["side_effects"] if e["metric"] == "lm-eval"]
    assert effect["difference"] == pytest.approx(scores["tuned"].value - scores["base"].value)
    warnings = [f.message for f in run.report.findings if "lm-eval" in f.message]
    assert not warnings, "it changed global state"
