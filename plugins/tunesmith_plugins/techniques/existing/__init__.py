"""The ``existing`` technique: measure a model that was fine-tuned elsewhere, without training."""
