"""The files that a training leaves: weights, and how the network is built again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ValidationError

from ..errors import CheckpointError
from ..profile import HardwareProfile
from ..storage.kept import Record, read_kept, sealed_text
from ..value import Fraction, Value, explain

if TYPE_CHECKING:
    from torch import nn

    from .checkpoint import Weights

SETTINGS = ("model", "args", "data", "train_subset", "test_subset", "start_crc32")
WEIGHTS, ABOUT = "model.safetensors", "run.json"


def weights_file(run: Path) -> Path:
    """Return the weights of a run that is given by its folder, or by this file."""
    return run / WEIGHTS if run.is_dir() else run


class Hardware(Value):
    """The simulated hardware that a network is trained on, and how its ranges began."""

    profile: dict[str, Any]
    """The `HardwareProfile`."""
    ranges: str
    """The method of `calibrate`."""
    percentile: float | None = None
    calibration: int
    """Training images that were calibrated on."""
    learn_ranges: bool = False
    """Whether training went on with the input ranges, too."""
    range_lr: float | None = None
    """Adam's rate for them, where one was given."""


class Run(Record):
    """What a network is and how it is trained: in `run.json`, and inside its `model.safetensors` with the result.

    A study that keeps its networks leaves the second of each.
    """

    remedy: ClassVar[str] = "put a good copy in its place, or use another --out"

    format: Literal["analogsim-run-1"] = "analogsim-run-1"
    model: str
    """Import path, "module:name"."""
    args: dict[str, Any]
    """Its constructor's arguments."""
    data: str
    """Name of the data set, for `load_data`."""
    train_subset: int | None = None
    test_subset: int | None = None
    start: str | None = None
    """The file whose weights it starts from; null: random ones."""
    start_crc32: str | None = None
    """Of that file, wherever it lies."""
    hardware: Hardware | None = None
    """What it is trained on; null: digitally."""
    qat: dict[str, Any] | None = None
    """The `QATSpec` of its quantizers; null: it has none."""
    spec: dict[str, Any]
    """The training's `TrainSpec`."""
    version: str
    """Of analogsim, that trained it."""
    label: str
    """The data set's, for results."""
    test_accuracy: Fraction | None = None
    """Without noise; null until the training is finished."""
    status: Literal["unfinished", "finished", "collapsed"] = "unfinished"

    _weights: "Weights | None" = None

    def save(self, folder: Path) -> None:
        """Write `run.json`; never leaves half a file."""
        from ..storage.files import write_text

        write_text(folder / ABOUT, sealed_text(self.model_dump(mode="json"), 2))

    def save_weights(self, model: "nn.Module", folder: Path) -> None:
        """Write `model.safetensors`; never leaves half a file."""
        from .checkpoint import save_model

        save_model(model, folder / WEIGHTS, self.model_dump(mode="json"))

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the training, by its (dotted) name."""
        from .checkpoint import flat

        own = {key: getattr(self, key) for key in SETTINGS}
        return self.spec | own | flat(self.hardware and self.hardware.model_dump(), "hardware")

    @classmethod
    def load_about(cls, folder: Path) -> Self:
        """Read `run.json`.

        Raises
        ------
        CheckpointError
            It is missing, damaged or foreign.
        """
        path = folder / ABOUT
        run = read_kept(path, cls, CheckpointError)
        if run is None:
            raise CheckpointError(f"{path}: no such file; `analogsim train` writes one")
        return run

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read from `model.safetensors` what the network is; no code is run.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or was not written by `analogsim train`.
        """
        from .checkpoint import Weights

        weights = Weights.read(path)
        try:
            run = cls.model_validate(weights.about)
        except ValidationError as error:
            raise CheckpointError(f"{path}: damaged ({explain(error)}); {cls.remedy}") from None
        run._weights = weights
        return run

    @property
    def weights(self) -> "Weights":
        """What `load` read, the weights and the checksum of that file too, whatever has become of the file since."""
        assert self._weights is not None, "of a run that was loaded"
        return self._weights

    def network(self, path: Path, trusted: str | None = None) -> "nn.Module":
        """Build the network of a run that was loaded, with its weights.

        Parameters
        ----------
        path : Path
            The `model.safetensors`.
        trusted : str, optional
            Import path to use instead of the file's.

        Raises
        ------
        CheckpointError
            The weights do not fit the network.
        AnalogSimError
            The file asks to call something that is no network class.
        """
        from .network import build, find, find_class

        factory = find(trusted) if trusted else find_class(self.model, False, "--model")
        model = build(factory, self.args)
        if self.hardware is not None:
            from ..convert import convert

            model = convert(model, HardwareProfile(**self.hardware.profile), inplace=True)
        if self.qat is not None:
            from ..qat import QATSpec, prepare_qat

            model = prepare_qat(model, QATSpec(**self.qat), inplace=True)
        self.weights.load(model)
        return model
