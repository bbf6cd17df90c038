"""``[retention]`` in a training: against plain computations, and after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from training import CPU, Training, assert_same_weights, write_earlier_run

from tunesmith.errors import RunStopped, TunesmithError
from tunesmith.events import FindingReported
from tunesmith.records import Text
from tunesmith.storage import RunFolder
from tunesmith_continual.budget import find_divergence
from tunesmith_continual.chain import Task
from tunesmith_continual.divergence import PreviousModel
from tunesmith_continual.offer import addition
from tunesmith_continual.options import RetentionOptions
from tunesmith_continual.replay import (
    ReplayLog,
    ReplayRow,
    order_rows,
    read_answers,
    read_earlier_rows,
)
from tunesmith_continual.retention import RowPool
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import pick_precision

FP32 = pick_precision(CPU, "fp32")


def mean_nll(model: Any, ids: list[int], trained: list[bool]) -> tuple[float, int]:
    """Return the summed loss of a row, by transformers alone, and its number of tokens."""
    ids_1T = torch.tensor([ids])
    labels_T = torch.where(torch.tensor(trained), ids_1T[0], -100)
    with torch.no_grad():
        logits_TV = model(ids_1T).logits[0]
    loss = F.cross_entropy(logits_TV[:-1], labels_T[1:], reduction="sum")
    return float(loss), int((labels_T[1:] >= 0).sum())


def test_a_replayed_row_counts_as_one_row_of_the_batch(
    tmp_path: Path, tiny_model: Path, earlier: list[str]
) -> None:
    """The first term, at the initial weights, against transformers' loss of the logged rows."""
    run = Training(tmp_path / "run", tiny_model, {"replay": 0.5, "earlier": earlier}, epochs=1)
    base = load_model(tiny_model, CPU, FP32, packing=False)
    template = Template.from_tokenizer(base.tokenizer)
    rows = read_earlier_rows(earlier)
    examples = list(template.tokenize_records([row.record for row in rows], 512).examples)
    losses = [mean_nll(base.model, e.ids.tolist(), e.trained.tolist()) for e in examples]
    mean = sum(count for _, count in losses) / len(losses)
    first = [entry["id"] for entry in run.replayed()[:2]]  # 0.5 of a batch of 4
    expected = sum(losses[[row.id for row in rows].index(key)][0] for key in first) / (4 * mean)
    assert run.terms[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("start", ["base", "adapter"])
def test_the_teacher_is_the_model_that_training_started_from(
    tmp_path: Path, tiny_model: Path, start: str
) -> None:
    """With an adapter over an earlier adapter, the teacher has the earlier one."""
    changes: dict[str, Any] = {"learning_rate": 0.05, "epochs": 1}
    if start == "adapter":
        first = Training(tmp_path / "first", tiny_model, **changes)
        changes["from"] = str(first.artifact.path)
    run = Training(tmp_path / "run", tiny_model, {"kl_every": 1, "kl_rows": 4}, **changes)
    measured = [json.loads(x)["kl"] for x in (run.folder / "kl.jsonl").read_text().splitlines()]
    assert measured[0] == pytest.approx(0.0, abs=1e-6) and measured[-1] > 1e-4
    (context,) = run.contexts
    records = [*(context.job.validation or context.job.train)][:4]
    examples = list(context.template.tokenize_records(records, 512).examples)
    # The model after training, and the one before it, both from transformers and the artifacts.
    before, after = (
        logprobs(tiny_model, path, examples)
        for path in (changes.get("from"), str(run.artifact.path))
    )
    total = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(before, after, strict=True))
    assert measured[-1] == pytest.approx(total / sum(map(len, before)), rel=1e-3)


def logprobs(model: Path, adapter: str | None, examples: Any) -> list[torch.Tensor]:
    """Return the log-probabilities before each trained token, by transformers and PEFT."""
    from peft import PeftModel

    loaded: Any = load_model(model, CPU, FP32, packing=False).model
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, adapter).eval()
    found = []
    for example in examples:
        with torch.no_grad():
            logits_TV = loaded(torch.tensor([example.ids.tolist()])).logits[0]
        found.append(logits_TV[:-1][torch.tensor(example.trained.tolist())[1:]].log_softmax(-1))
    return found


