"""Processes of torch.distributed, each with batches of its own, end with what one process has of all batches."""

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.nn.observing import observed
from analogsim.ranges.observer import Observer
from tests.support.processes import two_processes

PROFILES = {
    "symmetric": {},
    "unsigned": {"dac": {"signed": False}},
    "two-sided": {"dac": {"symmetric": False}, "adc": {"symmetric": False}},
    "tiles": {"tile": {"rows": 8}, "adc": {"per": "tile"}},
    "slices": {"cells": {"bits": 2}, "weight": {"bits": 4}, "adc": {"per": "slice"}},
    "read noise": {"noise": {"read": 0.1}},
}
CALIBRATED = {"dac": {"input_range": "calibrated", "bits": 6}, "adc": {"full_scale": "calibrated", "bits": 6}}


def converted(changes):
    torch.manual_seed(0)
    profile = an.HardwareProfile(**CALIBRATED).varied(**changes)
    return an.convert(nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3)), profile).eval()


@pytest.mark.parametrize("name", PROFILES)
def test_observers_together_saw_what_one_sees_of_all(name):
    """Also where one was never called, and where another saw the larger numbers."""
    net, x = converted(PROFILES[name]), torch.randn(60, 20)
    x[40:] *= 5

    def seen(batches):
        with torch.no_grad(), observed(net, lambda layer: Observer(layer.profile, True, name == "slices")) as found:
            for batch in batches:
                net(batch)
        return [one for *_, one in found]

    whole = seen([x])
    for wanted, *parts in zip(whole, seen([]), seen([x[:40]]), seen([x[40:]]), strict=True):
        pooled = parts[0]
        pooled.pool(parts)
        histograms = zip([wanted.inputs, *wanted.sums], [pooled.inputs, *pooled.sums], strict=True)
        for one, other in histograms:
            for a, b in zip(
                *((getattr(h, "positive", h), getattr(h, "negative", h)) for h in (one, other)), strict=True
            ):
                assert (a.counts == b.counts).all()
                assert (a.number, a.zeros, a.maximum, a.below, a.top) == (b.number, b.zeros, b.maximum, b.below, b.top)
                assert a.squares == pytest.approx(b.squares, rel=1e-12)
        assert torch.allclose(torch.tensor(wanted.norms), torch.tensor(pooled.norms))
        facts = ("tiles", "rows", "row_power", "gain_power", "slice_power")
        assert [getattr(wanted, fact) for fact in facts] == [getattr(pooled, fact) for fact in facts]


RANKS = """
import sys, warnings
import torch, torch.distributed as dist
from torch import nn
import analogsim as an
from analogsim.errors import CalibrationError
from tests.ranges.test_ranks import PROFILES, converted

warnings.simplefilter("ignore", an.AnalogSimWarning)  # unsigned converters cut off what is below 0
rank, where = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
x = torch.randn(96, 20)
x[:48] *= 5
mine = [x[:32]] if rank else [x[32:64], x[64:]]


def ranges(net):
    return [(layer.input_range, layer.adc_full_scale) for _, layer in an.nn.analog_layers(net)]


def batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)).eval()


def only_rank_0_reaches_the_last(model, batch):
    y = model[1](model[0](batch))
    return (y if rank else model[2](y)), None


wanted = {}
methods = [(name, method) for name in PROFILES for method in ("maximum", "noise-aware")]
for name, method in methods:
    net = converted(PROFILES[name])
    wanted[name, method] = an.calibrate(net, x, method, progress=False), ranges(net)
norm, batches = batch_norm(), x.split(32)
an.estimate_batch_norm(norm, batches, progress=False)
last = batch_norm()
an.estimate_batch_norm(last, batches[1:], progress=False)
dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)

for name, method in methods:
    net, (report, scales) = converted(PROFILES[name]), wanted[name, method]
    found = an.calibrate(net, mine, method, progress=False)
    assert found.keys() == report.keys()
    for one, other in zip(ranges(net), scales, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    alone = an.calibrate(net, mine, method, progress=False, together=False)
    assert rank or alone != found, (name, method)  # rank 0 has not the largest

found = batch_norm()
an.estimate_batch_norm(found, mine, step=only_rank_0_reaches_the_last, progress=False)
torch.testing.assert_close(found[1].running_mean, norm[1].running_mean)
torch.testing.assert_close(found[1].running_var, norm[1].running_var)
torch.testing.assert_close(found[2].running_var, last[2].running_var)
assert found[1].num_batches_tracked == 3 and found[2].num_batches_tracked == 2
if not rank:  # the verbs that measure copies of a network wait for nobody
    digital, data = nn.Sequential(nn.Linear(20, 6)), (x, torch.zeros(96, dtype=torch.long))
    an.evaluate(digital, data, profile=an.HardwareProfile.load("pcm"), outputs=x, progress=False)

net = converted({"tile": {"rows": 4 + rank}})
try:
    an.calibrate(net, mine, progress=False)
except CalibrationError as error:
    assert "other layers or hardware" in str(error)

# A process that fails is not waited for, and what cannot be added up is refused in all.
net, wide = converted({}), nn.Sequential(nn.BatchNorm1d(20), *[nn.BatchNorm1d(20)] * (not rank))
pcm = an.convert(nn.Sequential(nn.Linear(20, 6)), an.HardwareProfile.load("pcm")).eval()
an.calibrate(pcm, x, progress=False, together=False)
an.program(pcm, 1)
nothing = [] if rank else [x]
cases = [
    (lambda: an.calibrate(net, nothing, progress=False), "empty"),
    (lambda: an.calibrate_outputs(pcm, nothing, progress=False), "empty"),
    (lambda: an.estimate_batch_norm(norm, nothing, progress=False), "empty"),
    (lambda: an.estimate_batch_norm(wide, x, progress=False), "other batch normalisations"),
]
for verb, why in cases:
    try:
        verb()
    except CalibrationError as error:
        assert why in str(error), error
        assert ("process 1 of torch.distributed failed" in str(error)) == (why == "empty" and not rank), error
    else:
        raise AssertionError(why)
print("done")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_calibrate_together(tmp_path):
    two_processes(RANKS, tmp_path)
