"""The ``paraphrases`` check: find test rows with the same meaning as a training row.

The check needs ``[encoder]`` in the run file, and it only gives advice. Texts with similar vectors
may need different answers, and a paraphrase may have a rather different vector. Therefore the check
does not remove rows or change scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.execution.encoder import find_encoder
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith.text import mask_excerpt

MIN_SIMILARITY = 0.9
"""Minimum cosine similarity of the pairs that are reported."""
BLOCK_ROWS = 512
"""Number of test rows whose similarities to all training rows are held in memory at a time."""
EXAMPLES = 3


def review(plan: Plan, train: Sequence[Record], test: Sequence[Record]) -> list[Finding]:
    """Return a note about test rows that express the meaning of a training row in other words."""
    encoder = find_encoder(plan) if plan.encodes_everywhere else None
    if encoder is None or not train or not test:
        return []
    import numpy as np

    from tunesmith_data.near_duplicates import find_nearest
    from tunesmith_data.splits import PromptTexts

    known, asked = PromptTexts(train), PromptTexts(test)
    vectors, queries = (np.asarray(encoder().encode([*texts])) for texts in (known, asked))

    def find_pairs() -> Iterator[tuple[float, int, int]]:
        for start in range(0, len(queries), BLOCK_ROWS):
            products = queries[start : start + BLOCK_ROWS] @ vectors.T
            for row, nearest in enumerate(products.argmax(axis=1).tolist()):
                yield float(products[row, nearest]), start + row, nearest

    pairs = [pair for pair in find_pairs() if pair[0] >= MIN_SIMILARITY]
    in_the_same_words = find_nearest(known, [asked[row] for _, row, _ in pairs])
    found = [pair for pair, match in zip(pairs, in_the_same_words, strict=True) if match is None]
    if not found:
        return []
    examples = [
        f'{test[row].source} (test) "{mask_excerpt(asked[row])}" and {train[nearest].source} '
        f'(training) "{mask_excerpt(known[nearest])}", similarity {similarity:.2f}'
        for similarity, row, nearest in sorted(found, reverse=True)[:EXAMPLES]
    ]
    return [
        Finding(
            level="info",
            where="data paraphrases",
            message=f"{len(found):,} of {len(test):,} test rows have the meaning of a training row "
            f"in other words (cosine similarity of encoder vectors at least {MIN_SIMILARITY})",
            count=len(found),
            examples=tuple(examples),
            hint="check whether both ask the same question; all scores include these test rows",
        )
    ]
