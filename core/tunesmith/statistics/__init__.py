"""Compute confidence intervals, paired significance tests and the power of comparisons.

An evaluator returns one value per record. This package computes from such values a mean with a
confidence interval, and compares two models by their values on the same records. It has only pure
functions and uses only the standard library. The order of the records does not change a result.

The methods:

=====================  ================================  ================================
values                 one mean                          difference of two models
=====================  ================================  ================================
right/wrong            Wilson score                      Tango score, exact McNemar
  weighted or grouped  the same on the effective n       the same on the effective n, sign flips
anything else          percentile bootstrap              percentile bootstrap, sign flips
  below 10 units       Student's t                       Student's t, sign flips
  a single unit        unknown: the bounds, or infinite  unknown, p = 1
=====================  ================================  ================================

A *unit* is what was sampled independently: a group where groups are given, else a record. Records
of one group (one patient, one document) are not independent of each other, and counting them as
if they were makes intervals too narrow.

Percentiles are widened for small samples after Hesterberg. BCa was tried and measured: with 60
token-weighted records it covers 92.5 %, the widened percentiles 94 %, and it is no better on
log-normal values (91.4 % against 91.7 %).

Sources: Wilson, JASA 22 (1927) 209; Tango, Statist. Med. 17 (1998) 891; Hesterberg, Amer. Statist.
69 (2015) 371; Kish, Survey Sampling (1965) and Korn and Graubard, Survey Methodology 24 (1998) 193
(effective n); McNemar, Psychometrika 12 (1947) 153; Connor, Biometrics 43 (1987) 207 (power of
paired proportions).
"""

from tunesmith.statistics.comparison import Comparison, ComparisonOutcome, compare
from tunesmith.statistics.intervals import Interval, mean_interval, paired_difference
from tunesmith.statistics.power import minimum_detectable
from tunesmith.statistics.tests import paired_p_value

__all__ = [
    "Comparison",
    "ComparisonOutcome",
    "Interval",
    "compare",
    "mean_interval",
    "minimum_detectable",
    "paired_difference",
    "paired_p_value",
]
