"""Costs: every count against an enumeration of single conversions and products; energies and latencies by hand."""

import math

import pytest
import torch
from torch import nn

from analogsim import HardwareProfile, convert, cost, presets
from analogsim.errors import ConversionError, ProfileError, ShapeError
from analogsim.nn.matrix import layout
from models.lenet import LeNet5

SMALL = HardwareProfile(
    tile={"rows": 10, "cols": 3}, dac={"bits": 6, "input_range": 1.0}, adc={"bits": 5, "full_scale": 1.0}
)


def enumerate_convolution(conv, size, tile_rows, tile_cols, mapping, lines=1):
    """Walk over every output position, group, tile, row and column, and count one by one.

    `lines` neighbouring outputs are a weight's, and lie in one tile.
    """
    tile_cols -= tile_cols % lines
    kernel = math.prod(conv.kernel_size)
    k = conv.in_channels // conv.groups * kernel
    n = conv.out_channels // conv.groups
    step = max(1, tile_rows // kernel) * kernel if mapping == "channel" else tile_rows
    positions = conv(torch.zeros(1, conv.in_channels, *size)).shape[2:].numel()
    dac = adc = macs = reads = 0
    tiles = set()
    for _ in range(positions):
        for group in range(conv.groups):
            for first in range(0, k, step):
                for left in range(0, n, tile_cols):
                    tiles.add((group, first, left))
                    reads += 1
                    for _ in range(first, min(k, first + step)):
                        dac += 1
                        for _ in range(left, min(n, left + tile_cols)):
                            macs += 1
                    for _ in range(left, min(n, left + tile_cols)):
                        adc += 1
    return {"tiles": len(tiles), "tile_reads": reads, "dac_conversions": dac, "adc_conversions": adc, "macs": macs}


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(4, 8, 3, stride=2, groups=2),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(4, 7, 1),
    ],
    ids=["plain", "groups", "depthwise", "1x1"],
)
def test_convolutions(conv, mapping):
    profile = SMALL.varied(tile={"mapping": mapping})
    (layer,) = cost(conv, profile, (conv.in_channels, 7, 6)).layers
    want = enumerate_convolution(conv, (7, 6), 10, 3, mapping)
    assert {key: getattr(layer, key) for key in want} == want
    assert layer.utilisation == pytest.approx(conv.weight.numel() / (want["tiles"] * 30))
    assert layer.conversion_steps == want["dac_conversions"] * 64 + want["adc_conversions"] * 32


def test_linear_layers():
    (layer,) = cost(nn.Linear(25, 7), SMALL, (4, 25)).layers
    # 3 row tiles (10, 10, 5), 3 column tiles (3, 3, 1), 4 vectors.
    assert (layer.tiles, layer.products, layer.tile_reads) == (9, 4, 36)
    assert (layer.dac_conversions, layer.adc_conversions, layer.macs) == (4 * 3 * 25, 4 * 3 * 7, 4 * 25 * 7)
    assert layer.utilisation == pytest.approx(25 * 7 / (9 * 30))


def test_transposed_and_recurrent_layers():
    (layer,) = cost(nn.ConvTranspose2d(6, 4, 2, groups=2), SMALL, (6, 5, 5)).layers
    # Each of 25 positions has 3 channels a group in, and 2·4 columns a group out: 1 row tile, 3 column tiles, 2 groups.
    assert (layer.products, layer.tiles, layer.columns) == (25, 6, 16)
    assert (layer.dac_conversions, layer.adc_conversions, layer.macs) == (25 * 2 * 3 * 3, 25 * 16, 25 * 3 * 16)
    layers = cost(nn.LSTM(6, 5, batch_first=True), SMALL, (9, 6)).layers
    assert [one.products for one in layers] == [9, 9]
    assert [one.macs for one in layers] == [9 * 6 * 20, 9 * 5 * 20]


def test_lenet():
    result = cost(LeNet5(channels=1), HardwareProfile.load("8bit"), (1, 32, 32))
    by_name = {layer.name: layer for layer in result.layers}
    assert list(by_name) == [
        "features.conv1",
        "features.conv2",
        "classifier.linear1",
        "classifier.linear2",
        "classifier.linear3",
    ]
    assert [layer.products for layer in result.layers] == [784, 100, 1, 1, 1]
    # The published 416,520 multiplications with one input channel: 117,600 + 240,000 + 48,000 + 10,080 + 840.
    assert result.total.macs == 416_520
    assert by_name["classifier.linear1"].tiles == 2
    assert result.total.utilisation == pytest.approx(61_470 / (6 * 256 * 256))
    assert result.total.energy is None
    assert result.total.latency is None
    frame = result.to_frame()
    assert list(frame["layer"])[-1] == "total"
    assert frame["adc_conversions"].iloc[:-1].sum() == frame["adc_conversions"].iloc[-1]


