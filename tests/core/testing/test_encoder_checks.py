"""Silent bugs of encoders, each with the check of the kit that finds it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mutations import find_failed, specimen
from numpy.typing import NDArray
from word_encoder import WORDS, WordEncoder

from tunesmith.testing import encoders


class Unscaled(WordEncoder):
    def encode(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[Any]:
        return 2 * super().encode(texts)


class Centered(WordEncoder):
    def encode(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[Any]:
        rows = super().encode(texts) * 0.5 + super().encode([*texts, "x"]).mean(0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Sorting(WordEncoder):
    def encode(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[Any]:
        return super().encode(sorted(texts))


class Skipping(WordEncoder):
    def encode(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[Any]:
        return super().encode([text for text in texts if text])


class Failing(WordEncoder):
    def encode(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[Any]:
        assert all(map(str.strip, texts)), "an empty text"
        return super().encode(texts)


class Drifting(WordEncoder):
    built = itertools.count()

    def __init__(self, options: Any) -> None:
        super().__init__(card=f"card {next(self.built)}")


class Constant(WordEncoder):
    def encode(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[Any]:
        return super().encode(["same"] * len(texts))


BUGS = {
    "length": (Unscaled, "vectors_have_length_one"),
    "depends on other texts": (Centered, "does_not_depend_on_other_texts"),
    "another order": (Sorting, "does_not_depend_on_other_texts"),
    "no vector for an empty text": (Skipping, "returns_one_vector_per_text"),
    "fails at an empty text": (Failing, "returns_one_vector_per_text"),
    "random": (Drifting, "encodes_the_same_way_twice"),
    "constant": (Constant, "tells_texts_apart"),
}


def test_an_honest_encoder_passes() -> None:
    assert find_failed(specimen("encoders", WORDS)) == set()


@pytest.mark.parametrize(
    "bug", ["length", *(pytest.param(bug, marks=pytest.mark.long) for bug in [*BUGS][1:])]
)
def test_a_bug_of_an_encoder_is_found(bug: str) -> None:
    encoder, check = BUGS[bug]
    failed = find_failed(specimen("encoders", replace(WORDS, build=encoder)))
    assert check in failed and hasattr(encoders, check)
