"""Compute chrF, BLEU and ROUGE-L of answers against references."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import EnvironmentProblem
from tunesmith.records import Record
from tunesmith_data.text import UNSPACED
from tunesmith_evidence.answers.generate import (
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_evidence.answers.normalize import strip_reasoning
from tunesmith_evidence.statistics import row_contributions
from tunesmith_evidence.statistics.contributions import Matrix

CHRF, BLEU, ROUGE_L = "chrf", "bleu", "rouge-l"
CHRF_ORDER = 6
CHRF_BETA = 2.0
BLEU_ORDER = 4
_WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W_])+")


@dataclass(frozen=True, kw_only=True)
class TextOverlap:
    """Measures how much text the answers share with the references."""

    max_new_tokens: Literal["auto"] | int = "auto"

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, max_new_tokens=resolve_max_new_tokens(self.max_new_tokens, references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare it with the reference.

        chrF and BLEU are computed over all rows together, with the contribution of each row.
        ROUGE-L is the mean over rows.

        Raises:
            DataError: an answer calls a tool.
            EnvironmentProblem: sacrebleu is not installed.
        """
        count_bleu = load_bleu()
        references = [*map(strip_reasoning, read_references(records, "text-overlap"))]
        outputs = generate_answers(model, records, self.max_new_tokens)
        pairs = [*zip(map(strip_reasoning, outputs), references, strict=True)]
        rouge = tuple(compute_rouge_l(a, r) for a, r in pairs)
        return [
            replace(_measure(CHRF, count_chrf, compute_chrf, pairs), outputs=outputs),
            _measure(BLEU, count_bleu, compute_bleu, pairs),
            Measurement(metric=ROUGE_L, values=rouge),
        ]


def _measure(
    metric: str,
    count: Callable[[str, str], list[float]],
    compute: Callable[[Matrix], Matrix],
    pairs: Sequence[tuple[str, str]],
) -> Measurement:
    """Return a metric computed over all rows together, with the contribution of each row."""
    counts = tuple(tuple(count(answer, reference)) for answer, reference in pairs)
    return Measurement(metric=metric, values=row_contributions(counts, compute), counts=counts)


def count_chrf(answer: str, reference: str) -> list[float]:
    """Count character n-grams for n from 1 to 6: in the answer, in the reference, and in both.

    White space is removed. As in sacrebleu, n-grams of an answer count only if the reference has
    n-grams of that length.
    """
    first, second = ("".join(text.split()) for text in (answer, reference))
    counts: list[float] = []
    for order in range(1, CHRF_ORDER + 1):
        given, right = (
            Counter(text[i : i + order] for i in range(len(text) - order + 1))
            for text in (first, second)
        )
        counts += [given.total() if right else 0, right.total(), (given & right).total()]
    return counts


def compute_chrf(counts: Matrix) -> Matrix:
    """Return chrF2, from 0 to 1, for each row of a matrix with the columns of `count_chrf`.

    Source: Popović, WMT 2015. Precision and recall are averaged over the values of n for which both
    texts have n-grams.
    """
    given, right, both = counts[:, 0::3], counts[:, 1::3], counts[:, 2::3]
    used = (given > 0) & (right > 0)
    precision = np.where(used, both / np.where(used, given, 1), 0.0).sum(axis=1)
    recall = np.where(used, both / np.where(used, right, 1), 0.0).sum(axis=1)
    orders = np.maximum(used.sum(axis=1), 1)
    precision, recall = precision / orders, recall / orders
    weighted = CHRF_BETA**2 * precision + recall
    is_zero = weighted <= 0
    factor = 1 + CHRF_BETA**2
    f_score = factor * precision * recall / np.where(is_zero, 1, weighted)
    return np.where(is_zero, 0.0, f_score)


def load_bleu() -> Callable[[str, str], list[float]]:
    """Return a function that counts the n-grams of a row for BLEU, with sacrebleu's tokenizer.

    Raises:
        EnvironmentProblem: sacrebleu is not installed.
    """
    try:
        from sacrebleu import metrics
    except ImportError:
        raise EnvironmentProblem(
            "text-overlap needs the package sacrebleu", hint="run `pip install 'sacrebleu>=2.4'`"
        ) from None
    bleu: Any = metrics.BLEU()

    def count(answer: str, reference: str) -> list[float]:
        score = bleu.corpus_score([answer], [[reference]])
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]

    return count


def compute_bleu(counts: Matrix) -> Matrix:
    """Return BLEU, from 0 to 1, for each row of a matrix with the columns of `load_bleu`.

    Source: Papineni et al., ACL 2002, with "exp" smoothing, the default of sacrebleu. This function
    replaces that of sacrebleu, which accepts only integer counts. The contributions of rows need
    fractional counts.
    """
    right, total = counts[:, :BLEU_ORDER], counts[:, BLEU_ORDER : 2 * BLEU_ORDER]
    given, wanted = counts[:, -2], counts[:, -1]
    is_zero = (right.sum(axis=1) <= 0) | (total <= 0).any(axis=1)
    missed = right <= 0
    smoothed = np.where(missed, 0.5 ** missed.cumsum(axis=1), right)
    precision = np.where(total > 0, smoothed, 1.0) / np.where(total > 0, total, 1.0)
    short = np.where(given < wanted, 1 - wanted / np.where(given > 0, given, 1), 0.0)
    return np.where(is_zero, 0.0, np.exp(short + np.log(precision).mean(axis=1)))


def compute_rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L F1, from 0 to 1, based on the longest common subsequence of words.

    Words are sequences of letters and digits of any script, case-folded, without stemming. In
    scripts without spaces, such as Japanese, each character is a word. If one text has no words,
    the result is 1 for equal texts and 0 otherwise.
    """
    given, right = (_WORD.findall(text.casefold()) for text in (answer, reference))
    if not given or not right:
        return float(answer.split() == reference.split())
    common = _common_subsequence(given, right)
    return 2 * common / (len(given) + len(right))


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    best = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, 1):
            above = best[column]
            best[column] = diagonal + 1 if word == other else max(above, best[column - 1])
            diagonal = above
    return best[-1]
