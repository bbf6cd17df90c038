"""Train reward models and policies, the stages of RLHF."""
