"""The conformance kit, which checks every promise of a plugin.

A complete contract test of a third-party plugin::

    from tunesmith.testing import parametrize_checks
    from tunesmith_shouting import PLUGIN

    @parametrize_checks(PLUGIN)
    def test_contract(check):
        check()

``tunesmith plugins check NAME`` runs the same checks and prints the results as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from tunesmith.errors import EnvironmentProblem
from tunesmith.fence import describe_error
from tunesmith.testing import (
    baselines,
    encoders,
    evaluators,
    everyone,
    generators,
    known_answers,
    loaders,
    recipes,
    reporters,
    reviews,
    splitters,
)
from tunesmith.testing.checks import (
    Check,
    NeedsSample,
    NotApplicable,
    Samples,
    Subject,
    applicable_checks,
    collect_subjects,
)
from tunesmith.testing.locate import locate_fault
from tunesmith.testing.modules import load_modules
from tunesmith.testing.techniques import additions, contract, correctness, estimates
from tunesmith.testing.worked_examples import Examples

CHECK_MODULES = (
    everyone,
    reviews,
    contract,
    correctness,
    additions,
    estimates,
    loaders,
    splitters,
    evaluators,
    known_answers,
    baselines,
    encoders,
    generators,
    reporters,
    recipes,
)
"""The modules that define checks; importing them registers the checks."""

Options = Mapping[str, Mapping[str, Any]]
State = Literal["passed", "skipped", "not run", "failed"]
"""State of a check after it was called."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The state of one check of one offer, with the fault or the reason."""

    check: str
    """Name of the check."""
    offer: str
    """Name of the offer; empty if the check is about the plugin itself."""
    state: State
    """``skipped``: the plugin does not make the promise. ``not run``: the check needs a sample that
    only the caller can provide, or the plugin reports that this machine lacks something, such as
    a service. ``detail`` has the reason."""
    detail: str = ""
    """The fault if the check failed, the reason if it did not run; empty if it passed."""
    where: str = ""
    """``file:line`` in the plugin's code that a failed check points to; empty if unknown."""
    promise: str = ""
    """The first line of the check's docstring, which describes the promise."""


@dataclass(frozen=True)
class BoundCheck:
    """A check with its subject, ready to be called."""

    check: Check
    subject: Subject

    @property
    def name(self) -> str:
        """Name of the check and its offer, ``check[offer]``; ``check`` if there is no offer."""
        offer = self.subject.offer
        return self.check.name if offer is None else f"{self.check.name}[{offer.name}]"

    def __call__(self) -> None:
        """Run the check.

        Raises:
            AssertionError: the promise is broken.
            NotApplicable: there is nothing to check.
        """
        self.check.function(self.subject)

    def result(self) -> Result:
        """Run the check and return its result; any exception counts as a broken promise."""
        try:
            self()
        except (NeedsSample, EnvironmentProblem) as error:
            return self._result("not run", str(error))
        except NotApplicable as error:
            return self._result("skipped", str(error))
        except AssertionError as error:
            return self._result("failed", str(error), error)
        except Exception as error:
            return self._result("failed", describe_error(error), error)
        return self._result("passed")

    def _result(
        self,
        state: State,
        detail: str = "",
        error: Exception | None = None,
    ) -> Result:
        offer = "" if self.subject.offer is None else self.subject.offer.name
        return Result(
            check=self.check.name,
            offer=offer,
            state=state,
            detail=detail,
            where="" if error is None else locate_fault(self.subject, self.check.kind, error),
            promise=(self.check.function.__doc__ or "").partition("\n")[0],
        )


def collect_checks(
    module: ModuleType,
    *,
    model: Path | Callable[[], Path] | None = None,
    samples: Options | None = None,
    broken: Options | None = None,
    examples: Examples | None = None,
) -> Iterator[BoundCheck]:
    """Yield every check of the plugin and of each of its offers.

    The arguments are the same as for :func:`run_checks`.

    Raises:
        PluginError: the module is not a working plugin.
    """
    all_samples = Samples(
        model=model, options=samples or {}, broken=broken or {}, examples=examples or {}
    )
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    for subject in collect_subjects(module, load_modules({name: module}), all_samples):
        for check in applicable_checks(subject):
            yield BoundCheck(check, subject)


def run_checks(
    module: ModuleType,
    *,
    model: Path | Callable[[], Path] | None = None,
    samples: Options | None = None,
    broken: Options | None = None,
    examples: Examples | None = None,
) -> list[Result]:
    """Run all checks of a plugin and return their results; a failed check does not raise.

    Args:
        model: folder of a small model, or a function that creates it; techniques and exporters
            need it.
        samples: options by offer. Give required options, such as the file of a data loader, and
            options that let a technique learn eight examples in seconds, such as
            ``{"late-layers": {"epochs": 40.0}}``. Other options keep their defaults. A data
            loader without sample options reads a small file, if it recognizes a common format.
        broken: options by data loader that name data which the loader must reject.
        examples: worked examples by offer; examples for a data review go under
            ``tunesmith_review_data``. See :class:`LoaderExample`, :class:`EvaluatorExample` and
            :class:`ReviewExample`.

    Raises:
        PluginError: the module is not a working plugin.
    """
    return [
        check.result()
        for check in collect_checks(
            module, model=model, samples=samples, broken=broken, examples=examples
        )
    ]


def parametrize_checks(
    module: ModuleType,
    *,
    model: Path | Callable[[], Path] | None = None,
    samples: Options | None = None,
    broken: Options | None = None,
    examples: Examples | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrize a pytest test with the checks; the test gets each one as ``check`` and calls it.

    Args:
        expected_failures: the reason for each check that is expected to fail, by ``name`` or
            ``name[offer]``. It is an error if a listed check passes or does not exist.
        model, samples, broken, examples: as for :func:`run_checks`.

    Raises:
        PluginError: the module is not a working plugin.
        ValueError: an expected failure has no reason, or its check does not exist.
    """
    import pytest

    reasons = dict(expected_failures or {})
    cases = []
    for check in collect_checks(
        module, model=model, samples=samples, broken=broken, examples=examples
    ):
        reason = reasons.get(check.name, reasons.get(check.check.name))
        marks = (
            [] if reason is None else [pytest.mark.xfail(reason=_check_reason(reason), strict=True)]
        )
        cases.append(pytest.param(_skip_if_not_applicable(check), id=check.name, marks=marks))
    names = {str(case.id) for case in cases} | {str(case.id).partition("[")[0] for case in cases}
    unknown = sorted(set(reasons) - names)
    if unknown:
        raise ValueError(f"expected_failures names checks that do not exist: {unknown}")
    return pytest.mark.parametrize("check", cases)


def _check_reason(reason: str) -> str:
    if not reason.strip():
        raise ValueError("an expected failure needs a reason")
    return reason


def _skip_if_not_applicable(bound: BoundCheck) -> Callable[[], None]:
    """Return the check as a function that skips the test if the check is not applicable."""

    def check() -> None:
        import pytest

        try:
            bound()
        except NotApplicable as error:
            pytest.skip(str(error))

    return check
