"""Baselines, and statistics for judging whether fine-tuning was worth it.

It is meant for plugins that judge if tuning was worth it: verdicts, baselines and reports. It
contains text classifiers, prompts with worked examples, and paired comparisons of models on the
same test rows. It does not need torch.
"""
