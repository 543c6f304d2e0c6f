"""A study: one YAML file that says which networks are trained how, and the jobs that it expands to."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Annotated, Any, Self, get_args

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from ..ages import seconds
from ..analysis.fields import AGE, METHOD, varied
from ..errors import ProfileError, StudyError
from ..profile import HardwareProfile
from ..qat import QATSpec
from ..quantities import BEFORE, Target
from ..ranges.calibrate import Method as RangesMethod
from ..sigmas import noise_grid
from ..training.data import identify
from ..training.spec import TrainSpec
from ..value import NonNegative, Value, explain
from .merged import Merged

RESULTS = 1
"""Version of what a job computes; raised where the same settings would give another result."""

Count = Annotated[int, Field(ge=1)]
MOST = 100_000
"""Trainings of a study; a grid or `seeds` that ask for more are a mistake, or malice."""
GRIDS = ("train", "qat", "args")
MATCHED = "matched"
"""σ of training: that of each point of the curve, which is made of one training a point."""
NEAR = 0.01
"""Relative difference below which a σ of `matched` is one of the sweep's: 0.316 is 10^-0.5."""


class Sweep(Value):
    """How a trained network is swept; see `noise_sweep`."""

    sigmas: str | tuple[float, ...] = "logspace(-2, 2, 17)"
    """The noise grid: "logspace(a, b, n)", "geomspace(…)", "linspace(…)", or a list."""
    repeats: Count = 5
    """Evaluations at each σ, with independent noise."""
    quantity: Target = "activations"
    """What σ is of."""
    batch_norm: Annotated[int, Field(ge=0)] = 0
    """Training images from which the statistics of batch normalisation, where a network has it, are estimated anew at
    every σ; 0: they stay."""

    @field_validator("quantity", mode="before")
    @classmethod
    def _known(cls, word: Any) -> Any:
        # Studies are kept beside their results, and so are the words of version 0.1.
        return BEFORE.get(word, word) if isinstance(word, str) else word

    @field_validator("sigmas")
    @classmethod
    def _readable(cls, value: str | tuple[float, ...]) -> str | tuple[float, ...]:
        noise_grid(value)
        return value

    @property
    def grid(self) -> np.ndarray:
        """The σ (S,), ascending, each once."""
        return noise_grid(self.sigmas)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, as plain values."""
        values = self.model_dump(mode="json") | {"sigmas": self.grid.tolist()}
        # In the word of version 0.1: a job's name is made of its identity.
        values["quantity"] = next(word for word, now in BEFORE.items() if now == self.quantity)
        # Left out where it is not used: jobs keep the names that they had before there was such a thing.
        return {name: value for name, value in values.items() if name != "batch_norm" or value}


class Hardware(Value):
    """Hardware that every trained network is measured on, and how it is varied; see `hardware_sweep`."""

    profile: str | dict[str, Any]
    """A shipped profile, the path of a file, or the fields of one."""
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]]
    """Fields of the profile, as adc.bits, age and calibration → values; every combination is measured."""
    chips: Count = 3
    """Programmed for each combination, where chips differ or there is noise."""
    calibration: Count = 1024
    """Training images that ranges are taken from."""
    method: str = "maximum"
    """How they are, where `vary` does not say it."""

    def resolved(self) -> Self:
        """Return the same with the profile's fields in place of its name, so that a job says all that decides it.

        Raises
        ------
        StudyError
            There is no such profile, or a combination that makes none.
        """
        methods = get_args(RangesMethod)
        try:
            given = self.profile
            profile = HardwareProfile(**given) if isinstance(given, dict) else HardwareProfile.load(given)
            for values in product(*self.vary.values()):
                point = dict(zip(self.vary, values))
                varied(profile, point)
                seconds(point.get(AGE, 0))
                if (method := point.get(METHOD, self.method)) not in methods:
                    raise ProfileError(f"{METHOD}: {method!r} is none; there are {', '.join(methods)}")
        except ProfileError as error:
            raise StudyError(f"hardware: {error}") from None
        if not self.vary:
            raise StudyError("hardware.vary: at least one field is needed, such as age: [0, 1d]")
        return self.model_copy(update={"profile": profile.model_dump(mode="json")})


class Network(Value):
    """One of the networks of a study."""

    path: str
    """Import path of its class or function, "module:name"."""
    args: dict[str, Any] = {}
    """Its constructor's arguments; `classes` and `channels` are taken from the data where it has them."""
    train: dict[str, Any] = {}
    """Fields of TrainSpec that are this network's own, such as its learning rate."""


