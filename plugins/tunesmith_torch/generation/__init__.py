"""Generation with a key-value cache, and the text model that evaluators see."""
