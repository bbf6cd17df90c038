"""Commands ``push`` and ``pull``: upload and download trained models on the Hugging Face Hub."""
