"""What published accelerators take and how large they are, from their components: by `cost` and by adding up areas.

NeuRRAM (W. Wan et al., Nature 608, 504, 2022): energies of its neurons are those that Accelergy's hwcomponents-library
1.0.58 (`neurram.py`) cites, those of word lines follow from the capacitances in CiMLoop's model of the chip
(`1_macro/wan_nature_2022/arch.yaml`, commit d6e1390), and rows and cells are what NeuroSim V1.3, as in
hwcomponents-neurosim 1.0.43, gives for the cell file and the histograms of that model. Published numbers are those that
its `_tests.py` has of the chip (figure 12 of the paper).

ISAAC (A. Shafiee et al., ISCA 2016): areas are those of hwcomponents-library (`isaac.py`), of the paper's Table I.
"""

from dataclasses import dataclass
from math import ceil

from torch import nn

from analogsim import HardwareProfile, cost

ROWS, OUTPUTS, LINES = 256, 128, 256  # of a pair's two columns each is converted by itself
OPERATIONS = 2 * ROWS * OUTPUTS
VOLTS = 1.8
WORD_LINE = ((1.5 + 0.6) * LINES + 48) * 1e-3  # pF: access transistors and coupling of cells, and the driver
ADC, SHIFT_ADD, INTEGRATION, SAMPLE = 0.3, 0.1, 0.25, 1.2  # pJ a bit, a bit, a pulse, a phase of one input bit
# NeuroSim: pJ a row and fJ a cell for each bit of an input's magnitude; its bits' number decides the mean input.
PULSES = {1: (0.35530839, 1.9747068), 2: (0.35922363, 2.0644662), 3: (0.36313888, 2.1542256)}


@dataclass(frozen=True)
class Neurram:
    """A setting of the chip.

    Attributes
    ----------
    output_bits, input_bits : int
        Of an input one bit is its sign.
    one_phase : bool
        Integrate all bits of an input at once, instead of the upper and lower ones of more than three in turn.
    published : tuple of float
        TOPS/W; or fJ an operation of word lines, neurons and input pulses.
    """

    output_bits: int
    input_bits: int
    one_phase: bool
    published: tuple[float, ...]

    @property
    def title(self) -> str:
        """What it is called in the result."""
        phases = "one phase" if self.one_phase else "two phases"
        return f"{self.input_bits} bits in, {self.output_bits} bits out, {phases}"

    @property
    def bits(self) -> int:
        """Of an input's magnitude."""
        return max(1, self.input_bits - 1)

    @property
    def energies(self) -> tuple[float, float, float]:
        """Of word lines and neurons, pJ an output line, and of input pulses, pJ a row."""
        phases = [self.bits] if self.one_phase or self.bits <= 3 else [ceil(self.bits / 2), self.bits // 2]
        converted = sum(self.output_bits - sum(phases[:number]) for number in range(len(phases)))
        pulses = sum(2**bits - 1 for bits in phases)
        lines = WORD_LINE * VOLTS**2 * self.bits
        neurons = (ADC + SHIFT_ADD) * converted + INTEGRATION * pulses + SAMPLE * self.bits
        return lines, neurons, PULSES[min(self.bits, max(PULSES))][0] * self.bits

    def profile(self) -> HardwareProfile:
        """Return the chip as our `cost` knows it: a whole product takes one conversion of each row and line."""
        lines, neurons, rows = self.energies
        cells = PULSES[min(self.bits, max(PULSES))][1] * self.bits
        return HardwareProfile(
            name="NeuRRAM",
            tile={"rows": ROWS, "cols": LINES},
            cells={"mapping": "differential", "subtraction": "digital"},
            cost={"dac_energy": rows, "adc_energy": lines + neurons, "mac_energy": cells},
        )

    def energy(self) -> float:
        """Return the pJ that a product of the whole array takes."""
        (layer,) = cost(nn.Linear(ROWS, OUTPUTS), self.profile(), (ROWS,)).layers
        assert layer.energy is not None  # all that it needs is given above
        return layer.energy


EFFICIENCIES = (
    Neurram(3, 1, True, (43.07875866,)),
    Neurram(4, 2, True, (40.33412834,)),
    Neurram(5, 3, True, (23.09069279,)),
    Neurram(6, 4, True, (15.95409517,)),
    Neurram(7, 5, True, (11.32999012,)),
    Neurram(8, 6, True, (9.12235241,)),
    Neurram(7, 5, False, (11.03166076,)),
    Neurram(8, 6, False, (8.257196816,)),
    Neurram(9, 7, False, (7.750037817,)),
    Neurram(10, 8, False, (6.437388185,)),
)
SHARES = (
    Neurram(3, 1, False, (8.99015248, 10.6186848, 3.446220545)),
    Neurram(4, 2, False, (8.270951256, 12.38674172, 3.955661604)),
    Neurram(5, 3, False, (15.46307324, 20.11826462, 7.73153662)),
    Neurram(6, 4, False, (21.75617998, 29.1084171, 11.50740478)),
    Neurram(7, 5, False, (30.92613276, 44.21188287, 14.0246365)),
    Neurram(8, 6, False, (37.2192395, 52.48282041, 19.23892768)),
    Neurram(9, 7, False, (43.69214654, 61.83258722, 22.83498524)),
    Neurram(10, 8, False, (50.52466791, 75.85721686, 27.50986693)),
)

UNITS, TILES = 12, 168  # units of 8 arrays a tile, tiles a chip (Table I)
# Component → (how many a tile has, mm² of each).
ISAAC = {
    "eDRAM": (1, 0.083),
    "eDRAM bus": (UNITS, 256 * 29.296875e-6),
    "router, shared by four tiles": (1, 0.0375),
    "ADC": (UNITS * 8, 1200e-6),
    "shift and add": (UNITS * 4, 60e-6),
    "DAC": (UNITS * 8 * 128, 0.166015625e-6),
}
LINK = 23.0  # mm², between chips
MISSING = "cells, sample and hold, registers, sigmoid, max-pool"
WATTS = 65.8  # Table I


def isaac() -> dict[str, float]:
    """Return the chip's peak in GOP/s by `cost`, its area in mm², and what follows from them and its 65.8 W."""
    vectors = 4000  # so that filling the pipeline does not matter
    profile = HardwareProfile.load("isaac").varied(dac={"signed": False})
    (layer,) = cost(nn.Linear(128, 128), profile, (vectors, 128)).layers
    assert layer.latency is not None  # the preset has all times
    peak = UNITS * TILES * 2 * 128 * 128 * vectors / layer.latency
    area = LINK + TILES * sum(count * each for count, each in ISAAC.values())
    return {"peak": peak, "area": area, "per area": peak / area, "per watt": peak / WATTS}
