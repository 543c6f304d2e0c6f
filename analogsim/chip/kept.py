"""What was made for one call of a layer, its programmed weights and its ADCs, and need not be made for the next."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Kept:
    """Things made from everything that they depend on: made anew as soon as any of it is another.

    There is room for one thing in each place (a layer's matrix, a bit line's tile), so that it grows no larger than
    the chip. A copy, and what comes back from a pickle, begins empty.
    """

    def __init__(self) -> None:
        self._held: dict[Any, tuple[Any, Any]] = {}
        self._parts: dict[Any, Kept] = {}

    def get(self, place: Any, key: Any, make: Callable[[], T]) -> T:
        """Return what is in a place, made for an equal key, or make it."""
        held = self._held.get(place)  # once: another thread may put something else there meanwhile
        if held is None or held[0] != key:
            held = key, make()
            self._held[place] = held
        return held[1]

    def part(self, outputs: slice) -> "Kept":
        """Return what is kept for some of the outputs, which have ADCs of their own."""
        return self._parts.setdefault((outputs.start, outputs.stop), Kept())

    def clear(self) -> None:
        """Give the memory back."""
        self._held, self._parts = {}, {}

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()
