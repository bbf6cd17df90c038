"""attention.py inside real (tiny, random) models: rows 14 and 15 of the correctness list."""

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
from tunesmith_torch.kernels.varlen_attention import register

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
    cuts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return {
        "input_ids": torch.cat(rows, 1),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": cuts,
        "cu_seq_lens_k": cuts,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "use_cache": False,
    }


@pytest.fixture(params=["blocks", "fused"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways through the CPU: all rows in blocks; rows over 60 tokens one by one."""
    if request.param == "fused":
        monkeypatch.setattr(varlen_attention, "LONG", 60)
    yield request.param


@pytest.mark.parametrize("kind", MODELS)
def test_packed_equals_separate(kind: str, kernel: str) -> None:
    """Logits and gradients of a packed pass are those of each row alone, through "eager"."""
    model = build(kind)
    model.set_attn_implementation("eager")
    apart = torch.cat([model(row, use_cache=False).logits for row in rows()], 1)
    torch.manual_seed(2)
    above = torch.randn_like(apart)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(apart, parameters, above)
    model.set_attn_implementation(register())
    together = model(**packed(rows())).logits
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    for a, b in zip(torch.autograd.grad(together, parameters, above), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("kind", MODELS)
def test_no_row_hears_another(kind: str, kernel: str) -> None:
    """Row 14: another first row moves nothing in the rest; without boundaries' rows it would."""
    model = build(kind)
    model.set_attn_implementation(register())
    batch = packed(rows())
    with torch.no_grad():
        before = model(**batch).logits
        batch["input_ids"][:, : LENGTHS[0]] = 3 + (batch["input_ids"][:, : LENGTHS[0]] - 2) % (
            V - 3
        )
        after = model(**batch).logits
        move = (after - before).abs().amax(-1)[0]
        assert (move[: LENGTHS[0]] > 1e-3).all()
        assert move[LENGTHS[0] :].max() == 0
        one_row = {**batch, "position_ids": torch.arange(sum(LENGTHS))[None]}
        one_row["cu_seq_lens_q"] = torch.tensor([0, sum(LENGTHS)], dtype=torch.int32)
        moved = (model(**one_row).logits - before)[0, LENGTHS[0] + 1 :].abs().max()
        assert moved > 1e-3


def test_boundaries_arrive_in_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names pass through transformers' forward of every model, untouched."""
    seen: list[Any] = []
    inner = varlen_attention._row_by_row

    def spy(q: Tensor, k: Tensor, v: Tensor, cuts: Any, how: Any) -> Tensor:
        seen.append(cuts)
        return inner(q, k, v, cuts, how)

    monkeypatch.setattr(varlen_attention, "_row_by_row", spy)
    for kind in MODELS:
        model = build(kind)
        model.set_attn_implementation(register())
        model(**packed(rows()))
        assert seen == [(0, *accumulate(LENGTHS))] * SMALL["num_hidden_layers"]
        seen.clear()


def test_positions_must_restart() -> None:
    model = build("Llama")
    model.set_attn_implementation(register())
    batch = packed(rows())
    batch["position_ids"] = torch.arange(sum(LENGTHS))[None]
    with pytest.raises(EnvironmentProblem, match="not causal within these rows"):
        model(**batch)


@pytest.mark.parametrize("kind", MODELS)
def test_without_boundaries_it_is_sdpa(kind: str) -> None:
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
    for name in ("eager" if kind == "Gemma2" else "sdpa", register()):
        model.set_attn_implementation(name)
        with torch.no_grad():
            out = [model(**call).logits for call in calls]
            out[0] = out[0][mask.bool()]
            out.append(
                model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False)
            )
        results.append(out)
    for sdpa, ours in zip(*results, strict=True):
        if kind == "Gemma2":  # "sdpa" refuses a softcap: "eager" is the reference
            torch.testing.assert_close(ours, sdpa, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(ours, sdpa)


def test_refuses_what_it_would_get_wrong() -> None:
    model = build("Llama")
    model.set_attn_implementation(register())
    batch = packed(rows())
    T = sum(LENGTHS)
    for change, message in (
        ({"attention_mask": (torch.arange(T) > 0)[None].long()}, "beside the boundaries"),
        ({"cu_seq_lens_q": batch["cu_seq_lens_q"][:-1]}, "boundaries end"),
        ({"is_causal": False}, "not causal"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
    ):
        with pytest.raises(EnvironmentProblem, match=message):
            model(**{**batch, **change})


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
def test_blocks_gradcheck(
    window: int | None, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_attention, "BLOCK", 4)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, h, 11, 2, dtype=torch.float64).requires_grad_()
        for h in (heads[0], heads[1], heads[1])
    )
    how = block_attention.How(0.7, window, None, 0.0)

    def ours(*qkv: Tensor) -> Tensor:
        return block_attention.attend(*qkv, (0, 1, 11), how)

    assert torch.autograd.gradcheck(ours, (q, k, v))
    for at in (slice(0, 1), slice(1, 11)):
        row = [x[:, :, at] for x in (q, k, v)]
        L = at.stop - at.start
        hand = varlen_attention._by_hand(*row, block_attention.band(L, L, window, q.device), how)
        torch.testing.assert_close(ours(q, k, v)[:, at], hand.transpose(1, 2))


@pytest.mark.parametrize("window", [None, 3])
def test_short_rows_share_a_block_and_stay_apart(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_attention, "BLOCK", 5)
    cuts = (0, 1, 3, 5, 12, 14, 17)
    shared = [block.rows for block in block_attention.blocks(cuts, window)]
    assert shared[0] == ((1, 2, 2) if window is None else (1, 2))
    assert shared[-1] == ((2, 3) if window is None else (3,))
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, 17, 2, dtype=torch.float64).requires_grad_() for h in (4, 2, 2))
    how = block_attention.How(0.7, window, None, 0.0)

    def ours(*qkv: Tensor) -> Tensor:
        return block_attention.attend(*qkv, cuts, how)

    assert torch.autograd.gradcheck(ours, (q, k, v))
    out = ours(q, k, v)
    for start, stop in pairwise(cuts):
        alone = [x[:, :, start:stop] for x in (q, k, v)]
        wanted = block_attention.attend(*alone, (0, stop - start), how)
        torch.testing.assert_close(out[:, start:stop], wanted)


def test_bf16_blocks_are_as_close_as_the_fused_kernel() -> None:
    torch.manual_seed(0)
    exact = [torch.randn(1, 300, h, 32).transpose(1, 2).requires_grad_() for h in (8, 4, 4)]
    above = torch.randn(1, 300, 8, 32)
    how = block_attention.How(0.18, None, None, 0.0)
    inputs = [x.detach().bfloat16().requires_grad_() for x in exact]
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def errors(out: Tensor) -> list[float]:
        grads = torch.autograd.grad(out, inputs, above.bfloat16())
        return [
            ((a.float() - b).norm() / b.norm()).item()
            for a, b in zip((out, *grads), wanted, strict=True)
        ]

    out = sdpa(*exact, is_causal=True, scale=0.18, enable_gqa=True).transpose(1, 2)
    wanted = [out, *torch.autograd.grad(out, exact, above)]
    fused = errors(sdpa(*inputs, is_causal=True, scale=0.18, enable_gqa=True).transpose(1, 2))
    ours = errors(block_attention.attend(*inputs, (0, 300), how))
    assert all(a < 1.6 * b for a, b in zip(ours, fused, strict=True)), (ours, fused)
