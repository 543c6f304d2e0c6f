"""Brevitas, imported by this file alone and only when it is needed, mended where a resumed training would break."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CalibrationError


@cache
def brevitas_parts() -> SimpleNamespace:
    """Import Brevitas, and mend there what would break a resumed training.

    Brevitas builds its quantizers anew whenever a state is loaded, so that an optimizer made before holds parameters
    that are no longer in the network; and it leaves the count of collected steps, and the statistics so far, out of
    the state.
    """
    from brevitas import nn as layers
    from brevitas.core.scaling import ParameterFromRuntimeStatsScaling, RuntimeStatsScaling
    from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
    from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
    from brevitas.quant import scaled_int

    class KeepsQuantizer:
        def _load_from_state_dict(self, *args: Any) -> None:
            nn.Module._load_from_state_dict(self, *args)  # type: ignore[arg-type]

    class ActProxy(KeepsQuantizer, ActQuantProxyFromInjector):
        pass

    class WeightProxy(KeepsQuantizer, WeightQuantProxyFromInjector):
        pass

    class LearnedRange(KeepsQuantizer, ParameterFromRuntimeStatsScaling):
        """A parameter, once statistics have been collected; all of it in the state."""

        def forward(self, stats_input: Tensor, threshold: Tensor | None = None) -> Tensor:
            _check_range(self.training, self.counter)
            return super().forward(stats_input, threshold)

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return nn.Module.state_dict(self, *args, **kwargs)

        def get_extra_state(self) -> Tensor:
            return torch.tensor(self.counter)

        def set_extra_state(self, state: Tensor) -> None:
            self.counter = int(state)

    class RunningRange(RuntimeStatsScaling):
        """The batch's maximum in training, the running mean of maxima in evaluation; all of it in the state."""

        def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
            _check_range(self.training, self.runtime_stats.counter)
            return super().forward(x, threshold)

        def get_extra_state(self) -> Tensor:
            return torch.tensor(self.runtime_stats.counter)

        def set_extra_state(self, state: Tensor) -> None:
            self.runtime_stats.counter = int(state)

    weight = {"channel": scaled_int.Int8WeightPerChannelFloat, "tensor": scaled_int.Int8WeightPerTensorFloat}
    act = {True: scaled_int.Int8ActPerTensorFloat, False: scaled_int.Uint8ActPerTensorFloat}
    return SimpleNamespace(
        nn=layers,
        QuantLayer=QuantWeightBiasInputOutputLayer,
        LearnedRange=LearnedRange,
        RunningRange=RunningRange,
        weight={name: kind.let(proxy_class=WeightProxy) for name, kind in weight.items()},
        act={signed: kind.let(proxy_class=ActProxy) for signed, kind in act.items()},
    )


def _check_range(training: bool, counter: int) -> None:
    if not training and counter == 0:
        raise CalibrationError(
            "a dynamic activation range has no value yet: train, or run a few batches through the network in training "
            "mode (under torch.no_grad() to keep its weights), or use constant scaling"
        )
