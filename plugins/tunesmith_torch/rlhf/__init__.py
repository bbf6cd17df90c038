"""Reward models and policies: the stages of RLHF."""