def test_full_training_compares_with_a_frozen_copy(tmp_path: Path, tiny_model: Path) -> None:
    run = Training(tmp_path / "run", tiny_model, {"keep": 1.0}, use="full", learning_rate=0.01)
    assert run.terms[0] == pytest.approx(0.0, abs=1e-6) and max(run.terms[1:]) > 1e-4


def test_the_divergence_keeps_the_model_near(tmp_path: Path, tiny_model: Path) -> None:
    measured = []
    for weight in (0.0, 10.0):
        keys = {"keep": weight, "kl_every": 99, "keep_rows": 8}
        run = Training(tmp_path / f"run-{weight}", tiny_model, keys, learning_rate=5e-3, epochs=6)
        measured.append(json.loads((run.folder / "kl.jsonl").read_text().splitlines()[-1])["kl"])
    assert measured[1] < 0.8 * measured[0]


EVERYTHING = {
    "replay": 0.3, "replay_by": "class", "self_replay": 0.2, "self_replay_tokens": 3, "keep": 0.5,
    "keep_on": "earlier", "project": 0.7, "project_rows": 6, "kl_every": 2,
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
def test_a_resumed_run_ends_with_identical_weights(
    tmp_path: Path, tiny_model: Path, earlier: list[str], optimizer: str
) -> None:
    keys = {**EVERYTHING, "earlier": earlier, "self_replay_prompts": str(write_prompts(tmp_path))}
    technique = {"optimizer": {"name": optimizer, "weight_decay": 0.1}, "epochs": 3}
    complete = Training(tmp_path / "complete", tiny_model, keys, **technique)
    with pytest.raises(RunStopped):
        Training(tmp_path / "resumed", tiny_model, keys, stop=3, **technique)
    resumed = Training(tmp_path / "resumed", tiny_model, keys, **technique)
    assert resumed.terms == complete.terms[3:]
    assert_same_weights(complete, resumed)
    files = [run.folder / name for run in (complete, resumed) for name in ("replayed.jsonl",)]
    assert files[0].read_text() == files[1].read_text()
    kl = [(run.folder / "kl.jsonl").read_text() for run in (complete, resumed)]
    assert kl[0] == kl[1]


def write_prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("one two\n\nthree four\n", encoding="utf-8")
    return path


def test_terms_do_not_depend_on_micro_batches(
    tmp_path: Path, tiny_model: Path, earlier: list[str]
) -> None:
    keys = {"replay": 0.5, "keep": 1.0, "keep_rows": 3, "earlier": earlier}
    runs = [
        Training(tmp_path / f"run-{tokens}", tiny_model, keys, micro_batch_tokens=tokens)
        for tokens in (1, 4096)
    ]
    assert runs[0].terms == pytest.approx(runs[1].terms, rel=1e-3, abs=1e-6)


# --------------------------------------------------------------------------- rows


def test_the_order_is_a_function_of_the_seed(earlier: list[str]) -> None:
    rows = read_earlier_rows(earlier)
    first = order_rows(rows, "random", 1)
    assert first == order_rows(rows, "random", 1) != order_rows(rows, "random", 2)
    assert sorted(first) == list(range(len(rows)))


def test_classes_take_turns(earlier: list[str]) -> None:
    rows = read_earlier_rows(earlier)
    order = order_rows(rows, "class", 1)
    answers = [rows[row].record.completion for row in order[:8]]  # type: ignore[attr-defined]
    assert (
        sorted(answers[:4]) == sorted(answers[4:]) == ["blue no", "blue yes", "red no", "red yes"]
    )


def test_surprise_replays_the_largest_losses_first(
    tmp_path: Path, tiny_model: Path, earlier: list[str]
) -> None:
    rows = read_earlier_rows(earlier)
    losses = [float(n * 7 % 11) for n in range(len(rows))]
    order = order_rows(rows, "surprise", 1, losses)
    ordered = [losses[row] for row in order]
    assert ordered == sorted(losses, reverse=True)
    keys = {"replay": 0.25, "replay_by": "surprise", "earlier": earlier}
    run = Training(tmp_path / "run", tiny_model, keys, epochs=1)
    base = load_model(tiny_model, CPU, FP32, packing=False)
    template = Template.from_tokenizer(base.tokenizer)
    examples = list(template.tokenize_records([row.record for row in rows], 512).examples)
    summed = [mean_nll(base.model, e.ids.tolist(), e.trained.tolist()) for e in examples]
    means = {row.id: loss / count for row, (loss, count) in zip(rows, summed, strict=True)}
    logged = [entry["id"] for entry in run.replayed()]
    assert logged == sorted(means, key=lambda key: -means[key])[: len(logged)]


@pytest.mark.parametrize("rate", [0.05, 0.4, 1.0, 2.5])
def test_the_share_holds_over_many_steps(rate: float) -> None:
    pool = RowPool([], [], list(range(7)), rate)
    drawn = [row for step in range(200) for row in pool.draw(step)]
    assert len(drawn) == pytest.approx(200 * rate, abs=1)
    assert drawn == [number % 7 for number in range(len(drawn))]


def test_deleted_rows_and_test_rows_are_not_replayed(tmp_path: Path, tiny_model: Path) -> None:
    """After a deletion, the split may move: test rows must not become replayed rows."""
    folder = write_earlier_run(tmp_path, tiny_model, "grey")
    task = Task.open(folder)
    test = {record.prompt for record in task.data.test}  # type: ignore[attr-defined]
    write_evaluation(folder, task)
    path = tmp_path / "grey.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    prompts = [json.loads(line)["prompt"] for line in lines]
    deleted = next(n for n, prompt in enumerate(prompts) if prompt not in test)
    del lines[deleted]
    path.write_text("".join(lines), encoding="utf-8")
    left = {row.record.prompt for row in read_earlier_rows([str(folder)])}  # type: ignore[attr-defined]
    assert left and prompts[deleted] not in left and not left & test
    moved = {record.prompt for record in Task.open(folder).data.train}  # type: ignore[attr-defined]
    assert moved & test, "the split did not move, so this test shows nothing"


def write_evaluation(folder: Path, task: Task) -> None:
    """Write the events and rows of a tuned model that was measured on the test rows."""
    from dataclasses import replace

    from tunesmith.events import Measured
    from tunesmith.execution.emitter import Emitter, Reporters
    from tunesmith.signals import StopSignalHandler
    from tunesmith.storage import EventLog, RunFolder

    (folder / "evaluations").mkdir()
    rows = [
        {"prompt": [["user", r.prompt]], "exact-match": {"value": 1.0, "weight": 1.0}}  # type: ignore[attr-defined]
        for r in task.data.test
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "evaluations" / "t.jsonl").write_text(text, encoding="utf-8")
    event = Measured(
        model="tuned", evaluator="exact-match", metric="exact-match", value=1.0, low=0.5, high=1.0,
        n=5, units=5, higher_is_better=True, seconds=1.0, records="evaluations/t.jsonl",
    )  # fmt: skip
    run = RunFolder(folder)
    with (
        EventLog(run.events) as log,
        StopSignalHandler() as stop,
        Reporters(replace(task.plan, reporters=()), run) as reporters,
    ):
        Emitter(log, reporters, (), stop)(event)


def test_changed_rows_are_refused_on_resume(tmp_path: Path, tiny_model: Path) -> None:
    folder = write_earlier_run(tmp_path, tiny_model, "pink")
    keys = {"replay": 0.5, "earlier": [str(folder)]}
    with pytest.raises(RunStopped):
        Training(tmp_path / "run", tiny_model, keys, stop=2)
    path = tmp_path / "pink.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(TunesmithError, match="rows of earlier tasks have changed"):
        Training(tmp_path / "run", tiny_model, keys)


def test_every_replayed_row_is_logged_once(
    tmp_path: Path, tiny_model: Path, earlier: list[str]
) -> None:
    run = Training(tmp_path / "run", tiny_model, {"replay": 1.0, "earlier": earlier}, epochs=5)
    logged = [entry["id"] for entry in run.replayed()]
    rows = {row.id: row for row in read_earlier_rows(earlier)}
    drawn = sum(4 for _ in run.steps)
    assert len(logged) == len(set(logged)) == min(drawn, len(rows))
    assert all(entry["source"] == rows[entry["id"]].record.source for entry in run.replayed())


# --------------------------------------------------------------------------- budget


def test_training_ends_with_the_last_weights_within_the_budget(
    tmp_path: Path, tiny_model: Path
) -> None:
    free = Training(tmp_path / "free", tiny_model, {"kl_every": 1}, epochs=3)
    lines = [json.loads(x) for x in (free.folder / "kl.jsonl").read_text().splitlines()]
    limit = lines[2]["kl"]
    assert max(line["kl"] for line in lines[:2]) < limit
    keys = {"kl_every": 1, "budget": 2 * limit * 0.999, "budget_slope": 2.0}
    run = Training(tmp_path / "run", tiny_model, keys, epochs=3)
    assert len(run.steps) == 2 < len(free.steps)
    message, _ = run.messages  # the second one is that of the training loop
    assert "the model has the weights of step 1" in message
    kept = [json.loads(x) for x in (run.folder / "kl.jsonl").read_text().splitlines()]
    assert [line["step"] for line in kept] == [0, 1]
    assert kept[-1]["predicted"] == pytest.approx(2.0 * lines[1]["kl"])
    with pytest.raises(RunStopped):  # the weights after one step, in its checkpoint
        Training(tmp_path / "one", tiny_model, {"kl_every": 1}, epochs=3, stop=1)
    stored = load_file(next((tmp_path / "one" / "checkpoints").glob("**/*.safetensors")))
    for name, tensor in run.weights.items():
        assert torch.equal(tensor, stored[f"master.{name.replace('.weight', '.default.weight')}"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"replay": 0.1}, "names no run"), ({"budget": 0.1}, "budget_slope")],
    ids=str,
)
def test_incomplete_options_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetentionOptions(**keys)


