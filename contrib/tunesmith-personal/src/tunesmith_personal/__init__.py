"""Technique ``personal``, splitter ``per-user``, evaluators of users' adapters, and a store."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

_COMMANDS = {
    "list": "List the users of a run, and the best model for each of them.",
    "show": "Show what is stored about a user.",
    "export": "Write a user's adapter as a PEFT folder.",
    "import": "Store an adapter that was trained elsewhere as a user's adapter.",
    "add": "Train adapters for new users, without changing the others.",
    "forget": "Delete a user's adapter and texts from a run.",
    "membership": "Test whether adapters reveal which rows they were trained on.",
}
PLUGIN = lazy_plugin(
    __name__,
    tunesmith_techniques=".offer:PERSONAL",
    tunesmith_splitters=".offer:PER_USER",
    tunesmith_evaluators=[".offer:MATCH", ".offer:EVALUATOR"],
    tunesmith_serve_extensions=".serving:USERS",
    tunesmith_review_plan=".offer:review_plan",
    tunesmith_commands=[
        CommandOffer(
            name=f"adapters {name}",
            summary=summary,
            load=f"tunesmith_personal.commands:{name}_command",
            section="Use",
        )
        for name, summary in _COMMANDS.items()
    ],
)
