"""What profiles, specifications and kept files are: values, checked when they are made."""

import operator
import re
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from .errors import AnalogSimError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

_UNION_MEMBER = re.compile(r"(constrained-)?(int|float|str|bool|none)|.*\[.*")
COMPLAINTS, LONG = 8, 120  # of one message: how many, and how many characters of a value

# Between these a full scale, its inverse and its steps of 16 bits are normal float32 numbers: beyond them a converter's
# gain is infinite and turns 0 into NaN.
LEAST_SCALE, LARGEST_SCALE = 2.0**-110, 2.0**110
FullScale = Annotated[float, Field(ge=LEAST_SCALE, le=LARGEST_SCALE)]


class Value(BaseModel):
    """Immutable and comparable, with no unknown keys and no NaN; the strings below fields describe them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take `rows: true` for one row.
        truths = [one for one in (value if isinstance(value, list | tuple) else [value]) if is_truth(one)]
        if truths and not _takes_truth(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"a number or text is needed, not {truths[0]}")
        return value


def is_truth(value: object) -> bool:
    """Say whether a value is true or false: Python's, NumPy's or torch's."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def whole(value: Any, what: str, error: type[AnalogSimError]) -> int:
    """Return a whole number as Python's int, whichever type it came as: Python's, NumPy's, or a tensor of one.

    Parameters
    ----------
    value : int, NumPy integer, or Tensor ()
    what : str
        Its name, for the message.
    error : type
        What to raise where it is none; truth values are none.
    """
    try:
        if is_truth(value):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise error(f"{what}: a whole number is needed, got {value!r}") from None


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_truth, get_args(annotation)))


def explain(error: ValidationError) -> str:
    """Say each of pydantic's complaints as `field.path: what is wrong (got value)`, separated by "; ".

    Of very many the first ones, and how many more there are.
    """
    lines = []
    for item in error.errors(include_url=False):
        # A union's members are path elements too ("constrained-float", "literal[…]"), but no fields.
        path = ".".join(str(part) for part in item["loc"] if not _UNION_MEMBER.fullmatch(str(part)))
        lines.append(f"{path}: {complaint(item)}" if path else complaint(item))
    return few(lines)


def few(lines: list[str]) -> str:
    """Join complaints, each once; of very many the first ones."""
    lines = list(dict.fromkeys(line if len(line) <= 4 * LONG else line[: 4 * LONG] + "…" for line in lines))
    more = [f"and {len(lines) - COMPLAINTS} more"] if len(lines) > COMPLAINTS else []
    return "; ".join(lines[:COMPLAINTS] + more)


def complaint(item: Any) -> str:
    """Say one of pydantic's complaints without its path."""
    if item["type"] == "extra_forbidden":
        return "unknown key"
    message = item["msg"].removeprefix("Value error, ")
    # Of a missing field, or of what fields have in common, the value is everything around it.
    return message if isinstance(item["input"], dict) else f"{message} (got {short(item['input'])})"


def short(value: Any) -> str:
    """Return how a value is written, cut where it is very long."""
    text = repr(value)
    return text if len(text) <= LONG else text[:LONG] + "…"
