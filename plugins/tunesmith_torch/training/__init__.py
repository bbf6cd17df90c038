"""The training loop and supervised fine-tuning."""
