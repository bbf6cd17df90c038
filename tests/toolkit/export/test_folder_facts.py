"""The facts of a folder are those of its files, not of its config alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.errors import IntegrityError
from tunesmith_torch.export.folder_facts import read_folder_facts
from tunesmith_torch.testing.tiny_model import SPECIAL


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_a_folder_says_what_it_holds(folder: Path) -> None:
    facts = read_folder_facts(folder)
    assert facts["end_ids"] == {2} and facts["tied"] is True
    assert facts["tokens"] == {text: number for number, text in enumerate(SPECIAL)}


def test_a_stored_head_is_not_tied(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros(512, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert read_folder_facts(folder)["tied"] is False


def test_end_tokens_are_those_of_generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert read_folder_facts(folder)["end_ids"] == {2, 5}
    (folder / "generation_config.json").unlink()
    assert read_folder_facts(folder)["end_ids"] == {2}


def test_a_truncated_file_is_an_error(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="not a complete safetensors file"):
        read_folder_facts(folder)
