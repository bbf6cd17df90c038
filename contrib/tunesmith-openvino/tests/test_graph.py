"""Graphs keep their cache: a row in parts has the logits of the whole row in transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.errors import EnvironmentProblem
from tunesmith_openvino.engine import EXACT
from tunesmith_openvino.graph import build_graph, refuse_other_state
from tunesmith_torch.testing.tiny_model import save_tiny_model

IDS_BT = np.array([[5, 17, 9, 3, 40, 7], [1, 2, 3, 4, 5, 6]])


def test_rows_in_parts_and_in_another_order(tiny_model: Path) -> None:
    import openvino

    request = openvino.Core().compile_model(
        build_graph(tiny_model), "CPU", EXACT
    ).create_infer_request()  # fmt: skip
    ids_BT, found = IDS_BT, []
    for start, end, rows in ((0, 3, [0, 1]), (3, 4, [1, 0]), (4, 6, [0, 1])):
        ids_BT = ids_BT[rows]  # beam_idx reorders what is cached
        outputs = request.infer(
            {
                "input_ids": ids_BT[:, start:end],
                "attention_mask": np.ones((2, end), np.int64),
                "position_ids": np.tile(np.arange(start, end), (2, 1)),
                "beam_idx": np.array(rows, np.int32),
            }
        )
        found.append(outputs["logits"].copy())
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    expected_BTV = model(torch.tensor(IDS_BT)).logits.detach().numpy()
    assert np.abs(found[0] - expected_BTV[:, :3]).max() < 1e-5
    assert np.abs(found[1] - expected_BTV[::-1, 3:4]).max() < 1e-5
    assert np.abs(found[2] - expected_BTV[::-1, 4:]).max() < 1e-5


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"layer_types": ["full_attention", "conv"]}, "conv"),
        ({"sliding_window": 4096}, "sliding_attention"),
        ({"num_attention_heads": None}, "no attention"),
    ],
)
def test_other_state_is_refused(config: dict[str, Any], found: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"has layers of {found}, but only full"):
        refuse_other_state(SimpleNamespace(**{"num_attention_heads": 4, **config}))


def test_full_attention_is_taken() -> None:
    config = {"layer_types": ["full_attention"], "sliding_window": None}
    refuse_other_state(SimpleNamespace(num_attention_heads=4, **config))


def test_what_openvino_cannot_convert_is_refused(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "bloom")
    with pytest.raises(EnvironmentProblem, match="OpenVINO cannot convert this model"):
        build_graph(model)
