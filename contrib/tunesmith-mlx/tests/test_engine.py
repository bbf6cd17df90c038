"""The engine asks mlx-lm with the tokens of its own template, and keeps the end token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.errors import IntegrityError
from tunesmith.records import Message
from tunesmith_mlx.engine import open_engine

QUESTION = (Message("user", "What is the capital of Spain?"),)


def test_answers_and_probabilities_are_those_of_transformers(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with open_engine(tiny_model) as engine:
        ids = list(engine.tokenize(engine.render(QUESTION)))
        (answer,) = engine.generate([QUESTION], 6)
        found_NV = engine.logprobs(ids, 2)
    ids_1T = torch.tensor([ids])
    mask_1T = torch.ones_like(ids_1T)
    expected = model.generate(ids_1T, attention_mask=mask_1T, do_sample=False, max_new_tokens=6)
    assert list(answer.ids) == expected[0, len(ids) :].tolist()
    expected_NV = model(ids_1T).logits[0, 2:].double().log_softmax(-1).detach().numpy()
    assert np.abs(found_NV - expected_NV).max() < 1e-5


def test_an_end_token_ends_an_answer_and_is_not_text(tiny_model: Path) -> None:
    with open_engine(tiny_model) as engine:
        (whole,) = engine.generate([QUESTION], 4)
        assert (whole.finish_reason, whole.tokens) == ("length", 4)
        engine.tokenizer.eos_token_ids = {whole.ids[0]}
        (answer,) = engine.generate([QUESTION], 4)
    assert whole.text
    assert (answer.finish_reason, answer.ids, answer.text) == ("stop", whole.ids[:1], "")


def test_a_folder_that_mlx_cannot_load_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    error = "mlx-lm cannot load this folder"
    with pytest.raises(IntegrityError, match=error), open_engine(tmp_path):
        pass
