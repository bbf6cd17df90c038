"""Baselines, and statistics for judging whether fine-tuning was worth it.

Plugins for verdicts, baselines and reports use this package. It contains text classifiers, few-shot
prompts, and paired comparisons of models on the same test rows. It does not need torch.
"""
