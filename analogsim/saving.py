"""A network on its hardware in one file, and back: `save` and `load`."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from .errors import CheckpointError, ProfileError
from .machine import installed
from .nn import AnalogComposite, AnalogLayer, analog_layers, called_layers, forbid_nested, plain_class
from .nn.correction import KEYS
from .nn.known import exactly
from .nn.layer import CHIP, RANGES, RECORD
from .noise import all_sites
from .profile import HardwareProfile
from .qat.layers import FixedQuantizer, described
from .ranges.learn import learn_alone
from .storage.files import content, first_line, write_aside
from .storage.kept import CHECKSUM, Record, opened, why
from .storage.tensors import tensors_checksum, unpacked
from .value import Value

KEY, FORMAT = "analogsim-network", 1
_LIBRARIES = ("analogsim", "torch")
_TENSORS = "a safetensors file that analogsim.save wrote is needed"


class _Layer(Value):
    """A layer on crossbars: its class here, and the class of the network that it stands for."""

    made: str
    stands_for: str


class _Saved(Record):
    """What a file says beside its tensors."""

    format: int
    network: str
    versions: dict[str, str | None]
    layers: dict[str, _Layer]
    """By the name of what the network calls."""
    profiles: tuple[dict[str, Any], ...]
    profile_of: dict[str, int]
    """Of each analog layer, the crossbars of layers of several matrices one by one: which of `profiles`."""
    learned: tuple[str, ...]
    """The analog layers whose input range is a parameter."""
    quantizers: dict[str, str]
    """What quantizers are there, by their layers' names."""
    tied: dict[str, str]
    """Names of tensors that are in the file under another one."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network on its hardware to one safetensors file, which `load` reads.

    In it are the weights and all else of the `state_dict`: ranges, and the chips that were programmed with their ages;
    and as text the layers' classes, the profile of every layer, what quantizers there are, and versions. Tied tensors
    are there once. Not in it are random states, seeds (`set_seed`), backends, and hooks.

    Parameters
    ----------
    model : nn.Module
        Digital, converted or in part; quantized (`prepare_qat`, `freeze_quantization`) as well.
    path : str or path
        Replaced as a whole: there is the old file or the new one, never half of one.

    Raises
    ------
    CheckpointError
        Noise is injected into the network, which a file does not hold; something in its state is no tensor or has no
        numbers (device meta); or the file cannot be written.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> analog = an.convert(torch.nn.Linear(4, 2), an.HardwareProfile.load("8bit"))
    >>> _ = an.calibrate(analog, torch.randn(16, 4))
    >>> an.save(analog, "net.safetensors")
    >>> same = an.load("net.safetensors", torch.nn.Linear(4, 2))
    >>> same.profile.name, torch.equal(same.input_range, analog.input_range)
    ('8bit', True)
    """
    if all_sites(model):
        raise CheckpointError(
            f"save: {type(model).__name__} has injected noise, which a file does not hold; save before inject_noise, "
            "or remove_noise first"
        )
    tensors, tied, seen = {}, {}, {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout is not torch.strided:
            kind = f"a tensor on {value.device}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise CheckpointError(
                f"save: {name} is {kind}, which has no numbers to write; only dense tensors are saved"
            )
        if id(value) in seen:
            tied[name] = seen[id(value)]
        else:
            seen[id(value)] = name
            tensors[name] = value.detach().cpu().contiguous().clone()
    profiles: list[dict[str, Any]] = []
    profile_of = {}
    for name, layer in analog_layers(model):
        values = layer.profile.model_dump(mode="json")
        if values not in profiles:
            profiles.append(values)
        profile_of[name] = profiles.index(values)
    about = _Saved(
        format=FORMAT,
        network=type(model).__name__,
        versions={name: installed(name) for name in _LIBRARIES},
        layers={name: _layer(layer) for name, layer in called_layers(model).items()},
        profiles=tuple(profiles),
        profile_of=profile_of,
        learned=tuple(n for n, layer in analog_layers(model) if isinstance(layer.input_range, nn.Parameter)),
        quantizers=_quantizers(model),
        tied=tied,
    )
    metadata = {KEY: json.dumps(about.model_dump(mode="json"))}

    def write(aside: Path) -> None:
        from safetensors.torch import save as packed

        aside.write_bytes(packed(tensors, metadata | {CHECKSUM: tensors_checksum(tensors, metadata)}))

    write_aside(Path(path), write)


