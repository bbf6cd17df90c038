"""Baselines, and statistics for judging whether fine-tuning was worth it.

It is for plugins of verdicts, baselines and reports. It contains text classifiers, few-shot
prompts, and paired comparisons of models on the same test rows. It does not need torch.
"""
