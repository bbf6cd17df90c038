"""Dropout, and the noise of routers, off in train mode, for every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.architectures.cases import FAST, all_cases
from tests.architectures.models import Case, tiny_config
from tests.architectures.sizes import Sizes
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tunesmith_torch.models.dropout import no_dropout
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.testing.tiny_model import build_tiny_model

SIZES = Sizes(layers=2)
QUICK = {*FAST, "opt", "persimmon", "mpt", "bloom", "gptj"}
CASES = [case for case in all_cases(SIZES) if not case.variant]
IDS_BT = torch.arange(40).view(2, 20) + 3


def has_noise(model: PreTrainedModel) -> bool:
    """Return True if the logits are random in train mode."""
    return not torch.equal(logits(model), logits(model))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS_BT, use_cache=False).logits
    return result


def raise_noise(config: PretrainedConfig) -> None:
    """Set every dropout and noise of a config to a half, those of its parts too."""
    for name, value in dict(vars(config)).items():
        if isinstance(value, PretrainedConfig):
            raise_noise(value)
        elif isinstance(value, float) and any(word in name for word in ("drop", "jitter")):
            setattr(config, name, 0.5)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[] if str(case) in QUICK else [pytest.mark.long])
        for case in CASES
    ],
)
def test_train_mode_without_dropout_has_no_noise(case: Case) -> None:
    try:
        config = tiny_config(case.model_type, SIZES, case.changes)
        raise_noise(config)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
        was_random = has_noise(model)
    except Exception as error:  # it has no text model of its own, or needs a kernel
        pytest.skip(f"{type(error).__name__}: {error}"[:200])
    if not was_random:
        pytest.skip("the architecture has no dropout")
    before = config.to_dict()
    with no_dropout(model) as probability:
        assert probability == 0.5
        assert not has_noise(model)
        trained = logits(model)
        with eval_mode(model):
            torch.testing.assert_close(trained, logits(model), rtol=0, atol=1e-5)
    assert has_noise(model)
    assert config.to_dict() == before


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_without_dropout_stays_as_it_is(family: str) -> None:
    names: dict[str, Any] = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    model = build_tiny_model(family, changes=names).train()
    with no_dropout(model) as probability:
        assert not has_noise(model)
    assert probability <= 0.1  # of a head that is not used