def test_energy_and_latency():
    prices = {"dac_fom": 2.0, "adc_energy": 1.5, "mac_energy": 8.0}
    times = {"dac_latency": 1.0, "array_latency": 10.0, "adc_latency": 2.0, "adcs_per_tile": 2}
    (layer,) = cost(nn.Linear(25, 7), SMALL.varied(cost=prices | times), (25,)).layers
    assert layer.energy == pytest.approx(75 * 2 * 64 / 1000 + 21 * 1.5 + 175 * 8 / 1000)
    assert layer.latency == pytest.approx(1 + 10 + 2 * 2)  # the three columns of a tile take turns at two ADCs
    (own,) = cost(nn.Linear(25, 7), SMALL.varied(cost=times | {"adcs_per_tile": None}), (25,)).layers
    assert own.latency == pytest.approx(1 + 10 + 2)
    assert own.energy is None
    (walden,) = cost(nn.Linear(25, 7), SMALL.varied(cost=prices | {"adc_energy": None, "adc_fom": 3.0}), (25,)).layers
    assert walden.energy == pytest.approx(75 * 2 * 64 / 1000 + 21 * 3 * 32 / 1000 + 175 * 8 / 1000)


def test_conversions_overlap_with_the_next_read():
    """A timeline of single reads: a held sum is converted while the array settles for the next one."""
    for array, each in ((10.0, 2.0), (3.0, 2.0)):
        times = {"dac_latency": 1.0, "array_latency": array, "adc_latency": each, "adcs_per_tile": 1, "overlap": True}
        (layer,) = cost(nn.Linear(25, 7), SMALL.varied(cost=times), (4, 25)).layers
        settled = converted = 0.0
        for _ in range(4):
            # The next sums wait for the hold circuits, which are free once the ADC has read them.
            settled = max(settled + 1 + array, converted)
            converted = settled + 3 * each
        assert layer.latency == pytest.approx(converted)
        (unknown,) = cost(nn.Linear(25, 7), SMALL.varied(cost=times | {"adc_latency": None}), (4, 25)).layers
        assert unknown.latency is None


def test_reads_as_a_whole():
    prices = {"read_energy": 50.0, "read_latency": 7.0}
    (layer,) = cost(nn.Linear(25, 7), SMALL.varied(cost=prices), (4, 25)).layers
    assert (layer.energy, layer.latency) == (4 * 9 * 50.0, 4 * 7.0)  # 9 tiles work at once, 4 vectors in turn
    for whole, part in (("read_energy", "mac_energy"), ("read_latency", "adc_latency")):
        with pytest.raises(ProfileError, match=f"{whole} is the whole of a read: leave out {part}"):
            SMALL.varied(cost={whole: 1.0, part: 1.0})
    with pytest.raises(ProfileError, match="leave out overlap"):
        SMALL.varied(cost={"read_latency": 1.0, "overlap": True})


def test_a_pair_has_one_bit_line_if_it_is_subtracted_before_the_adc():
    """As in the chips that the presets describe: 256 outputs of a 256-column array, whatever cells are behind one."""
    pairs = HardwareProfile(tile={"rows": 256, "cols": 256}, cells={"mapping": "differential"})
    (layer,) = cost(nn.Linear(256, 256), pairs, (256,)).layers
    assert (layer.tiles, layer.utilisation, layer.macs) == (1, 1.0, 2 * 256 * 256)
    (digital,) = cost(nn.Linear(256, 256), pairs.varied(cells={"subtraction": "digital"}), (256,)).layers
    assert (digital.tiles, digital.utilisation, digital.macs) == (2, 1.0, 2 * 256 * 256)


# Shafiee et al., ISCA 2016, Table I: mW of one unit of 8 arrays (128 x 128), and of a tile of 12 units. A cycle takes
# 100 ns (section IV), and a product of 16-bit inputs 16 of them (section V).
ISAAC = {"adc": 16.0, "dac": 4.0, "hold": 0.01, "array": 2.4, "tile": 330.0}


def isaac():
    """Return the preset with the chip's sixteen steps, which inputs without a sign have."""
    return HardwareProfile.load("isaac").varied(dac={"signed": False})


def test_isaac_takes_what_its_paper_says():
    # 128 x 128 16-bit weights fill the unit's 8 arrays.
    (layer,) = cost(nn.Linear(128, 128), isaac(), (128,)).layers
    assert (layer.tiles, layer.utilisation, layer.tile_reads) == (8, 1.0, 8 * 16)
    milliwatts = ISAAC["adc"] + ISAAC["dac"] + ISAAC["hold"] + ISAAC["array"]
    assert layer.energy == pytest.approx(milliwatts * 1600, rel=1e-6)  # mW over 1600 ns are pJ
    assert layer.adc_conversions == 128 * 128  # one a 16-bit multiplication
    # Figure 4b: crossbars in cycles 2 to 17, the ADC in cycle 18.
    assert layer.latency == pytest.approx(17 * 100)


