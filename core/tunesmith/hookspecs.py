"""The hooks: the functions that a plugin can implement.

Ten hooks return *offers*, descriptions of the components of the plugin. One finds the base model
for a reference. Three review a run before any weight is read. One judges the results of a run. No
hook changes a plan, patches a library or runs inside the training loop.

tunesmith holds the plugins of third parties to that: a hook gets copies of plans and results, and
the records that it gets are compared afterwards; global state of Python, NumPy and torch that it
changes is restored and named; what it prints goes to stderr. A hook that takes longer than
``TUNESMITH_HOOK_SECONDS``, 60 by default, and ten times that if it gets the rows of a run, has
failed. Its result is checked when it arrives: types, JSON, sizes.

A plugin is named in the entry-point group ``tunesmith``::

    [project.entry-points.tunesmith]
    shouting = "tunesmith_shouting:PLUGIN"

and names what its hooks import when they are called::

    PLUGIN = lazy_plugin(__name__, tunesmith_evaluators=".offer:SHOUTING")

A module is a plugin too: it defines the functions below, each with the marker ``hookimpl``, and
imports inside of them. Every run imports all plugins. Help and ``tunesmith plugins list`` import
one only when its distribution has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from inspect import Parameter, Signature, signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy

from tunesmith.offers import (
    BaselineOffer,
    CommandOffer,
    DataLoaderOffer,
    EvaluatorOffer,
    ExporterOffer,
    ImportString,
    ReporterOffer,
    ServeExtensionOffer,
    SplitterOffer,
    TableOffer,
    TechniqueOffer,
)

if TYPE_CHECKING:
    from tunesmith.contracts import Dataset, Finding, FoundModel, ReviewResult
    from tunesmith.events import JSON
    from tunesmith.plan import Component, Evidence, ModelReview, Plan
    from tunesmith.records import Record

PROJECT = "tunesmith"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def lazy_plugin(
    package: str,
    *,
    needs: Sequence[str] = (),
    **hooks: str | CommandOffer | Sequence[str | CommandOffer],
) -> Any:
    """Return a plugin whose hooks are imported when they are called.

    A hook is given as the import strings of its offers, or that of its function if it has
    arguments: ``.module:name``, relative to the package, which is ``__name__`` of the caller. The
    offer of a command is given itself, since help shows its help line. ``needs`` are requirements
    of hooks that review or judge, as ``NEEDS`` of a module.
    """
    file = sys.modules[package].__file__
    plugin = SimpleNamespace(__name__=package, __file__=file, NEEDS=tuple(needs))
    for hook, given in hooks.items():
        listed = [given] if isinstance(given, str | CommandOffer) else given
        vars(plugin)[hook] = hookimpl(_import_and_call(hook, package, listed))
    return plugin


def _import_and_call(hook: str, package: str, listed: Sequence[Any]) -> Any:
    specified = signature(globals()[hook]).parameters

    def implementation(**given: Any) -> Any:
        found = [ImportString(package + x).load() if isinstance(x, str) else x for x in listed]
        if not specified:
            return found
        own = signature(found[0]).parameters
        needed = {name for name, parameter in own.items() if parameter.default is Parameter.empty}
        if unknown := needed - specified.keys():
            raise TypeError(f"the hook has no argument {', '.join(unknown)}")
        arguments = {name: given[name] for name in own if name in given}
        return found[0](**arguments) if needed <= given.keys() else None

    implementation.__name__ = hook
    optional = [parameter.replace(default=None) for parameter in specified.values()]
    vars(implementation)["__signature__"] = Signature(optional)
    return implementation


@hookspec
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:  # type: ignore[empty-body]
    """Offer data loaders, which read records.

    A run file chooses one with ``[data] use = "NAME"``; every other key of that table, except
    ``test_size``, is validated by the offer's own options model.
    """


@hookspec
def tunesmith_splitters() -> Sequence[SplitterOffer[Any]]:  # type: ignore[empty-body]
    """Offer splitters, which divide the records into training, validation and test rows.

    A run file chooses one with ``[split] use = "NAME"``; without it, the one ``by_default`` is
    used. Rows of a patient, of a time or of a site may have to stay together: a plugin knows.
    """


@hookspec
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:  # type: ignore[empty-body]
    """Offer techniques, which change the weights of a model.

    A run file chooses one with ``[technique] use = "NAME"``. ``build`` is called only when the
    run starts: import torch there, not at module level. An offer may also predict memory and
    work with ``estimate``, which ``tunesmith plan`` and the review of a run call before anything
    begins, and propose changes of the options that save memory with ``memory_savings``.
    """


@hookspec
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:  # type: ignore[empty-body]
    """Offer evaluators, which measure a text model.

    A measurement has one value per record; tunesmith aggregates them and adds the intervals.
    Without ``[[evaluators]]`` in the run file, every evaluator is used whose ``default_for``
    returns True.
    """


@hookspec
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:  # type: ignore[empty-body]
    """Offer baselines, which solve the task from the same training rows without tuning.

    A prompt or a classifier: what a team would otherwise do. A run measures them beside the tuned
    model. A baseline has variants, of which the best on the validation rows is scored on the test
    rows. ``[baselines] use`` names baselines; without it, those are used whose ``suits`` returns
    True.
    """


@hookspec
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:  # type: ignore[empty-body]
    """Offer reporters, which receive the events of a run.

    An exception in a reporter is reported and does not stop training; after three of them the
    reporter gets no more events. Without ``[[reporters]]`` in the run file, those with
    ``by_default`` are used. Those with ``always`` are used in every run, also beside others.
    """


@hookspec
def tunesmith_exporters() -> Sequence[ExporterOffer[Any]]:  # type: ignore[empty-body]
    """Offer exporters, which write a model for an engine: ``tunesmith export RUN --to NAME``.

    What is built is an :class:`Exporter` of ``tunesmith_torch.export.contract``.
    """


@hookspec
def tunesmith_serve_extensions() -> Sequence[ServeExtensionOffer[Any]]:  # type: ignore[empty-body]
    """Offer extensions of the server: ``tunesmith serve RUN --extensions FILE``.

    An extension chooses the model that answers a request, such as an adapter for each user, and
    observes requests with their answers. Those that have a table in the file are used.
    """


@hookspec
def tunesmith_commands() -> Sequence[CommandOffer]:  # type: ignore[empty-body]
    """Offer commands: ``tunesmith NAME``.

    A name of two words, such as ``data check``, puts the command into the group of the first one.
    Plugins share groups, and can add to the group ``plugins``. The help line is part of the offer,
    so that ``tunesmith --help`` and ``tunesmith data --help`` import no command.

    The names of built-in commands cannot be used, and no name can be both a command and a group:
    the first of two such offers counts, built-in ones come first. A command of several plugins is
    ambiguous and cannot be used. ``tunesmith plugins list`` names the commands that were refused.
    """


@hookspec
def tunesmith_tables() -> Sequence[TableOffer[Any]]:  # type: ignore[empty-body]
    """Offer tables of the run file, which hold options of the plugin itself.

    ``[NAME]`` is validated by the offer's options model and is part of the plan, with its defaults
    if the run file does not have it. ``plan.table(OPTIONS)`` returns the options by their class.
    The names of the core's tables cannot be used. A table can add a term to the loss, or change the
    updates: ``addition`` of the offer.
    """


@hookspec(firstresult=True)
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Find the base model for a reference.

    ``reference`` is the value of ``[model] base``: a folder, a GGUF file, a hub id, or anything
    else that a plugin recognizes. Return None for another. The first result that is not None
    counts; built-in plugins are called last. Do nothing slow here, but in ``fetch`` of the
    :class:`tunesmith.contracts.FoundModel`.
    """


