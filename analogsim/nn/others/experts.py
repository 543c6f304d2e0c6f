"""A mixture's experts that transformers keeps as stacked matrices, on crossbars: two for each expert.

transformers computes all of its classes of experts by one contract (`use_experts_implementation`), which is what is
stated here: attributes say whether there is a gate, a bias, a norm, and whether matrices are transposed.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import uncompiled
from ..crossbar import AnalogComposite
from ..known import Known
from ..subclass import joined


class AnalogExperts(AnalogComposite):
    """Experts of a mixture on simulated crossbars; the gate between their two matrices and the routing are digital."""

    digital = nn.Module

    def matrices(self) -> list[str]:
        """Return `up_0`, `down_0`, `up_1` …: two for each expert."""
        experts: Any = self
        return [f"{part}_{number}" for number in range(experts.num_experts) for part in ("up", "down")]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Send each token (T, H) through its experts (T, k), and add up by their weights (T, k): (T, H)."""
        if self.transparent:
            return super().forward(hidden_states, top_k_index, top_k_weights)
        return self._on_crossbars(hidden_states, top_k_index, top_k_weights)

    @uncompiled
    def _on_crossbars(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        experts: Any = self
        out = torch.zeros_like(x)
        for number in chosen.unique().tolist():
            if number >= experts.num_experts:  # another rank's
                continue
            token, place = torch.where(chosen == number)
            inner = self._product("up", number, x[token])
            inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
            made = self._product("down", number, inner)
            if experts.has_post_expert_norm:
                made = experts.post_expert_norm(made)
            out = out.index_add(0, token, (made * weights[token, place, None]).to(out.dtype))
        return out

    def weight_of(self, name: str) -> Tensor:
        """Return one of an expert's two matrices (N, K), weight units."""
        part, number = name.split("_")
        weight = getattr(self, self._key(part))[int(number)]
        return weight.t() if self.is_transposed else weight

    def _key(self, part: str) -> str:
        experts: Any = self
        return "down_proj" if part == "down" else "gate_up_proj" if experts.has_gate else "up_proj"

    def _product(self, part: str, number: int, rows: Tensor) -> Tensor:
        experts: Any = self
        bias = getattr(self, f"{self._key(part)}_bias")[number] if experts.has_bias else None
        name = f"{part}_{number}"
        return self._crossbar(name).product(rows, self.weight_of(name), bias)


def its_matrices(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return which parameters are the experts' weights."""
    return [(module, key) for key in ("gate_up_proj", "up_proj", "down_proj") if key in module._parameters]


@cache
def known(kind: type[nn.Module]) -> Known:
    """Return what is known of one of transformers' classes of experts."""
    return Known(joined(AnalogExperts, kind), its_matrices)
