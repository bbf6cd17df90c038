"""Table ``[retention]``, commands ``continue`` and ``adapters merge``, several adapters served."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="continue",
            summary="Train the next task from a run's model, and measure all earlier tasks again.",
            load="tunesmith_continual.continue_command:command",
            section="Start",
        ),
        CommandOffer(
            name="adapters merge",
            summary="Merge the adapters of two runs, judged on the rows of both.",
            load="tunesmith_continual.merge_command:command",
            section="Use",
        ),
    ],
    tunesmith_tables=".offer:RETENTION",
    tunesmith_serve_extensions=".serving:ADAPTERS",
)
