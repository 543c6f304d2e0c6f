"""AnalogMultiheadAttention: the four projections on crossbars, the attention between them digital."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..errors import ShapeError
from ..kernels.memory import refuse_symbols, refuse_unreal
from ..profile import HardwareProfile
from .crossbar import AnalogComposite
from .linear import AnalogLinear


class AnalogOutProjection(AnalogLinear, NonDynamicallyQuantizableLinear):
    """The `out_proj` of nn.MultiheadAttention, a class of torch's own, on crossbars; an `AnalogLinear` in all else."""

    digital = NonDynamicallyQuantizableLinear


class AnalogMultiheadAttention(AnalogComposite, nn.MultiheadAttention):
    """nn.MultiheadAttention on simulated crossbars: its constructor arguments, and `profile=`.

    Four matrices: query, key and value, each on a crossbar of its own also where torch packs their weights into one
    `in_proj_weight` (`crossbar_q`, `crossbar_k`, `crossbar_v`), and `out_proj`, an analog layer. Scores, masks,
    softmax, dropout and the weighted sum are digital: they multiply data by data.

    Notes
    -----
    Every argument and mask of the twin works. Rows of the crossbars are (batch, position), with `batch_first` or
    without. `out_proj` is called as a module (torch's twin only reads its weights), so its hooks run. torch's fused
    inference path never runs; neither do nested tensors.

    Examples
    --------
    >>> attention = AnalogMultiheadAttention(8, 2, batch_first=True)
    >>> x = torch.zeros(3, 5, 8)
    >>> attention(x, x, x)[0].shape
    torch.Size([3, 5, 8])
    """

    digital = nn.MultiheadAttention

    def __init__(self, *args: Any, profile: HardwareProfile | None = None, **kwargs: Any) -> None:
        super().__init__(*args, profile=profile, **kwargs)
        AnalogOutProjection.from_digital(self.out_proj, profile or HardwareProfile(name="ideal"))

    def matrices(self) -> list[str]:
        """Return the names of the projections that are not modules."""
        return ["q", "k", "v"]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as torch.nn.MultiheadAttention.forward.

        Raises
        ------
        ShapeError
            Inputs or masks do not fit together, or are nested tensors.
        """
        refuse_symbols(query)
        self._check(query, key, value, is_causal and attn_mask is None)
        if not self.transparent:
            refuse_unreal(query, key, value)
        single, first = query.ndim == 2, 0 if self.batch_first else 1
        query, key, value = (x[None] if single else x.transpose(0, first) for x in (query, key, value))
        padding = key_padding_mask[None] if single and key_padding_mask is not None else key_padding_mask
        out, weights = self._attend(query, key, value, padding, need_weights, attn_mask)
        if weights is not None and average_attn_weights:
            weights = weights.mean(-3)
        if single:
            return out[0], None if weights is None else weights[0]
        return out.transpose(0, first), weights

    def weight_of(self, name: str) -> Tensor:
        """Return one of the projections (N, K), weight units."""
        return self._projections()[name][0]

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend with batch first: (B, L, E), (B, S, Ek), (B, S, Ev) -> (B, L, E), (B, heads, L, S)."""
        batch = len(query)
        inputs = {"q": query, "k": key, "v": value}
        q, k, v = (self._crossbar(n).product(inputs[n], w, b) for n, (w, b) in self._projections().items())
        mask = self._mask(key_padding_mask, attn_mask, (batch, query.shape[1], key.shape[1]), q)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(batch, -1, -1)], 1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(batch, -1, -1)], 1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        if mask is not None:
            mask = F.pad(mask, (0, k.shape[1] - key.shape[1]))
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            out = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2).to(query.dtype)), weights

    def _projections(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return weight and bias of q, k and v, cut out of torch's packed parameters."""
        packed = self.in_proj_weight
        weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight] if packed is None else packed.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return dict(zip(self.matrices(), zip(weights, biases, strict=True), strict=True))

    def _mask(
        self, padding: Tensor | None, attn: Tensor | None, shape: tuple[int, int, int], like: Tensor
    ) -> Tensor | None:
        """Merge both masks into one to be added to the scores, broadcastable to (B, heads, L, S)."""
        batch, length, source = shape
        total = None
        if attn is not None:
            allowed = {2: (length, source), 3: (batch * self.num_heads, length, source)}
            if tuple(attn.shape) != allowed.get(attn.ndim):
                raise ShapeError(
                    f"attn_mask: (L, S) = {allowed[2]} or (B·heads, L, S) = {allowed[3]} needed, got "
                    f"{tuple(attn.shape)}"
                )
            total = _additive(attn, like)
            total = total.unflatten(0, (batch, self.num_heads)) if attn.ndim == 3 else total[None, None]
        if padding is not None:
            if tuple(padding.shape) != (batch, source):
                raise ShapeError(f"key_padding_mask: (B, S) = {(batch, source)} needed, got {tuple(padding.shape)}")
            added = _additive(padding, like)[:, None, None]
            total = added if total is None else total + added
        return total

    def _check(self, query: Tensor, key: Tensor, value: Tensor, hint_only: bool) -> None:
        name = type(self).__name__
        if query.is_nested or key.is_nested or value.is_nested:
            raise ShapeError(f"{name}: nested tensors are not supported; pad them and give a key_padding_mask")
        if hint_only:
            raise ShapeError(f"{name}: is_causal only says that attn_mask is causal; give the attn_mask too")
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            raise ShapeError(f"{name}: query, key and value must all have 2 or all 3 dimensions, got {shapes}")
        sizes = (self.embed_dim, self.kdim, self.vdim)
        if tuple(x.shape[-1] for x in (query, key, value)) != sizes:
            raise ShapeError(f"{name}: query, key and value must end in {sizes} features, got {shapes}")
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (query.ndim == 3 and query.shape[batch] != key.shape[batch]):
            raise ShapeError(
                f"{name}: key and value must have one length, and all three one batch size, got {shapes} "
                f"(batch_first={self.batch_first})"
            )


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask to be added to scores: -inf where a bool mask is True."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise ShapeError(f"masks are bool or floating point, got {mask.dtype}")
    return mask.to(like.dtype)
