"""Compute the output head and cross-entropy together, in chunks, without storing all logits.

Shapes: N loss positions, n positions of a chunk, b positions of a block, V vocabulary, D width.

At a position with hidden state ``h``, label ``y`` and loss weight ``w``, a model computes::

    r = W h + bias               raw product, [V]

    z = cap(scale r)             logits, where cap(x) = c tanh(x / c) for a softcap c, otherwise x

    nll = logsumexp(z) - z[y]    minus the log of softmax(z)[y], in nats

The logits of 8 000 positions over a vocabulary of 128 000 take 4 GB in fp32, and autograd keeps
several such tables. But it need not keep any, because the gradient of ``L = sum of w nll`` is known
as soon as the logits are. By the chain rule, with ``d logsumexp(z) / dz = softmax(z)``::

    dL/dz = w (softmax(z) - onehot(y))

    g = dL/dr = w scale cap'(scale r) (softmax(z) - onehot(y))       cap'(x) = 1 - tanh(x / c)^2

    dL/dh = W^T g        dL/dW = sum of g h^T        dL/dbias = sum of g       over positions

With the n positions of a chunk as the rows of matrices H [n, D] and G [n, V], this is::

    dH = G W  [n, D]     dW = G^T H  [V, D]          dbias = column sums of G  [V]

So ``linear_cross_entropy`` computes the gradients *in forward*, and backward only multiplies them
by the incoming gradient, a single number. Logits exist for one chunk at a time, in one buffer::

           D               V
        +-----+   W   +-----------+    1. R = H W^T + bias into the buffer
      n |  H  | ----> |  buffer   |    2. nll and softmax, block by block (b rows);
        +-----+       +-----------+       afterwards the buffer holds G instead of R
      n | ... |                        3. dH = G W        dW += G^T H
        +-----+                        4. the next chunk overwrites the buffer
      N

That is three matrix products per chunk (two if the head is frozen). Recomputing the logits in
backward would take four. ``token_logprobs`` must recompute them, because each position receives a
different gradient, which forward does not know. Without gradients it takes one product.

Products run in the dtype of the head, or of autocast where that is on. Exponentials and sums run in
fp32 (fp64 for fp64). All positions count: no label means "ignore". On a CPU, elementwise work goes
through blocks of a megabyte, which stay in the cache. Temporaries as large as a chunk would be
mapped and page-faulted each time, which is four times slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith_torch.kernels.padding import pad_positions

__all__ = ["linear_cross_entropy", "token_logprobs"]

CHUNK_BYTES = 64 * 2**20
"""Maximum size in bytes of the logits of a chunk."""
BLOCK_BYTES = 2**20
"""Maximum size in bytes of a block of fp32 logits on a CPU."""


class _LogitTransform(NamedTuple):
    """The scale and softcap that turn ``W h + bias`` into logits, and the dtype of products.

    The dtype is stored because autograd calls backward outside of autocast.
    """

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
    """Return the sum of ``weights_N * nll`` over positions in nats, a scalar in fp32.

    The sum can be differentiated once, with respect to hidden states, weight and bias (not
    ``weights_N``).
    """
    transform = _LogitTransform(softcap, logit_scale, _product_dtype(weight_VD))
    weights_N = torch.ones_like(labels_N) if weights_N is None else weights_N
    args = labels_N, weights_N, transform, torch.is_grad_enabled()
    return _apply(_LinearCrossEntropyFunction, hidden_ND, weight_VD, bias_V, *args)


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> Tensor:
    """Return the log-probability of each label in nats, shape N, fp32; differentiable once."""
    transform = _LogitTransform(softcap, logit_scale, _product_dtype(weight_VD))
    return _apply(_TokenLogprobsFunction, hidden_ND, weight_VD, bias_V, labels_N, transform)


def _apply(function: type[torch.autograd.Function], *args: object) -> Tensor:
    out: Tensor = function.apply(*args)  # type: ignore[no-untyped-call]
    return out


def _product_dtype(weight_VD: Tensor) -> torch.dtype:
    device = weight_VD.device.type
    if torch.is_autocast_enabled(device) and weight_VD.dtype == torch.float32:
        return torch.get_autocast_dtype(device)
    return weight_VD.dtype


class _LinearCrossEntropyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, labels_N, weights_N, transform, grad_enabled = args
        needs = [grad_enabled and needed for needed in ctx.needs_input_grad[:3]]
        nll_N, gradients = _nll_and_input_grads(inputs, labels_N, weights_N, transform, needs)
        ctx.save_for_backward(*gradients)
        return nll_N.mul_(weights_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # In place, because a head's gradient is large. A second backward would read modified
        # gradients; autograd raises an error for it.
        gradients = [None if grad is None else grad.mul_(grad_output) for grad in ctx.saved_tensors]
        return (*gradients, None, None, None, None)


class _TokenLogprobsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, labels_N, ctx.transform = args
        ctx.save_for_backward(*inputs, labels_N)
        # Weights only affect gradients, and none are needed here: labels fill the argument.
        return _nll_and_input_grads(inputs, labels_N, labels_N, ctx.transform, [False] * 3)[
            0
        ].neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output_N: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, labels_N = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        # The output is -nll, so an incoming gradient g is a loss weight of -g.
        _, gradients = _nll_and_input_grads(inputs, labels_N, -grad_output_N, ctx.transform, needs)
        return (*gradients, None, None)


def _nll_and_input_grads(
    inputs: Sequence[Tensor | None],
    labels_N: Tensor,
    weights_N: Tensor,
    transform: _LogitTransform,
    needs: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Return nll_N and the gradients of ``L = sum(weights_N * nll_N)`` with respect to the inputs.

    Per chunk of n positions, with the formulas at the top of this module::

        raw_nV = hidden_nD @ weight_DV + bias_V          R; the next line replaces it by dL/dR
        raw_nV = weights * scale * cap' * (softmax - onehot)      G

        dhidden_nD  = raw_nV @ weight_VD
        dweight_VD += raw_Vn @ hidden_nD
        dbias_V    += raw_nV.sum(0)

    ``inputs`` and ``needs`` are in the order hidden_ND, weight_VD, bias_V. A gradient is None if
    ``needs`` is False for its input.
    """
    cast = (x if x is None else x.detach().to(transform.dtype) for x in inputs)
    hidden_ND, weight_VD, bias_V = cast
    assert hidden_ND is not None and weight_VD is not None
    count, hidden_ND = len(hidden_ND), pad_positions(hidden_ND)
    padding = 0, len(hidden_ND) - count  # positions of weight 0, so without a gradient
    labels_N, weights_N = (nn.functional.pad(x, padding) for x in (labels_N, weights_N))
    (N, D), V = hidden_ND.shape, len(weight_VD)
    # Every chunk reads and writes all of dweight_VD. From about D / 4 positions on, the products
    # of a chunk take longer than that.
    chunk_size = max(CHUNK_BYTES // (V * hidden_ND.element_size()), D // 4, 1)
    wide = torch.promote_types(transform.dtype, torch.float32)
    nll_N = hidden_ND.new_empty(N, dtype=wide)
    buffer_NV = hidden_ND.new_empty(min(N, chunk_size), V)
    single_chunk = 0 < N <= chunk_size
    dhidden_ND = torch.empty_like(hidden_ND) if needs[0] else None
    dweight_VD = None
    if needs[1]:  # a single product overwrites it; several are summed in fp32, starting from zeros
        dweight_VD = (
            torch.empty_like(weight_VD) if single_chunk else weight_VD.new_zeros(V, D, dtype=wide)
        )
    dbias_V = nll_N.new_zeros(V) if needs[2] else None
    for chunk in _slices(N, chunk_size):
        raw_nV = torch.mm(
            hidden_ND[chunk], weight_VD.t(), out=buffer_NV[: chunk.stop - chunk.start]
        )
        if bias_V is not None:
            raw_nV.add_(bias_V)
        nll_N[chunk] = _nll_and_logit_grads(
            raw_nV, labels_N[chunk], weights_N[chunk], transform, any(needs)
        )
        # From here on raw_nV holds G, the gradient of L with respect to its former content.
        if dhidden_ND is not None:
            torch.mm(raw_nV, weight_VD, out=dhidden_ND[chunk])
        if dweight_VD is not None and single_chunk:
            torch.mm(raw_nV.t(), hidden_ND, out=dweight_VD)
        elif dweight_VD is not None:
            dweight_VD += torch.mm(raw_nV.t(), hidden_ND[chunk])
        if dbias_V is not None:
            dbias_V += raw_nV.sum(0, dtype=wide)
    if dhidden_ND is not None:
        dhidden_ND = dhidden_ND[:count]
    grads = zip(inputs, (dhidden_ND, dweight_VD, dbias_V), strict=True)
    return nll_N[:count], [g if g is None or x is None else g.to(x.dtype) for x, g in grads]


def _nll_and_logit_grads(
    raw_nV: Tensor,
    labels_n: Tensor,
    weights_n: Tensor,
    transform: _LogitTransform,
    needs_grad: bool,
) -> Tensor:
    """Return nll_n, and overwrite ``raw_nV`` with the gradient of ``sum(weights_n * nll_n)``.

    Without ``needs_grad``, the content of ``raw_nV`` is undefined afterwards. The blocks write
    ``softmax(z)`` times the factors, without the ``- onehot(y)``. Then each label's entry is
    replaced, once for all blocks: ``softmax(z)[y] - 1`` equals ``exp(-nll) - 1``.
    """
    n, V = raw_nV.shape
    labels_n1 = labels_n[:, None]
    # The label's logit is read before the blocks overwrite it.
    target_n1, slope_n1 = _logits(raw_nV.gather(1, labels_n1), transform, needs_grad)
    scaled_n1 = (weights_n[:, None] * transform.scale).to(target_n1.dtype)
    rows = max(BLOCK_BYTES // (4 * V), 1) if raw_nV.is_cpu else n
    logsumexps = []
    blocks = zip(torch.split(raw_nV, rows), torch.split(scaled_n1, rows), strict=True)
    for raw_bV, scaled_b1 in blocks:
        z_bV, slope_bV = _logits(raw_bV, transform, needs_grad)
        # logsumexp(z) = max + log(sum of exp(z - max)), which cannot overflow
        max_b1 = z_bV.amax(1, keepdim=True)
        sum_b1 = z_bV.sub_(max_b1).exp_().sum(1, keepdim=True)
        if needs_grad:
            z_bV.mul_(scaled_b1 / sum_b1)  # w scale softmax(z)
            if slope_bV is not None:
                z_bV.mul_(slope_bV)
            if z_bV.dtype != raw_bV.dtype:  # fp32 logits are raw_bV itself, changed in place
                raw_bV.copy_(z_bV)
        logsumexps.append(sum_b1.log_().add_(max_b1))
    nll_n1 = torch.cat(logsumexps).sub_(target_n1)
    if needs_grad:
        # expm1 keeps the digits that softmax(z)[y] - 1 would lose near a probability of 1.
        label_grad_n1 = nll_n1.neg().expm1_().mul_(scaled_n1)
        if slope_n1 is not None:
            label_grad_n1.mul_(slope_n1)
        # Not scatter_: on a CPU in bf16, it converts the whole chunk to fp32 and back.
        rows_n = torch.arange(n, out=torch.empty_like(labels_n))
        raw_nV[rows_n, labels_n] = label_grad_n1.squeeze(1).to(raw_nV.dtype)
    return nll_n1.squeeze(1)


def _logits(
    raw: Tensor, transform: _LogitTransform, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Return logits in fp32, in place if ``raw`` is fp32, and cap'(scale r) with a softcap."""
    z = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if transform.scale != 1.0:
        z.mul_(transform.scale)
    if transform.softcap is None:
        return z, None
    z.div_(transform.softcap).tanh_()
    slope = 1 - z.square() if needs_grad else None  # cap'(x) = 1 - tanh(x / softcap)**2
    return z.mul_(transform.softcap), slope


def _slices(count: int, size: int) -> Iterator[slice]:
    step = max(size, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