def test_a_table_with_only_defaults_adds_nothing(earlier: list[str]) -> None:
    assert addition(RetentionOptions(earlier=earlier)) is None
    assert addition(RetentionOptions(kl_every=1)) is not None


def test_a_previous_model_needs_no_gradient(tmp_path: Path, tiny_model: Path) -> None:
    run = Training(tmp_path / "run", tiny_model, use="full", epochs=1)
    previous = PreviousModel(run.contexts[0])
    examples = list(
        run.contexts[0].template.tokenize_records(run.contexts[0].job.train, 512).examples
    )
    divergence = previous.divergence(examples, [0, 1])
    divergence.backward()
    assert float(divergence.detach()) == pytest.approx(0.0, abs=1e-6)


# --------------------------------------------------------------------------- rows that are replayed


def test_runs_take_turns(earlier: list[str]) -> None:
    """So that few replayed rows are not all of one task."""
    rows = read_earlier_rows(earlier)[:22]  # 15 rows of the first run, and 7 of the second
    for seed in range(5):
        runs = [rows[row].run for row in order_rows(rows, "random", seed)]
        assert [runs[:14].count(run) for run in {*runs}] == [7, 7]
        assert all(set(runs[n : n + 2]) == {*runs} for n in range(0, 14, 2))


@pytest.mark.parametrize(("share", "level"), [(0.25, "warning"), (2.0, "info")])
def test_the_number_of_replayed_rows_is_reported(
    tmp_path: Path, tiny_model: Path, earlier: list[str], share: float, level: str
) -> None:
    keys = {"replay": min(share, 1.0), "earlier": earlier}
    run = Training(tmp_path / "run", tiny_model, keys, epochs=1.0 if share < 1 else 6)
    found = [e for e in run.events if isinstance(e, FindingReported) and e.source == "retention"]
    drawn = sum(min(share, 1.0) * 4 for _ in run.steps)
    assert [event.level for event in found] == [level]
    assert f"replays {int(drawn)} rows of 2 earlier runs" in found[0].message


