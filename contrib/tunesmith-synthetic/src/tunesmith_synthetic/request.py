"""A requested generation: a generation file with the run file that it names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith import api
from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.config.paths import with_absolute_paths
from tunesmith.config.problems import convert_problems
from tunesmith.config.run_file import read_run_file
from tunesmith.contracts import BaselineTask, BaselineVariant, TextModel
from tunesmith.encoders import Encoder
from tunesmith.errors import ConfigError, Problem
from tunesmith.execution.encoder import build_baseline_task, find_encoder
from tunesmith.execution.run_data import DataParts, load_data
from tunesmith.fence import attribute_errors_to, fence
from tunesmith.generators import GeneratorTask
from tunesmith.offers import BaselineOffer, GeneratorOffer
from tunesmith.options import Options, from_table
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith_synthetic.options import GenerationOptions

PROVENANCE = "synthetic"
"""Column and slice with the generator of a row, and prefix of the columns on its origin."""


@dataclass(frozen=True)
class Request:
    """A generation file with the plan that it names and its generator."""

    options: GenerationOptions
    plan: Plan
    catalog: Catalog
    generator: Component[GeneratorOffer[Any]]

    @property
    def folder(self) -> Path:
        """Folder for the generated rows, the journal and the card."""
        return Path(self.options.out)

    @property
    def seed(self) -> int:
        """The seed in the generation file, otherwise the run's."""
        return self.plan.run.seed if self.options.seed is None else self.options.seed

    @cached_property
    def parts(self) -> DataParts:
        """The rows of the run, by split."""
        return load_data(self.plan)[1]

    @cached_property
    def real_rows(self) -> int:
        """The number of training rows that no generation added, also in an earlier round."""
        return sum(PROVENANCE not in dict(record.slices) for record in self.parts.train)

    @cached_property
    def held_out(self) -> Sequence[Record]:
        """The validation and test rows, which must not leak into the training rows."""
        return [*self.parts.validation, *self.parts.test]

    @cached_property
    def task(self) -> BaselineTask:
        """The training rows, the base model and the encoder."""
        base = cache(lambda: open_base_model(self.plan))
        return replace(build_baseline_task(self.plan, self.parts.train, base), seed=self.seed)

    @cached_property
    def encoder(self) -> Encoder | None:
        """The encoder of ``[encoder]`` in the run file, or None if the file has no such table."""
        found = find_encoder(self.plan) if self.plan.encodes_everywhere else None
        return found() if found else None

    def generator_task(self) -> GeneratorTask:
        """Return what a generator gets: the task, the number of rows and the baselines."""
        return GeneratorTask(
            task=self.task, count=self.options.count, folder=self.folder, solve=self.solve
        )

    def solve(
        self, name: str, train: Sequence[Record], seed: int | None = None
    ) -> Iterable[BaselineVariant]:
        """Return the variants of a baseline that learn from these rows.

        Raises:
            ConfigError: no installed baseline has this name.
        """
        try:
            offered = self.catalog.find(BaselineOffer, name)
        except OfferNotFoundError as error:
            raise ConfigError([Problem("baseline", error.what, error.hint)]) from None
        own = (b.config for b in self.plan.baselines if b.offer.name == offered.offer.name)
        config = next(own, None) or offered.offer.config()
        with attribute_errors_to(offered.plugin):
            task = replace(self.task, train=train, seed=self.seed if seed is None else seed)
            yield from offered.offer.build(config).variants(task)


def open_base_model(plan: Plan) -> TextModel:
    """Load the untouched base model of a plan."""
    api.require_runnable(plan)
    with fence(plan.technique.offered.plugin, "open", may_take_long=True):
        technique = plan.technique.offer.build(plan.technique.config)
        return technique.open(plan.found_model.fetch(), None, device=plan.run.device)


def read_request(path: Path, *, files: Sequence[str] = (), disabled: Sequence[str] = ()) -> Request:
    """Read a generation file and the run file that it names.

    Raises:
        ConfigError: one of the files is wrong.
    """
    read = read_run_file(path, environment={})
    options = _validate(GenerationOptions, read.tables, "", read.folder)
    plan, catalog = api.load_plan(options.run, files=files, disabled=disabled, runnable=False)
    table = dict(options.generator)
    try:
        offered = catalog.find(GeneratorOffer, str(table.pop("use", "")))
    except OfferNotFoundError as error:
        raise ConfigError([Problem("generator.use", error.what, error.hint)]) from None
    with attribute_errors_to(offered.plugin, " in its options"):
        config = _validate(offered.offer.config, table, "generator", read.folder)
    return Request(options, plan, catalog, Component(offered, config, offered.offer.name))


def _validate(options: type[Any], table: Any, where: str, folder: Path) -> Any:
    try:
        checked: Options = from_table(options, table)
    except ValidationError as error:
        raise ConfigError([*convert_problems(error, where, options)]) from None
    return with_absolute_paths(checked, folder)
