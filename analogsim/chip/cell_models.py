"""What a cell does with the conductance that is wanted of it: the profile's laws, and room for models of others."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..profile import HardwareProfile
from ..profile.kinds import CELL_MODELS
from ..seeds import Key, Stream, derive
from . import drift
from .draw import normals
from .laws import check_targets, evaluate
from .programming import program


@dataclass(frozen=True, slots=True)
class Draws:
    """Whose random numbers an array of cells has: a pure function of the chip's seed.

    Attributes
    ----------
    seed, array : int
        The layer's on this chip, and which of its arrays.
    """

    seed: int
    array: int

    def normals(self, like: Tensor, number: int = 0) -> Tensor:
        """Return standard normals, one for each cell; each `number` has other ones, and the same every time."""
        return normals(like, derive(self.seed, Key.CELL_MODEL, number), Stream.PROGRAMMING, self.array)


class CellModel(ABC):
    """A device that holds conductances, `cells.model` in a profile.

    Conductances g are fractions of g_max, (bit lines, word lines), finite and not negative; but of the mapping `signed`
    g is a weight's magnitude, which noise may make negative. More than 1 is taken as it is. Derive a class with a
    `name`, and give it to `analogsim.register`. Faults, wires and reference columns are the profile's, as for the
    standard model.
    """

    name: str

    @abstractmethod
    def program(self, target: Tensor, profile: HardwareProfile, draws: Draws) -> Tensor:
        """Return what cells were programmed to whose targets are these."""

    def age(self, written: Tensor, target: Tensor, profile: HardwareProfile, seconds: float, draws: Draws) -> Tensor:
        """Return what they are `seconds` after the first read; by default what was written."""
        return written

    def read_noise(self, now: Tensor, written: Tensor, profile: HardwareProfile, seconds: float) -> Tensor | None:
        """Return σ of each cell at every read, fraction of g_max, drawn anew each time; None where there is none."""
        return None


class Standard(CellModel):
    """The laws of the profile: `programming`, `drift`, `flicker` and `cells.read_noise` (docs/devices.md)."""

    name = "standard"

    def program(self, target: Tensor, profile: HardwareProfile, draws: Draws) -> Tensor:
        """Return target + mean(target) + σ(target)·N(0, 1)."""
        check_targets(target, profile)
        return program(target, profile.programming, draws.seed, draws.array, profile.cells.mapping == "signed")

    def age(self, written: Tensor, target: Tensor, profile: HardwareProfile, seconds: float, draws: Draws) -> Tensor:
        """Return what drift leaves, with 1/f noise that is the same in all reads of this age."""
        if profile.drift.moments is None:
            now = drift.relax(written, target, profile.drift, seconds, draws.seed, draws.array)
        else:
            now = drift.spread_apart(written, target, profile, seconds, draws.seed, draws.array)
        if not profile.flicker.frozen or profile.flicker.amplitude == 0:
            return now
        sigma = drift.flicker_sigma(now, written, profile.flicker, profile.drift.t0 + seconds)
        return drift.frozen(now, sigma, seconds, draws.seed, draws.array, profile.cells.mapping == "signed")

    def read_noise(self, now: Tensor, written: Tensor, profile: HardwareProfile, seconds: float) -> Tensor | None:
        """Return that of 1/f noise and of the cells' noise that is the same at all times, which are independent."""
        sigma = None
        if profile.flicker.amplitude != 0 and not profile.flicker.frozen:
            sigma = drift.flicker_sigma(now, written, profile.flicker, profile.drift.t0 + seconds)
        if profile.cells.read_noise != 0:
            white = evaluate(profile.cells.read_noise, now.abs())
            sigma = white if sigma is None else (sigma.square() + white.square()).sqrt()
        return sigma


CELL_MODELS.add(Standard())
