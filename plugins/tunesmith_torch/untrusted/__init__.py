"""Handle untrusted files: check configs, and run templates and tokenizers in limited processes."""
