"""The ``paraphrases`` check: pairs in other words, only with ``[encoder]``, and only advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fixtures.python.bench import bench_plugin, catalog_of, offering
from word_encoder import WORDS, WordEncoder

from tunesmith.offers import Offered
from tunesmith.plan import Component
from tunesmith.records import Completion
from tunesmith_plugins.checks import paraphrases

SYNONYMS = {"lost": "gone", "new": "fresh", "card": "plastic", "today": "now"}
TRAIN = ["my card is lost today", "the train is late", "order a new card today"]
TEST = ["MY plastic is gone now", "THE train is late", "what is the weather", "a\x1b[31m b"]


def rows(texts: list[str]) -> list[Completion]:
    return [
        Completion(source=f"f:{n}", prompt=text, completion="a") for n, text in enumerate(texts)
    ]


def plan(use: str = "words") -> Any:
    plugins = catalog_of(bench=bench_plugin(), more=offering("encoders", WORDS))
    offered = plugins.offers(type(WORDS))[0]
    offer = replace(WORDS, build=lambda options: WordEncoder(**SYNONYMS))
    component = Component(Offered(offered.plugin, offer), offer.config(), use)

    class Fake:
        encoder = component
        encodes_everywhere = bool(use)

    return Fake()


def test_a_paraphrase_is_a_note_and_a_copy_is_not() -> None:
    (found,) = paraphrases.review(plan(), rows(TRAIN), rows(TEST))
    assert found.level == "info" and found.count == 1 and not found.test_rows
    assert found.examples == (
        'f:0 (test) "MY plastic is gone now" and f:0 (training) "my card is lost today", '
        "similarity 1.00",
    )


@pytest.mark.parametrize("missing", ["encoder", "train", "test"])
def test_nothing_is_encoded_without_a_table_or_rows(missing: str) -> None:
    train, test = ([] if missing == part else rows(TRAIN) for part in ("train", "test"))
    assert paraphrases.review(plan("" if missing == "encoder" else "words"), train, test) == []


def test_blocks_do_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = paraphrases.review(plan(), rows(TRAIN), rows(TEST))
    monkeypatch.setattr(paraphrases, "BLOCK_ROWS", 1)
    assert paraphrases.review(plan(), rows(TRAIN), rows(TEST)) == whole
