"""Put a converted network on one chip, and let that chip age."""

import math

import torch
from torch import nn

from . import ages
from .errors import ConversionError, ProgrammingError
from .nn import analog_layers
from .ranks import distributed
from .seeds import Key, checked, derive


def program(model: nn.Module, seed: int | None = None) -> int:
    """Program every analog layer: draw, once, all that differs between chips.

    That is programming noise, drift exponents, faults, and the errors of the ADCs, wherever the layers' profiles have
    them. The chip starts at its first read (`at_time(model, 0)`).

    Parameters
    ----------
    model : nn.Module
        A converted network; changed in place.
    seed : int or None
        Of the chip, in [0, 2^64); None draws one from torch's default generator.

    Returns
    -------
    int
        The seed.

    Raises
    ------
    ConversionError
        The model has no analog layer.
    ProgrammingError
        The seed is no whole number, negative or too large, or there is none where several processes
        (torch.distributed) work on one network and must have the same chip.

    Notes
    -----
    What is kept is a seed and a time for each layer, in its `state_dict`: all that is drawn is a pure function of them,
    so a saved network is loaded on the same chip. Weights that change afterwards are programmed with the same random
    numbers. In training mode a layer ignores the chip and draws a new one at each call: hardware-aware training,
    for any chip.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> profile = an.HardwareProfile(programming={"sigma": 0.02}, cells={"mapping": "differential"})
    >>> layer = an.AnalogLinear(8, 3, profile=profile).eval()
    >>> an.program(layer, seed=1)
    1
    >>> an.at_time(layer, 3600)
    >>> layer(torch.ones(5, 8)).shape
    torch.Size([5, 3])
    """
    if seed is None:
        if distributed() and torch.distributed.get_world_size() > 1:
            raise ProgrammingError("seed: give one, so that all processes of torch.distributed have the same chip")
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
    seed = checked(seed, ProgrammingError)
    layers = list(analog_layers(model))
    if not layers:
        raise ConversionError(f"{type(model).__name__}: no layer is analog; convert(model, profile) first")
    for number, (_, layer) in enumerate(layers):
        layer.chip_seed, layer.chip_seconds, layer.correction = derive(seed, Key.CHIP, number), 0.0, None
    return seed


def at_time(model: nn.Module, seconds: float | str) -> None:
    """Set the age of a programmed chip; its conductances are those of that time, whatever was asked before.

    Parameters
    ----------
    model : nn.Module
        Programmed; changed in place.
    seconds : float or str
        Since the first read, `drift.t0` seconds after programming; or "1h", "1d", "1y" and the like. Conductances are
        g·((t0 + seconds)/t0)^(-ν), or those of `drift.table`.

    Raises
    ------
    ProgrammingError
        A layer was never programmed, or the time is no number, negative or not finite.
    ProfileError
        It is text, and no time.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer, x = torch.nn.Linear(64, 8, bias=False), torch.rand(100, 64)
    >>> pcm = an.HardwareProfile.load("pcm").varied(drift={"compensation": "none"})
    >>> analog = an.convert(layer, pcm).eval()
    >>> _, seed = an.calibrate(analog, x), an.program(analog, seed=1)
    >>> young = analog(x).norm()
    >>> an.at_time(analog, "1y")
    >>> bool(analog(x).norm() < 0.6 * young)  # conductances fall
    True
    """
    if isinstance(seconds, str):
        seconds = ages.seconds(seconds)
    try:
        age = float(seconds)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor of several
        raise ProgrammingError(f"seconds: a number, or a text such as '1d', is needed (got {seconds!r})") from None
    if not (math.isfinite(age) and age >= 0):
        raise ProgrammingError(f"seconds: must be finite and not negative (got {seconds!r})")
    layers = list(analog_layers(model))
    for name, layer in layers:
        if layer.chip_seconds is None:
            raise ProgrammingError(f"{name or type(layer).__name__}: never programmed; run program(model, seed) first")
    if not layers:
        raise ProgrammingError(f"{type(model).__name__}: no layer is analog; convert(model, profile) first")
    for _, layer in layers:
        layer.chip_seconds = age