class Method(Value):
    """One way of training; `grid` makes several variants of it."""

    name: str
    claim: str | dict[str, str] | None = None
    """What is claimed of it (of each network, by its name): shown beside the result."""
    models: tuple[str, ...] | None = None
    """Names of the networks it is for; null: all."""
    args: dict[str, Any] = {}
    """Arguments of the networks' constructors that are this method's own."""
    train: dict[str, Any] = {}
    """Fields of TrainSpec: sigma, ramp_epochs, layers, variance, … `sigma: matched` makes a matched curve, of one
    training for each σ at which it is evaluated."""
    matched: str | tuple[float, ...] | None = None
    """The σ of a matched curve, written as the sweep's and out of them; 0 adds a training without noise, which then
    says what the curve's accuracy without noise is. null: all σ of the sweep."""
    qat: dict[str, Any] | None = None
    """Fields of QATSpec, and `bits` for both weight_bits and act_bits; `s` alone means constant scaling. {}: 8 bits,
    dynamic scaling. null: floating point."""
    sweep: dict[str, Any] = {}
    """Fields of the study's `sweep` that are this method's own, such as batch_norm."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Every combination of these: "train.sigma", "qat.s", "args.batch_norm", … → values."""

    @field_validator("matched")
    @classmethod
    def _readable(cls, value: str | tuple[float, ...] | None) -> str | tuple[float, ...] | None:
        if value is not None:
            noise_grid(value)
        return value

    @field_validator("grid")
    @classmethod
    def _grid_names_fields(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key in grid:
            part, dot, field = key.partition(".")
            if part not in GRIDS or not dot or not field:
                raise ValueError(f"{key!r}: a key is train.FIELD, qat.FIELD or args.NAME")
        return grid

    def claim_on(self, model: str) -> str:
        """Return what is claimed of this method on a network; "" where nothing is."""
        return self.claim.get(model, "") if isinstance(self.claim, dict) else self.claim or ""


class Job(Value):
    """One training and its sweep: all that decides their result, and where the data lie."""

    model: str
    trusted: bool = False
    """Whether it may be something else than a class of nn.Module; no part of the identity."""
    args: dict[str, Any]
    data: str
    data_id: str
    train_subset: int | None
    test_subset: int | None
    train: TrainSpec
    qat: QATSpec | None
    sweep: Sweep
    hardware: Hardware | None = None
    """With the profile's fields."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        # Left out where there is none: jobs keep the names that they had before there was such a thing.
        hardware = {} if self.hardware is None else {"hardware": self.hardware.model_dump(mode="json")}
        return hardware | {
            "results": RESULTS,
            "model": self.model,
            "args": self.args,
            "data": self.data_id,
            "subsets": [self.train_subset, self.test_subset],
            "train": self.train.model_dump(mode="json"),
            "qat": self.qat and _without(self.qat.model_dump(mode="json"), "span"),
            "sweep": self.sweep.identity,
        }

    @property
    def id(self) -> str:
        """The identity's SHA-256, its first 16 hexadecimal digits."""
        return digest(self.identity)

    @property
    def training(self) -> str:
        """The same of what decides the trained network, which jobs that differ in sweep or hardware alone share."""
        return digest({name: value for name, value in self.identity.items() if name not in ("sweep", "hardware")})


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Leave out a field that is not used: jobs keep the names that they had before there was such a field."""
    return {key: value for key, value in values.items() if key != name or value is not None}


def digest(identity: Mapping[str, Any]) -> str:
    """Return the name that a job has by its identity: of its SHA-256 the first 16 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Entry(Value):
    """One cell of a study's grid: where its job's result belongs. Two cells may share a job."""

    model: str
    method: str
    variant: str
    """What tells it from the method's other variants: "s=0.5"; "" where there is only one."""
    seed: Annotated[int, Field(ge=0)]
    job: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Identity of its job."""
    epochs: Count
    sigma: NonNegative
    """σ of training."""
    matched: bool = False
    """Whether it is one point of a matched curve: together with the variant's other cells of this seed."""
    bits: int | None
    """Of activations; None: floating point."""
    scaling: str | None
    s: float | None

    @property
    def curve(self) -> str:
        """What its variant's curve is made of: "matched", a training for each σ, or "swept", one for all."""
        return MATCHED if self.matched else "swept"

    @property
    def title(self) -> str:
        """Its name for people."""
        point = f"σ={self.sigma:.3g}" if self.matched else ""
        return ", ".join(filter(None, (self.model, self.method, self.variant, point, f"seed {self.seed}")))

    @classmethod
    def of(cls, job: Job, **place: Any) -> Self:
        """Return the cell of a job."""
        train, qat = job.train, job.qat
        quantized = {"bits": qat and qat.act_bits, "scaling": qat and qat.scaling, "s": qat and qat.s}
        return cls(**place, job=job.id, epochs=train.epochs, sigma=train.sigma, **quantized)


def _named(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Study(Value):
    """What a study file says: every method on every network, once with every seed."""

    name: str
    """Title of tables and pages."""
    about: str = ""
    """What it is for; shown in the report."""
    data: str
    """Name of the data set: digits, cifar10, npz:PATH or folder:PATH."""
    train_subset: Count | None = None
    """Train on so many images, drawn at random, only."""
    test_subset: Count | None = None
    """Test on so many images, drawn at random, only."""
    models: Annotated[dict[str, Annotated[Network, BeforeValidator(_named)]], Field(min_length=1)]
    """The networks by their names; one without settings of its own may be given by its import path alone."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)]
    seeds: Count | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = 1
    """How many (0, 1, …), or which: of initial weights, order of images, augmentation and noise."""
    train: dict[str, Any] = {}
    """Fields of TrainSpec for all; networks, methods and their grids override them, in this order."""
    sweep: Sweep = Sweep()
    hardware: Hardware | None = None
    """Hardware that every trained network is measured on, too."""
    baseline: str | None = None
    """Method that the others are called `brittle` against; null: the first in floating point and without noise."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise StudyError(explain(error, type(self))) from None

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        names = Counter(method.name for method in self.methods)
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"methods: the name {name!r} comes twice")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline: no method {self.baseline!r}; there are {', '.join(names)}")
        for number, method in enumerate(self.methods):
            self.sweep_of(method)
            claimed = method.claim if isinstance(method.claim, dict) else {}
            for field, named in (("models", method.models or ()), ("claim", claimed)):
                if unknown := [name for name in named if name not in self.models]:
                    raise ValueError(
                        f"methods.{number}.{field}: no network {unknown[0]!r}; there are {', '.join(self.models)}"
                    )
        if self.trainings > MOST:
            raise ValueError(f"{self.trainings:,} trainings, more than the {MOST:,} that a study may have")
        return self

    @property
    def reference(self) -> str | None:
        """Name of the method that is the floating-point baseline."""
        plain = (m.name for m in self.methods if m.qat is None and not m.grid and not _noisy({**self.train, **m.train}))
        return self.baseline or next(plain, None)

    @property
    def trainings(self) -> int:
        """How many cells the grid has, before those are joined that are equal."""
        seeds = self.seeds if isinstance(self.seeds, int) else len(self.seeds)
        return seeds * sum(
            self._cells(method, title)
            for method in self.methods
            for title in (self.models if method.models is None else method.models)
        )

    def _cells(self, method: Method, title: str) -> int:
        """Return how many cells a method has on a network, with one seed."""
        places = (method.train, self.models[title].train, self.train)
        inherited = next((fields["sigma"] for fields in places if "sigma" in fields), 0.0)
        sigmas = method.grid.get("train.sigma", [inherited])
        points = len(self.sweep_of(method).grid if method.matched is None else noise_grid(method.matched))
        others = math.prod(len(values) for key, values in method.grid.items() if key != "train.sigma")
        return others * sum(points if sigma == MATCHED else 1 for sigma in sigmas)

    def method(self, name: str) -> Method:
        """Return a method by its name.

        Raises
        ------
        StudyError
            There is none of that name.
        """
        for method in self.methods:
            if method.name == name:
                return method
        raise StudyError(f"no method {name!r}; there are {', '.join(method.name for method in self.methods)}")

    def sweep_of(self, method: Method) -> Sweep:
        """Return how a method's networks are swept.

        Raises
        ------
        StudyError
            A field of its own is impossible.
        """
        try:
            own = Sweep(**(self.sweep.model_dump(exclude_unset=True) | method.sweep)) if method.sweep else self.sweep
        except ValidationError as error:
            raise StudyError(f"method {method.name!r}: sweep: {explain(error, Sweep)}") from None
        if own.quantity != self.sweep.quantity:
            raise StudyError(
                f"method {method.name!r}: sweep.quantity: {own.quantity}, where the study's is {self.sweep.quantity}: "
                "a study's curves share one axis, and µ of noise on weights is not to be held against that of noise on "
                "activations; make a study of its own for it"
            )
        return own

    def expand(self, trust: Collection[str] = ()) -> tuple[list[Entry], dict[str, Job]]:
        """Return the cells of the grid, and their jobs by identity: the first seed of everything comes first.

        `trust`: as in `run_study`.

        Raises
        ------
        StudyError
            A training or a quantization that cannot be; the message names the field's path.
        DataError
            The data are not there: jobs are identified by what is in the files.
        """
        data, hardware = identify(self.data), self.hardware and self.hardware.resolved()
        seeds = range(self.seeds) if isinstance(self.seeds, int) else dict.fromkeys(self.seeds)
        entries: list[Entry] = []
        jobs: dict[str, Job] = {}
        for seed in seeds:
            for title in self.models:
                for number, method in enumerate(self.methods):
                    if method.models is not None and title not in method.models:
                        continue
                    own: dict[tuple[str, str], Entry] = {}
                    for variant, point in _points(method):
                        train = self._training(title, number, point, seed)
                        matched = train.values.get("sigma") == MATCHED
                        for sigma in self._points_of(method) if matched else (None,):
                            job = self._job(title, number, point, train, sigma, data, trust, hardware)
                            place = {"model": title, "method": method.name, "variant": variant, "seed": seed}
                            cell = Entry.of(job, **place, matched=matched)
                            # A value that comes twice in a method's grid is still one variant, but a training that a
                            # matched curve has in common with another variant belongs to both.
                            own.setdefault((variant if matched else "", job.id), cell)
                            jobs.setdefault(job.id, job)
                    if method.matched is not None and not any(cell.matched for cell in own.values()):
                        raise StudyError(
                            f"methods.{number}.matched: no σ of training is matched; say train: {{sigma: {MATCHED}}}"
                        )
                    entries += own.values()
        return entries, jobs

    def _points_of(self, method: Method) -> list[float]:
        """Return the σ of a method's matched curve, as the sweep has them, in the order in which they are trained."""
        grid = self.sweep_of(method).grid
        if method.matched is None:
            return _coarse_first(grid.tolist())
        found = []
        for sigma in noise_grid(method.matched).tolist():
            nearest = float(grid[np.abs(grid - sigma).argmin()]) if sigma else 0.0
            if not math.isclose(sigma, nearest, rel_tol=NEAR):
                raise StudyError(
                    f"method {method.name!r}: matched: {sigma:g} is no σ of the sweep, where the network is evaluated; "
                    f"the nearest is {nearest:g}"
                )
            found.append(nearest)
        return _coarse_first(found)

    def _training(self, title: str, number: int, point: Mapping[str, Any], seed: int) -> Merged:
        """Return the fields of a training, of all places of the file."""
        here = f"methods.{number}"
        train = Merged("train", self.train)
        train.update(f"models.{title}.train", self.models[title].train)
        train.update(f"{here}.train", self.methods[number].train)
        train.update(f"{here}.grid.train", _chosen(point)["train"])
        if "seed" in train.values:
            raise StudyError(f"{train.origin['seed']}: leave it out; `seeds` decides it")
        train.values["seed"], train.origin["seed"] = seed, "seeds"
        return train

    def _job(
        self,
        title: str,
        number: int,
        point: Mapping[str, Any],
        train: Merged,
        sigma: float | None,
        data: str,
        trust: Collection[str],
        hardware: Hardware | None,
    ) -> Job:
        """Return a job of these fields of a training; of a matched curve that of one σ."""
        network, method, here = self.models[title], self.methods[number], f"methods.{number}"
        chosen = _chosen(point)
        quantization = None
        if method.qat is not None or chosen["qat"]:
            qat = Merged(f"{here}.qat", method.qat or {})
            qat.update(f"{here}.grid.qat", chosen["qat"])
            quantization = qat.quantization()
        args = network.args | method.args | chosen["args"]
        try:
            json.dumps(args, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StudyError(f"models.{title}.args: plain finite values are needed: {error}") from None
        spec = train.made(TrainSpec, **({} if sigma is None else {"sigma": sigma}))
        sweep = self.sweep_of(method)
        if sigma is not None and spec.target != sweep.quantity:
            raise StudyError(
                f"{train.origin['sigma']}: {MATCHED}: trained under noise on {spec.target}, but sweep.quantity is "
                f"{sweep.quantity}"
            )
        return Job(
            model=network.path,
            trusted=network.path in trust,
            args=args,
            data=self.data,
            data_id=data,
            train_subset=self.train_subset,
            test_subset=self.test_subset,
            train=spec,
            qat=quantization,
            sweep=sweep,
            hardware=hardware,
        )


def _points(method: Method) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a method's variants: what tells it apart ("s=0.5"), and its values."""
    for values in product(*method.grid.values()):
        point = dict(zip(method.grid, values))
        yield ", ".join(f"{_short(key)}={_text(value)}" for key, value in point.items()), point


def _coarse_first(values: list[float]) -> list[float]:
    """Return values in the order of ever finer grids: what is done of a curve that is at work shows all of it.

    Examples
    --------
    >>> _coarse_first([0, 1, 2, 3, 4, 5, 6, 7, 8])
    [0, 8, 4, 2, 6, 1, 3, 5, 7]
    """
    # The largest power of two that divides its place: 0 is divided by all.
    return [values[place] for place in sorted(range(len(values)), key=lambda place: -(place & -place or 2**20))]


def _chosen(point: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values of a variant by the part of a job that they are of."""
    chosen: dict[str, dict[str, Any]] = {part: {} for part in GRIDS}
    for key, value in point.items():
        part, _, field = key.partition(".")
        chosen[part][field] = value
    return chosen


def _short(key: str) -> str:
    field = key.partition(".")[2]
    return {"sigma": "σ"}.get(field, field)


def _text(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _noisy(train: Mapping[str, Any]) -> bool:
    return any(train.get(field) for field in ("sigma", "multiplicative", "layers"))
