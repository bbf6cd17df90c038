"""Compare two models on the same records: paired intervals, significance tests and power.

It has only pure functions. The order of the records does not change a result. The methods:

=====================  ================================
values                 difference of two models
=====================  ================================
right/wrong            Tango score, exact McNemar
  weighted or grouped  the same on the effective n, sign flips
anything else          percentile bootstrap, sign flips
  below 10 units       Student's t, sign flips
  a single unit        unknown, p = 1
=====================  ================================

A metric of all rows together (macro F1, BLEU) has a contribution for each row, whose mean is the
metric: ``row_contributions``. Units, and the intervals of one mean, are those of
``tunesmith.statistics``.

Sources: Tango, Statist. Med. 17 (1998) 891; McNemar, Psychometrika 12 (1947) 153; Connor,
Biometrics 43 (1987) 207 (power of paired proportions).
"""

from tunesmith_evidence.statistics.comparison import Comparison, ComparisonOutcome, compare
from tunesmith_evidence.statistics.contributions import row_contributions
from tunesmith_evidence.statistics.holm import adjust_p_values
from tunesmith_evidence.statistics.paired import paired_difference
from tunesmith_evidence.statistics.power import minimum_detectable, rows_needed
from tunesmith_evidence.statistics.tests import paired_p_value

__all__ = [
    "Comparison",
    "ComparisonOutcome",
    "adjust_p_values",
    "compare",
    "minimum_detectable",
    "paired_difference",
    "paired_p_value",
    "row_contributions",
    "rows_needed",
]
