"""The head, its calibration, and the files of ``classifier``."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job, SkippedRow
from tunesmith.errors import DataError, IntegrityError, PromptTooLongError
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.options import from_table
from tunesmith.records import Completion, last_exchange
from tunesmith.storage import Checkpoints
from tunesmith_classifier.head import Head, fit_temperature
from tunesmith_classifier.offer import CLASSIFIER
from tunesmith_classifier.options import ClassifierOptions
from tunesmith_classifier.task import ClassifierTask, read_labels
from tunesmith_classifier.technique import ClassifierModel, ClassifierTechnique
from tunesmith_torch.data.templates import Template

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = tuple(
    Completion(source=f"rows:{n}", prompt=f"{word} {n}", completion=label)
    for n in range(10)
    for word, label in (("card", "bank"), ("invoice", "post"), ("refund", "shop"))
)


def train(model: Path, out: Path, rows: Any = ROWS, **table: Any) -> tuple[Path, list[Event]]:
    config = from_table(
        ClassifierOptions,
        {"precision": "fp32", "batch_size": 8, "epochs": 8.0, "learning_rate": 0.02, **table},
    )
    events: list[Event] = []
    out.mkdir()
    job: Job[Any] = Job(
        config=config, model=model, train=rows[:18], validation=rows[18:], out=out, seed=3,
        device="cpu", checkpoints=Checkpoints(out / "checkpoints"), emit=events.append,
        technique="classifier",
    )  # fmt: skip
    return ClassifierTechnique(config).train(job).path, events


def load(model: Path, artifact: Path, adapt: str = "lora") -> ClassifierModel:
    options = from_table(ClassifierOptions, {"precision": "fp32", "adapt": adapt})
    found = ClassifierTechnique(options).open(model, artifact, device="cpu")
    assert isinstance(found, ClassifierModel)
    return found


@pytest.mark.parametrize("adapt", ["lora", "head"])
def test_it_learns_and_its_probabilities_are_distributions(
    adapt: str, tiny_model: Path, tmp_path: Path
) -> None:
    rate = 0.02 if adapt == "lora" else 0.3
    # A random model has nothing to generalize with: keep the last step, not the best one.
    table = {"adapt": adapt, "learning_rate": rate, "validation": {"keep_best": False}}
    artifact, events = train(tiny_model, tmp_path / "run", epochs=20.0, **table)
    losses = [event.loss for event in events if isinstance(event, StepFinished)]
    assert math.isclose(losses[0], math.log(3), rel_tol=1e-4), "a new head is uniform"
    assert losses[-1] < 0.7 * losses[0]
    model = load(tiny_model, artifact, adapt)
    prompts = [last_exchange(row)[0] for row in ROWS[:18]]
    answers = model.generate(prompts, 8)
    right = [a.text == row.completion for a, row in zip(answers, ROWS[:18], strict=True)]
    assert all(right)
    assert torch.allclose(model.logprobs(prompts).exp().sum(-1), torch.ones(18).double())
    scores = model.score(prompts[:1] * 3, ["bank", "post", "nothing"])
    assert scores[2].logprobs == (-50.0,) and scores[0].logprobs[0] > -50
    assert (artifact / "adapter_model.safetensors").is_file() == (adapt == "lora")
    temperature = json.loads((artifact / "classifier.json").read_text())["temperature"]
    texts = [e.message for e in events if isinstance(e, FindingReported)]
    assert any(f"temperature {temperature:.3g}, from 12" in text for text in texts)


def test_the_logits_are_those_of_plain_transformers(tiny_model: Path, tmp_path: Path) -> None:
    """The formula of the README, on the hidden state at the end of the prompt."""
    artifact, _ = train(tiny_model, tmp_path / "run", adapt="head", learning_rate=0.3)
    model = load(tiny_model, artifact, "head")
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for prompt in ("card 1", "a refund that is longer"):
        ids_1T = torch.tensor([model.template.encode_prompt(prompt)])
        with torch.no_grad():
            hidden_D = plain.model(input_ids=ids_1T).last_hidden_state[0, -1]
            logits_L = model.head.linear(hidden_D) / model.head.temperature
        found_L = model.logprobs([prompt, "card"])[0]
        assert torch.allclose(found_L.float(), logits_L.log_softmax(-1), atol=1e-4)


def test_calibration_finds_the_temperature_of_overconfident_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NL = torch.randn(4000, 4, generator=generator)
    labels_N = torch.multinomial(logits_NL.softmax(-1), 1, generator=generator)[:, 0]
    assert 2.7 < fit_temperature(logits_NL * 3, labels_N) < 3.3
    assert 0.9 < fit_temperature(logits_NL, labels_N) < 1.1
    before = functional.cross_entropy(logits_NL * 3, labels_N)
    after = functional.cross_entropy(
        logits_NL * 3 / fit_temperature(logits_NL * 3, labels_N), labels_N
    )
    assert after < before - 0.1


def test_few_right_answers_do_not_make_certain() -> None:
    """Ten of ten: the best estimate of the accuracy is 11/12, not 1."""
    labels_N = torch.arange(10) % 2
    logits_NL = functional.one_hot(labels_N, 2) * 4.0
    temperature = fit_temperature(logits_NL, labels_N)
    confidence = float((logits_NL / temperature).softmax(-1).max())
    assert 0.9 < confidence < 0.93


def test_few_validation_rows_leave_it_uncalibrated(tiny_model: Path, tmp_path: Path) -> None:
    artifact, events = train(tiny_model, tmp_path / "run", ROWS[:20], epochs=1.0)
    texts = [e.message for e in events if isinstance(e, FindingReported)]
    assert any(text.startswith("not calibrated") for text in texts)
    assert Head.load(artifact).temperature == 1.0


def test_rows_without_labels_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    same = tuple(Completion(source="r", prompt=f"{n}", completion="one") for n in range(20))
    with pytest.raises(DataError, match="has 1 label; at least 2"):
        train(tiny_model, tmp_path / "one", same)
    with pytest.raises(DataError, match="18 × row is too long, first at rows:0"):
        train(tiny_model, tmp_path / "long", max_length=8)
    assert (tmp_path / "long" / "skipped-in-training.jsonl").read_text().count("\n") == 18


def test_a_row_that_the_template_refuses_is_skipped(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [replace(row, source=f"rows:{n}") for n, row in enumerate(ROWS)]

    def find_problems(self: Any, records: Any) -> Iterator[SkippedRow]:
        if any(record.source == "rows:4" for record in records):
            yield SkippedRow(where="rows:4", cause="refused")

    monkeypatch.setattr(Template, "find_problems", find_problems)
    _, events = train(tiny_model, tmp_path / "run", rows, epochs=1.0, max_skipped=0.1)
    assert sum(e.rows for e in events if isinstance(e, StepFinished)) == 17
    texts = [e.message for e in events if isinstance(e, FindingReported)]
    assert any(text.startswith("skipped 1 row: refused; first: rows:4") for text in texts)


def test_answers_that_are_not_labels_are_reported(tiny_model: Path, tmp_path: Path) -> None:
    rows = tuple(Completion(source=f"r:{n}", prompt="p", completion=f"{n}") for n in range(20))
    _, events = train(tiny_model, tmp_path / "run", rows, epochs=1.0)
    texts = [e.message for e in events if isinstance(e, FindingReported)]
    assert any(text.startswith("18 of 18 rows have a label that no other row") for text in texts)


def test_a_prompt_beyond_the_context_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    artifact, _ = train(tiny_model, tmp_path / "run", adapt="head", epochs=1.0)
    model = load(tiny_model, artifact, "head")
    with pytest.raises(PromptTooLongError, match="1 of 2 prompts do not fit"):
        model.generate(["short", "long " * 10_000], 8)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"from": "runs/earlier"}, "starts from the base model"),
        ({"validation": {"by": "exact-match"}}, 'validation.by must be "loss"'),
        ({"adapt": "head", "adapter": {"rank": 4}}, "only has an effect with"),
    ],
)
def test_options_without_effect_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_table(ClassifierOptions, table)


def test_a_label_is_not_shown_as_a_token(tiny_model: Path, tmp_path: Path) -> None:
    _, events = train(tiny_model, tmp_path / "run", epochs=1.0)
    assert not any(type(event).__name__ == "FirstBatch" for event in events)


def test_a_damaged_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    artifact, _ = train(tiny_model, tmp_path / "run", adapt="head", epochs=1.0)
    path = artifact / "classifier.json"
    text = path.read_text()
    path.write_text(text.replace('"bank",', ""), encoding="utf-8")
    with pytest.raises(IntegrityError, match="not a classifier"):
        load(tiny_model, artifact, "head")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors: the file is missing"):
        load(tiny_model, artifact, "lora")
    (artifact / "head.safetensors").write_bytes(b"truncated")
    with pytest.raises(IntegrityError, match="not a classifier"):
        load(tiny_model, artifact, "head")


def test_the_run_file_of_the_readme_runs(tiny_model: Path, tmp_path: Path) -> None:
    (rows,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "run.toml").write_text(text.replace(MODEL, str(tiny_model)), encoding="utf-8")
    done = tunesmith(tmp_path, "run", "run.toml", "--out", "runs/one")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "runs/one/adapter/head.safetensors").is_file()
    refused = tunesmith(tmp_path, "export", "runs/one", "--to", "safetensors")
    assert refused.returncode != 0 and "does not train a language model" in refused.stderr
    exported = tunesmith(tmp_path, "classifier", "export", "runs/one")
    assert exported.returncode == 0, exported.stderr[-3000:]
    assert "log-probabilities" in exported.stdout
    assert (tmp_path / "runs/one/export/onnx/model.onnx").is_file()


def tunesmith(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_labels_are_the_answers_of_the_training_rows() -> None:
    assert read_labels(ROWS) == read_labels(ROWS[::-1]) == ["bank", "post", "shop"]
    assert ClassifierTask.has_row_losses
    assert not CLASSIFIER.can_score(from_table(ClassifierOptions, {}))
