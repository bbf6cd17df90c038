"""Switch dropout off for losses that compare log-probabilities.

A preference loss compares the policy with a reference. A policy gradient compares it with the
probabilities at which tokens were sampled. Both are computed without dropout. With dropout only in
the update, two equal models would differ: the first DPO loss would not be ln 2, and no ratio would
be 1.

Eval mode would do the same, but transformers only recomputes activations in train mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PretrainedConfig

_NAMES = re.compile(r"drop|jitter")
"""Matches names of probabilities, such as attention_dropout, resid_pdrop, layerdrop."""


@contextmanager
def no_dropout(model: nn.Module) -> Iterator[float]:
    """Set every dropout probability, and the noise of routers, to 0 inside the block.

    Yield the largest probability that the model had. After the block the values are restored, so a
    saved config contains them.
    """
    found = list(_find_probabilities(model))
    for owner, name, _ in found:
        setattr(owner, name, 0.0)
    try:
        yield max((value for *_, value in found), default=0.0)
    finally:
        for owner, name, value in found:
            setattr(owner, name, value)


def _find_probabilities(model: nn.Module) -> Iterator[tuple[object, str, float]]:
    """Yield each value above 0 with its owner: a module, or a config that some models read."""
    configs = {id(config): config for module in model.modules() for config in _configs_of(module)}
    for owner in (*model.modules(), *configs.values()):
        for name, value in vars(owner).items():
            is_probability = _NAMES.search(name) or (name == "p" and _is_dropout(owner))
            if is_probability and isinstance(value, float) and value > 0:
                yield owner, name, value


def _configs_of(owner: object) -> Iterator[PretrainedConfig]:
    """Yield the configs among the attributes of a module or config, including nested configs."""
    for value in vars(owner).values():
        if isinstance(value, PretrainedConfig):
            yield value
            yield from _configs_of(value)


def _is_dropout(owner: object) -> bool:
    return isinstance(owner, nn.modules.dropout._DropoutNd)
