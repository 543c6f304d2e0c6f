"""What profiles, specifications and kept files are: values, checked when they are made."""

import operator
import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from .errors import AnalogSimError
from .meant import Synonyms, did_you_mean

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


def explain(error: ValidationError, kind: type[BaseModel] | None = None, synonyms: Synonyms | None = None) -> str:
    """Say each of pydantic's complaints as `field.path: what is wrong (got value)`, separated by "; ".

    Of very many the first ones, and how many more there are.

    Parameters
    ----------
    error : ValidationError
    kind : type, optional
        What should have been made: its fields are what an unknown key may have meant.
    synonyms : mapping, optional
        What else people call fields and their values (see `meant`).
    """
    found = [(_Place.of(item["loc"], kind), item) for item in error.errors(include_url=False)]
    nearest = _nearest([place for place, item in found if item["type"] not in ("model_type", "model_attributes_type")])
    lines = []
    for place, item in found:
        if any(nearest.get(path, member) != member for path, member in place.members.items()):
            continue
        path, said = ".".join(place.path), complaint(item, synonyms)
        if item["type"] == "extra_forbidden" and place.model is not None:
            beside = [".".join((*place.path[:-1], name)) for name in place.model.model_fields]
            said += did_you_mean(path, [*beside, *field_names(kind or place.model)], synonyms)
        lines.append(f"{path}: {said}" if path else said)
    return few(lines)


class _Place(NamedTuple):
    """Where a complaint is: its path of fields, whose field the last one is, and what was tried of each union."""

    path: tuple[str, ...]
    model: type[BaseModel] | None
    members: dict[tuple[str, ...], str]

    @classmethod
    def of(cls, loc: tuple[int | str, ...], kind: type[BaseModel] | None) -> "_Place":
        path: tuple[str, ...] = ()
        owner, inner, members = None, [kind] if kind else [], {}
        for part in map(str, loc):
            models = [model for model in inner if part == model.__name__ or part.endswith(f", {model.__name__}]")]
            # A union's members are path elements too ("constrained-float", "literal[…]"), but no fields.
            if models or _UNION_MEMBER.fullmatch(part):
                members[path] = models[0].__name__ if models else ""
                inner = models or inner
                continue
            path = *path, part
            found = [model.model_fields[part].annotation for model in inner if part in model.model_fields]
            owner, inner = next(iter(inner), None), list(_models(found[0])) if found else inner
        return cls(path, owner, members)


def _nearest(places: list[_Place]) -> dict[tuple[str, ...], str]:
    """Return which model a mapping is nearest to, where it may be one of several kinds: pydantic complains of each."""
    tried: dict[tuple[str, ...], Counter[str]] = {}
    for place in places:
        for path, member in place.members.items():
            if member:
                tried.setdefault(path, Counter())[member] += 1
    return {path: min(members, key=members.__getitem__) for path, members in tried.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def field_names(kind: type[BaseModel]) -> tuple[str, ...]:
    """Return a model's fields, and those of its parts by their dotted names."""
    return tuple(
        name
        for own, field in kind.model_fields.items()
        for name in (own, *(f"{own}.{inner}" for part in _parts(field.annotation) for inner in part.model_fields))
    )


def _parts(annotation: Any) -> list[type[BaseModel]]:
    direct = (annotation, *get_args(annotation))
    return [part for part in direct if isinstance(part, type) and issubclass(part, BaseModel)]


def few(lines: list[str]) -> str:
    """Join complaints, each once; of very many the first ones."""
    lines = list(dict.fromkeys(line if len(line) <= 4 * LONG else line[: 4 * LONG] + "…" for line in lines))
    more = [f"and {len(lines) - COMPLAINTS} more"] if len(lines) > COMPLAINTS else []
    return "; ".join(lines[:COMPLAINTS] + more)


def complaint(item: Any, synonyms: Synonyms | None = None) -> str:
    """Say one of pydantic's complaints without its path."""
    if item["type"] == "extra_forbidden":
        return "unknown key"
    if item["type"] == "too_short":
        context = item["ctx"]
        return f"there must be at least {context['min_length']} (got {context['actual_length']})"
    message, value = item["msg"].removeprefix("Value error, "), item["input"]
    # Of a missing field, or of what fields have in common, the value is everything around it.
    if isinstance(value, dict):
        return message
    choices = re.findall(r"'([^']+)'", item.get("ctx", {}).get("expected", "")) if isinstance(value, str) else ()
    return f"{message} (got {short(value)}){did_you_mean(str(value), choices, synonyms)}"


def short(value: Any) -> str:
    """Return how a value is written, cut where it is very long."""
    text = repr(value)
    return text if len(text) <= LONG else text[:LONG] + "…"
