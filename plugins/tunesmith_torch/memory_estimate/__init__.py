"""What a run would take, known before any weight is read.

``analytic`` answers at once from a model's config with arithmetic; ``trace`` runs the training step
itself on tensors without numbers and replays what it allocates. ``estimates`` is what offers call.
Importing this package imports nothing heavy; only ``trace`` and what it needs imports torch.
"""
