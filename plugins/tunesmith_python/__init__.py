"""The Python API: ``tunesmith.run`` and the other functions of the package ``tunesmith``.

It runs the same code as the command line. For notebooks, a :class:`~tunesmith_python.runs.Run` also
gives access to its report and its models, and can be compared with another run. The functions are
entry points in the group ``tunesmith.python``, so the core does not import this package, which is
built on it. Importing this package imports no tensor library.
"""
