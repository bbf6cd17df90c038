"""The hooks that a plugin can implement.

Thirteen hooks return *offers*, which describe the components of the plugin. One hook finds the base
model for a reference. Three hooks review a run before any weight is read, and one reviews the use
of its model. One hook decides the verdict of a run. No hook changes a plan, patches a library or
runs inside the training loop.

tunesmith enforces this for third-party plugins:

* A hook gets copies of plans and results. Records are compared before and after the call.
* If a hook changes global Python, NumPy or torch state, tunesmith restores it and reports it.
* Output that a hook prints goes to stderr.
* A hook fails if it takes longer than ``TUNESMITH_HOOK_SECONDS`` (default: 60). The limit is ten
  times as long for a hook that gets the rows of a run.
* tunesmith checks the types and sizes of each result, and that it is valid JSON where required.

A distribution declares its plugin in the entry-point group ``tunesmith``::

    [project.entry-points.tunesmith]
    shouting = "tunesmith_shouting:PLUGIN"

The plugin lists what its hooks import when they are called::

    PLUGIN = lazy_plugin(__name__, tunesmith_evaluators=".offer:SHOUTING")

A module can also be a plugin: it defines the functions below, marks each with ``hookimpl``, and
keeps its imports inside the functions. Every run imports all plugins. Help and ``tunesmith plugins
list`` import a plugin only if its distribution has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from inspect import Parameter, Signature, signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy

from tunesmith.command_offers import CommandOffer, Offer
from tunesmith.import_strings import ImportString

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.contracts import Dataset, Finding, FoundModel, ReviewResult
    from tunesmith.events import JSON
    from tunesmith.offers import (
        BaselineOffer,
        DataLoaderOffer,
        EncoderOffer,
        EvaluatorOffer,
        ExporterOffer,
        GeneratorOffer,
        RecipeOffer,
        ReporterOffer,
        ServeExtensionOffer,
        SplitterOffer,
        TableOffer,
        TechniqueOffer,
    )
    from tunesmith.plan import Component, Evidence, ModelReview, Plan
    from tunesmith.records import Record

PROJECT = "tunesmith"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class _LazyPlugin(SimpleNamespace):
    def __dir__(self) -> list[str]:
        """Return only own names: pluggy looks at each name, and help has little time."""
        return [*vars(self)]


def lazy_plugin(
    package: str,
    *,
    needs: Sequence[str] = (),
    **hooks: str | Offer | Sequence[str | Offer],
) -> Any:
    """Return a plugin whose hooks are imported when they are called.

    Give each hook the import strings of its offers, or, for a hook with arguments, the import
    string of its function. An import string, ``.module:name``, is relative to ``package``, which is
    the caller's ``__name__``. Pass the offer of a command itself, because help shows its summary. A
    recipe, which imports nothing, can also be passed itself. ``needs`` lists the requirements of
    review and verdict hooks, like ``NEEDS`` in a module.
    """
    file = sys.modules[package].__file__
    plugin = _LazyPlugin(__name__=package, __file__=file, NEEDS=tuple(needs))
    for hook, given in hooks.items():
        listed = [given] if isinstance(given, str | Offer) else given
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

    A run file chooses one with ``[data] use = "NAME"``. The offer's options model validates every
    other key of that table except ``test_size``.
    """


@hookspec
def tunesmith_splitters() -> Sequence[SplitterOffer[Any]]:  # type: ignore[empty-body]
    """Offer splitters, which divide the records into training, validation and test rows.

    A run file chooses one with ``[split] use = "NAME"``; otherwise the offer with ``by_default`` is
    used. Write a splitter if some rows must stay in the same split, such as all rows of a patient.
    """


@hookspec
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:  # type: ignore[empty-body]
    """Offer techniques, which change the weights of a model.

    A run file chooses one with ``[technique] use = "NAME"``. ``build`` is only called when the run
    starts: import torch there, not at module level. An offer can also predict memory and compute
    with ``estimate``, which ``tunesmith plan`` and the review of a run call before training starts.
    It can propose option changes that save memory with ``memory_savings``.
    """


@hookspec
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:  # type: ignore[empty-body]
    """Offer evaluators, which measure a text model.

    A measurement has one value per record; tunesmith aggregates them and adds the intervals.
    If the run file has no ``[[evaluators]]``, a run uses every evaluator whose ``default_for``
    returns True.
    """


@hookspec
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:  # type: ignore[empty-body]
    """Offer baselines, which solve the task from the same training rows without fine-tuning.

    A baseline is what a team would otherwise use, such as a prompt or a classifier. A run measures
    both baselines and the tuned model. Each baseline's best variant on the validation rows is
    scored on the test rows. ``[baselines] use`` lists baselines; if it is unset, a run uses every
    baseline whose ``suits`` returns True.
    """


@hookspec
def tunesmith_encoders() -> Sequence[EncoderOffer[Any]]:  # type: ignore[empty-body]
    """Offer encoders, which turn texts into vectors.

    A run file chooses one with ``[encoder] use = "NAME"``; retrieved examples, coverage and the
    ``paraphrases`` check then use it. Without that table, only classifier baselines use an encoder:
    the first one whose ``is_installed`` returns True. ``build`` is only called when texts are
    encoded.
    """


@hookspec
def tunesmith_generators() -> Sequence[GeneratorOffer[Any]]:  # type: ignore[empty-body]
    """Offer generators, which propose further training rows.

    ``tunesmith data generate`` of the distribution tunesmith-synthetic chooses one with
    ``[generator] use = "NAME"``. It removes duplicates and leaks, and measures the gain.
    """


