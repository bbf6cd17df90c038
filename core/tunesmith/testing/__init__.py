"""The conformance kit for plugin authors, and fake text models and events for fast tests.

::

    import tunesmith_shouting
    from tunesmith.testing import parametrize_checks

    @parametrize_checks(tunesmith_shouting)
    def test_contract(check):
        check()
"""

from tunesmith.testing.fakes import FakeTextModel, perfect_model
from tunesmith.testing.full_disk import full_disk
from tunesmith.testing.kit import Result, parametrize_checks, run_checks
from tunesmith.testing.sample_run import sample_event, sample_run, send_events
from tunesmith.testing.worked_examples import EvaluatorExample, LoaderExample, ReviewExample

__all__ = [
    "EvaluatorExample",
    "FakeTextModel",
    "LoaderExample",
    "Result",
    "ReviewExample",
    "full_disk",
    "parametrize_checks",
    "perfect_model",
    "run_checks",
    "sample_event",
    "sample_run",
    "send_events",
]
