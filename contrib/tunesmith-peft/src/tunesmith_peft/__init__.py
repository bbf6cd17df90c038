"""Technique ``peft``: train any adapter of the installed PEFT; exporter ``lora``: convert it."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_techniques=".offer:PEFT",
    tunesmith_review_plan=".offer:review_plan",
    tunesmith_review_model=".offer:review_model",
    tunesmith_exporters=".offer:LORA",
    tunesmith_commands=CommandOffer(
        name="peft methods",
        summary="List the methods of the installed PEFT, or the options of one method.",
        load="tunesmith_peft.methods_command:command",
    ),
)
