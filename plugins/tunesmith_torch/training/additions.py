"""Additions to the training loop: extra loss terms, modified updates and early stopping.

A run-file table can add them to every technique that uses the trainer. Its offer returns a
:class:`tunesmith.additions.Addition`, whose ``build`` returns a :class:`TrainingAddition`. Each
training, or each stage of one, builds its own, and the training loop calls it::

    build(context)           before the first step, with the initial weights

      draw(step)             once per batch: the items of the term, the same on all ranks

      term(items)            per micro-batch: these items' contribution to the term, for backward

      transform_update(...)  after each optimizer step: may change the update in place

      evaluate(step)         after each step: continue, or finish with the present weights

      state_dict()           for each checkpoint

The term of an update is the *sum* of all results of ``term``, over all items of ``draw``, all
micro-batches and all ranks. It is added to the loss of the batch, which is a mean (over trained
tokens, or over pairs). A term that is a mean over tokens must therefore divide by the trained
tokens of all items, which ``draw`` knows, not by those of one call. Then the gradient does not
depend on ``micro_batch_tokens`` or on the number of processes. It is clipped together with that of
the loss.

Terms and transformations of several tables apply in the order of the tables in the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.additions import Addition
from tunesmith.contracts import Job
from tunesmith.distributed import EndedByRankZero
from tunesmith.events import JSON, Event, FindingReported
from tunesmith_torch.data.packing import padded_batches
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.optim.master_weights import UpdateTransform
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.memory import is_out_of_memory

__all__ = ["AdditionContext", "Additions", "TrainingAddition", "Update"]

Item = tuple[int, Any]
"""The number of tokens in an item's forward pass (0: it needs none), and the item for ``term``."""


@dataclass(frozen=True)
class AdditionContext:
    """Facts about the training run that an addition is built for."""

    job: Job[Any]
    """The rows, the options, the seed, the stage, and ``emit`` for events such as ``Monitored``."""
    adapted: AdaptedModel
    """The model in training, with its tokenizer and device.

    It has the initial weights, even when training is resumed: the checkpoint is read later.
    """
    parameters: Mapping[str, nn.Parameter]
    """The trained parameters by name."""
    template: Template
    """Converts records to tokens."""
    limit: int
    """Maximum number of tokens in a row."""
    steps: int
    """Number of steps of the training, unless something ends it early."""
    folder: Path
    """Folder for this addition's files; they are kept until the run is deleted."""
    is_text_model: bool
    """False for a reward model, which has no logits."""

    @property
    def language_model(self) -> PreTrainedModel:
        """The causal language model with its adapters, without a value head or reward head."""
        return self.adapted.base.model


@dataclass(frozen=True)
class Update:
    """An optimizer step that was just taken, and the weights before and after it."""

    step: int
    """Number of the step, counted from 0."""
    learning_rate: float
    """Learning rate of the step."""
    before: Mapping[str, Tensor]
    """Copies of the fp32 weights before the step, by name; the addition may overwrite them."""
    after: Mapping[str, Tensor]
    """The fp32 weights after the step, to change in place; bf16 parameters get rounded copies."""


class TrainingAddition:
    """Base class of additions. Methods that a class does not override cost no time.

    With several ranks, every method except ``term`` gets the same arguments on all ranks and must
    do the same there. Derive random numbers from the job's seed and the step, or from the state.
    """

    def draw(self, step: int) -> Sequence[Item]:
        """Return the term's items for the batch of a step; an empty list skips the term.

        Updates that share a batch, as in PPO, share its items. The default is one item without
        tokens, for a term that needs no data.
        """
        return [(0, None)]

    def term(self, items: Sequence[Any]) -> Tensor:
        """Return the weighted contribution of these items to the term, as a scalar with a gradient.

        ``term(a + b)`` must equal ``term(a) + term(b)``. Autocast is on where the model uses it.
        """
        raise NotImplementedError

    def transform_update(self, update: Update) -> None:
        """Change ``update.after`` in place, after weight decay; gradients are off."""
        raise NotImplementedError

    def evaluate(self, step: int) -> Literal["continue", "finish"]:
        """Evaluate after ``step`` steps, and return ``continue``, or ``finish`` to end training.

        The artifact then has the present weights. Before this method returns, it may write other
        weights into the model, such as the ones that it evaluated. To end the run but keep it
        resumable, raise :class:`tunesmith.errors.RunStopped`. The loop also calls this before the
        first step (with 0), and again with the step at which training is resumed.
        """
        raise NotImplementedError

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the state that a resumed training needs, to be stored in every checkpoint."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that :meth:`state_dict` returned."""
        raise NotImplementedError


