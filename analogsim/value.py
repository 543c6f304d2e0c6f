"""What profiles and specifications are: values, checked when they are made."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Value(BaseModel):
    """Immutable and comparable, with no unknown keys and no NaN; the strings below fields describe them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
