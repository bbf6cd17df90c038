"""The hooks: everything that a plugin can say to tunesmith.

Five hooks return *offers*, descriptions of what the plugin can do. One answers "who knows this
model reference?". Two give advice about a run before any weight is read. No hook changes a plan,
patches a library or runs inside the training loop.

A plugin is a module named in the entry-point group ``tunesmith``::

    [project.entry-points.tunesmith]
    shouting = "tunesmith_shouting"

and implements any of the functions below with the marker from this module::

    from tunesmith.hookspecs import hookimpl

    @hookimpl
    def tunesmith_evaluators():
        from tunesmith_shouting.offer import SHOUTING
        return [SHOUTING]

Import inside the function, as above: the module is imported for every command, also for
``tunesmith --help``, which should stay instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from tunesmith.contracts import Dataset, Finding, FoundModel
    from tunesmith.offers import (
        CommandOffer,
        DataLoaderOffer,
        EvaluatorOffer,
        ReporterOffer,
        TechniqueOffer,
    )
    from tunesmith.plan import Plan

PROJECT = "tunesmith"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:  # type: ignore[empty-body]
    """Offer ways to read records.

    A run file chooses one with ``[data] use = "NAME"``; every other key of that table, except
    ``holdout``, is validated by the offer's own options model.
    """


@hookspec
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:  # type: ignore[empty-body]
    """Offer ways to change a model's weights.

    A run file chooses one with ``[technique] use = "NAME"``. ``build`` is called only when the
    run starts: import torch there, not at module level. An offer may also say what a run would
    take, in its ``estimate``: ``tunesmith plan`` and ``tunesmith run`` ask it before anything
    begins, and its ``economies`` name changes of the options that save memory.
    """


@hookspec
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:  # type: ignore[empty-body]
    """Offer measurements of a text model.

    A measurement gives one value per record; tunesmith aggregates them and adds the intervals.
    Without ``[[evaluators]]`` in the run file, every evaluator whose ``suits`` agrees is used.
    """


@hookspec
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:  # type: ignore[empty-body]
    """Offer places to send a run's events.

    A reporter that raises is reported itself, and muted after three failures: it never stops
    training. Without ``[[reporters]]`` in the run file, those with ``by_default`` are used.
    """


@hookspec
def tunesmith_commands() -> Sequence[CommandOffer]:  # type: ignore[empty-body]
    """Offer commands: ``tunesmith NAME``.

    The help line stands in the offer, so that ``tunesmith --help`` imports no command. Names of
    tunesmith's own commands cannot be taken.
    """


@hookspec(firstresult=True)
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Recognise a base model.

    ``reference`` is what stands in ``[model] base``: a folder, a GGUF file, a hub id, or whatever
    a plugin wants to understand. Return None for a reference that is not yours. The first answer
    counts, built-in plugins are asked last. Do nothing slow here: put that into ``fetch`` of the
    :class:`tunesmith.contracts.FoundModel`. Plain functions only: a generator would win every
    call, so the loader refuses one.
    """


@hookspec
def tunesmith_review_data(dataset: Dataset, plan: Plan) -> Sequence[Finding]:  # type: ignore[empty-body]
    """Look at the data before training and say what is wrong with it.

    An error stops the run before any weight is read; a warning is printed and kept in the report.
    """


@hookspec
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:  # type: ignore[empty-body]
    """Look at a resolved plan and say what will not go well.

    An error stops the run (and ``tunesmith check``); a warning is printed and kept in the report.
    """