def test_isaac_converters_take_the_share_that_its_paper_says():
    """Section VIII: the ADCs account for 58 % of tile power."""
    converters = isaac().varied(cost={"dac_energy": 0.0, "mac_energy": 0.0})
    (layer,) = cost(nn.Linear(128, 128), converters, (128,)).layers
    assert 12 * layer.energy / (ISAAC["tile"] * 1600) == pytest.approx(0.58, abs=0.005)


def test_isaac_is_as_fast_as_its_paper_says():
    """Table IV: 627.5 GOPS/W at peak, of a chip of 168 tiles, 12 units a tile, and 65.8 W (Table I)."""
    vectors = 4000  # so that filling the pipeline does not matter
    (layer,) = cost(nn.Linear(128, 128), isaac(), (vectors, 128)).layers
    operations = 2 * 128 * 128 * vectors / layer.latency  # of one unit, in 1/ns = GOPS
    assert operations * 12 * 168 / 65.8 == pytest.approx(627.5, rel=2e-4)


def test_hermes_takes_what_its_paper_says():
    """Le Gallo et al. 2023, abstract, four phases: 16.1 TOPS and 2.48 TOPS/W of 64 cores of 256 x 256."""
    (layer,) = cost(nn.Linear(256, 256), HardwareProfile.load("hermes"), (256,)).layers
    assert layer.tiles == 1
    operations = 2 * 256 * 256
    assert operations / layer.energy == pytest.approx(2.48, rel=1e-3)  # 1/pJ = TOPS/W
    assert 64 * operations / layer.latency / 1000 == pytest.approx(16.1, rel=1e-3)


def test_the_model_stays_as_it_was_and_may_be_analog():
    model = nn.Sequential(nn.Linear(25, 7)).train()
    analog = convert(model, HardwareProfile())
    assert repr(cost(analog, SMALL, (25,))) == repr(cost(model, SMALL, (25,)))
    assert analog[0].profile == HardwareProfile()
    assert model.training
    assert type(model[0]) is nn.Linear


def test_what_cannot_be_is_refused():
    with pytest.raises(ShapeError, match=r"inputs \(3, 8\)"):
        cost(nn.Linear(25, 7), SMALL, (3, 8))
    with pytest.raises(ConversionError, match="nothing to convert"):
        cost(nn.ReLU(), SMALL, (3,))


def test_slices_pairs_and_steps_are_counted():
    """Walk over every slice, step and half of a pair as well."""
    conv = nn.Conv2d(4, 6, 3, padding=1)
    profile = HardwareProfile(
        tile={"rows": 20, "cols": 20},
        dac={"bits": 8, "step_bits": 3, "input_range": 1.0},
        weight={"bits": 8},
        cells={"bits": 2, "mapping": "differential", "subtraction": "digital"},
        adc={"bits": 6, "full_scale": 1.0},
    )
    layer = cost(conv, profile, (4, 5, 5)).layers[0]
    slices, steps = 4, 3  # 7 bits of magnitude in cells of 2, and in steps of 3
    twin = nn.Conv2d(4, 6 * slices * 2, 3, padding=1)
    counted = enumerate_convolution(twin, (5, 5), 20, 20, "channel", slices * 2)
    assert layer.tiles == counted["tiles"]
    for name in ("tile_reads", "dac_conversions", "adc_conversions", "macs"):
        assert getattr(layer, name) == steps * counted[name], name
    assert layer.conversion_steps == layer.dac_conversions * 2**3 + layer.adc_conversions * 2**6
    together = profile.varied(cells={"subtraction": "analog"})
    assert cost(conv, together, (4, 5, 5)).layers[0].adc_conversions == layer.adc_conversions // 2


@pytest.mark.parametrize("name", [*presets(), "digital pairs"])
@pytest.mark.parametrize("layer", [nn.Linear(300, 90), nn.Conv2d(40, 96, 3, groups=2)], ids=["linear", "groups"])
def test_tiles_are_the_arrays_that_the_cells_are_on(name, layer):
    pairs = {"mapping": "differential", "bits": 2, "subtraction": "digital"}
    sliced = HardwareProfile(tile={"rows": 64, "cols": 50}, weight={"bits": 8}, cells=pairs)  # 8 bit lines: 6 a tile
    profile = sliced if name == "digital pairs" else HardwareProfile.load(name)
    shape = (300,) if isinstance(layer, nn.Linear) else (40, 4, 4)
    analog = convert(layer, profile)
    arrays = list(layout(analog.weight, profile, getattr(layer, "groups", 1)).arrays())
    assert cost(layer, profile, shape).total.tiles == len(arrays)
    widest = max(outputs.stop - outputs.start for outputs, _ in arrays)
    assert widest * profile.lines <= profile.tile.cols
    with pytest.raises(ProfileError, match=r"tile.cols: a weight takes 8 bit lines of one crossbar \(got 7\)"):
        sliced.varied(tile={"cols": 7})


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_counted(name):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    total = cost(network, HardwareProfile.load(name), (1, 8, 8)).total
    assert total.tiles >= 2
    assert total.macs >= 4 * 9 * 36 + 1440
