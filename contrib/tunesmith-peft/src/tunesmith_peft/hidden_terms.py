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
from functools import partial
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

# isort: split
from peft.tuners.lora.monteclora import BufferedMontecloraSampler

__all__ = ["ObjectiveWithTerm", "build_additions", "build_term_and_hook"]

TABLE = "peft"
"""Prefix of the term's metric, ``peft.term``, and of the state in checkpoints."""


def build_additions(method: Method, options: PeftOptions) -> Iterator[Addition]:
    """Yield the additions to the training that the method and the options require."""
    if _kind_of(method, options.options) is not PeftAddition:
        yield Addition(build=partial(build_term_and_hook, method, options.options), table=TABLE)


def build_term_and_hook(
    method: Method, given: Mapping[str, Any], context: AdditionContext
) -> TrainingAddition:
    """Return the term over the weights and the hook, if the method or its variant has any."""
    return _kind_of(method, given)(context)


def _kind_of(method: Method, given: Mapping[str, Any]) -> type[PeftAddition]:
    of_variant = bool({"monteclora_config", "kasa_config"} & {*given})
    kinds = {(True, False): PeftTerm, (False, True): PeftHook, (True, True): PeftTermAndHook}
    return kinds.get(
        (method.hidden_term == "weights" or of_variant, method.has_step_hook), PeftAddition
    )


class PeftAddition(TrainingAddition):
    """Base class of the additions."""

    def __init__(self, context: AdditionContext) -> None:
        self.model: Any = context.adapted.model
        self.tuner: Any = self.model.base_model


class PeftTerm(PeftAddition):
    """Adds the loss term that PEFT computes from the weights."""

    def __init__(self, context: AdditionContext) -> None:
        super().__init__(context)
        for module in self.model.modules():
            if isinstance(buffered := getattr(module, "sampler", None), BufferedMontecloraSampler):
                # Random numbers that were drawn in advance are not part of checkpoints.
                buffered.index = buffered.buffer_size = 1

    def term(self, items: Sequence[Any]) -> Tensor:
        """Return the term: what PEFT's loss contains beyond the cross-entropy of its logits.

        Two tokens suffice, because the term does not depend on them.
        """
        ids_1T = torch.zeros(1, 2, dtype=torch.long, device=self.model.device)
        output = self.model(input_ids=ids_1T, labels=ids_1T, use_cache=False)
        logits_1V = output.logits[0, :1].float()
        loss: Tensor = output.loss - functional.cross_entropy(logits_1V, ids_1T[0, 1:])
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
        """Return the ratings of weights, and what was chosen from them.

        AdaLoRA chooses ranks, and AdaMSS stops training some of its parameters.
        """
        state = {
            f"{place}/{key}": rating
            for place, table in self._tables().items()
            for key, rating in (table.items() if isinstance(table, dict) else enumerate(table))
            if rating is not None
        }
        pattern = getattr(self.config, "rank_pattern", None) or {}
        state |= {f"rank_pattern/{name}": torch.tensor(kept) for name, kept in pattern.items()}
        return state | {
            f"trained/{name}": torch.tensor(parameter.requires_grad)
            for name, parameter in self.model.named_parameters()
            if "adamss_" in name
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned, and nothing else, as for an earlier step."""
        tables, parameters = self._tables(), dict(self.model.named_parameters())
        for table in tables.values():
            if isinstance(table, dict):
                table.clear()
            else:
                table[:] = [None] * len(table)
        pattern = {}
        for name, tensor in state.items():
            place, _, key = name.rpartition("/")
            if place == "rank_pattern":
                pattern[key] = tensor.tolist()
            elif place == "trained":
                parameters[key].requires_grad_(bool(tensor))
            else:
                table = tables[place]
                index = key if isinstance(table, dict) else int(key)
                table[index] = tensor.to(self.model.device, copy=True)
        if hasattr(self.config, "rank_pattern"):
            self.config.rank_pattern = pattern or None

    @property
    def config(self) -> Any:
        return self.tuner.peft_config["default"]

    def _tables(self) -> dict[str, Any]:
        """Return PEFT's tables of ratings: dictionaries of AdaLoRA, or lists of AdaMSS."""
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


class PeftTermAndHook(PeftTerm, PeftHook):
    """Adds the loss term, and calls the hook."""


class ObjectiveWithTerm(NextTokenObjective):
    """The objective of a method whose forward adds a term that depends on the rows.

    PEFT's loss is a mean over the tokens of a row, with the term. The gradient is that of the
    negative log-likelihood and of the mean term over all tokens. The reported loss is the former
    alone, as for validation rows, and the term is a metric.
    """

    def start_update(self) -> None:
        """Reset the term's mean, which is reported as a metric."""
        self._terms: list[tuple[float, float]] = []

    def loss(self, micro_batch: Any) -> Tensor:
        """Return the loss in nats, summed over the tokens, whose gradient has the term's too."""
        batch: MicroBatch = micro_batch[0].to(self.device)
        assert batch.mask_BT is not None
        T = batch.ids_BT.shape[1]
        losses = []
        for row, length in enumerate(batch.mask_BT.sum(1).tolist()):
            chosen_N = batch.trained_N // T == row
            at = batch.trained_N[chosen_N] % T
            if not len(at):
                continue
            ids_1T = batch.ids_BT[row : row + 1, :length]
            labels_1T = torch.full_like(ids_1T, -100)
            labels_1T[0, at + 1] = ids_1T[0, at + 1]
            output = self.model(input_ids=ids_1T, labels=labels_1T, use_cache=False)
            logits_NV = output.logits[0, at].float()
            nll_N = functional.cross_entropy(logits_NV, ids_1T[0, at + 1], reduction="none")
            weights_N = torch.ones_like(nll_N)
            if batch.weights_N is not None:
                weights_N = batch.weights_N[chosen_N]
            weight = float(weights_N.sum())
            term = (output.loss - nll_N.mean()) * weight
            losses.append((nll_N * weights_N).sum() + (term - term.detach()))
            self._terms.append((float(term.detach()), weight))
        return torch.stack(losses).sum()

    def metrics(self) -> dict[str, float]:
        """Return the mean of the term."""
        tokens = math.fsum(weight for _, weight in self._terms)
        total = math.fsum(value for value, _ in self._terms)
        return {f"{TABLE}.term": total / tokens} if tokens else {}
