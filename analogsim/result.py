"""What the verbs return: a table where it is printed, a frame, and a file that is read back."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from .errors import DataError
from .storage.files import content, plain, replaced, writable, write_json
from .storage.kept import opened, sealed, why
from .tables import Table
from .value import short

if TYPE_CHECKING:
    import pandas as pd


class Result:
    """A result: a frozen dataclass whose `table` says what is printed of it.

    `print` shows the table, and a notebook does.
    """

    kind: ClassVar[str]
    """What its files say they are."""

    def table(self) -> Table:
        """Return what is printed."""
        raise NotImplementedError

    def to_frame(self) -> "pd.DataFrame":
        """Return the result as a pandas frame; units stand behind the columns' names."""
        return self.table().frame()

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()

    def save(self, path: str | os.PathLike[str], about: dict[str, Any] | None = None) -> None:
        """Write the result: to a file `.json` all of it, for `load`; to a file `.csv` its frame. Never half a file.

        Parameters
        ----------
        path : path
        about : dict, optional
            Of a JSON file: how the result was measured, as JSON has it; `about` reads it.

        Raises
        ------
        DataError
            The file cannot be written, or its name ends otherwise.
        """
        path = Path(path)
        with writable(path):
            if path.suffix == ".csv":
                write_frame(self.to_frame(), path)
            elif path.suffix == ".json":
                result = TypeAdapter(type(self)).dump_python(self, mode="json")
                values = {"format": f"analogsim {self.kind}", "about": about or {}, "result": _finite(result)}
                write_json(path, sealed(values))
            else:
                raise DataError(f"{path}: the name must end in .json or .csv")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result that `save` wrote as JSON.

        Raises
        ------
        DataError
            The file is missing, damaged, or holds something else.
        """
        path = Path(path)
        values = _read(path)
        if values.get("format") != f"analogsim {cls.kind}":
            found = short(values.get("format"))
            raise DataError(f"{path}: no {cls.kind}, but {found}; {cls.__name__}.save writes them")
        try:
            return TypeAdapter(cls).validate_python(values["result"])
        except (ValidationError, KeyError) as error:
            text = why(error) if isinstance(error, ValidationError) else f"no {error}"
            raise DataError(f"{path}: damaged ({text}); put a good copy in its place, or measure anew") from None


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how the result in a JSON file was measured, as it was saved.

    Raises
    ------
    DataError
        The file is missing, damaged, or holds no result.
    """
    found = _read(Path(path)).get("about")
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no result of analogsim")
    return found


def write_frame(frame: "pd.DataFrame", path: Path, numbers: str | None = None) -> None:
    """Write a frame as CSV, numbers as they are or in this format; never leaves half a file.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    with writable(path), replaced(path) as aside:
        frame.to_csv(aside, index=False, float_format=numbers)


def _read(path: Path) -> dict[str, Any]:
    try:
        return opened(content(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({why(error)}); put a good copy in its place, or measure anew") from None


def _finite(value: Any) -> Any:
    """Return values in which what JSON has not, NaN and infinity, is text that becomes a number again."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return plain(value)
