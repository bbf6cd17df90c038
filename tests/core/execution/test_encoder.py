"""The encoder of a run: opened once, each text encoded once, and its faults named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fixtures.python.bench import bench_plugin, catalog_of, offering
from word_encoder import WORDS, WordEncoder

from tunesmith.errors import PluginError
from tunesmith.execution.encoder import CheckedEncoder, find_encoder
from tunesmith.offers import EncoderOffer
from tunesmith.plan import Component


def component(**changes: Any) -> Component[EncoderOffer[Any]]:
    catalog = catalog_of(bench=bench_plugin(), more=offering("encoders", replace(WORDS, **changes)))
    (offered,) = catalog.offers(EncoderOffer)
    return Component(offered, offered.offer.config())


def plan(**changes: Any) -> Any:
    return type("Plan", (), {"encoder": component(**changes)})()


def test_it_is_opened_once_and_encodes_each_text_once() -> None:
    encoder = WordEncoder()
    built = []

    def build(options: object) -> WordEncoder:
        built.append(options)
        return encoder

    opened = find_encoder(plan(build=build))
    assert opened is not None and not built
    first = opened().encode(["a", "b", "a"])
    second = opened().encode(["b", "c"])
    assert len(built) == 1 and encoder.count == 3
    assert (first[0] == first[2]).all() and (first[1] == second[0]).all()
    assert find_encoder(type("Plan", (), {"encoder": None})()) is None


def test_faults_name_the_encoder() -> None:
    plugin = component().offered.plugin

    class Broken:
        def encode(self, texts: Any, *, progress: Any = None) -> list[list[float]]:
            return [[1.0]]

    with pytest.raises(PluginError, match="returned 1 vectors for 2 texts"):
        CheckedEncoder(Broken(), plugin).encode(["a", "b"])
    encoder: Any = type("Bad", (), {"encode": lambda self, texts, progress: 1 / 0})()
    with pytest.raises(PluginError, match=f"{plugin.full_name}.*while it encoded texts"):
        CheckedEncoder(encoder, plugin).encode(["a"])
