"""The parts of the data: what is trained on and what is held out."""