@hookspec
def tunesmith_review_data(  # type: ignore[empty-body]
    dataset: Dataset,
    plan: Plan,
    evaluators: Sequence[Component[EvaluatorOffer[Any]]],
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
) -> Sequence[Finding]:
    """Review the data before training and return findings.

    ``dataset`` is the result of the data loader; ``train``, ``validation`` and ``test`` are the
    parts that it is split into; ``evaluators`` are those of the run file, or the default ones for
    these rows. An implementation names only the arguments that it needs; without ``plan`` and
    ``evaluators``, it is also called for data without a run file (``tunesmith data check FILE``).

    An error stops the run before any weight is read, unless it is about ``test_rows``; a
    warning is printed and kept in the report.
    """


@hookspec
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:  # type: ignore[empty-body]
    """Review a resolved plan and return findings.

    An error stops the run (and ``tunesmith check``); a warning is printed and kept in the report.
    """


@hookspec
def tunesmith_review_model(review: ModelReview) -> ReviewResult:  # type: ignore[empty-body]
    """Review a run once the base model's ``config.json`` is known, and return the result.

    It is called before the model is downloaded if the config is known by then, otherwise after the
    download, and always before any weight is read. The result has findings and can have a forecast,
    which becomes an event. An error stops the run with exit code 4; with ``tunesmith run --force``
    its ``if_forced`` takes its place. A resumed run is reviewed again only if it was refused.
    """


@hookspec(firstresult=True)
def tunesmith_verdict(evidence: Evidence) -> JSON | None:
    """Judge from the results of a run if tuning was worth it.

    The first result that is not None counts; built-in plugins are called last. So a plugin can
    replace the built-in rule by a house rule, such as non-inferiority with a margin of its own, or
    return None for runs that are not its concern.

    The verdict is a JSON object. ``sentence`` is printed, ``word`` before it; ``comparisons`` has
    an object for each baseline, whose ``outcome`` (``better``, ``worse`` or ``unclear``) decides
    ``[gate] must_beat``. An exception ends the run with an error; ``tunesmith resume`` repeats the
    verdict alone.
    """
