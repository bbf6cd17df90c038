"""The ONNX graph gives the classifier's probabilities, and damage is detected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from test_classifier import ROWS, load, train
from transformers import AutoTokenizer

from tunesmith.errors import GateError
from tunesmith.records import last_exchange
from tunesmith_classifier import onnx_export
from tunesmith_classifier.export_command import ROWS as COMPARED
from tunesmith_classifier.onnx_export import MAX_PROMPTS, export_classifier

PROMPTS = [last_exchange(row)[0] for row in ROWS[18:]]


@pytest.mark.parametrize("adapt", ["lora", "head"])
def test_a_plain_program_gets_the_same_probabilities(
    adapt: str, tiny_model: Path, tmp_path: Path
) -> None:
    artifact, _ = train(tiny_model, tmp_path / "run", adapt=adapt)
    model = load(tiny_model, artifact, adapt)
    expected = model.logprobs(PROMPTS).numpy()
    checks = export_classifier(model, artifact, PROMPTS, tmp_path / "onnx")
    assert set(checks) == {"labels", "token ids", "log-probabilities", "rows"}
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    for prompt, row_L in zip(PROMPTS[:3], expected, strict=False):
        messages = [{"role": "user", "content": prompt[0].text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        (found_1L,) = session.run(None, {"input_ids": np.array([ids], np.int64)})
        assert np.allclose(found_1L[0], row_L, atol=1e-4)
    labels = json.loads((tmp_path / "onnx/classifier.json").read_text(encoding="utf-8"))["labels"]
    assert labels == ["bank", "post", "shop"]
    certificate = json.loads((tmp_path / "onnx/export.json").read_text(encoding="utf-8"))
    assert certificate["max_logprob_difference_nats"] <= 1e-4


def change_labels(folder: Path) -> None:
    path = folder / "classifier.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**table, "labels": table["labels"][::-1]}), encoding="utf-8")


def change_template(folder: Path) -> None:
    for path in folder.glob("*.jinja"):
        path.write_text(path.read_text(encoding="utf-8").replace("\n", " \n"), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "check"), [(change_labels, "labels"), (change_template, "token ids")]
)
def test_a_damaged_file_is_detected_and_nothing_is_kept(
    damage: Callable[[Path], None],
    check: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact, _ = train(tiny_model, tmp_path / "run", max_steps=1)
    model, run_checks = load(tiny_model, artifact), onnx_export._check

    def damaged(checks: Any, classifier: Any, folder: Path, *rest: Any) -> None:
        damage(folder)
        run_checks(checks, classifier, folder, *rest)

    monkeypatch.setattr(onnx_export, "_check", damaged)
    with pytest.raises(GateError, match=f"export, {check}"):
        export_classifier(model, artifact, PROMPTS, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_forgotten_temperature_is_detected(tiny_model: Path, tmp_path: Path) -> None:
    artifact, _ = train(tiny_model, tmp_path / "run")
    model = load(tiny_model, artifact)
    write = onnx_export._write_graph

    def wrong(classifier: Any, file: Path) -> None:
        temperature, classifier.head.temperature = classifier.head.temperature, 1.0
        write(classifier, file)
        classifier.head.temperature = temperature

    model.head.temperature = 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_write_graph", wrong)
        with pytest.raises(GateError, match="log-probabilities differ by"):
            export_classifier(model, artifact, PROMPTS, tmp_path / "onnx")


def test_the_command_reads_no_more_rows_than_are_compared() -> None:
    assert COMPARED == MAX_PROMPTS
