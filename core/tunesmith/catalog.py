"""The catalog of all offers, by kind and name. Only this module calls hooks.

The hook for a kind of offer is called when that kind is first needed. Each implementation is called
separately, so a failing plugin does not affect the others. Every help page uses the catalog, so
imports that only runs need are inside functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import is_dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.command_offers import CommandOffer, O, Offer, Offered, Plugin
from tunesmith.errors import EnvironmentProblem, PluginError, TunesmithError
from tunesmith.fence import DataChangedError, call_in_fence, fence, require_unchanged
from tunesmith.fence.returned import (
    blame_plugin,
    check_fetched_folder,
    check_found_model,
    check_json,
    check_obstacle,
    check_offer,
    check_review,
)
from tunesmith.plugins import Plugins, missing_requirements
from tunesmith.text import suggest_name

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.contracts import Dataset, Finding, FoundModel, ReviewResult
    from tunesmith.records import Record

R = TypeVar("R")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_COMMAND_NAME = re.compile(rf"{_NAME.pattern}( {_NAME.pattern})?")


class OfferNotFoundError(LookupError):
    """Raised if no offer or several offers have the requested name.

    ``what`` and ``hint`` fit the fields of a Problem.
    """

    def __init__(self, what: str, hint: str | None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class Catalog:
    """The offers of the loaded plugins."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self._gathered: dict[type[Offer], list[Offered[Any]]] = {}

    def offers(self, kind: type[O]) -> list[Offered[O]]:
        """Return all offers of a kind: built-in offers first, then by distribution and name."""
        if kind not in self._gathered:
            gathered = self._gather(kind)
            gathered.sort(
                key=lambda o: (not o.plugin.is_builtin, o.plugin.distribution, o.offer.name)
            )
            self._gathered[kind] = gathered
        return self._gathered[kind]

    def by_key(self, kind: type[O]) -> dict[str, Offered[O]]:
        """Return the offers of a kind by their run-file keys.

        The key is the short name, or the full name if two plugins offer the same short name.
        """
        offers = self.offers(kind)
        short = [offered.offer.name for offered in offers]
        return {o.offer.name if short.count(o.offer.name) == 1 else o.full_name: o for o in offers}

    def find(self, kind: type[O], name: str) -> Offered[O]:
        """Return the offer with a short or full name.

        Raises:
            OfferNotFoundError: no offer, or more than one, has that name.
            PluginError: the plugin with that name is installed but broken.
        """
        offers = self.offers(kind)
        matches = [o for o in offers if name in (o.offer.name, o.full_name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = " or ".join(sorted(f'"{match.full_name}"' for match in matches))
            raise OfferNotFoundError(
                f'the name "{name}" is offered by more than one plugin', f"write {names}"
            )
        for plugin in self.plugins.broken():
            if name in (plugin.name, plugin.full_name):
                version = plugin.version and f" {plugin.version}"
                raise PluginError(
                    f'plugin "{plugin.full_name}"{version} is broken: {plugin.reason}'
                )
        known = [o.offer.name for o in offers]
        guess = suggest_name(name, known)
        hint = f'did you mean "{guess}"?' if guess else f"installed: {', '.join(known) or 'none'}"
        hint += "" if guess else f"; `tunesmith plugins list --available {name}` may find it"
        unloaded = [p for p in self.plugins.found if p.state != "active"]
        if unloaded and not guess:
            texts = [f"{p.full_name} is {p.state}, {p.reason}" for p in unloaded]
            hint += f"; not loaded: {'; '.join(texts)}"
        raise OfferNotFoundError(f'no {kind.kind} "{name}" is installed', hint)

    def recognize(self, names: Sequence[str]) -> str | None:
        """Return the name of the data loader that recognizes all these files, or None.

        If plugins share the short name, the full name is returned.
        """
        from tunesmith.offers import DataLoaderOffer

        offers = sorted(self.offers(DataLoaderOffer), key=lambda o: o.plugin.is_builtin)
        known = [o.offer.name for o in offers]
        for o in offers:
            if names and all(
                call_in_fence(o, "recognizes", o.offer.recognizes, name) for name in names
            ):
                return o.offer.name if known.count(o.offer.name) == 1 else o.full_name
        return None

    def find_model(self, reference: str, revision: str | None) -> FoundModel | None:
        """Return the first model that a plugin finds for a reference, or None if none finds one.

        Third-party plugins are asked first.
        """
        from tunesmith.contracts import FoundModel

        arguments = {"reference": reference, "revision": revision}
        for plugin, found in self._results("tunesmith_find_model", FoundModel, arguments):
            with blame_plugin(plugin, "tunesmith_find_model"):
                check_found_model(found)
            return replace(
                found,
                fetch=_fenced(plugin, "fetch", found.fetch, check_fetched_folder),
                find_obstacle=_fenced(plugin, "find_obstacle", found.find_obstacle, check_obstacle),
            )
        return None

    def judge(self, evidence: Any) -> dict[str, Any]:
        """Return the first verdict that a plugin gives on the evidence, or {} if none gives one.

        Third-party plugins are asked first.
        """
        for plugin, verdict in self._results("tunesmith_verdict", dict, {"evidence": evidence}):
            with blame_plugin(plugin, "tunesmith_verdict"):
                check_json(verdict, "a verdict")
            return verdict
        return {}

    def _results(
        self, hook: str, kind: type[R], arguments: dict[str, Any]
    ) -> Iterator[tuple[Plugin, R]]:
        """Yield the results of a hook that are not None, third-party plugins first."""
        for plugin, function in self.plugins.implementations(hook):
            result = self._call(plugin, function, arguments)
            if result is not None:
                if not isinstance(result, kind):
                    raise _wrong_type(plugin, hook, result)
                yield plugin, result

    def review_plan(self, plan: Any) -> list[tuple[Plugin, Finding]]:
        """Return the findings of all plugins about a plan."""
        return _findings(self._review("tunesmith_review_plan", plan=plan))

    def review_data(
        self,
        dataset: Dataset,
        plan: Any,
        evaluators: Sequence[Any] = (),
        **parts: Sequence[Record],
    ) -> list[tuple[Plugin, Finding]]:
        """Return findings about the data. Without a plan, call only the hooks that need no plan."""
        of_run = {} if plan is None else {"plan": plan, "evaluators": evaluators}
        given = {"dataset": dataset, **parts, **of_run}
        return _findings(self._review("tunesmith_review_data", **given))

    def review_use(self, folder: Path, use: str) -> list[tuple[Plugin, Finding]]:
        """Return the findings of all plugins about the use of a run's model."""
        return _findings(self._review("tunesmith_review_use", folder=folder, use=use))

    def review_model(self, review: Any) -> list[tuple[Plugin, ReviewResult]]:
        """Return each plugin that reviews runs with their base model, and its result."""
        return list(self._review("tunesmith_review_model", review=review))

    def _review(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, ReviewResult]]:
        """Yield each plugin with the result of its review hook; turn a failure into a warning.

        Plugins whose hook needs an argument that is not given are skipped.
        """
        from tunesmith.contracts import ReviewResult

        for plugin, function in self.plugins.implementations(hook):
            parameters = signature(function).parameters.values()
            if not {p.name for p in parameters if p.default is p.empty} <= arguments.keys():
                continue
            try:
                found = self._call(plugin, function, arguments, guards_state=True) or ()
                result = ReviewResult(findings=found) if isinstance(found, (list, tuple)) else found
                if not isinstance(result, ReviewResult):
                    raise _wrong_type(plugin, hook, found)
                with blame_plugin(plugin, hook):
                    check_review(result)
                if notes := self.plugins.take_notes(plugin):
                    warnings = [_warn(plugin, text) for _, text in notes]
                    result = replace(result, findings=[*result.findings, *warnings])
            except DataChangedError:
                raise
            except TunesmithError as error:
                result = ReviewResult(findings=[_warn(plugin, error.message)])
            yield plugin, result

    def _call(
        self,
        plugin: Plugin,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        guards_state: bool | None = None,
    ) -> Any:
        """Call one plugin's hook; a third-party plugin gets copies and must not change a record.

        A plugin therefore cannot change values that the run trains on or reports.

        Raises:
            EnvironmentProblem: a library that the hook needs is not installed.
        """
        if missing := missing_requirements(plugin.needs):
            text = "; ".join(missing)
            raise EnvironmentProblem(f'plugin "{plugin.full_name}" is not available: {text}')
        needed = signature(function).parameters
        given = {name: value for name, value in arguments.items() if name in needed}
        parts = _find_parts(arguments)
        reads_much = bool(parts) or "folder" in arguments
        options: Any = {"guards_state": guards_state, "has_rows": reads_much}
        if plugin.is_builtin:
            return self.plugins.call(plugin, function, given, **options)
        copies = {name: copy_value(value) for name, value in given.items()}
        plans = _describe_plans(copies)
        with require_unchanged(plugin, *_find_parts(given)):
            result = self.plugins.call(plugin, function, copies, **options)
        if _describe_plans(copies) != plans:
            text = f"{function.__name__} changed its copy of the plan, which has no effect"
            self.plugins.note(plugin, text)
        return result

    def _gather(self, kind: type[O]) -> list[Offered[O]]:
        gathered: list[Offered[O]] = []
        for plugin, function in self.plugins.implementations(kind.hook):
            try:
                offers = self.plugins.call(plugin, function, {})
                gathered += [
                    Offered(plugin, offer) for offer in _check_offers(plugin, kind, offers)
                ]
            except TunesmithError as error:
                self.plugins.mark_broken(plugin, error.message)
        return gathered


def _fenced(
    plugin: Plugin, name: str, function: Callable[[], R], check: Callable[[object], R]
) -> Callable[[], R]:
    """Wrap a function of a found model in the fence, so that its errors name the plugin."""

    def call() -> R:
        with fence(plugin, name):
            result = function()
        with blame_plugin(plugin, name):
            return check(result)

    return call


def copy_value(value: Any) -> Any:
    """Copy a plan, review, evidence or dataset for a hook; return other arguments unchanged.

    Records are not copied. :func:`require_unchanged` detects changes to them.
    """
    from tunesmith.contracts import Dataset
    from tunesmith.plan import Evidence, ModelReview, Plan

    if isinstance(value, Plan | ModelReview | Evidence):
        return value.copy()
    return copy(value) if isinstance(value, Dataset) else value


def _find_parts(arguments: Mapping[str, Any]) -> list[Sequence[Record]]:
    """Return the data splits among the arguments of a hook and their fields."""
    fields = [vars(value) for value in arguments.values() if is_dataclass(value)]
    tables = [arguments, *fields]
    found = [table.get(name) for table in tables for name in ("train", "validation", "test")]
    return [part for part in found if part is not None]


def _describe_plans(arguments: Mapping[str, Any]) -> list[Any]:
    """Return the plans among a hook's arguments and their fields as JSON; [] if one is damaged."""
    from tunesmith.plan import Plan

    values = [*arguments.values()]
    values += [vars(value).get("plan") for value in values if is_dataclass(value)]
    plans = [value for value in values if isinstance(value, Plan)]
    try:
        return [plan.to_json() for plan in plans]
    except (AttributeError, TypeError):  # a hook has put something else into its copy
        return []


def _check_offers(plugin: Plugin, kind: type[O], offers: Any) -> Sequence[O]:
    if not isinstance(offers, (list, tuple)):
        raise _wrong_type(plugin, kind.hook, offers)
    for offer in offers:
        if not isinstance(offer, kind):
            raise _wrong_type(plugin, kind.hook, offer)
        with blame_plugin(plugin, kind.hook):
            check_offer(offer)
        two_words = kind is CommandOffer
        if not (_COMMAND_NAME if two_words else _NAME).fullmatch(offer.name):
            raise PluginError(
                f'plugin "{plugin.full_name}" offers the name "{offer.name}": '
                "names consist of lower-case letters, digits and hyphens"
                f"{', in one or two words' if two_words else ''}"
            )
        if offer.name in kind.reserved:
            raise PluginError(
                f'plugin "{plugin.full_name}" offers the {kind.kind} "{offer.name}", '
                "but that name is reserved"
            )
    return offers


def _warn(plugin: Plugin, text: str) -> Finding:
    from tunesmith.contracts import Finding

    return Finding(level="warning", where=plugin.full_name, message=text)


def _wrong_type(plugin: Plugin, hook: str, got: object) -> PluginError:
    what = f"a value of the wrong type {type(got).__name__} from {hook}"
    return PluginError(f'plugin "{plugin.full_name}" returned {what}')


def _findings(results: Iterable[tuple[Plugin, ReviewResult]]) -> list[tuple[Plugin, Finding]]:
    return [(plugin, finding) for plugin, result in results for finding in result.findings]
