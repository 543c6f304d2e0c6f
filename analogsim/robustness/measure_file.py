"""How a measure is kept in files: by what it is, without what computes it."""

from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator

from ..storage.kept import Record
from .measure import MEASURES, Measure

Finite = Annotated[float, Field(allow_inf_nan=False)]


class MeasureFile(Record):
    """What values are, where they are no accuracies; see `Measure`."""

    name: Annotated[str, Field(min_length=1)]
    higher_is_better: bool
    logarithmic: bool
    share: bool
    counts: bool
    perfect: Finite | None
    unit: str

    @classmethod
    def of(cls, measure: Measure) -> dict[str, Any]:
        """Return a measure as its fields."""
        return {name: getattr(measure, name) for name in cls.model_fields}

    def measure(self) -> Measure:
        """Return the measure; what computes it is not kept."""
        known = MEASURES.get(self.name)
        return known if known and self.of(known) == self.model_dump() else Measure(**self.model_dump())


def _read(found: Any) -> Measure:
    return found if isinstance(found, Measure) else MeasureFile.model_validate(found).measure()


KeptMeasure = Annotated[Measure, PlainSerializer(MeasureFile.of), PlainValidator(_read)]
"""A field of a result that is a measure."""
