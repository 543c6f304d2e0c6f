"""Profiles and layers that the tests of devices share."""

import torch

from analogsim.kernels import philox
from analogsim.nn import AnalogLinear
from analogsim.profile import HardwareProfile

LAWS = {
    "nu": {"constant": 0.0244, "slope": -0.0155, "low": 0.049, "high": 0.1},
    "nu_sigma": {"constant": -0.0059, "slope": -0.0125, "low": 0.008, "high": 0.045},
}
POLYNOMIAL = (0.01, 0.08, -0.05)
IDEAL = HardwareProfile(dac={"input_range": 1.0}, weight={"w_max": 1.0})
DEEP = HardwareProfile(
    tile={"rows": 8, "cols": 5},
    dac={"bits": 8, "input_range": 2.0},
    cells={"mapping": "differential"},
    programming={"sigma": 0.02},
    drift=LAWS,
    faults={"stuck_off": 0.01},
    adc={"bits": 8, "full_scale": 4.0, "gain_error": 0.02},
)


def linear(profile, n=7, k=12, seed=0, **options):
    """A layer in evaluation, float64, whose weights fill [-1, 1]."""
    layer = AnalogLinear(k, n, bias=False, dtype=torch.float64, profile=profile, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(n, k, generator=generator, dtype=torch.float64) * 2 - 1)
        layer.weight.flatten()[:3] = torch.tensor([1.0, -1.0, 0.0])
    return layer


def effective(layer):
    """The matrix that a layer multiplies by: its answer to unit vectors."""
    with torch.no_grad():
        return layer(torch.eye(layer.in_features, dtype=torch.float64)).T.numpy()


def drawn(shape, seed, what, array):
    return philox.normals(shape, seed, what, array).numpy()
