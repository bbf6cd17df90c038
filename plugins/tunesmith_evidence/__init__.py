"""Toolkit for evidence: statistics that compare models, and the rows on which they differ.

It is for plugins that judge if tuning was worth it: verdicts, rivals and reports. It reads the
evaluations of a run and compares models by their values on the same held-out rows. It needs no
tensor.
"""
