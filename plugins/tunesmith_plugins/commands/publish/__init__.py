"""The ``push`` and ``pull`` commands: upload models to the Hugging Face Hub, and download them."""
