"""Fields of a study collected from several places of its file, and made into one value."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..errors import ProfileError, QuantizationError, StudyError
from ..qat import QATSpec
from ..value import complaint, few


class Merged:
    """Fields collected from several places of a study, each with the place it comes from, for messages."""

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        self.path, self.values, self.origin = path, {}, {}
        self.update(path, values)

    def update(self, path: str, values: Mapping[str, Any]) -> None:
        """Take fields of a place of the file, over those of the places before."""
        self.path = path if values else self.path
        for key, value in values.items():
            self.values[key], self.origin[key] = value, f"{path}.{key}"

    def quantization(self) -> QATSpec:
        """Read `bits` for both kinds of bits, and `s` alone as constant scaling."""
        if "bits" in self.values:
            bits, origin = self.values.pop("bits"), self.origin.pop("bits")
            for field in ("weight_bits", "act_bits"):
                self.values.setdefault(field, bits)
                self.origin.setdefault(field, origin)
        if self.values.get("s") is not None:
            self.values.setdefault("scaling", "constant")
        return self.made(QATSpec)

    def made(self, kind: Any, **instead: Any) -> Any:
        """Return the value of all fields, but for what is given instead.

        Raises
        ------
        StudyError
            There can be no such value; the message names the field's path.
        """
        try:
            return kind(**(self.values | instead))
        except (ProfileError, QuantizationError) as error:
            # The specs say what is wrong in words of their own; pydantic's error behind it has the fields' names.
            behind = error.__context__
            if not isinstance(behind, ValidationError):
                raise StudyError(f"{self.path}: {error}") from None
            raise StudyError(
                few([f"{self._place(item['loc'])}: {complaint(item)}" for item in behind.errors()])
            ) from None

    def _place(self, loc: tuple[Any, ...]) -> str:
        head = self.origin.get(str(loc[0]), self.path) if loc else self.path
        return ".".join([head, *(str(part) for part in loc[1:])])
