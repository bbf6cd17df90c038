"""Let a language model judge pairs of answers in both orders, and test it on anchors."""
