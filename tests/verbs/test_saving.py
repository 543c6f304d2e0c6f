"""save and load: all of a network on its hardware in one file, and nothing taken for what it is not."""

import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import analogsim as an
from analogsim.errors import CheckpointError
from tests.support import zoo

PCM = an.HardwareProfile.load("pcm").varied(tile={"rows": 16})
COARSE = PCM.varied(adc={"bits": 5})


class Net(nn.Module):
    """Layers of one matrix and of several, tied ones, a buffer, and one that is to stay digital."""

    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(7, 6), nn.Conv1d(6, 6, 3, padding=1)
        self.norm, self.lstm, self.act = nn.BatchNorm1d(6), nn.LSTM(6, 6, batch_first=True), nn.ReLU()
        self.attention, self.top = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.norm(self.conv(self.embed(ids).mT)).mT
        x = self.lstm(self.act(x))[0]
        return self.head(self.top(self.attention(x, x, x)[0]))


IDS = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(0))


def hardware():
    torch.manual_seed(1)
    model = an.convert(Net(), PCM, keep_digital="top")
    model.conv.profile = COARSE
    an.calibrate(model, [IDS], progress=False)
    an.program(model, 7)
    an.at_time(model, 1e5)
    return model.eval()


def answer(model):
    an.set_seed(model, 3)
    with torch.no_grad():
        return model(IDS)


def fresh():
    torch.manual_seed(2)
    return Net().eval()


def test_a_digital_network_becomes_what_was_saved(tmp_path):
    model, path = hardware(), tmp_path / "net.safetensors"
    an.learn_ranges(model)
    an.save(model, path)
    target = fresh()
    made = an.load(path, target)
    assert made is target
    assert torch.equal(answer(made), answer(model))
    state, held = model.state_dict(), made.state_dict()
    assert list(state) == list(held)
    assert all(torch.equal(state[key], held[key]) for key in state)
    assert made.conv.profile == COARSE
    assert made.lstm.crossbar_ih_l0.profile == PCM
    assert type(made.top) is nn.Linear
    assert made.head.weight is made.embed.weight
    assert isinstance(made.conv.input_range, nn.Parameter)
    assert not made.training
    an.save(made, tmp_path / "again.safetensors")
    with safe_open(tmp_path / "again.safetensors", "pt") as again, safe_open(path, "pt") as first:
        assert again.metadata() == first.metadata()  # with the checksum of all; safetensors writes it in any order


def test_a_converted_network_gets_what_was_saved(tmp_path):
    model, path = hardware(), tmp_path / "net.safetensors"
    an.save(model, path)
    made = an.convert(fresh(), PCM, keep_digital="top")
    made.conv.profile = COARSE
    an.program(made, 1)
    assert torch.equal(answer(an.load(path, made)), answer(model))
    unprogrammed = an.convert(Net(), PCM, keep_digital="top")
    unprogrammed.conv.profile = COARSE
    an.save(unprogrammed, path)
    assert an.load(path, made).conv.chip_seed is None  # a chip is not left from before


def test_what_is_in_the_file_once_is_so_by_name(tmp_path):
    an.save(hardware(), tmp_path / "net")
    with safe_open(tmp_path / "net", "pt") as file:
        about = json.loads(file.metadata()["analogsim-network"])
        names = set(file.keys())
    assert about["tied"] == {"head.weight": "embed.weight"}
    assert "head.weight" not in names
    assert about["versions"]["torch"]
    assert about["layers"]["lstm"] == {"made": "AnalogLSTM", "stands_for": "torch.nn.modules.rnn.LSTM"}
    assert len(about["profiles"]) == 2


def changed(**layers):
    model = fresh()
    for name, layer in layers.items():
        setattr(model, name, layer)
    return model


