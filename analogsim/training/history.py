"""What a training says of its epochs."""

from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ..value import Fraction, NonNegative


class Epoch(TypedDict):
    """What a training's history says of one epoch."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[misc]

    epoch: Annotated[int, Field(ge=1)]
    loss: float
    train_accuracy: Fraction
    test_accuracy: Fraction
    lr: NonNegative
    sigma: NonNegative
    seconds: NonNegative


History = list[Epoch]


def numbered(history: History) -> History:
    """Return a history whose epochs are numbered from 1.

    Raises
    ------
    ValueError
        They are not.
    """
    if [entry["epoch"] for entry in history] != list(range(1, len(history) + 1)):
        raise ValueError("epochs must be numbered 1, 2, …")
    return history
