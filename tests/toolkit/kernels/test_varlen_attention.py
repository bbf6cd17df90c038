"""Packed attention in tiny random models: rows give the same as alone and do not see others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.kernels import block_attention, varlen_attention
from tunesmith_torch.kernels.varlen_attention import register_varlen_attention

LENGTHS = (5, 1, 70, 131, 12)
V = 61
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": 20},
    "Gemma3Text": {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"]},
    "Gemma2": {"sliding_window": 20, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
}


def build(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **MODELS[kind], **options})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # tiny initial weights attend to everything alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def rows() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(3, V, (1, length)) for length in LENGTHS]


def packed(rows: list[Tensor]) -> dict[str, Any]:
    lengths = [row.shape[1] for row in rows]
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return {
        "input_ids": torch.cat(rows, 1),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "use_cache": False,
    }


@pytest.fixture(params=["blocks", "fused"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both paths on a CPU: all rows in blocks, or rows over 60 tokens through the fused kernel."""
    if request.param == "fused":
        monkeypatch.setattr(varlen_attention, "LONG_ROW_TOKENS", 60)
    yield request.param


@pytest.mark.parametrize("kind", MODELS)
def test_packed_equals_separate(kind: str, kernel: str) -> None:
    """Logits and gradients of a packed pass are those of each row alone, through "eager"."""
    model = build(kind)
    model.set_attn_implementation("eager")
    separate = torch.cat([model(row, use_cache=False).logits for row in rows()], 1)
    torch.manual_seed(2)
    grad_output = torch.randn_like(separate)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(separate, parameters, grad_output)
    model.set_attn_implementation(register_varlen_attention())
    packed_logits = model(**packed(rows())).logits
    torch.testing.assert_close(packed_logits, separate, rtol=1e-4, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(packed_logits, parameters, grad_output), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("kind", MODELS)
def test_rows_do_not_attend_to_other_rows(kind: str, kernel: str) -> None:
    """Another first row changes no logit of the others; without boundaries it does."""
    model = build(kind)
    model.set_attn_implementation(register_varlen_attention())
    batch = packed(rows())
    with torch.no_grad():
        before = model(**batch).logits
        batch["input_ids"][:, : LENGTHS[0]] = 3 + (batch["input_ids"][:, : LENGTHS[0]] - 2) % (
            V - 3
        )
        after = model(**batch).logits
        change = (after - before).abs().amax(-1)[0]
        assert (change[: LENGTHS[0]] > 1e-3).all()
        assert change[LENGTHS[0] :].max() == 0
        one_row = {**batch, "position_ids": torch.arange(sum(LENGTHS))[None]}
        one_row["cu_seq_lens_q"] = torch.tensor([0, sum(LENGTHS)], dtype=torch.int32)
        change = (model(**one_row).logits - before)[0, LENGTHS[0] + 1 :].abs().max()
        assert change > 1e-3


def test_boundaries_arrive_in_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments pass through the forward of every model in transformers unchanged."""
    received: list[Any] = []
    inner = varlen_attention._attend_row_by_row

    def spy(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Any, spec: Any) -> Tensor:
        received.append(cu_seqlens)
        return inner(q, k, v, cu_seqlens, spec)

    monkeypatch.setattr(varlen_attention, "_attend_row_by_row", spy)
    for kind in MODELS:
        model = build(kind)
        model.set_attn_implementation(register_varlen_attention())
        model(**packed(rows()))
        assert received == [(0, *accumulate(LENGTHS))] * SMALL["num_hidden_layers"]
        received.clear()


def test_positions_must_restart() -> None:
    model = build("Llama")
    model.set_attn_implementation(register_varlen_attention())
    batch = packed(rows())
    batch["position_ids"] = torch.arange(sum(LENGTHS))[None]
    with pytest.raises(EnvironmentProblem, match="not causal within these rows"):
        model(**batch)


@pytest.mark.parametrize("kind", MODELS)
def test_without_boundaries_results_equal_sdpa(kind: str) -> None:
    """Padded batches, positions that restart, generation: bit for bit what "sdpa" gives."""
    model = build(kind)
    padded = torch.randint(3, V, (3, 40))
    mask = (torch.arange(40)[None] >= torch.tensor([[0], [7], [30]])).long()
    calls: list[dict[str, Any]] = [
        {"input_ids": padded, "attention_mask": mask},
        {"input_ids": padded[:1]},
        {
            "input_ids": padded[:1],
            "position_ids": (torch.arange(40) % 25)[None],
            "use_cache": False,
        },
    ]
    results = []
    for name in ("eager" if kind == "Gemma2" else "sdpa", register_varlen_attention()):
        model.set_attn_implementation(name)
        with torch.no_grad():
            out = [model(**call).logits for call in calls]
            out[0] = out[0][mask.bool()]
            out.append(
                model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False)
            )
        results.append(out)
    for sdpa, result in zip(*results, strict=True):
        if kind == "Gemma2":  # "sdpa" refuses a softcap: "eager" is the reference
            torch.testing.assert_close(result, sdpa, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(result, sdpa)


def test_unsupported_inputs_are_refused() -> None:
    model = build("Llama")
    model.set_attn_implementation(register_varlen_attention())
    batch = packed(rows())
    T = sum(LENGTHS)
    for change, message in (
        (
            {"attention_mask": (torch.arange(T) > 0)[None].long()},
            "both an attention mask and row boundaries",
        ),
        ({"cu_seq_lens_q": batch["cu_seq_lens_q"][:-1]}, "boundaries end"),
        ({"is_causal": False}, "not causal"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
    ):
        with pytest.raises(EnvironmentProblem, match=message):
            model(**{**batch, **change})


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
def test_blocks_pass_gradcheck(window: int | None, heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, h, 11, 2, dtype=torch.float64).requires_grad_()
        for h in (heads[0], heads[1], heads[1])
    )
    spec = block_attention.AttentionSpec(0.7, window, None, 0.0, block_size=4)

    def blocks(*qkv: Tensor) -> Tensor:
        return block_attention.block_attention(*qkv, (0, 1, 11), spec)

    assert torch.autograd.gradcheck(blocks, (q, k, v))
    for at in (slice(0, 1), slice(1, 11)):
        row = [x[:, :, at] for x in (q, k, v)]
        L = at.stop - at.start
        eager = varlen_attention._eager_attention(
            *row, block_attention.causal_band(L, L, window, q.device), spec
        )
        torch.testing.assert_close(blocks(q, k, v)[:, at], eager.transpose(1, 2))


@pytest.mark.parametrize("window", [None, 3])
def test_short_rows_share_a_block_and_stay_separate(window: int | None) -> None:
    cu_seqlens = (0, 1, 3, 5, 12, 14, 17)
    blocks_of_five = block_attention.split_into_blocks(cu_seqlens, window, 5)
    shared = [block.row_lengths for block in blocks_of_five]
    assert shared[0] == ((1, 2, 2) if window is None else (1, 2))
    assert shared[-1] == ((2, 3) if window is None else (3,))
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, 17, 2, dtype=torch.float64).requires_grad_() for h in (4, 2, 2))
    spec = block_attention.AttentionSpec(0.7, window, None, 0.0, block_size=5)

    def blocks(*qkv: Tensor) -> Tensor:
        return block_attention.block_attention(*qkv, cu_seqlens, spec)

    assert torch.autograd.gradcheck(blocks, (q, k, v))
    out = blocks(q, k, v)
    for start, stop in pairwise(cu_seqlens):
        alone = [x[:, :, start:stop] for x in (q, k, v)]
        expected = block_attention.block_attention(*alone, (0, stop - start), spec)
        torch.testing.assert_close(out[:, start:stop], expected)


def test_bf16_blocks_are_as_close_as_the_fused_kernel() -> None:
    torch.manual_seed(0)
    exact = [torch.randn(1, 300, h, 32).transpose(1, 2).requires_grad_() for h in (8, 4, 4)]
    grad_output = torch.randn(1, 300, 8, 32)
    spec = block_attention.AttentionSpec(0.18, None, None, 0.0)
    inputs = [x.detach().bfloat16().requires_grad_() for x in exact]
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def errors(out: Tensor) -> list[float]:
        grads = torch.autograd.grad(out, inputs, grad_output.bfloat16())
        return [
            ((a.float() - b).norm() / b.norm()).item()
            for a, b in zip((out, *grads), expected, strict=True)
        ]

    out = sdpa(*exact, is_causal=True, scale=0.18, enable_gqa=True).transpose(1, 2)
    expected = [out, *torch.autograd.grad(out, exact, grad_output)]
    fused = errors(sdpa(*inputs, is_causal=True, scale=0.18, enable_gqa=True).transpose(1, 2))
    blocks = errors(block_attention.block_attention(*inputs, (0, 300), spec))
    assert all(a < 1.6 * b for a, b in zip(blocks, fused, strict=True)), (blocks, fused)
