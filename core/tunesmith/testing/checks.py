"""Define checks: functions that each verify one promise of a plugin.

A check gets its subject and returns if the promise is kept. If the promise is broken, it raises
``AssertionError`` through :func:`require`. It raises :class:`NotApplicable` if the plugin does not
make the promise, or if the caller passed no sample to check it with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tunesmith.catalog import Catalog
from tunesmith.errors import PluginError
from tunesmith.offers import (
    KINDS,
    ComponentOffer,
    ConfiguredOffer,
    ReporterOffer,
    TechniqueOffer,
)
from tunesmith.options import from_table
from tunesmith.plugins import Plugins
from tunesmith.testing.packaged import packaged_options
from tunesmith.testing.worked_examples import Examples


class NotApplicable(Exception):
    """Raised by a check that does not apply to its subject; the message is the reason."""


class NeedsSample(NotApplicable):
    """The check cannot run, because it needs a sample that only the caller can provide."""


def require(condition: bool, message: str) -> None:
    """Raise an error unless a condition of a promise holds.

    Raises:
        AssertionError: the condition is false; its text is ``message``.
    """
    if not condition:
        raise AssertionError(message)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples that only the caller can provide, such as a small model."""

    model: Path | Callable[[], Path] | None = None
    """Folder of a small model, or a function that creates it, for techniques and exporters."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by offer: required ones, such as the file of a data loader, and options that let a
    technique learn eight examples in seconds. Other options keep their defaults."""
    broken: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For each data loader, options that name data which it must reject."""
    examples: Examples = field(default_factory=dict)
    """Worked examples by offer: data, and the results that the component must return for it."""

    def model_folder(self) -> Path:
        """Return the model folder, which is created when it is first needed."""
        if self.model is None:
            raise NeedsSample("needs a small model: add --model FOLDER, or `model` in a test")
        return self.model if isinstance(self.model, Path) else self.model()


def required_options(config: type[BaseModel]) -> list[str]:
    """Return the names of an offer's options that have no default."""
    return [name for name, info in config.model_fields.items() if info.is_required()]


@dataclass(frozen=True)
class Subject:
    """An offer of the plugin under test, or the plugin itself if ``offer`` is None."""

    module: Any
    plugins: Plugins
    samples: Samples
    offer: Any = None
    cache: dict[str, Any] = field(default_factory=dict)
    """Results that several checks share, such as a training run."""

    def sample(self) -> Mapping[str, Any]:
        """Return the options of the offer and the caller, otherwise those for a file of the kit."""
        return self._given() or packaged_options(self.offer)

    def is_packaged(self) -> bool:
        """Return True if the offer is checked with a sample file of the kit."""
        return not self._given() and bool(self.sample())

    def _given(self) -> Mapping[str, Any]:
        return {**self.offer.sample, **self.samples.options.get(self.offer.name, {})}

    def options(self) -> Any:
        """Return the options that the offer is checked with."""
        sample = self.sample()
        missing = [name for name in required_options(self.offer.config) if name not in sample]
        if missing:
            name = self.offer.name
            raise NeedsSample(
                f"needs sample options for {name}: {', '.join(missing)} (`samples` in a test, "
                f"`--set {name}.{missing[0]}=VALUE` of `tunesmith plugins check`)"
            )
        return from_table(self.offer.config, sample)

    def build(self) -> Any:
        """Build the component with the options that the offer is checked with."""
        return self.offer.build(self.options())


CheckKind = Literal[
    "plugin",
    "review of data",
    "any offer",
    "offer",
    "component",
    "technique",
    "data loader",
    "splitter",
    "evaluator",
    "baseline",
    "encoder",
    "generator",
    "reporter",
    "exporter",
    "serve extension",
    "recipe",
    "reporter of every run",
    "table",
]
"""The subject of a check: a plugin, a plugin that reviews data, any offer, an offer with options,
an offer with ``build``, a kind of offer, or a reporter that every run uses."""


@dataclass(frozen=True)
class Check:
    """A promise, and the function that checks it."""

    name: str
    kind: CheckKind
    function: Callable[[Subject], None]


REGISTERED_CHECKS: list[Check] = []


def check(kind: CheckKind) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function as a check of the kit, under the function's name."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        REGISTERED_CHECKS.append(Check(function.__name__, kind, function))
        return function

    return register


def collect_subjects(module: Any, plugins: Plugins, samples: Samples) -> Iterator[Subject]:
    """Yield the plugin itself as a subject, then each of its offers.

    Raises:
        PluginError: the plugin is broken, or one of its hooks fails.
    """
    catalog = Catalog(plugins)
    offers = [offered.offer for kind in KINDS for offered in catalog.offers(kind)]
    for plugin in plugins.broken():
        raise PluginError(f'plugin "{plugin.full_name}" is broken: {plugin.reason}')
    yield Subject(module, plugins, samples)
    for offer in offers:
        yield Subject(module, plugins, samples, offer)


def applicable_checks(subject: Subject) -> Iterator[Check]:
    """Return the checks that apply to a subject."""
    offer = subject.offer
    kinds = {"plugin"} if offer is None else {"any offer", offer.kind}
    if offer is None and any(subject.plugins.implementations("tunesmith_review_data")):
        kinds.add("review of data")
    if isinstance(offer, TechniqueOffer) and not offer.promises.trains:
        kinds.discard(offer.kind)
    if isinstance(offer, ConfiguredOffer):
        kinds.add("offer")
    if isinstance(offer, ComponentOffer):
        kinds.add("component")
    if isinstance(offer, ReporterOffer) and offer.always:
        kinds.add("reporter of every run")
    return (check for check in REGISTERED_CHECKS if check.kind in kinds)
