"""analogsim: a simulated analog accelerator for PyTorch.

Declare the hardware (`HardwareProfile`), put a network on it (`convert`, `calibrate`), or inject abstract noise into it
(`inject_noise`), or quantize it as Brevitas does (`prepare_qat`); train with any torch loop; then ask how much noise it
survives (`noise_sweep`).
"""

import sys as _sys
import threading as _threading
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from types import ModuleType as _Module
from typing import TYPE_CHECKING
from typing import Any as _Any

# First, for the seconds that importing torch takes the program, in which Ctrl-C may come.
from .terminal import stop as _stop  # isort: skip  # noqa: F401
from . import moved as _moved  # isort: skip  # noqa: F401

# The names are imported when they are first asked for: what needs no torch, such as a profile, does not wait for it.
# The order is the order one meets them in.
if TYPE_CHECKING:
    from .profile import HardwareProfile, presets  # isort: skip
    from .convert import convert, to_digital  # isort: skip
    from .ranges.calibrate import calibrate  # isort: skip
    from .ranges.outputs import calibrate_outputs  # isort: skip
    from .ranges.learn import learn_ranges  # isort: skip
    from .batch_norm import estimate_batch_norm  # isort: skip
    from .program import at_time, program  # isort: skip
    from .saving import load, save  # isort: skip
    from .summary import LayerSummary, Summary, summary  # isort: skip
    from .analysis.budget import LayerBudget, NoiseBudget, noise_budget  # isort: skip
    from .nn import (  # isort: skip
        AnalogConv1d,
        AnalogConv2d,
        AnalogConv3d,
        AnalogConvTranspose1d,
        AnalogConvTranspose2d,
        AnalogConvTranspose3d,
        AnalogGRU,
        AnalogGRUCell,
        AnalogLayer,
        AnalogLinear,
        AnalogLSTM,
        AnalogLSTMCell,
        AnalogMultiheadAttention,
        AnalogRNN,
        AnalogRNNCell,
        analog_layers,
        set_seed,
    )
    from .noise import NoiseSpec, inject_noise, noise_sites, remove_noise, set_noise  # isort: skip
    from .qat import QATSpec, freeze_quantization, prepare_qat  # isort: skip
    from .analysis.cost import LayerCost, NetworkCost, cost  # isort: skip
    from .robustness.sweep import SIGMAS, RobustnessCurve, noise_sweep  # isort: skip
    from .training.matched import matched_sweep  # isort: skip
    from .robustness.measure import Measure  # isort: skip
    from .analysis.search import Design, DesignSearch, design_search  # isort: skip
    from .analysis.evaluate import Evaluation, evaluate  # isort: skip
    from .analysis.compare import Comparison, compare  # isort: skip
    from .analysis.hardware_sweep import HardwareSweep, hardware_sweep  # isort: skip
    from .analysis.sensitivity import LayerSensitivity, Sensitivity, sensitivity  # isort: skip
    from .robustness.midpoint import MidpointFit, fit_midpoint  # isort: skip
    from .errors import AnalogSimError, AnalogSimWarning, UnreachedWarning  # isort: skip
    from .kernels import MatmulSpec, tiled_matmul  # isort: skip
    from .training.clip import clip_weights  # isort: skip
    from .register import register  # isort: skip

_NAMES = {
    "profile": "HardwareProfile presets",
    "convert": "convert to_digital",
    "ranges.calibrate": "calibrate",
    "ranges.outputs": "calibrate_outputs",
    "ranges.learn": "learn_ranges",
    "batch_norm": "estimate_batch_norm",
    "program": "at_time program",
    "saving": "load save",
    "summary": "LayerSummary Summary summary",
    "analysis.budget": "LayerBudget NoiseBudget noise_budget",
    "nn": "AnalogConv1d AnalogConv2d AnalogConv3d AnalogConvTranspose1d AnalogConvTranspose2d AnalogConvTranspose3d "
    "AnalogGRU AnalogGRUCell AnalogLayer AnalogLinear AnalogLSTM AnalogLSTMCell AnalogMultiheadAttention AnalogRNN "
    "AnalogRNNCell analog_layers set_seed",
    "noise": "NoiseSpec inject_noise noise_sites remove_noise set_noise",
    "qat": "QATSpec freeze_quantization prepare_qat",
    "analysis.cost": "LayerCost NetworkCost cost",
    "robustness.sweep": "SIGMAS RobustnessCurve noise_sweep",
    "training.matched": "matched_sweep",
    "robustness.measure": "Measure",
    "analysis.search": "Design DesignSearch design_search",
    "analysis.evaluate": "Evaluation evaluate",
    "analysis.compare": "Comparison compare",
    "analysis.hardware_sweep": "HardwareSweep hardware_sweep",
    "analysis.sensitivity": "LayerSensitivity Sensitivity sensitivity",
    "robustness.midpoint": "MidpointFit fit_midpoint",
    "errors": "AnalogSimError AnalogSimWarning UnreachedWarning",
    "kernels": "MatmulSpec tiled_matmul",
    "training.clip": "clip_weights",
    "register": "register",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__version__ = "0.2.0"

__all__ = [
    # hardware
    "HardwareProfile",
    "presets",
    # networks on it
    "convert",
    "to_digital",
    "calibrate",
    "calibrate_outputs",
    "learn_ranges",
    "estimate_batch_norm",
    "program",
    "at_time",
    "set_seed",
    "save",
    "load",
    "summary",
    "Summary",
    "LayerSummary",
    # abstract noise
    "NoiseSpec",
    "inject_noise",
    "set_noise",
    "noise_sites",
    "remove_noise",
    # quantization-aware training
    "QATSpec",
    "prepare_qat",
    "freeze_quantization",
    # training for hardware
    "clip_weights",
    # how much noise is survived
    "noise_sweep",
    "matched_sweep",
    "noise_budget",
    "NoiseBudget",
    "LayerBudget",
    "evaluate",
    "Evaluation",
    "compare",
    "Comparison",
    "hardware_sweep",
    "HardwareSweep",
    "sensitivity",
    "Sensitivity",
    "LayerSensitivity",
    # what it costs
    "cost",
    "NetworkCost",
    "LayerCost",
    "design_search",
    "DesignSearch",
    "Design",
    "fit_midpoint",
    "RobustnessCurve",
    "Measure",
    "MidpointFit",
    "SIGMAS",
    # layers
    "AnalogLayer",
    "AnalogLinear",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogConvTranspose1d",
    "AnalogConvTranspose2d",
    "AnalogConvTranspose3d",
    "AnalogMultiheadAttention",
    "AnalogRNN",
    "AnalogLSTM",
    "AnalogGRU",
    "AnalogRNNCell",
    "AnalogLSTMCell",
    "AnalogGRUCell",
    "analog_layers",
    # extensions
    "register",
    # kernels
    "tiled_matmul",
    "MatmulSpec",
    # errors and warnings
    "AnalogSimError",
    "AnalogSimWarning",
    "UnreachedWarning",
]


class _Face(_Module):
    """The package itself. Its public names are never hidden by modules: `convert` is the function."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets a module that it has imported as an attribute of the package.
        if not (name in _MODULE_OF and isinstance(value, _Module)):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Face
_IMPORTING = _threading.RLock()


if not TYPE_CHECKING:  # a type checker is to know the names above, and no others

    def __getattr__(name: str) -> _Any:
        # One thread at a time: two that import a folder and what is in it wait for each other.
        with _IMPORTING:
            if name in _MODULE_OF:
                found = globals()[name] = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
                return found
            if "." not in name and not name.startswith("_") and _find_spec(f"{__name__}.{name}") is not None:
                return _import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
