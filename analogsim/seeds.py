"""Who draws random numbers: the one table of them all, which keeps those of one seed apart (design section 4).

A random number is a pure function of a key, a stream and a place. Two things keep any two draws of one seed apart:

* whoever draws has a `Stream` of its own, the highest byte of the 64-bit stream. Below it stand who of its kind (24
  bits) and which call (32 bits). Byte 0 is left to callers of `tiled_matmul`, who number their own streams.
* whoever makes another key of a key has a `Key` of its own, which `derive` hashes in with a fixed number of numbers; so
  chains of them are told apart as well.

At the end stand torch's own generators, for what can draw from nothing else, such as dropout: they are lent, and given
back in the state in which they were.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, unique
from typing import Any

import torch

from .errors import AnalogSimError, SeedError
from .ranks import distributed
from .value import whole

_MASK = 2**64 - 1
_COUNTING = threading.Lock()
_GENERATORS = threading.RLock()  # torch's, which all threads share


@unique
class Stream(IntEnum):
    """Who draws; the numbers below the highest byte are in brackets."""

    READ = 1 << 56  # read noise of a layer [its number, its call]
    ACTIVATIONS = 2 << 56  # injected noise [site, call]
    WEIGHTS = 3 << 56  # injected noise [site, call]
    # What a chip is made with; the key is the layer's on it. [0, 0]
    PROGRAMMING = 16 << 56
    DRIFT = 17 << 56
    STUCK = 18 << 56
    ROWS = 19 << 56
    COLUMNS = 20 << 56
    ADC_GAIN = 21 << 56
    ADC_OFFSET = 22 << 56
    CAPACITORS = 23 << 56
    FLICKER = 24 << 56  # 1/f noise that is the same in all reads of an age
    # Flags, added to the stream of a read: the slow offset of its ADCs, and what its converters round by.
    WANDER = 1 << 63
    ADC_ROUNDING = 1 << 62
    DAC_ROUNDING = 1 << 61


@unique
class Key(IntEnum):
    """What another key is made for; the numbers that `derive` takes with it are in brackets."""

    # Layers
    CHIP = 1  # a layer of a programmed chip [layer]
    TRAINING_CHIP = 2  # a layer of the chip of one training call [layer, call]
    PART = 3  # ADCs of a group's outputs [first output]
    LINE = 4  # ADCs of one of an output's bit lines [line]
    PLANE = 5  # a read of one slice of weights in one step of inputs [plane, step]
    AGE = 10  # what a chip's cells have at one age [bits of seconds]
    DEVICE = 11  # one of several devices that make a cell [device, not 0]
    PULSE = 13  # a further pulse of write-verify, and the read before it [pulse, 0 or 1]
    COLUMN = 14  # the noise of cells in one of an output's columns, where integrators limit currents [column]
    RETRY = 12  # a vector that is read again, since its ADCs saturated [which of its reads]
    # Calls
    FURTHER = 6  # of numbers that the stream has no room for [who / 2^24, call / 2^32]
    RANK = 7  # of one of several processes in training [rank, not 0]
    REPLICA = 8  # of one of torch.nn.DataParallel's, in one step [call]
    ELSEWHERE = 9  # seeds torch's generator of a device without a kernel of ours [stream]
    # Measurements
    SWEEP = 32  # noise_sweep: an evaluation [bits of σ, repeat]
    SWEEP_STATISTICS = 33  # noise_sweep, evaluate: batch normalisation estimated at a σ, or on a chip [bits of σ]
    BUDGET_READ = 34  # noise_budget: reads of a layer [layer, inputs before, repeat]
    BUDGET_SAMPLE = 35  # noise_budget: seeds a torch generator of samples of converters' noise [layer, inputs before]
    BUDGET_HARDWARE = 36  # noise_budget: the network on its hardware []
    BUDGET_SITES = 37  # noise_budget: the network with abstract noise []
    SEARCH_READS = 38  # design_search: reads of every design []
    SEARCH_CHIP = 39  # design_search: a chip [repeat]
    SEARCH_PROPOSALS = 40  # design_search: seeds Optuna's sampler [trials before]
    GROUP = 41  # noise and dropout of a group's epoch [networks, the others' seeds, epoch]
    CELL_MODEL = 42  # a cell model's numbers [which]
    SENSITIVITY = 43  # sensitivity: a chip, and its reads [chip, 0 or 1]
    VARIED = 44  # evaluate, hardware_sweep: a chip, and its reads [chip, 0 or 1]
    OUTPUTS = 45  # calibrate_outputs: a read of a layer [layer, call]
    CHECK = 64  # no key: what a saved chip's seed is checked with []


def derive(seed: int, what: Key, *numbers: int) -> int:
    """Return another seed (63 bits) for each purpose and its numbers, as unrelated as SplitMix64's outputs are.

    References
    ----------
    G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    for number in (what, *numbers):
        z = ((seed & _MASK) + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        seed = z ^ z >> 31
    return seed & 2**63 - 1


def numbered(seed: int, kind: Stream, who: int, call: int) -> tuple[int, int]:
    """Return (key, stream) of one call of one layer or site."""
    if who >> 24 or call >> 32:
        seed = derive(seed, Key.FURTHER, who >> 24, call >> 32)
    return seed, kind | (who & 0xFFFFFF) << 32 | call & 0xFFFFFFFF


def next_call(counting: Any) -> int:
    """Count a call of a layer or site (its `calls`), and return its number: never one twice, whatever the threads."""
    with _COUNTING:
        counting.calls += 1
        return counting.calls


def of_rank(seed: int) -> int:
    """Return a seed of this process's own where several train one network (torch.distributed); rank 0 keeps it.

    Training draws anew at every call, so that ranks of one `torch.manual_seed` would otherwise all train under the same
    noise.
    """
    rank = torch.distributed.get_rank() if distributed() else 0
    return derive(seed, Key.RANK, rank) if rank else seed


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Let the block use torch's generators of the CPU and of a device, and set both back to their state before it.

    All threads of a process share these generators. So threads that call this function take turns: the block of one
    begins when that of another has ended.
    """
    with _GENERATORS, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of this device; those of other devices are not touched."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def checked(number: Any, error: type[AnalogSimError] = SeedError, what: str = "seed") -> int:
    """Return a seed, or a stream, as an int.

    Raises
    ------
    AnalogSimError
        Of the class given: it is no whole number in [0, 2^64). What wraps around would draw another one's numbers.
    """
    known = whole(number, what, error)
    if known >> 64:
        raise error(f"{what}: must be in [0, 2^64) (got {known})")
    return known
