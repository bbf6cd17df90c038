"""Offer the built-in commands, in the sections of the help."""

from collections.abc import Sequence
from typing import Any

from tunesmith.command_offers import CommandOffer
from tunesmith.hookspecs import lazy_plugin

SECTIONS = {
    "Start": ("init", "check", "run", "resume"),
    "Decide": ("advise", "baselines", "verdict"),
    "Data": tuple(
        f"data {name}"
        for name in ("check", "stats", "show", "fix", "split", "select", "annotate", "canaries")
    ),
    "Results": ("report", "compare", "failures", "next", "evaluate", "runs", "seeds"),
    "Use": ("chat", "serve", "export", "push", "pull"),
    "Maintain": (
        "doctor",
        "explain",
        "verify",
        *(f"plugins {name}" for name in ("list", "show", "install", "new", "check")),
    ),
}
"""The built-in commands under each heading of the help, the most used first."""
_PLACES = {name: (section, n) for section, s in SECTIONS.items() for n, name in enumerate(s, 1)}


def _commands(
    *commands: tuple[str, str, str], needs: tuple[str, ...] = (), **hooks: str | Sequence[str]
) -> Any:
    """Return a plugin that offers commands, each given as name, summary and module."""
    offers = [_offer_command(name, summary, module, needs) for name, summary, module in commands]
    return lazy_plugin(__name__, tunesmith_commands=offers, **hooks)


def _offer_command(name: str, summary: str, module: str, needs: tuple[str, ...]) -> CommandOffer:
    section, position = _PLACES[name]
    return CommandOffer(
        name=name,
        summary=summary,
        load=f"{__name__}.{module}:command",
        needs=needs,
        section=section,
        position=position,
    )


ADVISE = _commands(
    (
        "advise",
        "Predict whether fine-tuning is worth it, from three short training runs.",
        "advise.command",
    ),
    needs=("numpy>=1.26",),
    tunesmith_tables=".advise.offer:ADVISE",
)
ANNOTATE = _commands(
    (
        "data annotate",
        "Choose the better of two answers, to create preference data.",
        "annotate.command",
    )
)
CHAT = _commands(
    ("chat", "Chat with the trained model, or compare it with the base model.", "chat.command")
)
COMPARE = _commands(
    (
        "compare",
        "Compare runs on the same test rows: differences with confidence intervals.",
        "compare.command",
    )
)
_DATA = {
    "show": "Print rows as the model sees them, and highlight the text it is trained on.",
    "stats": "Count rows, lengths, duplicates and labels.",
    "check": "Find errors and suspicious rows in the data.",
    "fix": "Fix the format of a file of rows without changing their meaning.",
    "split": "Split rows into training, validation and test files, without leaks.",
    "select": "Select a small, representative subset of rows.",
    "canaries": "Inject random secrets into training rows, to measure what a model memorizes.",
}
_COMPARES_ROWS = {"stats", "check", "split", "select"}
"""Commands that compare rows with each other and therefore need numpy and scikit-learn."""
DATA = lazy_plugin(
    __name__,
    tunesmith_commands=[
        _offer_command(
            f"data {name}",
            summary,
            f"data.{name}",
            ("numpy>=1.26", "scikit-learn>=1.5") if name in _COMPARES_ROWS else (),
        )
        for name, summary in _DATA.items()
    ],
)
DOCTOR = _commands(
    ("doctor", "Check the installation: versions, GPUs, memory, disk, plugins.", "doctor")
)
EVALUATE = _commands(
    (
        "evaluate",
        "Evaluate a run's model, an endpoint or any other model on your rows.",
        "evaluate.command",
    ),
    tunesmith_find_model=".evaluate.find:find_endpoint",
    tunesmith_review_plan=".evaluate.find:review_plan",
)
EXPORT = _commands(
    (
        "export",
        "Merge and export a run's model to GGUF and other formats, and verify it.",
        "export.command",
    ),
    needs=("torch>=2.11", "transformers>=5.17"),
)
FAILURES = _commands(
    (
        "failures",
        "Find where a run's model fails, and which rows would help.",
        "failures.command",
    )
)
BASELINES = _commands(
    ("baselines", "Measure prompts and classifiers before training anything.", "baselines")
)
NEXT_RUN = _commands(
    (
        "next",
        "Write the run file of the next iteration: a run's rows plus new ones.",
        "next_run.command",
    ),
    tunesmith_tables=".next_run.lineage:LINEAGE",
)
PLUGIN_CHECK = _commands(
    ("plugins check", "Test a plugin with the conformance kit.", "plugin_check")
)
PLUGIN_INSTALL = _commands(
    (
        "plugins install",
        "Install plugins, check them, and uninstall all of them if any fails.",
        "plugin_install.install_command",
    ),
)
PLUGIN_LIST = _commands(
    (
        "plugins list",
        "List or search installed and available plugins.",
        "plugin_list.list_command",
    ),
    ("plugins show", "Show the options of a component.", "plugin_list.show_command"),
    (
        "explain",
        "Explain a run-file key, an exit code or an error.",
        "plugin_list.explain_command",
    ),
)
PLUGIN_TEMPLATE = _commands(("plugins new", "Create a plugin project.", "plugin_template.command"))
PUBLISH = _commands(
    ("push", "Upload a run's model to the Hugging Face Hub.", "publish.push_command"),
    ("pull", "Download a model from the Hugging Face Hub.", "publish.pull_command"),
    needs=("transformers>=5.17",),
)
RUN_LIST = _commands(("runs", "List, find, unlock and delete runs.", "run_list.command"))
RUNS = _commands(
    ("check", "Validate a run file and its data without training.", "runs.check"),
    ("run", "Train a model, and evaluate it before and after.", "runs.run"),
    ("resume", "Continue a run that was stopped, killed or failed.", "runs.resume"),
    ("report", "Show the results of a run.", "runs.report"),
    ("verdict", "Judge a model that was fine-tuned elsewhere.", "runs.verdict"),
)
SEEDS = _commands(("seeds", "Repeat a run with other seeds, and pool the differences.", "seeds"))
SERVE = _commands(
    (
        "serve",
        "Serve a run's models as an OpenAI-compatible API, with a chat page.",
        "serve.command",
    ),
    needs=("starlette>=0.40", "uvicorn>=0.30", "prometheus-client>=0.20"),
)
STARTER = _commands(
    (
        "init",
        "Create a run file (run.toml) to edit, or copy an example with its data.",
        "starter.init_command",
    ),
    tunesmith_recipes=[".starter.recipes:HELPDESK", ".starter.recipes:REPAIRS"],
)
VERIFY = _commands(
    ("verify", "Check that the checkpoints and the model of a run are intact.", "verify")
)
