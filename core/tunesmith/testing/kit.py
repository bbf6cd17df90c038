"""The conformance kit: the promises of a plugin, each as a check that can fail.

A third party's whole contract test::

    import tunesmith_shouting
    from tunesmith.testing import parametrize_checks

    @parametrize_checks(tunesmith_shouting)
    def test_contract(check):
        check()

``tunesmith plugins check NAME`` prints the same list as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from tunesmith import plugins as finding
from tunesmith.plugins import describe
from tunesmith.testing import estimates, evaluators, everyone, loaders, reporters, techniques
from tunesmith.testing.checks import Check, NotApplicable, Samples, Subject, applicable, subjects

CHECKS = (everyone, techniques, estimates, loaders, evaluators, reporters)
"""The modules that hold the checks; importing them registers these."""

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one check."""

    check: str
    offer: str
    """The offer that it is about; empty for the plugin as a whole."""
    state: Literal["kept", "broken", "not applicable"]
    detail: str = ""
    promise: str = ""
    """The check's sentence: what is promised."""


@dataclass(frozen=True)
class Trial:
    """One check of one subject, ready to be called."""

    check: Check
    subject: Subject

    @property
    def name(self) -> str:
        """``check[offer]``, or the check's name alone where it is about the whole plugin."""
        offer = self.subject.offer
        return self.check.name if offer is None else f"{self.check.name}[{offer.name}]"

    def __call__(self) -> None:
        """Check.

        Raises:
            AssertionError: the promise is broken.
            NotApplicable: there is nothing to check.
        """
        self.check.function(self.subject)

    def result(self) -> Result:
        """Check, and say what came of it. Any exception breaks the promise."""
        try:
            self()
        except NotApplicable as error:
            return self._said("not applicable", str(error))
        except AssertionError as error:
            return self._said("broken", str(error))
        except Exception as error:
            return self._said("broken", describe(error))
        return self._said("kept", "")

    def _said(self, state: Literal["kept", "broken", "not applicable"], detail: str) -> Result:
        offer = "" if self.subject.offer is None else self.subject.offer.name
        promise = (self.check.function.__doc__ or "").partition("\n")[0]
        return Result(
            check=self.check.name, offer=offer, state=state, detail=detail, promise=promise
        )


def trials(
    module: ModuleType,
    *,
    model: Path | Callable[[], Path] | None = None,
    samples: Options | None = None,
    broken: Options | None = None,
) -> Iterator[Trial]:
    """Every check that concerns what the module offers.

    Args:
        model: a small model folder, or a function that makes one; techniques need it.
        samples: options by offer, for what has no default: the file of a loader, say.
        broken: options by loader, of data that it has to refuse.

    Raises:
        PluginError: the module is no working plugin.
    """
    brought = Samples(model=model, options=samples or {}, broken=broken or {})
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    for subject in subjects(module, finding.only({name: module}), brought):
        for check in applicable(subject):
            yield Trial(check, subject)


def run_checks(
    module: ModuleType,
    *,
    model: Path | Callable[[], Path] | None = None,
    samples: Options | None = None,
    broken: Options | None = None,
) -> list[Result]:
    """Check everything that the module promises; see :func:`trials` for the arguments."""
    return [trial.result() for trial in trials(module, model=model, samples=samples, broken=broken)]


def parametrize_checks(
    module: ModuleType,
    *,
    model: Path | Callable[[], Path] | None = None,
    samples: Options | None = None,
    broken: Options | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """One pytest case for each check; the test gets it as ``check`` and calls it.

    Args:
        expected_failures: reasons by check, ``name`` or ``name[offer]``. A check that is listed
            and passes is a failure, and so is one that is listed and does not exist.
        model, samples, broken: see :func:`trials`.
    """
    import pytest

    known = dict(expected_failures or {})
    cases = []
    for trial in trials(module, model=model, samples=samples, broken=broken):
        reason = known.get(trial.name, known.get(trial.check.name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=_reason(reason), strict=True)]
        cases.append(pytest.param(_skipping(trial), id=trial.name, marks=marks))
    there = {str(case.id) for case in cases} | {str(case.id).partition("[")[0] for case in cases}
    unknown = sorted(set(known) - there)
    if unknown:
        raise ValueError(f"expected_failures names checks that do not exist: {unknown}")
    return pytest.mark.parametrize("check", cases)


def _reason(reason: str) -> str:
    if not reason.strip():
        raise ValueError("an expected failure needs a reason")
    return reason


def _skipping(trial: Trial) -> Callable[[], None]:
    """The check as pytest likes it: what does not apply is skipped."""

    def check() -> None:
        import pytest

        try:
            trial()
        except NotApplicable as error:
            pytest.skip(str(error))

    return check
