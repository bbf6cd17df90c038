"""The head and the loss in one: what hidden states cost, without a table of logits.

Shapes: N trained positions, n those of a chunk, b those of a block, V vocabulary, D width.

A language model turns a hidden state ``h`` into logits ``z = cap(scale * (W h + b))`` and pays
``nll = logsumexp(z) - z[y]`` for the token ``y`` that came next. Kept whole, the logits of 8 000
positions over 128 000 tokens take 4 GB, and autograd keeps several such tables. Yet the gradient
is known as soon as the logits are::

    d nll / d z = softmax(z) - onehot(y)          (times cap' and scale, which are known too)
    d nll / d h = (d nll / d z) W                 d nll / d W = (d nll / d z)^T h

so ``linear_cross_entropy`` computes it *in the forward*, chunk by chunk, and overwrites a chunk's
logits with their gradient; backward multiplies by the number that comes from above. Three matrix
products (two if the head is frozen) where recomputing in backward takes four. ``token_logprobs``
has to recompute, because from above each position receives a number of its own; without gradients
it is one product.

Products run in the head's dtype, or autocast's where that is on; exponentials and sums in fp32
(fp64 for fp64). Only trained positions belong here: no label means "ignore". On the CPU the
elementwise work goes through blocks of a megabyte, which stay in the cache: temporaries of a whole
chunk are mapped and page-faulted afresh each time, four times slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 64 * 2**20
BLOCK_BYTES = 2**20


class _Terms(NamedTuple):
    """How logits follow from the product, and its dtype (backward runs outside autocast)."""

    softcap: float | None
    scale: float
    dtype: torch.dtype


def linear_cross_entropy(  # noqa: PLR0913 - heads have these options
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    weights_N: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> Tensor:
    """Return the sum over positions of ``weights_N * nll`` in nats, a scalar in fp32.

    It can be differentiated once, by hidden states, weight and bias (not by ``weights_N``).
    """
    terms = _Terms(softcap, logit_scale, _product_dtype(weight_VD))
    weights_N = torch.ones_like(labels_N) if weights_N is None else weights_N
    args = labels_N, weights_N, terms, torch.is_grad_enabled()
    return _apply(_CrossEntropy, hidden_ND, weight_VD, bias_V, *args)


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> Tensor:
    """Return every label's log-probability in nats, shape N, in fp32; differentiable once."""
    terms = _Terms(softcap, logit_scale, _product_dtype(weight_VD))
    return _apply(_LogProbs, hidden_ND, weight_VD, bias_V, labels_N, terms)


def _apply(function: type[torch.autograd.Function], *args: object) -> Tensor:
    out: Tensor = function.apply(*args)  # type: ignore[no-untyped-call]
    return out


