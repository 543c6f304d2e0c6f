"""Other simulators on the same work, where they can be imported: whole linear layers, forward, float32, CPU."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import typer
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from analogsim import AnalogLinear
from analogsim.bench import SHAPES, Case, compare, named, threads
from analogsim.terminal.progress import track

from .common import Out, Quick, Threads, finish, hardware

STEPS = 1 / 254  # of an 8-bit converter over [-1, 1], as these libraries state resolutions
BOUND = 20.0
SIGMA = 0.1
Layer = Callable[[Tensor], Any]


def aihwkit(k: int, n: int, rows: int) -> Layer:
    """Return IBM's aihwkit with its torch tile."""
    nn_, configs = import_module("aihwkit.nn"), import_module("aihwkit.simulator.configs")
    enums = import_module("aihwkit.simulator.parameters.enums")
    config = configs.TorchInferenceRPUConfig()
    config.mapping.max_input_size, config.mapping.max_output_size = rows, 0
    config.mapping.weight_scaling_omega, config.mapping.weight_scaling_columnwise = 1.0, True
    forward = config.forward
    forward.inp_res, forward.inp_bound = STEPS, 1.0
    forward.out_res, forward.out_bound, forward.out_noise = STEPS, BOUND, SIGMA
    forward.bound_management = enums.BoundManagementType.NONE
    forward.noise_management = enums.NoiseManagementType.NONE
    return nn_.AnalogLinear(k, n, bias=False, rpu_config=config).eval()


def lightning(k: int, n: int, rows: int) -> Layer:
    """Return IBM's aihwkit-lightning, by its torch path."""
    nn_ = import_module("aihwkit_lightning.nn")
    config = import_module("aihwkit_lightning.simulator.configs").TorchInferenceRPUConfig()
    config.mapping.max_input_size = rows
    config.forward.inp_res, config.forward.out_noise = 2**8 - 2, SIGMA
    config.forward.out_res, config.forward.out_bound = 2**8 - 2, BOUND
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.init_from_data = 0
    return nn_.AnalogLinear(k, n, bias=False, rpu_config=config).train()  # it draws noise in training mode only


def crosssim(k: int, n: int, rows: int) -> Layer:
    """Return Sandia's CrossSim: converters only, since its read noise is on the weights."""
    simulator = import_module("simulator")
    params = simulator.CrossSimParameters()
    params.core.rows_max, params.core.cols_max = rows, n
    params.xbar.dac.mvm.model, params.xbar.dac.mvm.bits = "QuantizerDAC", 8
    params.xbar.adc.mvm.model, params.xbar.adc.mvm.bits = "QuantizerADC", 8
    params.xbar.adc.mvm.calibrated_range = [-BOUND, BOUND]
    core = simulator.AnalogCore((torch.rand(n, k) * 2 - 1).numpy(), params=params)
    return lambda x: core.matmat(x.T.numpy()).T


PEERS: dict[str, tuple[str, Callable[[int, int, int], Layer]]] = {
    "aihwkit": ("aihwkit", aihwkit),
    "aihwkit-lightning": ("aihwkit_lightning", lightning),
    "CrossSim": ("simulator", crosssim),
}
NOTES = {
    "aihwkit": "aihwkit (torch tile): converters, ranges and noise as ours, inputs given in units of full scale.",
    "aihwkit-lightning": "aihwkit-lightning (torch path, training): output range and noise relative to column weights.",
    "CrossSim": "CrossSim: no noise at the output (its noise is on the weights), so less work than the others.",
}


def importable() -> tuple[dict[str, Callable[[int, int, int], Layer]], list[str]]:
    """Return the peers that can be imported, and a note on each."""
    found, notes = {}, []
    for name, (module, build) in PEERS.items():
        try:
            import_module(module)
        except ImportError:
            notes.append(f"{name}: cannot be imported here, not measured")
            continue
        found[name] = build
        try:
            notes.append(f"{NOTES[name]} Version {version(name)}.")
        except PackageNotFoundError:
            notes.append(NOTES[name])
    return found, notes


def case(shape: tuple[int, int, int, int], count: int, quick: bool, peers: dict[str, Any]) -> Case:
    """Measure a layer's forward against nn.Linear."""
    m, k, n, rows = shape
    x = torch.randn(m, k)
    digital = nn.Linear(k, n, bias=False)
    ours = AnalogLinear(k, n, bias=False, profile=hardware(rows))
    calls: dict[str, Callable[[], Any]] = {"nn.Linear": lambda: digital(x), "analogsim": lambda: ours(x)}
    for name, build in peers.items():
        if name == "CrossSim" and count > 1:
            continue  # NumPy's threads, beside torch's, disturb all others
        layer = build(k, n, rows)
        inputs = x / 3 if name == "aihwkit" else x
        calls[name] = lambda layer=layer, inputs=inputs: layer(inputs)
    with threads(count), threadpool_limits(count, "blas"), torch.no_grad():  # CrossSim multiplies by NumPy
        return compare(calls, "nn.Linear", 2 if quick else 11, **named(shape))


def main(
    quick: Quick = False,
    count: Threads = [1, 2],  # noqa: B006 - typer copies it
    out: Out = None,
) -> None:
    """Measure other simulators' linear layers beside ours: 8-bit DAC, noise and 8-bit ADC at every tile."""
    peers, notes = importable()
    if not peers:
        print("None of the other simulators can be imported here; `make bench-peers` installs two of them from PyPI.")
        raise typer.Exit(1)
    jobs = [(shape, n) for n in count for shape in SHAPES]
    cases = [case(*job, quick, peers) for job in track(jobs[:1] if quick else jobs, "Peers")]
    finish("Peers", cases, out, tuple(notes))


if __name__ == "__main__":
    typer.run(main)
