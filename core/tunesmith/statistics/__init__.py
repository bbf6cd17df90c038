"""Compute the mean of a metric over records, with a confidence interval.

An evaluator returns one value per record. All functions here are pure and use only the standard
library. The order of the records does not change a result. ``tunesmith_evidence.statistics``
compares two models.

The methods:

=====================  =================================
values                 interval of the mean
=====================  =================================
right/wrong            Wilson score
  weighted or grouped  Wilson score on the effective n
anything else          percentile bootstrap
  below 10 units       Student's t
  a single unit        unknown: the bounds, or infinite
=====================  =================================

A *unit* is an independent sample: a group if groups are given, otherwise a record. Records of one
group (one patient, one document) depend on each other, and counting them as independent makes
intervals too narrow. For small samples, percentiles are widened as in Hesterberg.

Sources: Wilson, JASA 22 (1927) 209; Hesterberg, Amer. Statist. 69 (2015) 371; Kish, Survey
Sampling (1965) and Korn and Graubard, Survey Methodology 24 (1998) 193 (effective n).
"""

from tunesmith.statistics.intervals import Interval, mean_interval

__all__ = ["Interval", "mean_interval"]
