"""Before a run: what it would take, where it fits, what it costs. No tensor is imported here.

Techniques estimate memory and work (:mod:`tunesmith.offers`); this package asks them, holds the
answers against a table of hardware and against this machine, and learns from runs that ended.
"""
