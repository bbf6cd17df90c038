"""Let a language model judge pairs of answers in both orders, and test the judge on known pairs."""
