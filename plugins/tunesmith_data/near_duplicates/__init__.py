"""Near duplicates: texts that are equal up to a few characters or words.

::

    from tunesmith_data.near_duplicates import cluster_texts, find_nearest, find_pairs

    labels = cluster_texts(texts)             # equal labels: keep these in one part of a split
    matches = find_nearest(train, test)    # for each test text, a training text or None
    for pair in find_pairs(texts): ...        # pairs that connect each cluster

Texts are compared by their letters, digits and symbols, in any script and without punctuation, by
two metrics: see :class:`Threshold`. Up to about 10,000 short texts, all are compared with all;
beyond that, MinHash proposes pairs, 99 % of those above the threshold, and each is compared
exactly. The result does not depend on the order of the texts, nor on a seed. Texts without any
character match nothing.

What many rows share, such as an instruction, is left out of the comparison: see
:mod:`tunesmith_data.near_duplicates.boilerplate`. Texts from one template may be less similar than
near duplicates, as their values differ; :mod:`tunesmith_data.near_duplicates.templates` finds them.
"""

from tunesmith_data.near_duplicates.features import Texts, read_keys
from tunesmith_data.near_duplicates.search import (
    Match,
    Pair,
    cluster_texts,
    find_nearest,
    find_pairs,
)
from tunesmith_data.near_duplicates.templates import (
    WordDifference,
    compare_words,
    find_template_duplicates,
)
from tunesmith_data.near_duplicates.threshold import DEFAULT_THRESHOLD, Threshold

__all__ = [
    "DEFAULT_THRESHOLD",
    "Match",
    "Pair",
    "Texts",
    "Threshold",
    "WordDifference",
    "cluster_texts",
    "compare_words",
    "find_nearest",
    "find_pairs",
    "find_template_duplicates",
    "read_keys",
]
