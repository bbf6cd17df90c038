"""Fields of JSON answers, each predicted without a language model: classified, or copied."""
