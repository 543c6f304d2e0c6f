"""A network by its import path, and the file that a training leaves: weights, and how the network is built again."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import AnalogSimError, CheckpointError, ShapeError
from ..profile import explain

if TYPE_CHECKING:
    from torch import nn

    from ..study.data import DataSet

SETTINGS = ("model", "args", "data", "train_subset", "test_subset")
WEIGHTS, ABOUT = "model.safetensors", "run.json"


class Run(BaseModel):
    """What a network is and how it is trained: in `run.json`, and inside its `model.safetensors` with the result."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["analogsim-run-1"] = "analogsim-run-1"
    model: str
    """Import path, "module:name"."""
    args: dict[str, Any]
    """Its constructor's arguments."""
    data: str
    """Name of the data set, for `load_data`."""
    train_subset: int | None = None
    test_subset: int | None = None
    spec: dict[str, Any]
    """The training's `TrainSpec`."""
    version: str
    """Of analogsim, that trained it."""
    label: str
    """The data set's, for results."""
    test_accuracy: float | None = None
    """Without noise; null until the training is finished."""
    status: str = "unfinished"

    def save(self, folder: Path) -> None:
        """Write `run.json`; never leaves half a file."""
        from ..study.checkpoint import write_text

        write_text(folder / ABOUT, self.model_dump_json(indent=2) + "\n")

    def save_weights(self, model: "nn.Module", folder: Path) -> None:
        """Write `model.safetensors`; never leaves half a file."""
        from ..study.checkpoint import save_model

        save_model(model, folder / WEIGHTS, self.model_dump(mode="json"))

    def differences(self, other: "Run") -> list[str]:
        """Return in which of their settings two trainings differ: "sigma was 0.0, now it is 0.5"."""
        mine, theirs = ({**run.spec, **{key: getattr(run, key) for key in SETTINGS}} for run in (self, other))
        return [
            f"{key} was {mine.get(key)!r}, now it is {theirs.get(key)!r}"
            for key in theirs | mine
            if mine.get(key) != theirs.get(key)
        ]

    @classmethod
    def load_about(cls, folder: Path) -> Self:
        """Read `run.json`.

        Raises
        ------
        CheckpointError
            It is missing, damaged or foreign.
        """
        path = folder / ABOUT
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise CheckpointError(
                f"{path}: not from `analogsim train`, or damaged ({explain(error)}); use another --out, or --fresh to "
                "overwrite it"
            ) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read from `model.safetensors` what the network is; no code is run.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or was not written by `analogsim train`.
        """
        from ..study.checkpoint import read_about

        try:
            return cls.model_validate(read_about(path))
        except ValidationError as error:
            raise CheckpointError(f"{path}: what it says of its network is damaged: {explain(error)}") from None

    def network(self, path: Path, trusted: str | None = None) -> "nn.Module":
        """Build the network and load its weights.

        Parameters
        ----------
        path : Path
            The `model.safetensors`.
        trusted : str, optional
            Import path to use instead of the file's.

        Raises
        ------
        CheckpointError
            The weights do not fit the network, or the file asks to call something that is no network class.
        """
        from torch import nn

        from ..study.checkpoint import load_model

        factory = find(trusted or self.model)
        # A file could name any function of any library, with any arguments: call nothing but networks' classes.
        if not trusted and not (isinstance(factory, type) and issubclass(factory, nn.Module)):
            raise CheckpointError(
                f"{path}: it is built by {self.model}, which is no nn.Module class; if you trust it, say so by "
                f"--model {self.model}"
            )
        model = build(factory, self.args)
        load_model(model, path)
        return model


def find(path: str) -> Callable[..., Any]:
    """Import a network's class or function from "module:name"; the current folder is looked in first.

    Raises
    ------
    AnalogSimError
        There is no such module or name, or importing it fails.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise AnalogSimError(f"model {path!r}: an import path 'module:name' is needed, such as models.lenet:LeNet5")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise AnalogSimError(
                f"model {path!r}: no module {error.name!r} in this folder ({here}) or among the installed packages"
            ) from None
        raise AnalogSimError(f"model {path!r}: importing {module_name} fails: {error}") from error
    except Exception as error:
        raise AnalogSimError(
            f"model {path!r}: importing {module_name} fails: {type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise AnalogSimError(
            f"model {path!r}: {module_name} has no network {name!r}; it has {', '.join(_networks(module)) or 'none'}"
        )
    return found


def build(factory: Callable[..., Any], args: dict[str, Any]) -> "nn.Module":
    """Call a network's constructor.

    Raises
    ------
    AnalogSimError
        It does not take these arguments, or what it returns is no nn.Module.
    """
    from torch import nn

    title = getattr(factory, "__name__", repr(factory))
    given = ", ".join(f"{key}={value!r}" for key, value in args.items())
    try:
        model = factory(**args)
    except Exception as error:
        raise AnalogSimError(
            f"{title}({given}) fails: {type(error).__name__}: {error}; it takes {title}{_signature(factory)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise AnalogSimError(f"{title}({given}) gives {type(model).__name__}, an nn.Module is needed")
    return model


def with_data(factory: Callable[..., Any], args: dict[str, Any], **known: Any) -> dict[str, Any]:
    """Return the arguments, completed by those facts of the data that the constructor has a parameter for."""
    try:
        names = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        names = {}
    return {key: value for key, value in known.items() if key in names} | args


def check_fit(model: "nn.Module", data: "DataSet") -> None:
    """Run two images through a network.

    Raises
    ------
    ShapeError
        It does not take the data's images, or does not return (batch, classes).
    """
    import torch

    images = data.normalise(data.train_x[:2])
    what = f"{type(model).__name__} on {data.label}, images {tuple(images.shape[1:])}"
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(images)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ShapeError(f"{what}: the network cannot take them: {error}") from error
    finally:
        model.train(training)
    wanted = (len(images), len(data.classes))
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ShapeError(f"{what}: its output must be (batch, classes) = {wanted}, got {got}; see --arg")


def _networks(module: Any) -> list[str]:
    from torch import nn

    return [
        n
        for n, v in vars(module).items()
        if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ == module.__name__
    ]


def _signature(factory: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):
        return "(…)"
