"""Open the models of a run, each with the engine that serves it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith import api
from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.events import TUNED
from tunesmith.execution import execute
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.review.policy import ReviewPolicy, find_policies
from tunesmith_evidence.winner import WINNER_FOLDER, open_winner
from tunesmith_plugins.commands.serve.engine import (
    BatchedEngine,
    CallingEngine,
    Engine,
    Runners,
    make_engine,
)
from tunesmith_plugins.commands.serve.extensions import Extension
from tunesmith_torch.generation.text_model import TorchTextModel

NAMES = ("tuned", "base", "winner")


def list_models(folder: RunFolder, wanted: Sequence[str]) -> list[str]:
    """Return the names of the models to serve: the requested models, or all models of the run.

    Raises:
        UsageError: the run does not have a requested model.
    """
    has = {
        "tuned": "" in execute.load_report(folder).training_finished,
        "base": True,
        "winner": (folder.path / WINNER_FOLDER).is_dir(),
    }
    for name in wanted:
        if not has[name]:
            what = (
                "no trained model yet"
                if name == "tuned"
                else "no saved winner, because tuning won or there is no verdict"
            )
            raise UsageError(
                f"--model {name}: {folder.path} has {what}",
                hint="available models: " + ", ".join(n for n in NAMES if has[n]),
            )
    return [name for name in NAMES if (name in wanted if wanted else has[name])]


def find_served_policies(folder: RunFolder) -> dict[str, ReviewPolicy]:
    """Return the review policies that the run chose for its tuned model and its winner."""
    report = execute.load_report(folder)
    policies = find_policies([*report.measured.values()])
    labels = {"tuned": TUNED, "winner": str(report.verdict.get("baseline"))}
    return {name: policies[label] for name, label in labels.items() if label in policies}


def open_engines(
    folder: RunFolder,
    plan: Plan,
    names: Sequence[str],
    *,
    slots: int,
    extensions: Sequence[Extension] = (),
    runners: Runners | None = None,
) -> dict[str, Engine]:
    """Open the models of a run, and those that extensions add.

    The base model gets the system prompt of ``[baselines]``, as in the evaluation. Give the
    :class:`Service` the same ``runners``.

    Raises:
        UsageError: an extension adds a model under a name that is already in use.
    """
    opened: dict[str, TextModel] = api.open_models(
        folder, plan, tuned="tuned" in names, base="base" in names
    )
    engines: dict[str, Engine] = {}
    runners = {} if runners is None else runners
    for name in names:
        if name == "winner":
            engines[name] = CallingEngine(open_winner(folder, plan)[1])
            continue
        model, system = opened[name], plan.baseline_options.system_prompt
        prompted = PromptedModel(model, system) if name == "base" and system else None
        if isinstance(model, TorchTextModel):
            build = prompted.build_prompt if prompted else None
            engines[name] = BatchedEngine(model, slots=slots, build_prompt=build)
        else:
            engines[name] = CallingEngine(prompted or model)
    for extension in extensions:
        for name, model in extension.open_models(plan).items():
            if name in engines:
                raise UsageError(
                    f"extension {extension.name}: a model named {name} is already served",
                    hint="give the extension's model another name",
                )
            engines[name] = make_engine(model, slots, runners)
    return engines
