"""Find rows whose label is probably wrong, and estimate how many there are.

::

    from tunesmith_data.label_errors import find_label_errors

    found = find_label_errors(records)
    found.share, found.highest_share  # of wrong labels
    for suspect in found.suspects: ...  # the most suspect row first

Each row gets probabilities from a classifier that was trained on other rows: logistic regression on
TF-IDF weights of character 3- to 5-grams, in five folds. Rows with one prompt are in one
fold. Confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research
70, 2021) estimates from the probabilities how many labels are wrong. Rows are ranked by the
probability of the label that they have.

The words of a prompt have to tell its label. Where they do not, the classifier is wrong more often
than the labels are: :attr:`LabelErrors.agreement` is low then, and the suspects mean little.
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
FEWEST_ROWS = 20
LONGEST_LABEL = 100
MAX_ROWS = 50_000
"""Rows that are compared; of more rows, a sample is. It keeps the probabilities small enough."""
MAX_PROBABILITIES = 100_000_000
MAX_GRAMS = 20_000
C = 10.0
"""Inverse strength of the regularization, the one of 1, 3, 10, 30 and 100 that agreed with most
labels of 3,000 rows of banking77."""

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class LabelError:
    """A row whose label differs from what the classifier expects."""

    row: int
    """The position of the record."""
    label: str
    """The label that the row has."""
    suggested: str
    """The label with the highest probability."""
    probability: float
    """The probability, from 0 to 1, of the label that the row has; low: suspect."""


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """The estimated share of wrong labels, and the rows that are suspect."""

    rows: int
    """The rows that could be compared."""
    labels: int
    """The number of different labels of these rows."""
    agreement: float
    """The share of rows whose label is the one that the classifier expects."""
    share: float
    """The estimated share of wrong labels: a cautious one, which is rather too low."""
    highest_share: float
    """A share that is rather too high if labels are hard to tell apart."""
    suspects: Sequence[LabelError]
    """All rows with another label than the classifier expects, the most suspect first."""

    @property
    def count(self) -> int:
        """The estimated number of wrong labels, and so of the suspects to look at first."""
        return round(self.share * self.rows)


def find_label_errors(records: Sequence[Record]) -> LabelErrors:
    """Find the records whose label is probably wrong; the label is the last answer.

    The result depends on the content of the rows, not on their order. Labels with fewer than five
    different prompts are skipped.

    Raises:
        DataError: the answers are no labels that recur, or cleanlab is not installed.
    """
    require_library("cleanlab", "label errors", extra="data")
    with warnings.catch_warnings():  # importing it switches all warnings off
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
        # The sum, not 1 minus the diagonal: where no label is wrong it is exactly 0.
        highest_share=max(share, float(joint[~np.eye(len(joint), dtype=bool)].sum())),
        suspects=[
            LabelError(rows[i], names[i], str(classes[expected[i]]), float(of_given[i]))
            for i in ranked.tolist()
        ],
    )


def _labeled(records: Sequence[Record]) -> tuple[list[int], list[str], list[str]]:
    """Return numbers, labels and prompts of the rows that can be compared, in an order of content.

    Raises:
        DataError: the answers are no labels.
    """
    keyed = sorted(_read(records))[:MAX_ROWS]
    prompts: dict[str, set[bytes]] = {}
    for key, label, _, _ in keyed:
        prompts.setdefault(label, set()).add(key)
    usual = {label for label, keys in prompts.items() if len(keys) >= FOLDS}
    kept = [(row, label, text) for _, label, row, text in keyed if label in usual]
    too_few = len(kept) < max(FEWEST_ROWS, len(keyed) / 2) or len(usual) < 2
    if too_few or len(kept) * len(usual) > MAX_PROBABILITIES:
        hint = "label errors are looked for in the rows of a classification"
        what = f"the answers are no labels: {len(usual):,} of {len(prompts):,} recur in "
        raise DataError("label errors", f"{what}{FOLDS} or more prompts", hint=hint)
    rows, names, texts = map(list, zip(*kept, strict=True))
    return rows, names, texts


def _read(records: Sequence[Record]) -> list[tuple[bytes, str, int, str]]:
    """Return for each row the hash of its prompt, its label, its number and its prompt."""
    read = []
    for row, record in enumerate(records):
        if isinstance(record, Completion | Chat):
            label = last_exchange(record)[1].text.strip()
            text = normalize_text(prompt_text(record))
            if label and len(label) <= LONGEST_LABEL:
                key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                read.append((key, label, row, text))
    return read


def _out_of_fold(texts: Sequence[str], labels: Labels) -> tuple[Floats, Labels]:
    """Return the probabilities of each row's labels, by a classifier of the other folds' rows."""
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
    """Return the fold of each row: one for all rows of a prompt, and labels spread over all."""
    first: dict[str, str] = {}
    for text, label in zip(texts, labels, strict=True):
        first.setdefault(text, str(label))
    ordered = sorted(first, key=first.__getitem__)
    fold_of = {text: number % FOLDS for number, text in enumerate(ordered)}
    return np.array([fold_of[text] for text in texts])
