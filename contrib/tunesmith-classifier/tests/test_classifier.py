"""The head, its calibration, and the files of ``classifier``."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job
from tunesmith.errors import DataError, IntegrityError
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.options import from_table
from tunesmith.records import Completion, last_exchange
from tunesmith.storage import Checkpoints
from tunesmith_classifier.head import Head, fit_temperature
from tunesmith_classifier.offer import CLASSIFIER
from tunesmith_classifier.options import ClassifierOptions
from tunesmith_classifier.task import ClassifierTask, read_labels
from tunesmith_classifier.technique import ClassifierModel, ClassifierTechnique

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


def load(model: Path, artifact: Path) -> ClassifierModel:
    options = from_table(ClassifierOptions, {"precision": "fp32"})
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
    model = load(tiny_model, artifact)
    prompts = [last_exchange(row)[0] for row in ROWS[:18]]
    answers = model.generate(prompts, 8)
    right = [a.text == row.completion for a, row in zip(answers, ROWS[:18], strict=True)]
    assert all(right)
    assert torch.allclose(model.logprobs(prompts).exp().sum(-1), torch.ones(18), atol=1e-5)
    scores = model.score(prompts[:1] * 3, ["bank", "post", "nothing"])
    assert scores[2].logprobs == (-50.0,) and scores[0].logprobs[0] > -50
    assert (artifact / "adapter_model.safetensors").is_file() == (adapt == "lora")
    temperature = json.loads((artifact / "classifier.json").read_text())["temperature"]
    texts = [e.message for e in events if isinstance(e, FindingReported)]
    assert any(f"temperature {temperature:.3g}, from 12" in text for text in texts)


def test_the_logits_are_those_of_plain_transformers(tiny_model: Path, tmp_path: Path) -> None:
    """The formula of the README, on the hidden state at the end of the prompt."""
    artifact, _ = train(tiny_model, tmp_path / "run", adapt="head", learning_rate=0.3)
    model = load(tiny_model, artifact)
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for prompt in ("card 1", "a refund that is longer"):
        ids_1T = torch.tensor([model.template.encode_prompt(prompt)])
        with torch.no_grad():
            hidden_D = plain.model(input_ids=ids_1T).last_hidden_state[0, -1]
            logits_L = model.head.linear(hidden_D) / model.head.temperature
        found_L = model.logprobs([prompt, "card"])[0]
        assert torch.allclose(found_L, logits_L.log_softmax(-1), atol=1e-4)


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


def test_few_validation_rows_leave_it_uncalibrated(tiny_model: Path, tmp_path: Path) -> None:
    artifact, events = train(tiny_model, tmp_path / "run", ROWS[:20], epochs=1.0)
    texts = [e.message for e in events if isinstance(e, FindingReported)]
    assert any(text.startswith("not calibrated") for text in texts)
    assert Head.load(artifact).temperature == 1.0


def test_rows_without_labels_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    same = tuple(Completion(source="r", prompt=f"{n}", completion="one") for n in range(20))
    with pytest.raises(DataError, match="has 1 labels"):
        train(tiny_model, tmp_path / "one", same)
    with pytest.raises(DataError, match="18 too long"):
        train(tiny_model, tmp_path / "long", max_length=8)


def test_a_damaged_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    artifact, _ = train(tiny_model, tmp_path / "run", adapt="head", epochs=1.0)
    path = artifact / "classifier.json"
    path.write_text(path.read_text().replace('"bank",', ""), encoding="utf-8")
    with pytest.raises(IntegrityError, match="not a classifier"):
        load(tiny_model, artifact)


def test_the_run_file_of_the_readme_runs(tiny_model: Path, tmp_path: Path) -> None:
    (rows,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "run.toml").write_text(text.replace(MODEL, str(tiny_model)), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", "runs/one"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "runs/one/adapter/head.safetensors").is_file()


def test_labels_are_the_answers_of_the_training_rows() -> None:
    assert read_labels(ROWS) == ["bank", "post", "shop"]
    assert ClassifierTask.has_row_losses
    assert not CLASSIFIER.can_score(from_table(ClassifierOptions, {}))