REFUSED = {
    "another class": (
        lambda: changed(conv=nn.Linear(6, 6)),
        r"conv: the file has .*Conv1d, the network .*Linear; load",
    ),
    "another size": (lambda: changed(conv=nn.Conv1d(6, 6, 5)), r"conv\.weight: the file has shape \(6, 6, 3\), .*5\)"),
    "a layer more": (lambda: changed(more=nn.Linear(2, 2)), r"more\.weight: the file has no such tensor"),
    "a layer less": (lambda: nn.Sequential(nn.Linear(6, 6)), "conv: .*Conv1d, the network no such layer"),
    "another profile": (
        lambda: an.convert(fresh(), PCM, keep_digital="top"),
        r"conv: the file has profile '.*', the network profile '.*' \(adc\.bits 5 there, 8 here\); convert it for",
    ),
    "more on crossbars": (
        lambda: an.convert(fresh(), PCM),
        "top: the file has a digital layer, the network AnalogLinear",
    ),
    "a quantizer": (
        lambda: an.prepare_qat(fresh(), an.QATSpec(weight_bits=None, exclude=("attention", "lstm", "embed"))),
        "act.quant: the file has no quantizer, the network .*; prepare_qat",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_left_as_it_was(tmp_path, case):
    an.save(hardware(), tmp_path / "net")
    build, words = REFUSED[case]
    model = build()
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(CheckpointError, match=words):
        an.load(tmp_path / "net", model)
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(model.state_dict().values(), before.values()))


@pytest.mark.parametrize("frozen", [False, True])
def test_quantized_networks_are_saved_with_their_ranges(tmp_path, frozen):
    def quantized(bits=4):
        made = an.prepare_qat(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), an.QATSpec(act_bits=bits))
        for seed in range(3):
            made(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)))
        return an.freeze_quantization(made) if frozen else made

    model, x = quantized().eval(), torch.randn(8, 4)
    if frozen:
        model = an.convert(model, PCM.varied(dac={"input_range": 4.0}, adc={"full_scale": 8.0}))
        an.program(model, 1)
    an.save(model, tmp_path / "net")
    made = an.load(tmp_path / "net", quantized().eval())
    for net in (model, made):
        an.set_seed(net, 1)
    assert torch.equal(made(x), model(x))
    with pytest.raises(CheckpointError, match=r"(0|1\.quant): the file has .*, the network .*; prepare_qat"):
        an.load(tmp_path / "net", quantized(5))


def test_what_cannot_be_saved_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="injected noise.*remove_noise first"):
        an.save(an.inject_noise(nn.Linear(2, 2), an.NoiseSpec(sigma=1.0)), tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"save: weight is a tensor on meta"):
        an.save(nn.Linear(2, 2, device="meta"), tmp_path / "net")
    with pytest.raises(CheckpointError, match="cannot be written"):
        an.save(nn.Linear(2, 2), "/proc/nothing/net")
    assert not (tmp_path / "net").exists()


def test_what_is_no_such_file_is_refused(tmp_path):
    path = tmp_path / "net"
    with pytest.raises(CheckpointError, match=r"no such file; analogsim\.save"):
        an.load(path, Net())
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="does not say on which hardware"):
        an.load(path, Net())
    path.write_bytes(pickle.dumps(Net))
    with pytest.raises(CheckpointError, match="damaged or no such file"):
        an.load(path, Net())
    an.save(hardware(), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        an.load(path, Net())


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net"
    an.save(nn.Linear(2, 2), path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(CheckpointError, match="cannot be written"):
            an.save(nn.Linear(3, 2), path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["net"]


def test_every_network_of_the_zoo_goes_through_a_file(tmp_path):
    for name, build in zoo.COPIED.items():
        try:
            model = an.convert(build(), an.HardwareProfile(name="x", dac={"bits": 8, "input_range": 4.0}))
        except an.AnalogSimError:
            continue
        except an.UnreachedWarning:
            continue
        an.save(model, tmp_path / name)
        target = build()
        for parameter in target.parameters():
            nn.init.constant_(parameter, 0.5)
        made = an.load(tmp_path / name, target)
        assert all(
            torch.equal(a, b) or a.isnan().all() for a, b in zip(*(m.state_dict().values() for m in (made, model)))
        )
