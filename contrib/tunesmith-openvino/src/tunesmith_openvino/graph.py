"""Convert a causal transformers model to an OpenVINO graph with keys and values as state.

Shapes: B rows, T new tokens, P tokens in the cache, S = P + T, H heads, D head size.

The graph has the inputs that OpenVINO GenAI expects: ``input_ids``, ``attention_mask``,
``position_ids`` and ``beam_idx`` (the cache rows to continue). This module calls OpenVINO's
frontend directly, because ``openvino.convert_model`` reports its use to Intel.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from tunesmith.errors import EnvironmentProblem

INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")
_HINT = "export to safetensors instead"
_TRACED_ROWS, _TRACED_TOKENS, _TRACED_CACHE = 2, 3, 2
"""Sizes in the traced pass; in the graph, these dimensions are dynamic."""


class CachedStep(nn.Module):
    """A forward pass over new tokens, with the cache as input and output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BS: Tensor,
        position_ids_BT: Tensor,
        beam_idx_B: Tensor,
        *past_BHPD: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the logits, followed by the keys and values of each layer."""
        cache = _as_cache([past.index_select(0, beam_idx_B) for past in past_BHPD])
        length, new = past_BHPD[0].shape[2], input_ids_BT.shape[1]
        rows_T1 = torch.arange(new)[:, None] + length
        is_before_TS = torch.arange(length + new)[None] <= rows_T1
        is_seen_B1TS = is_before_TS[None, None] & attention_mask_BS[:, None, None].bool()
        output = self.model(
            input_ids=input_ids_BT,
            attention_mask=torch.where(is_seen_B1TS, 0.0, torch.finfo(torch.float32).min),
            position_ids=position_ids_BT,
            past_key_values=cache,
            use_cache=True,
        )
        return (output.logits, *_list_tensors(output.past_key_values))


def build_graph(folder: Path) -> Any:
    """Return the graph of a model folder, with weights in float32.

    Raises:
        EnvironmentProblem: the model keeps state other than the keys and values of all tokens, or
            OpenVINO cannot convert the model.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    refuse_other_state(config)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns; the export's checks compare results
            model = _load(folder)
            first = model(torch.zeros(1, 1, dtype=torch.long), use_cache=True)
            shapes = [(t.shape[1], t.shape[3]) for t in _list_tensors(first.past_key_values)]
            graph = _convert(CachedStep(model).eval(), shapes)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise EnvironmentProblem(
            f"openvino: OpenVINO cannot convert this model: {_last_line(error):.200}", hint=_HINT
        ) from error
    _keep_state(graph, shapes)
    return graph


def refuse_other_state(config: Any) -> None:
    """Reject models with a layer that does not see all tokens, because the graph's mask is causal.

    Raises:
        EnvironmentProblem: a layer has a sliding window, or is not an attention layer.
    """
    kinds = {*(getattr(config, "layer_types", None) or ())} - {"full_attention"}
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    if kinds or getattr(config, "num_attention_heads", None) is None:
        found = ", ".join(sorted(kinds)) or "no attention"
        raise EnvironmentProblem(
            f"openvino: the model has layers of {found}, but only full attention is supported",
            hint=_HINT,
        )


def _load(folder: Path) -> Any:
    """Load a model with transformers, using the attention that OpenVINO fuses."""
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        experts_implementation="batched_mm",
        trust_remote_code=False,
        local_files_only=True,
    ).eval()


def _convert(step: CachedStep, shapes: list[tuple[int, int]]) -> Any:
    """Trace a forward pass and convert it, with named ports and dynamic dimensions."""
    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    rows, new, length = _TRACED_ROWS, _TRACED_TOKENS, _TRACED_CACHE
    example = (
        torch.ones(rows, new, dtype=torch.long),
        torch.ones(rows, length + new, dtype=torch.long),
        torch.arange(length, length + new).expand(rows, new),
        torch.arange(rows, dtype=torch.int32),
        *(torch.zeros(rows, heads, length, size) for heads, size in shapes),
    )
    traced = torch.jit.trace(step, example, check_trace=False)  # type: ignore[no-untyped-call]
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)
    graph = frontend.convert(frontend.load(decoder))
    cached = list(enumerate(shapes))
    names = [*INPUTS, *(f"past.{n}" for n, _ in cached)]
    dimensions = [[-1, -1]] * 3 + [[-1]] + [[-1, heads, -1, size] for _, (heads, size) in cached]
    for port, name, sizes in zip(graph.inputs, names, dimensions, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)  # OpenVINO GenAI's paging looks for this name.
        port.get_node().set_partial_shape(PartialShape(sizes))
    results = ["logits", *(f"present.{n}" for n, _ in cached)]
    for port, name in zip(graph.outputs, results, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    return graph


def _keep_state(graph: Any, shapes: list[tuple[int, int]]) -> None:
    """Turn the cache into internal state of the graph, which is initially empty for each row."""
    from openvino import opset13 as ops
    from openvino.passes import MakeStateful, Manager

    manager = Manager()
    manager.register_pass(MakeStateful({f"past.{n}": f"present.{n}" for n in range(len(shapes))}))
    manager.run_passes(graph)
    sizes = ops.shape_of(graph.input("input_ids"))
    rows_1 = ops.gather(sizes, ops.constant(np.array([0])), ops.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            rest = ops.constant(np.array([heads.get_length(), 0, size.get_length()]))
            empty = ops.broadcast(ops.constant(np.float32(0)), ops.concat([rows_1, rest], 0))
            node.set_arguments([empty])
    graph.validate_nodes_and_infer_types()


def _as_cache(tensors: list[Tensor]) -> DynamicCache:
    """Wrap keys and values as a cache. ``update`` of the cache would start with an empty one."""
    cache = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _list_tensors(cache: DynamicCache) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
