"""Toolkit for evidence: rivals of tuning, and statistics that compare models.

It is for plugins that judge if tuning was worth it: verdicts, rivals and reports. It has
classifiers of texts and of the fields of JSON answers, prompts with worked examples, and
comparisons of models by their values on the same held-out rows. It needs no tensor.
"""
