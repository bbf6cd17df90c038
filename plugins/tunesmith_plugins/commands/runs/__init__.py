"""Commands ``check``, ``run``, ``resume`` and ``report``: from a run file to its results."""
