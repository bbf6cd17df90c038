"""The ``full`` technique: supervised fine-tuning of every weight."""
