"""The ``check``, ``run``, ``resume`` and ``report`` commands: from a run file to its results."""
