"""Sentence encoders: equal to mean pooling text by text, and nothing else is accepted."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import CONTEXT, save_tiny_encoder
from transformers import AutoModel, AutoTokenizer

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError
from tunesmith_torch.models import sentence_encoder
from tunesmith_torch.models.sentence_encoder import SentenceEncoder, load_sentence_encoder

TEXTS = ["My card has not arrived.", "Where is it?", "", " ", "é 東京 🙂", "one two " * 100] + [
    f"The capital of country {n} is " + "very " * (n % 7) + "large." for n in range(20)
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return load_sentence_encoder(folder, CPU, max_length=256)


def test_vectors_are_the_normalized_mean_of_the_hidden_states(
    folder: Path, encoder: SentenceEncoder
) -> None:
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for text, vector in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        ids = tokenizer.encode(text)[:CONTEXT] or [tokenizer.pad_token_id]
        with torch.no_grad():
            hidden_TD = model(torch.tensor([ids])).last_hidden_state[0]
        expected = hidden_TD.mean(0) / hidden_TD.mean(0).norm()
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-6)


def test_a_vector_depends_neither_on_other_texts_nor_on_their_order(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = encoder.encode(TEXTS)
    order = random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    assert np.array_equal(encoder.encode([TEXTS[row] for row in order]), together[order])
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    monkeypatch.setattr(sentence_encoder, "BATCH_TOKENS", 40)
    batches: list[object] = []
    encode = SentenceEncoder._encode
    monkeypatch.setattr(
        SentenceEncoder, "_encode", lambda self, rows: batches.append(rows) or encode(self, rows)
    )
    np.testing.assert_allclose(encoder.encode(TEXTS), together, atol=1e-6)
    encoder.encode([TEXTS[row] for row in order])
    half = len(batches) // 2
    assert half > 5 and batches[:half] == batches[half:], "the same texts share a pass"
    assert encoder.encode([]).shape[0] == 0


def test_a_lone_surrogate_and_a_text_beyond_the_limit_have_vectors(folder: Path) -> None:
    short = load_sentence_encoder(folder, CPU, max_length=8)
    long, cut = short.encode(["0123456789" * 30_000, "01234567"])
    np.testing.assert_allclose(long, cut, atol=1e-6)
    assert np.isfinite(short.encode(["\ud800"])).all()


def test_progress_counts_texts(encoder: SentenceEncoder) -> None:
    counts: list[int] = []
    encoder.encode(TEXTS, progress=counts.append)
    assert counts == sorted(counts) and counts[-1] == len(TEXTS)


def _set_pooling(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))


def _change_weights(folder: Path, name: str, value: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    if value is not None:
        weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "encoder.layer.1.output.LayerNorm.weight"
FAULTS = {
    "cls pooling": (_set_pooling, EnvironmentProblem, "pooling_mode_cls_token"),
    "dense": (lambda f: (f / "2_Dense").mkdir(), EnvironmentProblem, "2_Dense"),
    "missing": (lambda f: _change_weights(f, NORM, None), IntegrityError, NORM),
    "nan": (lambda f: _change_weights(f, NORM, torch.full((32,), torch.nan)), IntegrityError, NORM),
    "code": (
        lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"a": "b"}}'),
        EnvironmentProblem,
        "auto_map",
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        EnvironmentProblem,
        "pickled",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_folders_that_are_refused(folder: Path, tmp_path: Path, fault: str) -> None:
    damage, kind, text = FAULTS[fault]
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copy)  # type: ignore[no-untyped-call]
    with pytest.raises(TunesmithError, match=text) as raised:
        load_sentence_encoder(copy, CPU, max_length=64)
    assert type(raised.value) is kind


def test_a_model_without_a_pooler_is_accepted(
    folder: Path, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for name in ("pooler.dense.weight", "pooler.dense.bias"):
        _change_weights(copy, name, None)
    found = load_sentence_encoder(copy, CPU, max_length=256).encode(TEXTS)
    assert np.array_equal(found, encoder.encode(TEXTS))
