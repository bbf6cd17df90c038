"""Table ``[regulated]``: audit log, signed runs, roles, retention, and deletion of rows."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

_COMMANDS = {
    "verify": "Check the audit log, and all runs, data files and models that it names.",
    "show": "Print the entries of the audit log.",
    "promote": "Record that a run's model may be exported.",
    "trace": "Find a row in data, runs and caches, and delete it.",
    "due": "List the runs and checkpoints whose retention period is over, and delete them.",
}

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name=f"audit {name}",
            summary=summary,
            load=f"{__name__}.commands:{name}",
            section="Maintain",
            position=number,
        )
        for number, (name, summary) in enumerate(_COMMANDS.items(), 50)
    ],
    tunesmith_tables=".options:REGULATED",
    tunesmith_reporters=".reporter:AUDIT",
    tunesmith_review_plan=".review:review_plan",
    tunesmith_review_data=".review:review_data",
    tunesmith_review_use=".review:review_use",
)
