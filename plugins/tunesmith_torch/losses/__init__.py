"""Loss functions of hidden states or log-probabilities, without side effects."""