def test_a_cut_answer_does_not_teach_to_stop(tmp_path: Path, tiny_model: Path) -> None:
    """Self-replay: the term of the first step, by transformers, without the end of cut answers."""
    keys = {"self_replay": 1.0, "self_replay_tokens": 3, "self_replay_prompts":
            str(write_prompts(tmp_path))}  # fmt: skip
    run = Training(tmp_path / "run", tiny_model, keys, epochs=1)
    lines = (run.folder / "self_replay.jsonl").read_text().splitlines()
    rows = read_answers(run.folder / "self_replay.jsonl")
    assert len(rows) == 2 and all(json.loads(line)["cut"] for line in lines)
    base = load_model(tiny_model, CPU, FP32, packing=False)
    template = Template.from_tokenizer(base.tokenizer)
    losses = []
    for example in template.tokenize_records([row.record for row in rows], 512).examples:
        trained = example.trained.tolist()
        end = max(n for n, is_trained in enumerate(trained) if is_trained)
        assert example.ids.tolist()[end] == base.tokenizer.eos_token_id
        trained[end] = False
        losses.append(mean_nll(base.model, example.ids.tolist(), trained))
    mean = sum(count for _, count in losses) / len(losses)
    expected = 2 * sum(loss for loss, _ in losses) / (4 * mean)  # each of two rows twice
    assert run.terms[0] == pytest.approx(expected, rel=1e-4)


