"""The parts that talk to llama.cpp: ends of answers, the server, the library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import IntegrityError
from tunesmith.records import Message
from tunesmith_gguf import libllama
from tunesmith_gguf.convert_process import list_extra_ends
from tunesmith_gguf.engine import open_engine
from tunesmith_gguf.exporter import convert_to_gguf

PROMPT = (Message("user", "Who is 3?"),)


@pytest.fixture(scope="module")
def file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    convert_to_gguf(tiny_model, path, "f32", "smollm")
    return path


def test_ends_that_the_tokenizer_does_not_name_are_written(
    tiny_model: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert list_extra_ends(tmp_path) == [0]


def test_the_library_and_the_server_have_the_same_model(file: Path) -> None:
    with open_engine(file, exact=True) as engine:
        ids = engine.tokenize(engine.render(PROMPT))
        (answer,) = engine.generate([PROMPT], 1)
        logprobs_1V = engine.logprobs(ids, len(ids) - 1)
    assert np.exp(logprobs_1V).sum() == pytest.approx(1.0)
    assert answer.ids[0] == int(logprobs_1V[0].argmax())


def test_ends_are_those_of_the_file(file: Path) -> None:
    assert libllama.list_end_ids(file) >= {2}


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(IntegrityError, match="cannot load it"):
        libllama.list_end_ids(tmp_path / "model.gguf")
