"""Commands ``check``, ``run``, ``resume`` and ``report``: a run from its file to its results."""
