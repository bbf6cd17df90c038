"""Command ``chat``: chat with the trained model, or compare it with the base model."""
