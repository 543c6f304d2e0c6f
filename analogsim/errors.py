"""Exceptions and warnings: one hierarchy of each, so that a caller can catch all that this library says on purpose."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any


class AnalogSimWarning(UserWarning):
    """Base of every warning: an answer that is right, but is not about all of what was asked; the message says what
    was left out, by name and share, and what to do.

    Examples
    --------
    >>> import warnings, torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2))
    >>> _ = net[0].weight.data.zero_()
    >>> analog = an.convert(net, an.HardwareProfile.load("8bit"))
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always", an.AnalogSimWarning)  # "error" would make them exceptions
    ...     _ = an.calibrate(analog, torch.ones(5, 4))
    >>> print(str(said[0].message).partition(";")[0])
    calibrate: the batches do not tell all ranges of 1 of 1 layers, which are assumed: 0 (its partial sums are all zero)
    """


class UnreachedWarning(AnalogSimWarning):
    """Parts of a network that a verb did not reach: weights that stay digital, layers that were never called.

    Examples
    --------
    >>> import warnings, torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Bilinear(2, 2, 2))
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always", an.UnreachedWarning)
    ...     _ = an.convert(net, an.HardwareProfile.load("8bit"))
    >>> print(str(said[0].message).partition(";")[0])
    convert: 1 of 2 matrices (50.0% of the weights) stay digital: 1.weight (Bilinear 2×2×2)
    """


class TranslationWarning(AnalogSimWarning):
    """Settings of another simulator that a profile does not have, or has otherwise; or the other way round."""


def warn(message: str, kind: type[Warning] = AnalogSimWarning) -> None:
    """Warn at the line that called this library, whatever of it and of torch's decorators lies between."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in ("analogsim", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, kind, stacklevel=level)


class AnalogSimError(Exception):
    """Base of every error raised for a user's mistake; the message says what, where, and what to do.

    Examples
    --------
    >>> import analogsim as an
    >>> try:
    ...     an.HardwareProfile(adc={"bits": 40})
    ... except an.AnalogSimError as error:
    ...     print(error)
    adc.bits: Input should be less than or equal to 16 (got 40)
    """


class ProfileError(AnalogSimError, ValueError):
    """A hardware profile that cannot be: an impossible value, an unknown key, a file that is no profile."""


class ShapeError(AnalogSimError, ValueError):
    """A tensor whose shape or dtype does not fit where it was given."""


class NonFiniteError(AnalogSimError, ValueError):
    """NaN or infinity where a finite number is needed."""


class BackendError(AnalogSimError, RuntimeError):
    """A kernel backend asked for by name that cannot run here."""


class QuantizationError(AnalogSimError, ValueError):
    """A quantization specification that cannot be: an impossible value, an unknown key."""


class SeedError(AnalogSimError, ValueError):
    """A seed that is no whole number of 64 bits."""


class CalibrationError(AnalogSimError, RuntimeError):
    """A layer whose constant full-scale ranges were never set, or data they cannot be set from."""


class ProgrammingError(AnalogSimError, RuntimeError):
    """A layer that must be programmed before it is evaluated, or cannot be."""


class ConversionError(AnalogSimError, TypeError):
    """A model, or a part of it, that cannot be converted."""


class DataError(AnalogSimError, ValueError):
    """A data set that is missing, unreadable, or not what was announced."""


class CheckpointError(AnalogSimError, RuntimeError):
    """A checkpoint that is corrupt, foreign, or belongs to another run."""


class FitError(AnalogSimError, ValueError):
    """A robustness curve that no midpoint noise level can be fitted to."""


class DivergenceError(AnalogSimError, RuntimeError):
    """A training whose loss became NaN or infinite; `history` has an entry for each epoch before."""

    def __init__(self, message: str, history: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.history = list(history)


class SearchError(AnalogSimError, RuntimeError):
    """A design search that cannot be made or resumed."""


class StudyError(AnalogSimError, RuntimeError):
    """A study that cannot be expanded, run or reported."""
