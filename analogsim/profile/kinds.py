"""Names that fields of a profile may have and others may add to: what a name stands for, and how it is asked for.

This file knows names only, so that a profile is read without torch. What computes is put beside its name by whoever
does it (`analogsim.chip`, or a program that calls `analogsim.register`).
"""

from typing import Any

from pydantic_core import PydanticCustomError

from ..errors import ProfileError


def same_class(known: type, other: type) -> bool:
    """Return whether two classes are one, or one and its next definition, as when a notebook's cell is run again."""
    return (known.__module__, known.__qualname__) == (other.__module__, other.__qualname__)


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
        """Put what computes beside its name.

        Raises
        ------
        ProfileError
            The name is taken by another class.
        """
        known = self._made.get(kind.name)
        if known is not None and not (same_class(type(known), type(kind)) and vars(known) == vars(kind)):
            raise ProfileError(f"{self.field}: {kind.name!r} is taken by {type(known).__name__}")
        self._made[kind.name] = kind

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:  # of a profile that came pickled from a process that knew more
            raise ProfileError(f"{self.field}: nothing is registered here as {name!r}; import the module that does so")
        return self._made[name]

    def draws(self, name: str) -> bool:
        """Return whether what computes a name says that it draws random numbers for each chip."""
        return name not in self.names and bool(getattr(self[name], "draws", False))

    def check(self, name: str) -> str:
        """Return the name, if there is such a one."""
        known = (*self.names, *(one for one in self._made if one not in self.names))
        if name not in known:
            *first, last = map(repr, known)
            wanted = f"{', '.join(first)} or {last}" if first else last
            raise PydanticCustomError(
                "unknown_kind",
                "Input should be {wanted}, or what was registered (analogsim.register): import the module that does so",
                {"wanted": wanted, "expected": wanted},
            )
        return name

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a field with these names."""
        return {"type": "string", "examples": list(self.names)}


ADC_KINDS = Kinds("adc.kind", "ideal", "sar", "split-sar", "ramp", "pipeline", "cyclic", "measured")
DISTRIBUTIONS = Kinds("noise.distribution", "gaussian", "uniform", "laplace")
CELL_MODELS = Kinds("cells.model", "standard")