@torch.inference_mode(False)  # what is made must outlive it
def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Read what `save` wrote into a network of the same architecture. Nothing in the file is executed.

    Parameters
    ----------
    path : str or path
    model : nn.Module
        Digital, and then its layers are put on the hardware that the file says; or converted, and then every layer must
        be on the same hardware as in the file. Quantizers must be there already (`prepare_qat` with the same
        specification, and `freeze_quantization` where that was done).

    Returns
    -------
    nn.Module
        The network itself, with the weights, ranges and chips of the file; its device and training modes stay.

    Raises
    ------
    CheckpointError
        The file is missing, damaged or no such file; it holds another architecture, or the network has another
        profile, layer or quantizer, which the message names. The network is then as it was.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> an.save(an.convert(torch.nn.Linear(4, 2), an.HardwareProfile.load("8bit")), "net.safetensors")
    >>> type(an.load("net.safetensors", torch.nn.Linear(4, 2))).__name__
    'AnalogLinear'
    """
    where = Path(path)
    tensors, about = _read(where)
    try:
        profiles = [HardwareProfile(**values) for values in about.profiles]
    except ProfileError as error:
        raise CheckpointError(f"{where}: its profile is none here: {error}") from None
    _check_layers(where, model, about, profiles)
    _check_tensors(where, model, tensors, about)
    for name in about.layers:
        module = model.get_submodule(name)
        if not isinstance(module, AnalogLayer | AnalogComposite):
            profile = profiles[about.profile_of.get(name, 0)]
            exactly(plain_class(module)).analog.from_digital(module, profile)  # type: ignore[union-attr]
    for number, (name, layer) in enumerate(analog_layers(model)):
        layer.stream, layer.layer_name = number, name
        layer.profile = profiles[about.profile_of.get(name, 0)]
        layer.chip_seed = layer.chip_seconds = layer.calibrated_for = layer.correction = None
        learn_alone(layer, name in about.learned)
    forbid_nested(model)
    model.load_state_dict(tensors)
    return model


def _layer(layer: nn.Module) -> _Layer:
    digital: Any = layer.digital
    return _Layer(made=plain_class(layer).__name__, stands_for=_name(digital))


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _quantizers(model: nn.Module) -> dict[str, str]:
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, FixedQuantizer):
            found[name] = f"{module.low}..{module.high}"
        elif (text := described(module)) is not None:
            found[name] = text
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], _Saved]:
    try:
        tensors, metadata = unpacked(content(path, None))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; analogsim.save(model, path) writes one") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # what bytes that are no such file make its readers raise
        raise CheckpointError(f"{path}: damaged or no such file ({first_line(error)}); {_TENSORS}") from None
    if KEY not in metadata:
        raise CheckpointError(f"{path}: does not say on which hardware its weights are; {_TENSORS}")
    known = metadata.pop(CHECKSUM, None)
    if known != tensors_checksum(tensors, metadata):
        raise CheckpointError(f"{path}: damaged (its checksum is not that of when it was written); use a good copy")
    try:
        values = opened(metadata[KEY])
        if values.get("format") != FORMAT:
            raise CheckpointError(f"{path}: of format {values.get('format')!r}, this version reads {FORMAT}; upgrade")
        about = _Saved.model_validate(values)
        tensors |= {name: tensors[stands_for] for name, stands_for in about.tied.items()}
        owners = {owner for name in about.profile_of for owner in (name, name.rpartition(".")[0])}
        if not all(number < len(about.profiles) for number in about.profile_of.values()) or set(about.layers) - owners:
            raise ValueError("a layer has no profile")
    except (ValueError, ValidationError, KeyError) as error:
        reason = why(error) if isinstance(error, ValueError) else f"no tensor {error}"
        raise CheckpointError(f"{path}: damaged ({reason}); use a good copy") from None
    return tensors, about


def _check_layers(path: Path, model: nn.Module, about: _Saved, profiles: list[HardwareProfile]) -> None:
    """Refuse a network whose layers, hardware or quantizers are others than the file's; name the first."""

    def refuse(name: str, held: str, has: str, remedy: str) -> CheckpointError:
        return CheckpointError(f"{path}: {name or 'the network'}: the file has {held}, the network {has}; {remedy}")

    modules = dict(model.named_modules(remove_duplicate=False))
    architecture = f"load takes the architecture that was saved ({about.network})"
    for name, layer in about.layers.items():
        module = modules.get(name)
        if module is None:
            raise refuse(name, layer.stands_for, "no such layer", architecture)
        analog = isinstance(module, AnalogLayer | AnalogComposite)
        row = None if analog else exactly(plain_class(module))
        kind = module.digital if analog else plain_class(module)
        if (row is None and not analog) or _name(kind) != layer.stands_for:
            raise refuse(name, layer.stands_for, _name(kind), architecture)
    called = called_layers(model)
    for name, module in called.items():
        if name not in about.layers:
            remedy = "convert it with the same keep_digital, or give the digital network"
            raise refuse(name, "a digital layer", type(module).__name__, remedy)
    for name, layer in analog_layers(model):
        saved = profiles[about.profile_of[name]] if name in about.profile_of else None
        if saved is None or layer.profile != saved:
            held = "no such crossbar" if saved is None else f"profile {saved.name!r}"
            other = "" if saved is None else f" ({_differences(saved, layer.profile)})"
            remedy = "convert it for that profile, or give the digital network"
            raise refuse(name, held, f"profile {layer.profile.name!r}{other}", remedy)
    now = _quantizers(model)
    for name in {**about.quantizers, **now}:
        held, has = about.quantizers.get(name, "no quantizer"), now.get(name, "no quantizer")
        if held != has:
            raise refuse(name, held, has, "prepare_qat (and freeze) the network as it was when it was saved")


