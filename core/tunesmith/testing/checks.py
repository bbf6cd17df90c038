"""What a check is: one promise, as one plainly named function.

A check gets the subject that it is about and returns when the promise is kept. It raises
``AssertionError`` through :func:`demand` when the promise is broken, and :class:`NotApplicable`
when there is nothing to check: the plugin does not promise it, or the caller brought no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.catalog import HOOKS, Catalog
from tunesmith.errors import PluginError
from tunesmith.offers import CommandOffer
from tunesmith.options import from_table
from tunesmith.plugins import Plugins


class NotApplicable(Exception):
    """There is nothing to check; the message says why."""


def demand(kept: bool, message: str) -> None:
    """Hold a plugin to a promise.

    Raises:
        AssertionError: with the message, if the promise is not kept.
    """
    if not kept:
        raise AssertionError(message)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the kit cannot make up and the caller brings."""

    model: Path | Callable[[], Path] | None = None
    """A small model folder, or a function that makes one, for techniques."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by offer: those that a loader must be given, those with which a technique learns
    eight examples in seconds. What is not given keeps its default."""
    broken: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by loader, of data that it has to refuse."""

    def model_folder(self) -> Path:
        """The model folder; made when it is first needed."""
        if self.model is None:
            raise NotApplicable("needs a small model folder, and none was given")
        return self.model if isinstance(self.model, Path) else self.model()


@dataclass(frozen=True)
class Subject:
    """One offer of the plugin under test, or the plugin as a whole, where ``offer`` is None."""

    module: Any
    plugins: Plugins
    samples: Samples
    offer: Any = None
    memory: dict[str, Any] = field(default_factory=dict)
    """What several checks share, so that it is done once: a training run, say."""

    def options(self) -> Any:
        """The options with which the offer is tried."""
        given = self.samples.options.get(self.offer.name, {})
        missing = [
            name
            for name, info in self.offer.config.model_fields.items()
            if info.is_required() and name not in given
        ]
        if missing:
            raise NotApplicable(f"needs sample options for {self.offer.name}: {missing}")
        return from_table(self.offer.config, given)

    def build(self) -> Any:
        """The real thing."""
        return self.offer.build(self.options())


Kind = Literal["plugin", "any offer", "offer", "technique", "data loader", "evaluator", "reporter"]
"""What a check is about: the plugin, any offer, an offer with options, or one kind of offer."""


@dataclass(frozen=True)
class Check:
    """One promise and the function that checks it."""

    name: str
    kind: Kind
    function: Callable[[Subject], None]


REGISTERED: list[Check] = []


def check(kind: Kind) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a function a check of the kit, under its own name."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        REGISTERED.append(Check(function.__name__, kind, function))
        return function

    return register


def subjects(module: Any, plugins: Plugins, samples: Samples) -> Iterator[Subject]:
    """The plugin as a whole, then each of its offers.

    Raises:
        PluginError: the plugin is broken, or one of its hooks fails.
    """
    catalog = Catalog(plugins)
    offers = [offered.offer for kind in HOOKS for offered in catalog.offers(kind)]
    for plugin in plugins.broken():
        raise PluginError(f'plugin "{plugin.full_name}" is broken: {plugin.reason}')
    yield Subject(module, plugins, samples)
    for offer in offers:
        yield Subject(module, plugins, samples, offer)


def applicable(subject: Subject) -> Iterator[Check]:
    """The checks that concern a subject."""
    if subject.offer is None:
        kinds = {"plugin"}
    elif isinstance(subject.offer, CommandOffer):
        kinds = {"any offer"}
    else:
        kinds = {"offer", "any offer", subject.offer.kind}
    return (check for check in REGISTERED if check.kind in kinds)
