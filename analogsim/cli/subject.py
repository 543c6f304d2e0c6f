"""What commands work on: a trained network and its data, from a run, or anyone's own."""

import inspect
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import AnalogSimError, CheckpointError, DataError
from ..training.run_file import Run, weights_file
from .base import doing, note, plain
from .values import key_values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..batches import Batches, Step
    from ..training.data import DataSet

_DATA_SETS = "digits", "cifar10", "npz", "folder"  # what of --data stands in front of a colon, or alone
_NESTED = "state_dict", "model_state_dict", "model"  # where training scripts keep the weights in what they save


@dataclass(frozen=True)
class Subject:
    """A network and its data.

    Attributes
    ----------
    folder : Path
        Where results go.
    network : nn.Module
    test : batches
        With targets; may be run through many times.
    images : DataSet or None
        The data set, of images that are named; None of one's own data.
    training : batches or None
        One's own data for calibration.
    step, metric
        As of `noise_sweep`; metric None: accuracy.
    about : dict
        What was measured, as plain values.
    suffix : str
        Of files' names, where the data are not the run's or the measure is not accuracy: nothing is written over what
        was measured of others.
    own : bool
        Whether the network is of no run.
    """

    folder: Path
    network: "nn.Module"
    test: "Batches"
    images: "DataSet | None"
    training: "Batches | None"
    step: "Step | None"
    metric: Any
    about: dict[str, Any]
    suffix: str = ""
    own: bool = False

    @property
    def has_chip(self) -> bool:
        """Whether it is one's own network with the chip that `analogsim.save` wrote."""
        from ..nn import analog_layers

        layers = [layer for _, layer in analog_layers(self.network)]
        return self.own and bool(layers) and all(layer.chip_seconds is not None for layer in layers)

    @property
    def hardware(self) -> bool:
        """Whether the network is on hardware already."""
        from ..nn import analog_layers

        return any(analog_layers(self.network))

    @property
    def measure(self) -> dict[str, Any]:
        """The arguments of verbs that say what is measured, and how."""
        return {"metric": self.metric or "accuracy", "step": self.step}

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing, where the classes are counted; None leaves it to the measure."""
        return None if self.images is None or self.metric is not None else self.images.chance

    def sample(self, count: int, batch_size: int = 256) -> "list[Any]":
        """Return batches of training data to calibrate on: so many images, or of one's own data as many whole batches
        as hold so many samples.
        """
        if self.images is not None:
            return list(self.images.train_sample(count, batch_size))
        if self.training is None:
            note("the test data stand in for training data; --data may be a dict of batches, 'test' and 'train'")
        return first(self.test if self.training is None else self.training, count, self.step)

    def test_sample(self, count: int) -> "Tensor | Any":
        """Return one batch of test data: so many images, or the first of one's own batches."""
        if self.images is None:
            return first(self.test, 1, self.step)[0]
        return self.images.normalise(self.images.subset(test=count).test_x)


def subject(
    run: Path | None,
    model: str | None,
    args: list[str] | None,
    weights: Path | None,
    data: str | None,
    step: str | None,
    metric: str | None,
    test_subset: int | None = None,
    *,
    frozen: bool = True,
) -> Subject:
    """Return what the options of a command name; `frozen`: quantizers of a run are as hardware takes them.

    Raises
    ------
    typer.BadParameter
        Neither a run nor a network with its data is named, or both in parts.
    AnalogSimError
        What is named cannot be imported, read or built.
    """
    if run is None and (model is None or data is None):
        raise typer.BadParameter(
            "name a RUN of `analogsim train`, or your own network and its data: --model my_net:MyNet --weights FILE "
            "--data my_data:loader"
        )
    if run is not None and (weights or args):
        option = "--weights" if weights else "--arg"
        raise typer.BadParameter("a run has its own: leave out the run, or this", param_hint=option)
    _seed()
    doing(f"loading {run or model}")
    if run is None:
        network, about = _own_network(model or "", args, weights)
        folder = Path("runs") / (model or "").replace(":", "-")
        named = Named(folder, None, network, about)
    else:
        named = Named.of_run(weights_file(run), model, frozen)
    calling = None if step is None else _function(step, "step")
    measure = None if metric in (None, "accuracy") else _metric(metric or "")
    name = data or (named.run.data if named.run else "")
    other = "" if named.run is None or name == named.run.data else f"-{Path(name.partition(':')[2] or name).stem}"
    suffix = other + ("" if measure is None else f"-{measure.name}")
    if name.partition(":")[0] not in _DATA_SETS:
        test, training = _own_data(name, test_subset, calling)
        about = {"data": name}
        about |= named.about
        return Subject(named.folder, named.network, test, None, training, calling, measure, about, suffix, run is None)

    from ..training.data import load_data
    from ..training.network import check_fit

    fewer = test_subset or (named.run.test_subset if named.run and data is None else None)
    images = load_data(name).subset(test=fewer)
    if calling is None and measure is None:
        check_fit(named.network, images)
    about = {"data": images.label, "fingerprint": images.fingerprint}
    batches = list(images.test_batches())
    about |= named.about
    return Subject(named.folder, named.network, batches, images, None, calling, measure, about, suffix, run is None)


