"""Techniques ``trl-grpo`` and ``trl-rloo``: a policy trained by the trainers of TRL."""
