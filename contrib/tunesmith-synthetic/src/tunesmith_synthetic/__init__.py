"""Synthetic training rows: generators, ``data generate``, ``data ablate``, and their loader."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="data generate",
            summary="Generate training rows, without duplicates and leaks.",
            load="tunesmith_synthetic.commands.generate:command",
            section="Data",
        ),
        CommandOffer(
            name="data ablate",
            summary="Measure whether generated rows help, on the same rows and seeds.",
            load="tunesmith_synthetic.commands.ablate:command",
            section="Data",
        ),
    ],
    tunesmith_data_loaders=".loader:SYNTHETIC",
    tunesmith_generators=[
        ".generators.rules:RULES",
        ".generators.pseudo_label:PSEUDO_LABEL",
        ".generators.endpoint:ENDPOINT",
        ".generators.own_answers:SELF",
    ],
    tunesmith_review_data=".review:review",
)
