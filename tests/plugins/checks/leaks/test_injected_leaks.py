"""Of leaks injected in rows that are made up, nearly all are found, and nothing else."""

from __future__ import annotations

from collections import Counter
from random import Random

from tests.benchmarks.leaks import Corpus, find, inject, is_found

from tunesmith.records import Completion

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "ar", "en")]
NAMES = ("Karla", "Petros", "Ingrid", "Malik", "Yuna", "Olaf", "Bela", "Noor", "Tamsin", "Ruben")


def corpus(rng: Random, rows: int) -> Corpus:
    """Return rows with names and numbers in sentences of made-up words, and lasting answers."""
    words = ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(300)]

    def row(number: int) -> Completion:
        text = rng.choices(words, k=rng.randrange(9, 16))
        text[3:3] = [rng.choice(NAMES)]
        text[6:6] = [str(rng.randrange(1000))]
        answer = f"{' '.join(rng.choices(words, k=8))} {number}"
        return Completion(source=f"row:{number}", prompt=" ".join(text), completion=answer)

    made = [row(number) for number in range(rows)]
    cut = 2 * rows // 3
    return Corpus("made up", made[:cut], made[cut:])


def test_injected_leaks_are_found_and_other_rows_are_not() -> None:
    injected = inject(corpus(Random(1), 900), seed=2, count=40, hosts=150)
    leaks = find(injected)
    total = Counter(kind for kind in injected.kinds if kind)
    found = Counter(
        kind for row, kind in enumerate(injected.kinds) if kind and is_found(injected, row, leaks)
    )
    assert total == dict.fromkeys(("exact", "near", "template", "group", "answer"), 40)
    assert all(found[kind] >= 38 for kind in total), found
    assert not [row for row, kind in enumerate(injected.kinds) if not kind and row in leaks]
