"""The ``sentence-encoder`` encoder: where its model is, and the cache of its vectors."""

from __future__ import annotations

import random
import re
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_encoder import install_package, save_tiny_encoder

from tunesmith.errors import UsageError
from tunesmith.plugins import cache_folder
from tunesmith_plugins.encoders import sentence_encoder
from tunesmith_plugins.encoders.sentence_encoder import (
    SentenceEncoderOptions,
    fetch_model,
    find_in_wheel,
    is_installed,
    review,
)
from tunesmith_plugins.encoders.sentence_encoder import encoder as module
from tunesmith_plugins.encoders.sentence_encoder.encoder import CachedEncoder
from tunesmith_plugins.encoders.sentence_encoder.vector_cache import VectorCache

TEXTS = [f"text {n} " * (n % 5 + 1) for n in range(30)] + ["", "text 1 " * 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "bert")


def open_encoder(folder: Path, **options: int) -> CachedEncoder:
    return CachedEncoder(SentenceEncoderOptions(model=str(folder), device="cpu", **options))


def refuse(*args: object, **options: object) -> None:
    raise AssertionError("the model was loaded")


def test_the_model_in_a_package_is_found_without_importing_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "site" / "tiny_package" / "model"
    model.parent.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    save_tiny_encoder(model)
    install_package(tmp_path / "site", "tiny-package", model)
    monkeypatch.setattr(sentence_encoder, "find_in_wheel", find_in_wheel)
    options = SentenceEncoderOptions(model="wheel:tiny-package")
    assert not is_installed(options)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert is_installed(options) and fetch_model("wheel:tiny-package") == model
    assert "tiny_package" not in sys.modules
    vectors = CachedEncoder(options).encode(TEXTS)
    assert np.array_equal(vectors, open_encoder(folder).encode(TEXTS))


def test_references_without_a_model(tmp_path: Path) -> None:
    assert not is_installed(SentenceEncoderOptions(model=str(tmp_path)))
    assert not is_installed(SentenceEncoderOptions(model="organization/model"))
    for reference, text in {
        "wheel:absent": r"wheel:absent: no installed package of this name .*`pip install absent`",
        "./absent": r"no such folder: ./absent",
    }.items():
        with pytest.raises(UsageError, match=f"encoder.model: {text}"):
            fetch_model(reference)
        (found,) = review(plan_with(reference))
        assert (found.level, found.where) == ("error", "encoder.model")
        assert re.match(text, found.message)
    assert [*review(plan_with("organization/model")), *review(plan_with(str(tmp_path)))] == []
    assert review(plan_with("wheel:absent", use="")) == []


def plan_with(model: str, use: str = "sentence-encoder") -> Any:
    component = SimpleNamespace(config=SentenceEncoderOptions(model=model), use=use)
    return SimpleNamespace(encoder=component)


def test_vectors_are_read_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_encoder(folder).encode(TEXTS)
    monkeypatch.setattr(module, "load_sentence_encoder", refuse)
    order = random.Random(2).sample(range(len(TEXTS)), len(TEXTS))
    again = open_encoder(folder).encode([TEXTS[row] for row in order])
    assert np.array_equal(again, first[order])
    for other in ({"max_length": 128}, {}):
        texts = TEXTS if other else [*TEXTS, "new"]
        with pytest.raises(AssertionError, match="loaded"):
            open_encoder(folder, **other).encode(texts)


def test_other_weights_have_other_vectors(folder: Path, tmp_path: Path) -> None:
    first = open_encoder(folder).encode(TEXTS)
    other = open_encoder(save_tiny_encoder(tmp_path / "other", seed=1)).encode(TEXTS)
    assert np.abs(first - other).max() > 0.1


def test_texts_are_stored_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_encoder(folder).encode(TEXTS)
    (cache_folder() / "vectors.sqlite").unlink()
    monkeypatch.setattr(module, "STORED_TEXTS", 7)
    counts: list[int] = []
    vectors = open_encoder(folder).encode(TEXTS, progress=counts.append)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert len(counts) == 5 and counts[-1] == len(TEXTS)


def unit_rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rows = np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float32)
    return {f"text {n}": row / np.linalg.norm(row) for n, row in enumerate(rows)}


def test_a_damaged_cache_is_replaced(tmp_path: Path) -> None:
    cache, rows = VectorCache(tmp_path / "v.sqlite", b"one"), unit_rows(50)
    cache.write(rows)
    content = bytearray((tmp_path / "v.sqlite").read_bytes())
    content[:200] = b"x" * 200
    (tmp_path / "v.sqlite").write_bytes(content)
    assert cache.read([*rows]) == {}
    cache.write(rows)
    found = cache.read([*rows])
    assert all(np.array_equal(found[text], rows[text]) for text in rows) and len(found) == 50


def test_a_changed_vector_is_not_used(tmp_path: Path) -> None:
    cache, rows = VectorCache(tmp_path / "v.sqlite", b"one"), unit_rows(3)
    cache.write(rows)
    with sqlite3.connect(tmp_path / "v.sqlite") as database:
        database.execute("UPDATE vectors SET vector = zeroblob(256) WHERE rowid = 2")
    assert cache.read([*rows]).keys() == {"text 0", "text 2"}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = VectorCache(tmp_path / "file" / "v.sqlite", b"one")
    cache.write(unit_rows(1))
    assert cache.read(["text 0"]) == {}


def test_the_cache_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    limit = 200_000
    cache = VectorCache(tmp_path / "v.sqlite", b"one", limit)
    for part in range(10):
        rows = {f"{part} {text}": row for text, row in unit_rows(100, part).items()}
        cache.write(rows)
        assert cache.read([*rows]).keys() == rows.keys()
    assert (tmp_path / "v.sqlite").stat().st_size < 1.5 * limit
    assert cache.read(["0 text 0"]) == {}
    assert VectorCache(tmp_path / "v.sqlite", b"two").read([*rows]) == {}


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    def write(seed: int) -> None:
        for text, row in unit_rows(4, seed).items():
            VectorCache(tmp_path / "v.sqlite", b"%d" % (seed % 2)).write({f"{seed} {text}": row})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    for seed in range(4):
        rows = {f"{seed} {text}": row for text, row in unit_rows(4, seed).items()}
        found = VectorCache(tmp_path / "v.sqlite", b"%d" % (seed % 2)).read([*rows])
        assert all(np.array_equal(found[text], row) for text, row in rows.items())


@pytest.mark.real_model
def test_similar_sentences_have_similar_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SentenceEncoderOptions()
    assert is_installed(options), "make install brings it"
    card, same, weather = CachedEncoder(options).encode(
        ["My card has not arrived yet.", "Where is the card I ordered?", "It rains in Paris."]
    )
    assert card @ same > 0.6 > 0.2 > card @ weather
