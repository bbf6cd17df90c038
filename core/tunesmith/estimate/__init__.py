"""Plan a run before it starts: its memory, time and cost, and the devices it fits on.

Techniques estimate memory and operations (:mod:`tunesmith.offers`). This package compares their
estimates with a table of hardware and with this machine, and calibrates them by finished runs. It
imports no tensor library.
"""
