"""Files of strangers: check configurations, and run templates and tokenizers in processes."""