def _product_dtype(weight_VD: Tensor) -> torch.dtype:
    device = weight_VD.device.type
    if torch.is_autocast_enabled(device) and weight_VD.dtype == torch.float32:
        return torch.get_autocast_dtype(device)
    return weight_VD.dtype


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, labels_N, weights_N, terms, learning = args
        needs = [learning and needed for needed in ctx.needs_input_grad[:3]]
        nll_N, gradients = _sweep(inputs, labels_N, weights_N, terms, needs)
        ctx.save_for_backward(*gradients)
        return nll_N.mul_(weights_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        # In place, because a head's gradient is large; autograd itself refuses a second backward.
        gradients = [None if grad is None else grad.mul_(above) for grad in ctx.saved_tensors]
        return (*gradients, None, None, None, None)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, labels_N, ctx.terms = args
        ctx.save_for_backward(*inputs, labels_N)
        return _sweep(inputs, labels_N, labels_N, ctx.terms, [False] * 3)[0].neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_N: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, labels_N = ctx.saved_tensors
        _, gradients = _sweep(inputs, labels_N, -above_N, ctx.terms, ctx.needs_input_grad[:3])
        return (*gradients, None, None)


def _sweep(
    inputs: Sequence[Tensor | None],
    labels_N: Tensor,
    weights_N: Tensor,
    terms: _Terms,
    needs: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Return nll_N, and the gradients of ``sum(weights_N * nll_N)`` by the inputs in need."""
    hidden_ND, weight_VD, bias_V = (x if x is None else x.detach().to(terms.dtype) for x in inputs)
    assert hidden_ND is not None and weight_VD is not None
    (N, D), V = hidden_ND.shape, len(weight_VD)
    # A head's gradient is read and written once a chunk; products of D/4 positions outweigh that.
    most = max(CHUNK_BYTES // (V * hidden_ND.element_size()), D // 4, 1)
    wide = torch.promote_types(terms.dtype, torch.float32)
    nll_N = hidden_ND.new_empty(N, dtype=wide)
    raw_NV = hidden_ND.new_empty(min(N, most), V)
    whole = 0 < N <= most
    dhidden_ND = torch.empty_like(hidden_ND) if needs[0] else None
    dweight_VD = None
    if needs[1]:  # a product fills the whole of it, several are added up
        dweight_VD = torch.empty_like(weight_VD) if whole else weight_VD.new_zeros(V, D, dtype=wide)
    dbias_V = nll_N.new_zeros(V) if needs[2] else None
    for at in _slices(N, most):
        raw_nV = torch.mm(hidden_ND[at], weight_VD.t(), out=raw_NV[: at.stop - at.start])
        if bias_V is not None:
            raw_nV.add_(bias_V)
        nll_N[at] = _charge(raw_nV, labels_N[at], weights_N[at], terms, any(needs))
        if dhidden_ND is not None:
            torch.mm(raw_nV, weight_VD, out=dhidden_ND[at])
        if dweight_VD is not None and whole:
            torch.mm(raw_nV.t(), hidden_ND, out=dweight_VD)
        elif dweight_VD is not None:
            dweight_VD += torch.mm(raw_nV.t(), hidden_ND[at])
        if dbias_V is not None:
            dbias_V += raw_nV.sum(0, dtype=wide)
    found = zip(inputs, (dhidden_ND, dweight_VD, dbias_V), strict=True)
    return nll_N, [g if g is None or x is None else g.to(x.dtype) for x, g in found]


def _charge(
    raw_nV: Tensor, labels_n: Tensor, weights_n: Tensor, terms: _Terms, learning: bool
) -> Tensor:
    """Return nll_n; overwrite ``raw_nV`` with the gradient of ``sum(weights_n * nll_n)`` by it.

    Where nothing is learned, ``raw_nV`` holds nothing of use afterwards. What is about the label
    alone is done once, outside the blocks: ``softmax(z)[y] - 1`` is ``exp(-nll) - 1``.
    """
    n, V = raw_nV.shape
    labels_n1 = labels_n[:, None]
    target_n1, slope_n1 = _logits(raw_nV.gather(1, labels_n1), terms, learning)
    scaled_n1 = (weights_n[:, None] * terms.scale).to(target_n1.dtype)
    rows = max(BLOCK_BYTES // (4 * V), 1) if raw_nV.is_cpu else n
    sums_n1 = []
    blocks = zip(torch.split(raw_nV, rows), torch.split(scaled_n1, rows), strict=True)
    for raw_bV, scaled_b1 in blocks:
        z_bV, slope_bV = _logits(raw_bV, terms, learning)
        top_b1 = z_bV.amax(1, keepdim=True)
        total_b1 = z_bV.sub_(top_b1).exp_().sum(1, keepdim=True)
        if learning:
            z_bV.mul_(scaled_b1 / total_b1)
            if slope_bV is not None:
                z_bV.mul_(slope_bV)
            if z_bV.dtype != raw_bV.dtype:  # fp32 was worked on in place
                raw_bV.copy_(z_bV)
        sums_n1.append(total_b1.log_().add_(top_b1))
    nll_n1 = torch.cat(sums_n1).sub_(target_n1)
    if learning:
        at_label_n1 = nll_n1.neg().expm1_().mul_(scaled_n1)
        if slope_n1 is not None:
            at_label_n1.mul_(slope_n1)
        raw_nV.scatter_(1, labels_n1, at_label_n1.to(raw_nV.dtype))
    return nll_n1.squeeze(1)


def _logits(raw: Tensor, terms: _Terms, learning: bool) -> tuple[Tensor, Tensor | None]:
    """Logits in fp32 from products, in place where those are fp32; with a softcap, its slope."""
    z = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if terms.scale != 1.0:
        z.mul_(terms.scale)
    if terms.softcap is None:
        return z, None
    z.div_(terms.softcap).tanh_()
    slope = 1 - z.square() if learning else None  # cap'(x) = 1 - tanh(x / softcap)**2
    return z.mul_(terms.softcap), slope


def _slices(count: int, most: int) -> Iterator[slice]:
    step = max(most, 1)
    return (slice(at, min(at + step, count)) for at in range(0, count, step))
