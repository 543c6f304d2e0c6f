"""Names that fields of a profile may have and others may add to: what a name stands for, and how it is asked for.

This file knows names only, so that a profile is read without torch. What computes is put beside its name by whoever
does it (`analogsim.chip`, or a program that calls `analogsim.register`).
"""

from typing import Any

from pydantic_core import PydanticCustomError


class Kinds:
    """The names that one field may have, each with what computes it.

    Parameters
    ----------
    field : str
        For messages.
    names : str
        Those of the package.
    """

    def __init__(self, field: str, *names: str) -> None:
        self.field, self.names = field, names
        self._made: dict[str, Any] = {}

    def add(self, kind: Any) -> None:
        """Put what computes beside its name; a name that is taken is refused with a ValueError."""
        known = self._made.get(kind.name)
        if known is not None and type(known) is not type(kind):
            raise ValueError(f"{self.field}: {kind.name!r} is taken by {type(known).__name__}")
        self._made[kind.name] = kind

    def __getitem__(self, name: str) -> Any:
        return self._made[name]

    def draws(self, name: str) -> bool:
        """Return whether what computes a name says that it draws random numbers for each chip."""
        return bool(getattr(self._made.get(name), "draws", False))

    def check(self, name: str) -> str:
        """Return the name, if there is such a one."""
        known = (*self.names, *(one for one in self._made if one not in self.names))
        if name not in known:
            *first, last = map(repr, known)
            wanted = f"{', '.join(first)} or {last}" if first else last
            hint = "import the module that registers it" if name.isidentifier() else "see analogsim.register"
            raise PydanticCustomError(
                "unknown_kind",
                "Input should be {wanted}, or of a kind that was registered; {hint}",
                {"wanted": wanted, "hint": hint},
            )
        return name

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a field with these names."""
        return {"type": "string", "examples": list(self.names)}


ADC_KINDS = Kinds("adc.kind", "ideal", "sar", "ramp")
DISTRIBUTIONS = Kinds("noise.distribution", "gaussian", "uniform", "laplace")
CELL_MODELS = Kinds("cells.model", "standard")