def test_texts_are_replayed_after_a_deletion(tmp_path: Path) -> None:
    """A text has no prompt, so it is compared with the texts of the test rows."""
    lines = [{"row": 0, "prompt": "", "expected": "tested", "loss": {"value": 1.0, "weight": 1.0}}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    event = SimpleNamespace(records="t.jsonl", metric="loss")
    report: Any = SimpleNamespace(data=SimpleNamespace(fingerprint="old"), tuned=[event])
    unused: Any = None
    task = Task(RunFolder(tmp_path), unused, unused, report)
    texts = [Text(source="x", text=text) for text in ("kept", "tested")]
    task.__dict__["data"] = SimpleNamespace(fingerprint="new", train=texts)
    assert task.training_rows() == texts[:1]


def test_a_cut_line_of_the_log_is_removed(tmp_path: Path) -> None:
    """After a kill -9, further rows must not be appended to half a line."""
    rows = [ReplayRow("run", Text(source=f"x:{n}", text=f"{n}")) for n in range(3)]
    ReplayLog(tmp_path).add(rows[:1])
    with (tmp_path / "replayed.jsonl").open("a") as file:
        file.write('{"id": "ab')
    ReplayLog(tmp_path).add(rows[1:2])
    ReplayLog(tmp_path).add(rows)
    lines = (tmp_path / "replayed.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row.id for row in rows]


# --------------------------------------------------------------------------- the last measurement


def test_the_last_step_is_measured(tmp_path: Path, tiny_model: Path) -> None:
    """Steps after the last multiple of ``kl_every`` must not exceed the budget unseen."""
    free = Training(tmp_path / "free", tiny_model, {"kl_every": 3}, epochs=1)
    lines = [json.loads(x) for x in (free.folder / "kl.jsonl").read_text().splitlines()]
    assert len(free.steps) == 4 and [line["step"] for line in lines] == [0, 3, 4]
    between = (lines[1]["kl"] + lines[2]["kl"]) / 2
    assert lines[1]["kl"] < lines[2]["kl"]
    keys = {"kl_every": 3, "budget": between, "budget_slope": 1.0}
    run = Training(tmp_path / "run", tiny_model, keys, epochs=1)
    assert "above the budget" in run.messages[0] and "weights of step 3" in run.messages[0]
    assert any(not torch.equal(x, free.weights[name]) for name, x in run.weights.items())
    kept = [json.loads(x) for x in (run.folder / "kl.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("final")) for line in kept] == [(0, None), (3, True)]


@pytest.mark.parametrize(
    ("keep_best", "best", "is_final", "step"),
    [(True, [2, 4], False, 3), (False, [4], False, 6), (True, [2], True, 6), (True, [], False, 6)],
)
def test_the_divergence_is_that_of_the_final_model(
    tmp_path: Path, keep_best: bool, best: list[int], is_final: bool, step: int
) -> None:
    lines = [{"step": n, "kl": n / 10, "predicted": None} for n in (0, 3, 6)]
    lines[-1] |= {"final": True} if is_final else {}
    folder = tmp_path / "additions" / "retention"
    folder.mkdir(parents=True)
    (folder / "kl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = SimpleNamespace(validation=SimpleNamespace(keep_best=keep_best))
    events = [SimpleNamespace(step=n, best=n in best) for n in range(0, 7, 2)]
    task: Any = SimpleNamespace(
        path=tmp_path,
        plan=SimpleNamespace(technique=SimpleNamespace(config=options)),
        report=SimpleNamespace(monitored_of=lambda stage: events),
    )
    found = find_divergence(task)
    assert found is not None and found["step"] == step
