"""The ``slurm`` commands and the ``[slurm]`` table: execute runs as Slurm jobs."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="slurm submit",
            summary="Submit a run as a Slurm job.",
            load="tunesmith_slurm.submit:command",
        ),
        CommandOffer(
            name="slurm status",
            summary="Show the job and the progress of a run.",
            load="tunesmith_slurm.launcher:STATUS",
        ),
        CommandOffer(
            name="slurm logs",
            summary="Print the output of a run's job.",
            load="tunesmith_slurm.launcher:LOGS",
        ),
        CommandOffer(
            name="slurm cancel",
            summary="Cancel a run's job.",
            load="tunesmith_slurm.launcher:CANCEL",
        ),
    ],
    tunesmith_tables=".options:SLURM",
)
