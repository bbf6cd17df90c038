"""Toolkit for evidence: baselines of tuning, and statistics that compare models.

It is for plugins that judge if tuning was worth it: verdicts, baselines and reports. It has
classifiers of texts and of the fields of JSON answers, prompts with worked examples, and
comparisons of models by their values on the same test rows. It needs no tensor.
"""
