"""Functions of machine code that only machine code can call, for tests that call them."""

from numba import njit


def from_python(function):
    """Return a function of `jit.py` that the interpreter can call."""

    @njit
    def call(*given):
        return function(*given)

    return call