@hookspec
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:  # type: ignore[empty-body]
    """Offer reporters, which receive the events of a run.

    An exception in a reporter is reported and does not stop training. After three exceptions the
    reporter gets no more events. If the run file has no ``[[reporters]]``, a run uses the reporters
    with ``by_default``. Every run also uses the reporters with ``always``.
    """


@hookspec
def tunesmith_exporters() -> Sequence[ExporterOffer[Any]]:  # type: ignore[empty-body]
    """Offer exporters, which write a model for an engine: ``tunesmith export RUN --to NAME``.

    ``build`` returns an :class:`Exporter` of ``tunesmith_torch.export.contract``.
    """


@hookspec
def tunesmith_serve_extensions() -> Sequence[ServeExtensionOffer[Any]]:  # type: ignore[empty-body]
    """Offer extensions of the server: ``tunesmith serve RUN --extensions FILE``.

    An extension chooses the model that answers a request, such as an adapter for each user, and
    observes requests with their answers. The server uses each extension that has a table in the
    file.
    """


@hookspec
def tunesmith_recipes() -> Sequence[RecipeOffer]:  # type: ignore[empty-body]
    """Offer recipes, which are projects to start from: ``tunesmith init --recipe NAME``.

    A recipe is a folder with a run file, data and a README, such as one for a profession. It can
    name components of the same plugin, such as evaluators for the answers of that profession.
    """


@hookspec
def tunesmith_commands() -> Sequence[CommandOffer]:  # type: ignore[empty-body]
    """Offer commands: ``tunesmith NAME``.

    A name of two words, such as ``data check``, puts the command ``check`` into the group ``data``.
    Several plugins can add commands to one group, including the built-in group ``plugins``. The
    offer contains the help line, so ``tunesmith --help`` and ``tunesmith data --help`` do not
    import any command. Its ``section`` is the heading that lists it in ``tunesmith --help``; the
    default is "More".

    An offer cannot use the name of a built-in command. If one offer uses a name for a command and
    another for a group, the first one counts, and built-in offers come first. If several plugins
    offer the same command, it is ambiguous and cannot be used. ``tunesmith plugins list`` names the
    rejected commands.
    """


@hookspec
def tunesmith_tables() -> Sequence[TableOffer[Any]]:  # type: ignore[empty-body]
    """Offer run-file tables for the plugin's own options.

    The offer's options model validates ``[NAME]``. The table is part of the plan; if the run file
    omits it, it has its defaults. ``plan.table(OPTIONS)`` returns the options as an instance of the
    class ``OPTIONS``. The names of the core's tables are reserved. With ``addition``, a table can
    add a term to the loss or change the weight updates.
    """


@hookspec(firstresult=True)
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Find the base model for a reference.

    ``reference`` is the value of ``[model] base``: a folder, a GGUF file, a hub id, or anything
    else that a plugin recognizes. Return None if you do not recognize it. The first result that is
    not None counts; built-in plugins are called last. Put slow work into ``fetch`` of the
    :class:`tunesmith.contracts.FoundModel`, not into this hook.
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
    records after the split. ``evaluators`` are the ones in the run file, or the defaults for these
    rows. List only the arguments that you need. A hook without ``plan`` and ``evaluators``, or with
    defaults for them, is also called for data without a run file (``tunesmith data check FILE``).

    An error stops the run before any weight is read, unless the finding has ``test_rows``. A
    warning is printed and kept in the report.
    """


@hookspec
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:  # type: ignore[empty-body]
    """Review a resolved plan and return findings.

    An error stops the run (and ``tunesmith check``); a warning is printed and kept in the report.
    """


@hookspec
def tunesmith_review_model(review: ModelReview) -> ReviewResult:  # type: ignore[empty-body]
    """Review a run when the base model's ``config.json`` is known, and return the result.

    The hook is called before the model is downloaded if its config is already known, and after the
    download if its config or its tokenizer was not known; in all cases before training. The result
    has findings, and may have a forecast, which becomes an event. An error stops the run with exit
    code 4. With ``tunesmith run --force``, the error is replaced by the finding in its
    ``if_forced`` field. A resumed run is only reviewed again if it was refused.
    """


@hookspec
def tunesmith_review_use(folder: Path, use: str) -> Sequence[Finding]:  # type: ignore[empty-body]
    """Review the use of a run's model and return findings.

    ``folder`` is the run folder. ``use`` is ``export``, ``push`` or ``verify``. An error or a
    warning stops an export or a push, and means for ``verify`` that the run is not intact. The
    folder may come from somebody else, so do not trust its content.
    """


@hookspec(firstresult=True)
def tunesmith_verdict(evidence: Evidence) -> JSON | None:
    """Decide from the results of a run whether fine-tuning was worth it.

    The first result that is not None counts; built-in plugins are called last. A plugin can
    therefore replace the built-in rule with a house rule, such as non-inferiority with its own
    margin. Return None for runs that the rule does not cover.

    The verdict is a JSON object. tunesmith prints ``word`` and then ``sentence``. ``worth_it`` is
    true if the verdict recommends the tuned model; ``[gate] strict`` requires that. ``comparisons``
    has an object for each baseline, whose ``outcome`` (``better``, ``worse`` or ``unclear``)
    decides ``[gate] must_beat``. An exception ends the run with an error; ``tunesmith resume`` then
    repeats only the verdict.
    """
