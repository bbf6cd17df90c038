"""Find near-duplicates: texts that are equal up to a few characters or words.

::

    from tunesmith_data.near_duplicates import cluster_texts, find_nearest, find_pairs

    labels = cluster_texts(texts)             # equal labels: keep these in one part of a split
    matches = find_nearest(train, test)    # for each test text, a training text or None
    for pair in find_pairs(texts): ...        # pairs that connect each cluster

The algorithm::

    "How do I reset my password?"
       |  fold case and Unicode, drop punctuation              features, punctuation
       v
    character 5-grams {howdo, owdoi, ...} and words            features
       |  drop what many rows share, such as an instruction    boilerplate
       v
    candidate pairs
       |  up to about 10,000 short texts: all pairs            inverted_index
       |  more texts: pairs proposed by MinHash, which         minhash
       |  finds 99 % of those above the threshold
       v
    exact Jaccard similarity of both sets                      compare
       |  similar enough? (two metrics)                        threshold
       v
    union-find joins accepted pairs to clusters                forest

MinHash only proposes pairs: every pair is compared exactly, so MinHash never adds a false match.
The result depends neither on the order of the texts nor on a seed. Texts without a letter, digit or
symbol match nothing. Texts of one template with different values can be less similar than the
threshold; :mod:`tunesmith_data.near_duplicates.templates` finds them.
"""

from tunesmith_data.near_duplicates.features import Texts, compute_text_keys
from tunesmith_data.near_duplicates.search import (
    DuplicatePair,
    NearestText,
    cluster_texts,
    find_nearest,
    find_pairs,
)
from tunesmith_data.near_duplicates.templates import (
    WordDifference,
    find_template_duplicates,
    find_word_difference,
)
from tunesmith_data.near_duplicates.threshold import DEFAULT_THRESHOLD, Threshold

__all__ = [
    "DEFAULT_THRESHOLD",
    "DuplicatePair",
    "NearestText",
    "Texts",
    "Threshold",
    "WordDifference",
    "cluster_texts",
    "compute_text_keys",
    "find_nearest",
    "find_pairs",
    "find_template_duplicates",
    "find_word_difference",
]