@dataclass(frozen=True)
class BuiltAddition:
    """A built addition, and the run-file table that it belongs to."""

    origin: Addition
    built: Any
    """A :class:`TrainingAddition`, or an object with some of its methods."""

    @property
    def term_name(self) -> str:
        """Name of the term among the metrics of a step."""
        return f"{self.origin.table}.term"

    def has(self, method: str) -> bool:
        """Return True if the addition overrides the method."""
        own = getattr(type(self.built), method, None)
        return own is not None and own is not getattr(TrainingAddition, method)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method; errors that the loop does not handle are attributed to the plugin."""
        try:
            return getattr(self.built, method)(*arguments)
        except Exception as error:
            handled = isinstance(error, distributed.RecomputeBatch | EndedByRankZero)
            if handled or is_out_of_memory(error):
                raise
            with self.origin.blame():
                raise

    def term(self, items: Sequence[Any]) -> Tensor:
        """Return the contribution of some items to the term.

        Raise an error that names the plugin if the result is not a scalar with a gradient.
        """
        share = self.call("term", items)
        with self.origin.blame():
            if not isinstance(share, Tensor) or share.ndim or not share.requires_grad:
                raise TypeError("term() must return a scalar tensor with a gradient")
        return share


class Additions:
    """All additions to a training run, called by the loop. Without any, its methods do nothing."""

    def __init__(
        self,
        added: Sequence[BuiltAddition] = (),
        emit: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.added = added
        self._emit = emit
        self._terms = [a for a in added if a.has("term")]
        self._transforms = [a for a in added if a.has("transform_update")]
        self._evaluating = [a for a in added if a.has("evaluate")]
        self._stateful = [a for a in added if a.has("state_dict")]
        self.finished_at: int | None = None

    @classmethod
    def build(
        cls,
        job: Job[Any],
        adapted: AdaptedModel,
        *,
        template: Template,
        limit: int,
        steps: int,
        is_text_model: bool,
    ) -> Additions:
        """Build a job's additions; the other arguments are fields of :class:`AdditionContext`."""
        added = []
        for origin in job.additions:
            folder = job.out / "additions" / origin.table
            distributed.rank_0_first(partial(folder.mkdir, parents=True, exist_ok=True))
            context = AdditionContext(
                job=job,
                adapted=adapted,
                parameters=dict(adapted.named_trainable_parameters),
                template=template,
                limit=limit,
                steps=steps,
                folder=folder,
                is_text_model=is_text_model,
            )
            with origin.blame():
                added.append(BuiltAddition(origin, origin.build(context)))
            has_method = any(map(added[-1].has, ("term", "transform_update", "evaluate")))
            if not has_method and origin.adapt is None:
                text = "this table has no effect on training"
                text += f" in stage {job.stage}" * bool(job.stage)
                job.emit(FindingReported(level="info", source=origin.table, message=text))
        return cls(added, job.emit)

    @property
    def details(self) -> JSON:
        """The names of the additions' tables, for the first event.

        The result is empty if there are no additions.
        """
        return {"additions": [a.origin.table for a in self.added]} if self.added else {}

    def draw(self, step: int) -> list[tuple[BuiltAddition, list[Item]]]:
        """Return this rank's items for each term."""
        drawn = []
        for added in self._terms:
            items = list(added.call("draw", step)) if added.has("draw") else [(0, None)]
            share = distributed.list_rank_items([tokens for tokens, _ in items])
            drawn.append((added, [items[index] for index in share]))
        return drawn

    def transform(self, step: int, learning_rate: float) -> UpdateTransform | None:
        """Return the transformation of an update, or None if no addition transforms updates."""
        if not self._transforms:
            return None

        def apply(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
            update = Update(step, learning_rate, before, after)
            for added in self._transforms:
                added.call("transform_update", update)

        return apply

    def is_finished(self, step: int) -> bool:
        """Let all additions evaluate a step; return True if one of them ends the training."""
        if not self._evaluating:
            return False
        tables = [a.origin.table for a in self._evaluating if a.call("evaluate", step) == "finish"]
        tables = distributed.all_gather_object(tables)[0]  # rank 0 decides
        if not tables:
            return False
        self.finished_at = step
        text = f"ended training after step {step}; the artifact has the weights that it left"
        self._emit(FindingReported(level="info", source=tables[0], message=text))
        return True

    def count_steps(self, steps: int) -> int:
        """Return the number of steps taken: ``steps``, unless an addition ended training early."""
        return steps if self.finished_at is None else self.finished_at

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of all additions, as ``addition.TABLE.NAME``."""
        return {
            f"addition.{added.origin.table}.{name}": tensor.detach().clone().contiguous()
            for added in self._stateful
            for name, tensor in added.call("state_dict").items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state of each addition from the tensors of a checkpoint."""
        for added in self._stateful:
            prefix = f"addition.{added.origin.table}."
            names = [name for name in tensors if name.startswith(prefix)]
            added.call("load_state_dict", {n.removeprefix(prefix): tensors[n] for n in names})


NO_ADDITIONS = Additions()


def micro_batches(
    drawn: Sequence[tuple[BuiltAddition, Sequence[Item]]], budget: int
) -> Iterator[tuple[BuiltAddition, list[Any]]]:
    """Group the items for calls of ``term``: as many as fit when padded, or one larger item."""
    for added, items in drawn:
        sizes = [max(1, tokens) for tokens, _ in items]
        for rows in padded_batches(sizes, max([budget, *sizes])) if items else ():
            yield added, [items[row][1] for row in rows]
