"""Merge two adapters with PEFT, and judge the merges on the rows of both tasks.

A merge can be worse than either adapter on its own task, and no method is best everywhere. So each
candidate is measured on the validation rows of both tasks; the one whose worse task is closest to
the better single adapter is chosen. It is then measured once on the test rows.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.events import JSON, Measured
from tunesmith.records import Record
from tunesmith.statistics import Interval
from tunesmith.storage import commit_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith_continual.chain import Task
from tunesmith_continual.matrix import compare_rows
from tunesmith_continual.measure import find_artifact, measure, name_tasks, open_artifact
from tunesmith_evidence.pairs import list_metrics
from tunesmith_torch.untrusted.foreign_code import read_json_object


@dataclass(frozen=True)
class Merge:
    """A way to merge two adapters: PEFT's ``combination_type`` with the weights of both."""

    method: str
    weights: tuple[float, float]
    density: float | None = None

    @property
    def name(self) -> str:
        """Name in tables and folders."""
        first, second = (f"{weight:g}" for weight in self.weights)
        kept = "" if self.density is None else f"-keep-{self.density:g}"
        return f"{self.method}-{first}-{second}{kept}"


CANDIDATES = (
    Merge("linear", (0.5, 0.5)),
    Merge("linear", (1.0, 1.0)),
    Merge("svd", (0.5, 0.5)),
    Merge("svd", (1.0, 1.0)),
    Merge("svd", (0.7, 0.3)),
    Merge("svd", (0.3, 0.7)),
    Merge("ties", (1.0, 1.0), 0.5),
    Merge("dare_linear", (1.0, 1.0), 0.8),
    Merge("dare_ties", (1.0, 1.0), 0.5),
)
"""The sweep. ``linear`` adds A and B separately; ``svd`` truncates the exact sum of the updates."""


@dataclass(frozen=True)
class Judgment:
    """The scores of the single adapters and of the merges, and the decision."""

    validation: dict[str, list[float]]
    """Score on the validation rows of both tasks, by name of the merge or of the run."""
    chosen: str
    test: dict[str, list[Measured]] = field(repr=False)
    changes: Sequence[Interval]
    """Test score of the chosen merge minus the better single adapter's, for each task."""

    @property
    def is_good(self) -> bool:
        """True if the merge is at least as good as the better single adapter on both tasks."""
        return all(change.value >= 0 for change in self.changes)

    def to_json(self) -> JSON:
        """Return the judgment as JSON."""
        return {
            "validation": self.validation,
            "chosen": self.chosen,
            "test": {name: [e.value for e in events] for name, events in self.test.items()},
            "changes": [asdict(change) for change in self.changes],
            "good": self.is_good,
        }


