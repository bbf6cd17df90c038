"""The conformance kit for plugin authors, and fake text models for fast tests.

::

    import tunesmith_shouting
    from tunesmith.testing import parametrize_checks

    @parametrize_checks(tunesmith_shouting)
    def test_contract(check):
        check()
"""

from tunesmith.testing.fakes import FakeTextModel, perfect_model
from tunesmith.testing.kit import Result, parametrize_checks, run_checks

__all__ = ["FakeTextModel", "Result", "parametrize_checks", "perfect_model", "run_checks"]