@dataclass(frozen=True)
class Named:
    """A network, where it comes from, and where its results go."""

    folder: Path
    run: Run | None
    network: "nn.Module"
    about: dict[str, Any]

    @classmethod
    def of_run(cls, file: Path, model: str | None, frozen: bool) -> "Named":
        """Load a run's; `model`: built by this import path, not by the file's."""
        run = Run.load(file)
        network = run.network(file, model)
        if frozen and run.qat is not None:
            from ..qat import freeze_quantization

            network = freeze_quantization(network, inplace=True)
        about = {"network": run.model, "args": run.args, "weights_crc32": run.weights.crc32}
        return cls(file.parent, run, network, about)


def first(batches: "Batches", count: int, step: "Step | None" = None) -> list[Any]:
    """Return so many batches as hold at least `count` samples.

    Raises
    ------
    DataError
        There is no batch.
    """
    from ..batches import Lent, samples_in, with_targets

    found, samples = [], 0
    for batch in Lent(with_targets(batches, step)):
        found.append(batch)
        samples += samples_in(batch)
        if samples >= count:
            break
    if not found:
        raise DataError("--data: no batch")
    return found


def _own_network(model: str, args: list[str] | None, weights: Path | None) -> "tuple[nn.Module, dict[str, Any]]":
    from torch import nn

    from ..training.network import build, find

    found, given = find(model), key_values(args or [])
    if given and isinstance(found, nn.Module):
        raise AnalogSimError(f"model {model!r}: it is a network already, and takes no --arg")
    network = found if isinstance(found, nn.Module) else build(found, given)
    about: dict[str, Any] = {"network": model, "args": given}
    if weights is None:
        note(f"no --weights: {plain(type(network).__name__)} is measured as {plain(model)} gives it")
        return network.eval(), about
    return _loaded(network, weights).eval(), about | {"weights_crc32": _crc(weights)}


def _crc(path: Path) -> str:
    return f"{zlib.crc32(path.read_bytes()):08x}"


def _loaded(network: "nn.Module", path: Path) -> "nn.Module":
    """Load a state_dict (torch.save, read with weights_only), safetensors, or what `analogsim.save` wrote.

    Raises
    ------
    CheckpointError
        The file cannot be read, or does not fit the network.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    from ..saving import KEY, load

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            if KEY in metadata:
                return load(path, network)
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: no safetensors file: {error}") from None
    except Exception as error:  # what unpickling bytes that are none, or hold code, raises
        line = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: no state_dict that is safe to read ({line}); save model.state_dict(), or safetensors"
        ) from None
    while isinstance(state, Mapping) and (inner := next((key for key in _NESTED if _is_state(state.get(key))), None)):
        state = state[inner]
    if not _is_state(state):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, no state_dict (names to tensors)")
    for prefix in ("module.", "_orig_mod."):  # of torch's DataParallel and of torch.compile
        if all(name.startswith(prefix) for name in state) and not state.keys() & network.state_dict().keys():
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: its weights do not fit {type(network).__name__}: {text}") from None
    return network


def _is_state(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def _seed() -> None:
    """Let loaders that shuffle, and networks whose weights are drawn, be the same whenever a command is given."""
    import torch

    torch.manual_seed(0)


def _own_data(path: str, most: int | None, step: "Step | None") -> "tuple[Batches, Batches | None]":
    """Return test data and, where there is some, data for calibration, from a function or an object of the user's."""
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    from ..training.network import imported

    found = imported(path, "data")
    if callable(found) and not isinstance(found, Dataset | DataLoader | nn.Module):
        try:
            found = found()
        except Exception as error:
            raise AnalogSimError(
                f"data {path!r}: calling it fails: {type(error).__name__}: {error}; it must take no arguments and "
                "return batches, or a dict of batches with 'test' and 'train'"
            ) from error
    test, training = found, None
    if isinstance(found, Mapping) and "test" in found:
        test, training = found["test"], found.get("train")
    if not isinstance(test, Iterable | Dataset):
        raise AnalogSimError(f"data {path!r}: {type(test).__name__} is nothing that batches come from")
    if isinstance(test, Iterator):
        test = list(test)
    if isinstance(training, Iterator):
        training = list(training)
    return (test if most is None else first(test, most, step)), training


def _function(path: str, what: str) -> Any:
    from ..training.network import imported

    found = imported(path, what)
    if not callable(found):
        raise AnalogSimError(f"{what} {path!r}: it is {type(found).__name__}, a function is needed")
    return found


def _metric(name: str) -> Any:
    """Return a measure by its name, or what an import path gives: an object, a class without arguments, a function."""
    from ..robustness.measure import as_measure, measure_named

    if ":" not in name:
        return measure_named(name)
    found = _function(name, "metric")
    return as_measure(found() if inspect.isclass(found) else found)
