"""The modules of ``docs/generate.py``, one for each kind of page."""
