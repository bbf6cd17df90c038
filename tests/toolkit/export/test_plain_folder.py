"""Plain folders keep every tensor and file, and answer without our code."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tunesmith_torch.export.plain_folder import INDEX, copy_model, open_transformers_engine
from tunesmith_torch.testing.tiny_model import save_tiny_model


def test_files_of_weights_stay_apart_and_their_index_counts_bytes(tmp_path: Path) -> None:
    whole = save_tiny_model(tmp_path / "whole")
    model, out = tmp_path / "model", tmp_path / "out"
    loaded = AutoModelForCausalLM.from_pretrained(whole)
    loaded.save_pretrained(model, max_shard_size="20KB")
    out.mkdir()
    copy_model(model, out, "bfloat16")
    files = sorted(out.glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert len(files) > 1
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert json.loads((out / INDEX).read_text())["metadata"] == {"total_size": total}
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_a_folder_is_opened_in_float32(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    engine = open_transformers_engine(folder)
    ids = list(engine.tokenize(engine.render("Who is 3?")))
    expected = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0, 1:]
    found = torch.from_numpy(engine.logprobs(ids, 1))
    torch.testing.assert_close(found, expected.double().log_softmax(-1), rtol=0, atol=1e-9)
