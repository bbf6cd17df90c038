"""The ``ray`` commands and the ``[ray]`` table: execute runs on a Ray cluster."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="ray submit",
            summary="Run a run file on a Ray cluster.",
            load="tunesmith_ray.submit:command",
        ),
        CommandOffer(
            name="ray status",
            summary="Show the status of a run on a Ray cluster.",
            load="tunesmith_ray.launcher:STATUS",
        ),
        CommandOffer(
            name="ray logs",
            summary="Print the output of a run's process.",
            load="tunesmith_ray.launcher:LOGS",
        ),
        CommandOffer(
            name="ray cancel",
            summary="Stop a run on a Ray cluster.",
            load="tunesmith_ray.launcher:CANCEL",
        ),
    ],
    tunesmith_tables=".options:RAY",
)