class Merger:
    """Merges the adapters of two runs over the same base model."""

    def __init__(self, tasks: Sequence[Task], seed: int = 0) -> None:
        """Open both runs.

        Raises:
            UsageError: a run has no adapter, or the base models differ.
        """
        from tunesmith_torch.models.initial_model import adapter_base_folder

        find_base: Any = adapter_base_folder  # its options are those of any technique
        self.tasks, self._seed = tasks, seed
        self.artifacts = [find_artifact(task) for task in tasks]
        for task, artifact in zip(tasks, self.artifacts, strict=True):
            if not (artifact / "adapter_config.json").is_file():
                raise UsageError(f"{task.path}: the run has no adapter, but a full model")
        # A run may have started from a full model, which is then the base of its adapter.
        bases = {
            find_base(task.plan.found_model.fetch(), artifact, task.plan.technique.config)
            for task, artifact in zip(tasks, self.artifacts, strict=True)
        }
        if len(bases) > 1:
            names = " and ".join(str(task.plan.found_model.reference) for task in tasks)
            raise UsageError(f"the adapters have different base models: {names}")
        (self._base,) = bases
        configs = [read_json_object(path / "adapter_config.json") for path in self.artifacts]
        self._has_one_rank = len({config.get("r") for config in configs}) == 1

    @property
    def candidates(self) -> Sequence[Merge]:
        """The sweep. If the ranks differ, PEFT merges only the products of A and B."""
        if self._has_one_rank:
            return CANDIDATES
        products = [m for m in CANDIDATES if m.method != "linear"]
        return [m if m.method == "svd" else replace(m, method=f"{m.method}_svd") for m in products]

    def write(self, merge: Merge, target: Path) -> None:
        """Write a merged adapter, with the tokenizer of the first run.

        Raises:
            UsageError: PEFT cannot merge these adapters this way.
        """
        import torch

        from tunesmith_torch.models.artifacts import attach_adapter
        from tunesmith_torch.models.open_base import load_model
        from tunesmith_torch.runtime.device import pick_device, pick_precision

        device = pick_device(self.tasks[0].plan.run.device)
        precision = pick_precision(device, "fp32")
        base = load_model(self._base, device, precision, packing=False)
        model: Any = attach_adapter(base, self.artifacts[0], fused_kernels=False)
        model.load_adapter(str(self.artifacts[1]), "second")
        torch.manual_seed(self._seed)  # DARE drops values at random
        density = {} if merge.density is None else {"density": merge.density}
        try:
            model.base_model.add_weighted_adapter(
                ["default", "second"], [*merge.weights], "merged", merge.method, **density
            )
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"PEFT cannot merge the adapters with {merge.method}: {error}"
            ) from None

        def fill(folder: Path) -> None:
            copied = [p for p in self.artifacts[0].iterdir() if p.suffix in (".json", ".jinja")]
            for path in copied:
                if path.name != MANIFEST and not path.name.startswith("adapter_"):
                    shutil.copy(path, folder)
            with tempfile.TemporaryDirectory() as temporary:
                model.save_pretrained(temporary, selected_adapters=["merged"])
                for path in (Path(temporary) / "merged").glob("adapter_*"):
                    shutil.move(path, folder / path.name)

        commit_folder(target, fill, {"format": "adapter"})

    def judge(self, out: Path, *, quiet: bool) -> Judgment:
        """Measure all candidates on validation rows, and the best one once on test rows.

        Raises:
            UsageError: a run has no validation rows, or its data has changed.
        """
        for task in self.tasks:
            if not task.is_unchanged:
                raise UsageError(f"{task.path}: its data has changed since the run")
            if not len(task.data.validation):
                raise UsageError(
                    f"{task.path}: the run has no validation rows to choose a merge on",
                    hint="name a validation file in [data], or use more rows",
                )
        singles = dict(zip(name_tasks(self.tasks), self.artifacts, strict=True))
        folders = {merge.name: out / merge.name for merge in self.candidates}
        scores: dict[str, list[float]] = {}
        for merge in self.candidates:
            self.write(merge, folders[merge.name])
        for number, (name, artifact) in enumerate({**singles, **folders}.items()):
            events = self._measure(number, artifact, "validation", out, quiet)
            scores[name] = [event.value for event in events]
        signs = [1 if event.higher_is_better else -1 for event in events]
        best = [max(s * scores[n][j] for n in singles) for j, s in enumerate(signs)]
        gains = {n: [s * scores[n][j] - best[j] for j, s in enumerate(signs)] for n in folders}
        chosen = max(folders, key=lambda name: (min(gains[name]), sum(gains[name])))
        tested = {**singles, chosen: folders[chosen]}
        measured = {
            name: self._measure(number, artifact, "test", out, quiet)
            for number, (name, artifact) in enumerate(tested.items())
        }
        changes = []
        for j, sign in enumerate(signs):
            better = max((measured[name][j] for name in singles), key=lambda e: sign * e.value)
            metrics = list_metrics(self.tasks[j].catalog)
            changes.append(compare_rows(better, measured[chosen][j], metrics))
        for name, folder in folders.items():
            if name != chosen:
                shutil.rmtree(folder)
        folders[chosen].rename(out / "adapter")
        return Judgment(scores, chosen, measured, changes)

    def _measure(
        self, number: int, artifact: Path, part: str, out: Path, quiet: bool
    ) -> list[Measured]:
        """Return an adapter's score on both tasks, by each task's deciding metric."""
        model: TextModel = open_artifact(self.tasks[0], artifact)
        found = []
        for j, task in enumerate(self.tasks):
            rows: Sequence[Record] = getattr(task.data, part)
            folder = out / "measured" / part / f"{number}-on-{j}"
            folder.mkdir(parents=True)
            events = measure(task, model, rows, folder, quiet=quiet)
            event = next(e for e in events if (e.evaluator, e.metric) == task.deciding)
            found.append(replace(event, records=str(folder / event.records)))
        return found
