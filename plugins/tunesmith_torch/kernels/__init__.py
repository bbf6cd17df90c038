"""Attention, norms and adapters in fewer passes than the libraries take."""
