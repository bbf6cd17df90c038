"""The ``tune`` command and the ``[tune]`` table: find the best options of a run with Optuna."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=CommandOffer(
        name="tune",
        summary="Search for the best options of a run, on its validation rows.",
        load="tunesmith_optuna.command:command",
    ),
    tunesmith_tables=".options:TUNE",
    tunesmith_data_loaders=".validation_part:VALIDATION_PART",
)
