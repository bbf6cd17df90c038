"""Compare two models on the same records: paired intervals, significance tests and power.

All functions are pure, and results do not depend on the order of the records. The methods:

======================  ==================================  ==============
values                  interval of the difference          p-value
======================  ==================================  ==============
right/wrong             Tango score                         exact McNemar
  weighted or grouped   Tango score on the effective n      sign flips
anything else           percentile bootstrap over units     sign flips
  fewer than 10 units   Student's t                         sign flips
  a single unit         unbounded (no information)          1
======================  ==================================  ==============

A *unit* varies independently: it is a record, or all records of a group.
:mod:`tunesmith_evidence.statistics.paired` explains why intervals are computed over units.

A metric of all rows together (macro F1, BLEU) is expressed as the mean of one contribution per row;
see :func:`row_contributions`. ``tunesmith.statistics`` computes units, and intervals of a single
mean.

Sources: Tango, Statist. Med. 17 (1998) 891; McNemar, Psychometrika 12 (1947) 153; Connor,
Biometrics 43 (1987) 207 (power of paired proportions).
"""

from tunesmith_evidence.statistics.comparison import Comparison, ComparisonOutcome, compare
from tunesmith_evidence.statistics.contributions import row_contributions
from tunesmith_evidence.statistics.holm import adjust_p_values
from tunesmith_evidence.statistics.paired import paired_difference
from tunesmith_evidence.statistics.power import minimum_detectable_difference, rows_needed
from tunesmith_evidence.statistics.tests import paired_p_value

__all__ = [
    "Comparison",
    "ComparisonOutcome",
    "adjust_p_values",
    "compare",
    "minimum_detectable_difference",
    "paired_difference",
    "paired_p_value",
    "row_contributions",
    "rows_needed",
]
