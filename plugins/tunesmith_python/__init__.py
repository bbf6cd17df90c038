"""The Python API: ``tunesmith.run`` and the other functions of the package ``tunesmith``.

It does what the command line does, along the same path, and adds what a notebook needs: a
:class:`~tunesmith_python.runs.Run` with its report, its models and its comparison with another
run. The functions are entry points in the group ``tunesmith.python``, so that the core, which they
are above, does not import them. Importing this package imports no tensor library.
"""
