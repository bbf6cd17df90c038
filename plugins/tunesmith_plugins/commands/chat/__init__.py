"""Command ``chat``: chat with the trained model, and compare it with the base model."""
