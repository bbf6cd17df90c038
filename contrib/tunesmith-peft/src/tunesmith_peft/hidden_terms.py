"""The work of PEFT's own training loop beyond the loss: extra loss terms, hooks after a step.

The toolkit computes the loss itself, from hidden states, so these parts of a method would be lost::

    forward adds a function of the weights    AdaLoRA             the term of a PeftAddition
    a method of the tuner returns it          MonteCLoRA, KaSA    the same
    forward adds a function of the rows       SHADOW              ObjectiveWithTerm
    update_and_allocate(step)                 AdaLoRA, AdaMSS     PeftAddition.transform_update

The training loop calls ``transform_update`` after the optimizer's step and before it frees the
gradients, which PEFT reads to rate the importance of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.additions import Addition
from tunesmith_peft.methods import Method
from tunesmith_peft.options import PeftOptions
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.training.additions import AdditionContext, TrainingAddition, Update
from tunesmith_torch.training.supervised import NextTokenObjective

__all__ = ["ObjectiveWithTerm", "build_additions"]

TABLE = "peft"
"""Prefix of the term's metric, ``peft.term``, and of the state in checkpoints."""


def build_additions(method: Method, options: PeftOptions) -> Iterator[Addition]:
    """Yield the additions to the training that the method and the options require."""
    if options.b_rate_ratio != 1:
        yield Addition(build=LoraPlus, table="lora-plus")
    variants = ("monteclora_config", "kasa_config")
    of_variant = any(options.options.get(name) for name in variants)
    kinds = {(True, False): PeftTerm, (False, True): PeftHook, (True, True): PeftTermAndHook}
    kind = kinds.get((method.hidden_term == "weights" or of_variant, method.has_step_hook))
    if kind is not None:
        yield Addition(build=kind, table=TABLE)


class PeftAddition(TrainingAddition):
    """Base class of the additions."""

    def __init__(self, context: AdditionContext) -> None:
        self.model: Any = context.adapted.model
        self.tuner: Any = self.model.base_model


class PeftTerm(PeftAddition):
    """Adds the loss term that PEFT computes from the weights."""

    def term(self, items: Sequence[Any]) -> Tensor:
        """Return the term: what PEFT's loss contains beyond the cross-entropy of its logits.

        Two tokens suffice, because the term does not depend on them.
        """
        ids_1T = torch.zeros(1, 2, dtype=torch.long, device=self.model.device)
        output = self.model(input_ids=ids_1T, labels=ids_1T, use_cache=False)
        loss: Tensor = output.loss - functional.cross_entropy(output.logits[0, :1], ids_1T[0, 1:])
        for name in ("_get_monteclora_loss", "_get_kasa_loss"):  # PEFT's docs ask loops to add them
            if hasattr(self.tuner, name):
                loss = loss + getattr(self.tuner, name)()
        return loss


