"""Checks of encoders, on a few short and long texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.testing.checks import Subject, check, require

TEXTS = (
    "My card has not arrived yet.",
    "Where is my new card?",
    "MY CARD HAS NOT ARRIVED YET!",
    "",
    " \n\t",
    "Ångström, 東京, 🙂",
    "word " * 20_000,
    "The exchange rate is wrong, and I would like a refund of the difference, please.",
)
"""An empty text, a blank one, one that is longer than any model reads, and ordinary texts."""
TOLERANCE = 1e-4
"""Maximum difference between values of the same vector, because texts may share a forward pass."""


def encode(subject: Subject, texts: Sequence[str] = TEXTS) -> list[list[float]]:
    """Encode texts with an encoder that is built only once; return their vectors."""
    if "encoder" not in subject.cache:
        subject.cache["encoder"] = subject.build()
    found = subject.cache["encoder"].encode(texts)
    return [[float(value) for value in found[row]] for row in range(len(found))]


def differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return True if two vectors differ by more than rounding errors."""
    pairs = zip(one, other, strict=True)
    return any(abs(a - b) > TOLERANCE for a, b in pairs)


@check("encoder")
def returns_one_vector_per_text(subject: Subject) -> None:
    """Each text, even an empty or a very long one, has one vector; no texts give no vectors."""
    vectors = encode(subject)
    what = f"the encoder returns {len(vectors)} vectors for {len(TEXTS)} texts"
    require(len(vectors) == len(TEXTS), what)
    sizes = {len(vector) for vector in vectors}
    what = f"the vectors must all have the same number of dimensions, got {sorted(sizes)}"
    require(len(sizes) == 1 and 0 not in sizes, what)
    require(encode(subject, []) == [], "the encoder returns vectors although it got no texts")


@check("encoder")
def vectors_have_length_one(subject: Subject) -> None:
    """Each vector has length 1."""
    for text, vector in zip(TEXTS, encode(subject), strict=True):
        length = math.hypot(*vector)
        what = f"the vector of {text[:40]!r} has length {length}, not 1"
        require(abs(length - 1) <= TOLERANCE, what)


@check("encoder")
def encodes_the_same_way_twice(subject: Subject) -> None:
    """A new encoder with the same options returns the same vectors."""
    first = encode(subject)
    subject.cache.pop("encoder")
    pairs = zip(first, encode(subject), strict=True)
    require(not any(differ(*pair) for pair in pairs), "a second encoder returns different vectors")


@check("encoder")
def does_not_depend_on_other_texts(subject: Subject) -> None:
    """A vector does not depend on the other texts or on their order."""
    for vector, text in zip(encode(subject), TEXTS, strict=True):
        subject.cache.pop("encoder")  # an encoder may remember the vectors of earlier texts
        require(
            not differ(encode(subject, [text])[0], vector),
            f"{text[:40]!r} has a different vector alone than among other texts",
        )
    subject.cache.pop("encoder")
    backwards = encode(subject, TEXTS[::-1])[::-1]
    pairs = zip(backwards, encode(subject), strict=True)
    require(not any(differ(*pair) for pair in pairs), "the vectors change with the order of texts")


@check("encoder")
def tells_texts_apart(subject: Subject) -> None:
    """Texts about different things have different vectors."""
    vectors = encode(subject)
    require(differ(vectors[0], vectors[-1]), "texts about different things have the same vector")
