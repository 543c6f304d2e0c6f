"""Where modules were in earlier versions: by such a name the module is found, with a deprecation warning."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "budget": "analysis.budget",
    "calibrate": "ranges.calibrate",
    "cli.hardware": "cli.options",
    "cli.network": "training.run_file",
    "cli.run_file": "training.run_file",
    "copies": "nn.copies",
    "cost": "analysis.cost",
    "crossing": "robustness.crossing",
    "curve": "robustness.curve",
    "device": "chip",
    "device.cells": "chip.cells",
    "device.chip": "chip.build",
    "device.converters": "chip.adc",
    "device.draw": "chip.draw",
    "device.drift": "chip.drift",
    "device.faults": "chip.faults",
    "device.layout": "chip.layout",
    "device.programming": "chip.programming",
    "device.read": "chip.read",
    "device.signal_noise": "chip.signal_noise",
    "device.wires": "chip.wires",
    "device_profile": "profile.cells",
    "files": "storage.files",
    "interval": "robustness.interval",
    "journal": "analysis.journal",
    "kept": "storage.kept",
    "kernels.compiled": "kernels.backends.numba.compiled",
    "kernels.conv": "kernels.conv_job",
    "kernels.conv_backward": "kernels.backward",
    "kernels.conv_cpu": "kernels.backends.numba.conv",
    "kernels.conv_gpu": "kernels.backends.triton.conv",
    "kernels.conv_tiles": "kernels.tiles",
    "kernels.cpu": "kernels.backends.numba.matmul",
    "kernels.gpu": "kernels.backends.triton.matmul",
    "kernels.gpu_jit": "kernels.backends.triton.jit",
    "kernels.jit": "kernels.backends.numba.jit",
    "kernels.openmp": "kernels.backends.numba.openmp",
    "kernels.plain": "kernels.backends.reference",
    "law": "robustness.law",
    "learned": "ranges.learn",
    "midpoint": "robustness.midpoint",
    "nn.conversion": "analysis.adc_moments",
    "nn.histogram": "ranges.histogram",
    "nn.meter": "analysis.meter",
    "nn.observer": "ranges.observer",
    "plain_yaml": "storage.plain_yaml",
    "progress": "terminal.progress",
    "qat.mended": "qat.brevitas_parts",
    "reach": "nn.reach",
    "search": "analysis.search",
    "stop": "terminal.stop",
    "study.augment": "training.augment",
    "study.checkpoint": "training.checkpoint",
    "study.data": "training.data",
    "study.group": "training.group.group",
    "study.history": "training.history",
    "study.network": "training.network",
    "study.order": "training.epoch",
    "study.pack": "training.group.packed",
    "study.pack_noise": "training.group.noise",
    "study.readers": "training.readers",
    "study.schedule": "training.noise",
    "study.sigmas": "sigmas",
    "study.spec": "training.spec",
    "study.train": "training.train",
    "text": "terminal.text",
}


class _Moved(MetaPathFinder, Loader):
    """Finds the module of a name within this package as it is called now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return spec_from_loader(fullname, self) if package == __package__ and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        before = module.__name__
        now = f"{__package__}.{MOVED[before.partition('.')[2]]}"
        warnings.warn(f"{before} is {now} now", DeprecationWarning, stacklevel=2)
        sys.modules[before] = import_module(now)


# First, for a folder that was renamed would find its own files under the old name, and import them twice.
sys.meta_path.insert(0, _Moved())