def _differences(saved: HardwareProfile, now: HardwareProfile) -> str:
    before, after = (_fields(profile.model_dump(mode="json")) for profile in (saved, now))
    found = [f"{key} {old!r} there, {after.get(key)!r} here" for key, old in before.items() if old != after.get(key)]
    return ", ".join(found[:3])


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for part, held in values.items():
        flat |= {f"{part}.{key}": value for key, value in held.items()} if isinstance(held, dict) else {part: held}
    return flat


def _check_tensors(path: Path, model: nn.Module, tensors: dict[str, Tensor], about: _Saved) -> None:
    """Refuse a network whose tensors are others than the file's, but for what analog layers add."""
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    owners = {name: name if name in about.layers else name.rpartition(".")[0] for name in about.profile_of}
    names = {
        (place + name[len(owner) :]).lstrip(".")
        for name, owner in owners.items()
        for place in places[id(model.get_submodule(owner))]
    }
    added = {f"{name}.{key}".lstrip(".") for name in names for key in (*RANGES, *CHIP, RECORD, *KEYS)}
    wanted = {name: value for name, value in model.state_dict().items() if name not in added}
    held = {name: value for name, value in tensors.items() if name not in added}
    for name in {**held, **wanted}:
        shapes = [tuple(one[name].shape) if isinstance(one.get(name), Tensor) else None for one in (held, wanted)]
        if shapes[0] != shapes[1]:
            texts = ["no such tensor" if shape is None else f"shape {shape}" for shape in shapes]
            raise CheckpointError(
                f"{path}: {name}: the file has {texts[0]}, the network {texts[1]}; load takes the architecture that "
                f"was saved ({about.network})"
            )
