"""The Python API: ``tunesmith.run`` and the other functions of the package ``tunesmith``.

It does the same as the command line, through the same code, and adds what a notebook needs: a
:class:`~tunesmith_python.runs.Run` has its report, its models and a comparison with another run.
The functions are entry points in the group ``tunesmith.python``, so the core does not import this
package, which is built on it. Importing this package imports no tensor library.
"""
