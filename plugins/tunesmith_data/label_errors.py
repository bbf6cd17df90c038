"""Find rows whose label is probably wrong, and estimate how many labels are wrong.

::

    from tunesmith_data.label_errors import find_label_errors

    found = find_label_errors(records)
    found.share, found.highest_share  # of wrong labels
    for suspect in found.suspects: ...  # the most suspicious row first

A classifier trained on other rows predicts label probabilities for each row: logistic regression on
TF-IDF of character 3- to 5-grams, in five folds. Rows with equal prompts share a fold. Confident
learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70, 2021)
estimates from these probabilities how many labels are wrong. Rows are ranked by the probability of
the given label.

This only works if the words of a prompt predict its label. Otherwise the classifier is wrong more
often than the labels: :attr:`LabelErrors.agreement` is low, and the suspects mean little.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_data.files import require_library
from tunesmith_data.splits import normalize_text, prompt_text
from tunesmith_data.vectors import weigh_grams

__all__ = ["LabelError", "LabelErrors", "find_label_errors"]

FOLDS = 5
MIN_ROWS = 20
MAX_LABEL_CHARACTERS = 100
MAX_ROWS = 50_000
"""Maximum number of rows to examine; a sample is used if there are more, to limit memory use."""
MAX_PROBABILITIES = 100_000_000
MAX_GRAMS = 20_000
C = 10.0
"""Inverse regularization strength: the best of 1, 3, 10, 30 and 100 on 3,000 rows of banking77."""

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class LabelError:
    """A row whose label differs from the classifier's prediction."""

    row: int
    """Index of the record."""
    label: str
    """The row's own label."""
    suggested: str
    """The most probable label."""
    probability: float
    """Probability of the row's own label, from 0 to 1; low values are suspicious."""


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """The estimated share of wrong labels, and the suspicious rows."""

    rows: int
    """Number of examined rows."""
    labels: int
    """Number of distinct labels in these rows."""
    agreement: float
    """Share of rows whose label equals the classifier's prediction."""
    share: float
    """Estimated share of wrong labels; conservative, so more likely too low than too high."""
    highest_share: float
    """Upper estimate of the share; it is too high if labels are hard to distinguish."""
    suspects: Sequence[LabelError]
    """All rows whose label differs from the prediction, the most suspicious first."""

    @property
    def count(self) -> int:
        """The estimated number of wrong labels, which is how many suspects to look at first."""
        return round(self.share * self.rows)


def find_label_errors(records: Sequence[Record]) -> LabelErrors:
    """Find the records whose label (the last answer) is probably wrong.

    The result depends only on the content of the rows, not on their order. Labels with fewer than
    five distinct prompts are skipped.

    Raises:
        DataError: the answers are not recurring labels.
        EnvironmentProblem: cleanlab is not installed.
    """
    require_library("cleanlab", "label errors", extra="data")
    with warnings.catch_warnings():  # Importing cleanlab disables all warnings.
        from cleanlab import count

    rows, names, texts = _labeled(records)
    labels = np.array(names)
    probabilities, classes = _out_of_fold(texts, labels)
    given = np.searchsorted(classes, labels)
    of_given = probabilities[np.arange(len(given)), given]
    expected = probabilities.argmax(axis=1)
    differs = np.flatnonzero(expected != given)
    ranked = differs[np.argsort(of_given[differs], kind="stable")]
    joint = count.estimate_joint(given, probabilities)
    share = count.num_label_issues(given, probabilities) / len(given)
    return LabelErrors(
        rows=len(given),
        labels=len(classes),
        agreement=1 - len(differs) / len(given),
        share=share,
        # A sum, not 1 minus the diagonal, so that it is exactly 0 if no label is wrong.
        highest_share=max(share, float(joint[~np.eye(len(joint), dtype=bool)].sum())),
        suspects=[
            LabelError(rows[i], names[i], str(classes[expected[i]]), float(of_given[i]))
            for i in ranked.tolist()
        ],
    )


def _labeled(records: Sequence[Record]) -> tuple[list[int], list[str], list[str]]:
    """Return indices, labels and prompts of the usable rows, ordered by content.

    Raises:
        DataError: the answers are not labels.
    """
    keyed = sorted(_read(records))[:MAX_ROWS]
    prompts: dict[str, set[bytes]] = {}
    for key, label, _, _ in keyed:
        prompts.setdefault(label, set()).add(key)
    usual = {label for label, keys in prompts.items() if len(keys) >= FOLDS}
    kept = [(row, label, text) for _, label, row, text in keyed if label in usual]
    if len(kept) < max(MIN_ROWS, len(keyed) / 2) or len(usual) < 2:
        hint = "look for label errors only in rows whose answers are class labels"
        what = f"the answers are not labels: only {len(usual):,} of {len(prompts):,} occur with "
        raise DataError("label errors", f"{what}{FOLDS} or more prompts", hint=hint)
    if len(kept) * len(usual) > MAX_PROBABILITIES:
        most = MAX_PROBABILITIES // len(kept)
        what = f"{len(usual):,} labels are too many: for {len(kept):,} rows, {most:,} fit in memory"
        raise DataError("label errors", what, hint="examine the rows of some of the labels")
    rows, names, texts = map(list, zip(*kept, strict=True))
    return rows, names, texts


def _read(records: Sequence[Record]) -> list[tuple[bytes, str, int, str]]:
    """Return the hash of the prompt, the label, the index and the prompt of each row."""
    read = []
    for row, record in enumerate(records):
        if isinstance(record, Completion | Chat):
            label = last_exchange(record)[1].text.strip()
            text = normalize_text(prompt_text(record))
            if label and len(label) <= MAX_LABEL_CHARACTERS:
                key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                read.append((key, label, row, text))
    return read


def _out_of_fold(texts: Sequence[str], labels: Labels) -> tuple[Floats, Labels]:
    """Return each row's label probabilities, by a classifier trained on the other folds.

    Returns:
        The probabilities (rows, labels), and the labels in alphabetical order.
    """
    from sklearn.linear_model import LogisticRegression

    vectors = weigh_grams(texts, MAX_GRAMS, np.float64)
    classes = np.unique(labels)
    folds = _split_into_folds(texts, labels)
    probabilities = np.zeros((len(texts), len(classes)))
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model = LogisticRegression(C=C, max_iter=300, tol=1e-3).fit(vectors[train], labels[train])
        columns = np.searchsorted(classes, model.classes_)
        probabilities[np.ix_(test, columns)] = model.predict_proba(vectors[test])
    return probabilities, classes


def _split_into_folds(texts: Sequence[str], labels: Labels) -> Indices:
    """Return the fold of each row; equal prompts share a fold, and labels are spread evenly."""
    first: dict[str, str] = {}
    for text, label in zip(texts, labels, strict=True):
        first.setdefault(text, str(label))
    ordered = sorted(first, key=first.__getitem__)
    fold_of = {text: number % FOLDS for number, text in enumerate(ordered)}
    return np.array([fold_of[text] for text in texts])
