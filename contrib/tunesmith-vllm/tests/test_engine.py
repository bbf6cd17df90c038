"""The engine asks a process of vLLM, and says why if that ends.

The process has the stand-in for vLLM, or vLLM itself where VLLM_PYTHON names its Python.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.errors import IntegrityError
from tunesmith.records import Message
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_vllm import worker
from tunesmith_vllm.engine import find_failure_reason, open_engine

QUESTION = (Message("user", "What is the capital of Spain?"),)


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(folder),
        "dtype": "float32",
        "enforce_eager": True,
        "max_logprobs": -1,
        "max_model_len": 512,
        "override_generation_config": {"temperature": 0},
        "trust_remote_code": False,
        **changes,
    }


def test_answers_and_probabilities_are_those_of_transformers(tiny_model: Path, python: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with open_engine(python, arguments(tiny_model), None) as engine:
        text = engine.render(QUESTION)
        ids = list(engine.tokenize(text))
        assert ids == list(engine.tokenize(text + "")) and engine.has_template
        (answer, other) = engine.generate([QUESTION, QUESTION], 6)
        found_NV = engine.logprobs(ids, 2)
        assert engine.tokenize("Hello") == engine.tokenize(engine.render("Hello"))
    assert text.endswith("Spain?<|im_end|>\n<|im_start|>assistant\n")
    ids_1T = torch.tensor([ids])
    mask_1T = torch.ones_like(ids_1T)
    expected = model.generate(ids_1T, attention_mask=mask_1T, do_sample=False, max_new_tokens=6)
    assert list(answer.ids) == list(other.ids) == expected[0, len(ids) :].tolist()
    expected_NV = model(ids_1T).logits[0, 2:].double().log_softmax(-1).detach().numpy()
    assert found_NV.shape == expected_NV.shape
    assert np.abs(found_NV - expected_NV).max() < 1e-5


def test_a_conversation_is_its_text_without_a_template(tmp_path: Path, python: str) -> None:
    folder = save_tiny_model(tmp_path / "model", template=None, changes={"head_dim": 32})
    with open_engine(python, arguments(folder), None) as engine:
        assert not engine.has_template
        assert engine.render(QUESTION) == QUESTION[0].text


def test_a_folder_that_vllm_cannot_load_is_an_error(tmp_path: Path, python: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with (
        pytest.raises(IntegrityError, match=r"vLLM cannot serve the export: \w+Error: .*\w"),
        open_engine(python, arguments(tmp_path), None),
    ):
        pass


def test_a_prompt_that_vllm_refuses_is_an_error(tiny_model: Path, python: str) -> None:
    with (
        open_engine(python, arguments(tiny_model, max_model_len=8), None) as engine,
        pytest.raises(IntegrityError, match=r"vLLM cannot serve the export: .*too|longer|maximum"),
    ):
        engine.render(QUESTION)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "the vLLM process ended without an error message"),
        ("INFO loading\nKilled\n", "Killed"),
        ("[rank0]: ValueError: no such head\nProcessed: 0/1\n", "ValueError: no such head"),
    ],
)
def test_the_reason_is_the_last_error(log: str, reason: str) -> None:
    assert find_failure_reason(log) == reason


def test_the_worker_needs_vllm_and_what_vllm_brings_alone() -> None:
    """The environment of vLLM has no tunesmith."""
    nodes = [*ast.walk(ast.parse(Path(worker.__file__).read_text(encoding="utf-8")))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    found = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert found == {"numpy", "torch", "vllm"}