class PeftHook(PeftAddition):
    """Lets PEFT rate and change weights after each step; its ratings are part of checkpoints."""

    def transform_update(self, update: Update) -> None:
        """Call the hook; the gradients of the step still exist."""
        self.tuner.update_and_allocate(update.step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the ratings of weights, and the ranks that were chosen from them."""
        state = {name: table[key] for name, table, key in self._slots() if table[key] is not None}
        pattern = getattr(self.tuner.peft_config["default"], "rank_pattern", None) or {}
        state |= {f"rank_pattern.{key}": torch.tensor(kept) for key, kept in pattern.items()}
        if hasattr(self.tuner, "rankallocator"):
            return state
        # AdaMSS stops training some of its parameters.
        trained = {f"trained.{n}": torch.tensor(p.requires_grad) for n, p in self._own()}
        return state | trained

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
        tables = self._tables()
        pattern = {}
        for name, tensor in state.items():
            kind, _, key = name.partition(".")
            if kind == "rank_pattern":
                pattern[key] = tensor.tolist()
            elif kind == "trained":
                dict(self._own())[key].requires_grad_(bool(tensor))
            else:
                table = tables[name if name in tables else kind]
                place, _, index = name.rpartition(".")
                if place in tables:
                    tables[place][int(index)] = tensor.clone()
                else:
                    table[key] = tensor.clone()
        if pattern:
            self.tuner.peft_config["default"].rank_pattern = pattern

    def _own(self) -> Iterator[tuple[str, Any]]:
        return ((n, p) for n, p in self.model.named_parameters() if "adamss_" in n)

    def _tables(self) -> dict[str, Any]:
        """Return PEFT's tables of ratings by name."""
        allocator = getattr(self.tuner, "rankallocator", None)
        if allocator is not None:
            return {
                name: getattr(allocator, name) for name in ("ipt", "exp_avg_ipt", "exp_avg_unc")
            }
        names = [f"exp_avg_{kind}_{x}" for kind in ("ipt", "unc") for x in "AB"]
        return {
            f"{place}.{name}": ratings
            for place, module in self.model.named_modules()
            for name in names
            if (ratings := getattr(module, name, {}).get("default")) is not None
        }

    def _slots(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield the name of each rating with the table and the key where it is."""
        for name, table in self._tables().items():
            for key in table if isinstance(table, dict) else range(len(table)):
                yield f"{name}.{key}", table, key


class LoraPlus(PeftAddition):
    """Multiplies the learning rate of LoRA's matrices B (Hayou et al. 2024, LoRA+, section 4).

    AdamW's update, with weight decay, is proportional to the learning rate.
    """

    def __init__(self, context: AdditionContext) -> None:
        super().__init__(context)
        self.ratio: float = context.job.config.b_rate_ratio

    def transform_update(self, update: Update) -> None:
        """Multiply the update of each matrix B."""
        for name, after in update.after.items():
            if "lora_B" in name or "lora_embedding_B" in name:
                before = update.before[name]
                after.copy_(before + self.ratio * (after - before))


class PeftTermAndHook(PeftTerm, PeftHook):
    """Adds the loss term, and calls the hook."""


class ObjectiveWithTerm(NextTokenObjective):
    """The objective of a method whose forward adds a term that depends on the rows.

    PEFT's loss is a mean over the tokens of a row, with the term. Multiplied by the number of
    tokens it is the summed negative log-likelihood, and the term weighted by that number. The
    loss of the batch thus contains the mean term over its tokens.
    """

    def start_update(self) -> None:
        """Reset the term's mean, which is reported as a metric."""
        self._terms: list[tuple[float, int]] = []

    def loss(self, micro_batch: Any) -> Tensor:
        """Return the loss in nats, summed over the tokens of the micro-batch, with the term."""
        batch: MicroBatch = micro_batch[0].to(self.device)
        nll = super().loss(micro_batch)
        losses = [nll]
        assert batch.mask_BT is not None
        T = batch.ids_BT.shape[1]
        for row, length in enumerate(batch.mask_BT.sum(1).tolist()):
            at = batch.trained_N[batch.trained_N // T == row] % T
            if not len(at):
                continue
            ids_1T = batch.ids_BT[row : row + 1, :length]
            labels_1T = torch.full_like(ids_1T, -100)
            labels_1T[0, at + 1] = ids_1T[0, at + 1]
            output = self.model(input_ids=ids_1T, labels=labels_1T, use_cache=False)
            plain = functional.cross_entropy(output.logits[0, at].float(), ids_1T[0, at + 1])
            losses.append((output.loss - plain) * len(at))
            self._terms.append((float(losses[-1].detach()), len(at)))
        return torch.stack(losses).sum()

    def metrics(self) -> dict[str, float]:
        """Return the mean of the term, apart from the loss that contains it."""
        tokens = sum(count for _, count in self._terms)
        total = math.fsum(value for value, _ in self._terms)
        return {f"{TABLE}.term": total / tokens} if tokens else {}
