"""Estimate the memory and work of a run before any weight is read.

``techniques`` and ``policies`` hold the functions that technique offers call. They yield two
estimates: ``analytic`` computes one at once from the model's config with arithmetic; ``traced``
replaces its training step by one that ``trace`` ran on fake tensors (tensors with a shape and no
data) and whose allocations ``allocator_replay`` replayed. Importing this package imports nothing
heavy; only ``trace`` and the modules that it needs import torch.
"""
