"""List the kinds of plugins that have a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_OFFER_FILES = {"__init__.py": "init-offer.py", "offer.py": "offer-$kind.py"}


@dataclass(frozen=True, kw_only=True)
class PluginKind:
    """A kind of plugin, with its hook and the templates for its files."""

    usage: str
    """How to use the plugin, for its README."""
    hook: str
    arguments: str = ""
    files: Mapping[str, str] = field(default_factory=lambda: _OFFER_FILES)
    """Template of each file in the package."""
    single_file: str = "offer-$kind.py"
    """Template for a plugin in a single file, without the hook."""
    result: str
    """Return type of the hook in the single file."""
    returned: str = "[OFFER]"
    """Expression that the hook returns in the single file."""


KINDS: dict[str, PluginKind] = {
    "loader": PluginKind(
        usage='Use it with `[data] use = "$name"` in a run file.',
        hook="tunesmith_data_loaders",
        result="list[DataLoaderOffer[LinesOptions]]",
    ),
    "technique": PluginKind(
        usage='Use it with `[technique] use = "$name"` in a run file.',
        hook="tunesmith_techniques",
        files={**_OFFER_FILES, "technique.py": "technique.py"},
        single_file="file-technique.py",
        result="list[TechniqueOffer[TopLayersOptions]]",
    ),
    "evaluator": PluginKind(
        usage='Use it with `[[evaluators]]` and `use = "$name"` in a run file.',
        hook="tunesmith_evaluators",
        result="list[EvaluatorOffer[FirstWordOptions]]",
    ),
    "reporter": PluginKind(
        usage='Use it with `[[reporters]]` and `use = "$name"` in a run file.',
        hook="tunesmith_reporters",
        result="list[ReporterOffer[LossFileOptions]]",
    ),
    "check": PluginKind(
        usage="`tunesmith check run.toml`, `tunesmith data check FILE` and every run use it.",
        hook="tunesmith_review_data",
        arguments="train: Sequence[Record]",
        files={"__init__.py": "init-check.py", "review.py": "review.py"},
        single_file="review.py",
        result="list[Finding]",
        returned="find_links(train)",
    ),
    "command": PluginKind(
        usage="Run `tunesmith $name FILE`.",
        hook="tunesmith_commands",
        files={"__init__.py": "init-command.py", "command.py": "command.py"},
        single_file="command.py",
        result="list[CommandOffer]",
        returned='[CommandOffer(name="$name", summary=SUMMARY, load=lambda: command)]',
    ),
    "baseline": PluginKind(
        usage='Use it with `[baselines]` and `use = ["$name"]` in a run file.',
        hook="tunesmith_baselines",
        result="list[BaselineOffer[WordVotesOptions]]",
    ),
    "encoder": PluginKind(
        usage='Use it with `[encoder] use = "$name"` in a run file.',
        hook="tunesmith_encoders",
        result="list[EncoderOffer[LettersOptions]]",
    ),
    "generator": PluginKind(
        usage='Use it with `[generator] use = "$name"` in a file for `tunesmith data generate`.',
        hook="tunesmith_generators",
        result="list[GeneratorOffer[RepliesOptions]]",
    ),
    "splitter": PluginKind(
        usage='Use it with `[split] use = "$name"` in a run file.',
        hook="tunesmith_splitters",
        result="list[SplitterOffer[HashedOptions]]",
    ),
    "exporter": PluginKind(
        usage="Use it with `tunesmith export RUN --to $name`.",
        hook="tunesmith_exporters",
        result="list[ExporterOffer[ArchiveOptions]]",
    ),
}
"""Kinds by value of ``--kind``."""
