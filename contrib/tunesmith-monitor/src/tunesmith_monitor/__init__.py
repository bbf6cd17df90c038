"""Commands ``monitor``, ``ab`` and ``retrain``, and the extension of ``serve`` that feeds them."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="monitor",
            summary="Watch a run's traffic: what changed, and if answers became worse.",
            load="tunesmith_monitor.monitor_command:command",
        ),
        CommandOffer(
            name="ab",
            summary="Compare two models in service by the outcomes of their answers.",
            load="tunesmith_monitor.ab_command:command",
        ),
        CommandOffer(
            name="retrain",
            summary="Decide if training again pays, and promote the new run if it is better.",
            load="tunesmith_monitor.retrain_command:command",
        ),
    ],
    tunesmith_serve_extensions=".serve_extension:MONITOR",
)
