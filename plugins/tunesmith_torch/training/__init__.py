"""The trainer, the training loop, and supervised fine-tuning."""
