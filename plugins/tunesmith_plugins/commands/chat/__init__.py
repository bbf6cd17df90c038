"""The ``chat`` command: chat with the trained model, or compare it with the base model."""
