"""The configurations of IBM's aihwkit (1.1) and aihwkit-lightning, RPUConfigs, and ours; none of them is imported here.

A tile of aihwkit holds weights in units of its own (of 1 at most, with `weight_scaling_omega` = 1) and is given inputs
within `inp_bound`. Its sums are in units of the product of both, ours of a full-scale input through a full weight. With
ω for the largest weight on the tile, what is added to a sum or bounds it is divided:

    adc.full_scale = out_bound/(inp_bound·ω),    noise.output = out_noise/(inp_bound·ω),    noise.read = w_noise/ω

A resolution is a number of steps from end to end or its inverse, 2^b - 2 for b bits. Conductances are in µS there.
"""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from ...errors import ProfileError
from .report import Reading, Translation

# How it computes or trains, and classes that compute; read where they matter.
TRAINING = (
    "forward.max_bm_*",
    "forward.bm_test_negative_bound",
    "mapping.weight_scaling_lr_compensation",
    "mapping.out_scaling_columnwise",
    "pre_post.input_range.*",
)
DEFAULTS = {"mapping.max_input_size": 512, "mapping.max_output_size": 512, "forward.is_perfect": False}


def read(config: Any) -> Translation:
    """Return what an RPUConfig says as the parts of a profile, and what it says beyond it.

    Parameters
    ----------
    config : InferenceRPUConfig, TorchInferenceRPUConfig, or one of aihwkit-lightning
        Read by its attributes.

    Raises
    ------
    ProfileError
        It has no `forward` with such settings: it is no configuration for inference.
    """
    forward = getattr(config, "forward", None)
    if forward is None or not hasattr(forward, "out_res"):
        raise ProfileError(
            f"{type(config).__name__} is no configuration of inference: an InferenceRPUConfig or a "
            "TorchInferenceRPUConfig of aihwkit is needed, or one of aihwkit-lightning"
        )
    given, defaults = {}, dict(DEFAULTS)
    for part in ("forward", "mapping", "pre_post.input_range"):
        found = config
        for name in part.split("."):
            found = getattr(found, name, None)
        if found is not None:
            given |= _settings(found, part)
            defaults |= _settings(_fresh(found), part)
    r = Reading("aihwkit", "a profile", given, defaults)
    r.ignore(TRAINING)
    for ours, theirs in {"rows": "mapping.max_input_size", "cols": "mapping.max_output_size"}.items():
        if theirs in given:
            r.put(f"tile.{ours}", r[theirs] if r[theirs] > 0 else None, theirs)
    lightning = "forward.inp_bound" not in given
    (_lightning if lightning else _forward)(r, config)
    _training(r, config)
    if not lightning:
        _material(r, config)
    return r.done()


def _settings(part: Any, before: str) -> dict[str, Any]:
    names = [field.name for field in fields(part)] if is_dataclass(part) else vars(part)
    values = {name: getattr(part, name) for name in names if hasattr(part, name)}
    return {f"{before}.{name}": v.value if isinstance(v, Enum) else v for name, v in values.items()}


def _fresh(part: Any) -> Any:
    """Return the same part with its defaults."""
    try:
        return type(part)()
    except TypeError:
        return part


def _bits(r: Reading, name: str) -> int | None:
    """Return the bits of a resolution, which is 1/(2^b - 2) or its inverse."""
    resolution = r[name]
    if resolution <= 0:
        return None
    steps = resolution if resolution > 1 else 1 / resolution
    bits = round(math.log2(steps + 2))
    if abs(steps - (2**bits - 2)) > 1e-6 * steps:
        r.lose(name, f"{steps:g} steps are no whole number of bits; the nearest is {bits}")
    return max(2, min(16, bits))


def _forward(r: Reading, config: Any) -> None:
    omega = r["mapping.weight_scaling_omega"]
    if r["forward.is_perfect"] or r["forward.mv_type"] == "Ideal":
        r.put("adc.full_scale", None, "forward.is_perfect", "forward.mv_type")
        r.put("weight.w_max", "tensor", "mapping.weight_scaling_omega")
        r.ignore(["forward.*", "mapping.weight_scaling_columnwise"])
        return
    if r["forward.mv_type"] != "OnePass":
        r.lose("forward.mv_type", "positive and negative inputs are applied in one pass here")
    if omega > 0:
        share = "tile-column" if r["mapping.weight_scaling_columnwise"] else "tile"
        r.put("weight.w_max", share, "mapping.weight_scaling_omega", "mapping.weight_scaling_columnwise")
    else:
        r.put("weight.w_max", 1.0, "mapping.weight_scaling_omega")
        r.lose("mapping.weight_scaling_omega", "weights are not scaled there; here those beyond 1 clip, and 1 is g_max")
        r.ignore(["mapping.weight_scaling_columnwise"])
    weight = float(omega) if omega > 0 else 1.0
    inputs = _inputs(r)
    bits = _bits(r, "forward.inp_res")
    if bits is not None:
        r.put("dac.bits", bits, "forward.inp_res")
    elif r["forward.inp_bound"] > 0 and r["forward.noise_management"] != "AbsMax":
        r.lose("forward.inp_bound", "inputs clip in a DAC with bits alone here")
    bits, bound = _bits(r, "forward.out_res"), r["forward.out_bound"]
    if 0 < bound < math.inf:
        r.put("adc.full_scale", bound / (inputs * weight), "forward.out_bound")
        if bits is not None:
            r.put("adc.bits", bits, "forward.out_res")
    else:
        r.put("adc.full_scale", None, "forward.out_bound")
        if bits is not None:
            r.lose("forward.out_res", "an ADC with bits needs a bound here")
    r.put("noise.output", max(r["forward.out_noise"], 0.0) / (inputs * weight), "forward.out_noise")
    if r["forward.w_noise_type"] == "AdditiveConstant":
        r.put("noise.read", r["forward.w_noise"] / weight, "forward.w_noise", "forward.w_noise_type")
    elif r["forward.w_noise_type"] != "None":
        r.lose("forward.w_noise_type", "noise of weights at a read does not depend on them here; see flicker")
    r.ignore(["forward.w_noise"])
    for ours, theirs in {"dac": "inp", "adc": "out"}.items():
        if r[f"forward.{theirs}_sto_round"] and r[f"forward.{theirs}_res"] > 0:
            r.put(f"{ours}.rounding", "stochastic", f"forward.{theirs}_sto_round")
    if r["forward.bound_management"] == "Iterative" and 0 < bound < math.inf:
        # Inputs are halved until a limit is passed: of the factor, or of what is left of the DAC's steps.
        limit, steps = r["forward.max_bm_factor"] or 1000, r["forward.inp_res"]
        if steps > 0 and r["forward.max_bm_res"]:
            steps = 1 / steps if steps > 1 else steps
            limit = min(limit, r["forward.max_bm_res"] / (2 * r["forward.inp_bound"] * steps))
        often = max(0, min(64, math.floor(math.log2(limit)) + 1)) if limit > 0 else 0
        r.put("adc.bound_management", often, "forward.bound_management", "forward.max_bm_factor", "forward.max_bm_res")
    elif r["forward.bound_management"] != "None":
        r.lose("forward.bound_management", "sums beyond the bound clip here, or are read again with halved inputs")
    if r["forward.ir_drop"] > 0:
        r.lose("forward.ir_drop", "wires are resistances between cells here; see wires")
    r.ignore(["forward.ir_drop*"])
    if r["forward.out_noise"] <= 0:
        r.ignore(["forward.out_noise_std"])


def _inputs(r: Reading) -> float:
    """Set the input range, and return what a full-scale input is on their tile."""
    bound, management = r["forward.inp_bound"], r["forward.noise_management"]
    unit = float(bound) if 0 < bound < math.inf else 1.0
    learned, limit = r["pre_post.input_range.enable"], r["forward.nm_thres"]
    if management == "AbsMax":
        r.put("dac.input_range", "vector", "forward.noise_management")
        if limit > 0:
            r.lose("forward.nm_thres", "the range reaches to the largest input here")
        if unit != 1:
            r.lose("forward.inp_bound", "a range that follows the inputs is their largest here")
        if learned:
            r.lose("pre_post.input_range.enable", "one range here, and it follows the inputs")
        return 1.0
    if learned:
        r.put("dac.input_range", "calibrated", "pre_post.input_range.enable")
    elif management == "Constant":
        scale = limit if limit > 0 else 1.0
        r.put("dac.input_range", scale * unit, "forward.nm_thres", "forward.noise_management", "forward.inp_bound")
    else:
        r.put("dac.input_range", unit, "forward.inp_bound")
    if management not in ("None", "Constant") or (learned and management != "None"):
        r.lose("forward.noise_management", "the range of inputs is a constant here")
    r.ignore(["forward.nm_thres"])
    return unit


def _lightning(r: Reading, config: Any) -> None:
    """Bounds are relative to the input range and the largest weight already; output noise is for training alone."""
    columns = "Channel" in str(getattr(getattr(config, "clip", None), "type", ""))
    r.put("weight.w_max", "column" if columns else "tensor")
    if r["pre_post.input_range.enable"]:
        dynamic = bool(r["pre_post.input_range.dynamic"])
        names = "pre_post.input_range.enable", "pre_post.input_range.dynamic"
        r.put("dac.input_range", "vector" if dynamic else "calibrated", *names)
    for ours, theirs in {"dac": "forward.inp_res", "adc": "forward.out_res"}.items():
        if (bits := _bits(r, theirs)) is not None:
            r.put(f"{ours}.bits", bits, theirs)
    bound = r["forward.out_bound"]
    r.put("adc.full_scale", float(bound) if bound > 0 else None, "forward.out_bound")
    if r["forward.out_noise"] > 0:
        r.lose("forward.out_noise", "in training alone there; `inject_noise` and training on this profile have it")
    r.ignore(["forward.out_noise_per_channel"])


def _training(r: Reading, config: Any) -> None:
    for part in ("modifier", "clip", "remap"):
        for name in ("type", "noise_type", "quantization_type"):
            kind = getattr(getattr(config, part, None), name, None)
            if kind is not None and getattr(kind, "value", kind) != "None":
                r.given = {**r.given, f"{part}.{name}": getattr(kind, "value", kind)}
                r.lose(f"{part}.{name}", "of training, not of hardware; see NoiseSpec and training on a profile")


# --- the material ----------------------------------------------------------------------------------------------------

PCM = {"nu": (0.0244, -0.0155, 0.049, 0.1), "nu_sigma": (-0.0059, -0.0125, 0.008, 0.045)}
# Of both numbers of devices: limits and laws in two branches, as the class HermesNoiseModel has them.
HERMES: dict[int, dict[str, tuple[float, tuple[float, ...], tuple[float, ...]]]] = {
    1: {
        "nu": (0.0945, (-0.0182, -0.0387, 0.072, 0.13), (0.0736, -0.0126, -0.0436)),
        "nu_sigma": (0.3039, (-0.0023, -0.0120, 0.0124, 0.04), (0.0104, 0.0116, -0.0165)),
        "amplitude": (0.1591, (0.0038, -0.0078, 0.0179, 0.04), (0.0088, 0.0768, -0.1352, 0.0664)),
    },
    2: {
        "nu": (0.0945, (-0.0182, -0.0387, 0.072, 0.13), (0.0736, -0.0126, -0.0436)),
        "nu_sigma": (0.3055, (-0.0057, -0.0117, 0.0091, 0.04), (0.0073, 0.0093, -0.0118)),
        "amplitude": (0.16, (-0.0069, -0.0117, 0.015, 0.04), (0.0123, 0.0211, -0.028, 0.0069)),
    },
}


def logarithmic(law: tuple[float, ...], scale: float) -> dict[str, float] | float:
    """Return a logarithmic law of a profile, from its four numbers; scaled by 0, a constant 0."""
    if not scale:
        return 0.0
    return {name: value * scale for name, value in zip(("constant", "slope", "low", "high"), law)}


def branches(law: tuple[float, tuple[float, ...], tuple[float, ...]], scale: float) -> dict[str, Any] | float:
    """Return a law in two branches of a profile, from its limit and both laws' numbers; scaled by 0, a constant 0."""
    if not scale:
        return 0.0
    limit, below, above = law
    return {"below": logarithmic(below, scale), "limit": limit, "above": [value * scale for value in above]}


def _programming(model: Any, coefficients: Any, reference: float) -> list[float] | float:
    """σ in µS is a polynomial of g/g_max that was fitted where g_max was `reference`."""
    scale = getattr(model, "prog_noise_scale", getattr(model, "noise_scale", 1.0))
    found = [float(value) * scale / reference for value in coefficients]
    return found if any(found[1:]) else found[0]


def _pcm(model: Any) -> dict[str, dict[str, Any]]:
    read, drift = model.read_noise_scale, model.drift_scale
    flicker = {"amplitude": 0.0088 * read, "exponent": 0.65, "maximum": max(0.2 * read, 1e-12)} if read else {}
    return {
        "programming": {"sigma": _programming(model, model.prog_coeff, model.prog_coeff_g_max_reference)},
        "drift": {"t0": model.t_0, **{name: logarithmic(law, drift) for name, law in PCM.items()}},
        "flicker": {**flicker, "read_time": model.t_read},
    }


def _custom_drift(model: Any) -> dict[str, dict[str, Any]]:
    parts, table = _pcm(model), model.custom_drift_model
    g = [value / model.g_max for value in table["g_lst"]]
    for ours, theirs in {"nu": "nu_mean_lst", "nu_sigma": "nu_std_lst"}.items():
        values = [value * model.drift_scale for value in table[theirs]]
        parts["drift"][ours] = {"g": g, "value": values, "outside": "hold"}
    return parts


def _hermes(model: Any) -> dict[str, dict[str, Any]]:
    laws = HERMES[model.num_devices]
    parts = _pcm(model)
    parts["drift"] |= {name: branches(laws[name], model.drift_scale) for name in ("nu", "nu_sigma")}
    parts["flicker"] = {"amplitude": branches(laws["amplitude"], model.read_noise_scale), "read_time": model.t_read}
    return parts


def _independent(model: Any) -> dict[str, dict[str, Any]]:
    # The read noise is in µS, a fraction 1/g_max of the conductance at a scale of 1.
    return {
        "programming": {"sigma": _programming(model, model.prog_coeff, model.g_max)},
        "drift": {
            "t0": model.t_0,
            "nu": model.drift_nu_mean * model.drift_scale,
            "nu_sigma": model.drift_nu_std * model.drift_scale,
        },
        "flicker": {"amplitude": model.read_noise_scale / model.g_max, "read_time": model.t_read},
    }


def _wan(model: Any) -> dict[str, dict[str, Any]]:
    """Return spreads about targets at each time, of which the first is that of programming."""
    first, *later = sorted(model.coeff_dic)
    sigma = {time: _programming(model, model.coeff_dic[time], model.coeff_g_max_reference) for time in (first, *later)}
    parts: dict[str, dict[str, Any]] = {"programming": {"sigma": sigma[first]}}
    if later and model.noise_scale:
        spreads = [sigma[time] if isinstance(sigma[time], list) else [sigma[time]] for time in later]
        moments = {"seconds": [float(time) for time in later], "mean": [[0.0]] * len(later), "sigma": spreads}
        parts["drift"] = {"moments": moments}
    return parts


MATERIALS: dict[str, Callable[[Any], dict[str, dict[str, Any]]]] = {
    "PCMLikeNoiseModel": _pcm,
    "CustomDriftPCMLikeNoiseModel": _custom_drift,
    "HermesNoiseModel": _hermes,
    "StateIndependentNoiseModel": _independent,
    "ReRamWan2022NoiseModel": _wan,
}
"""Noise models by the names of their classes, and what they say of programming, drift and 1/f noise."""


COMPENSATIONS = {
    "NoneType": "none",
    "GlobalDriftCompensation": "global",
    "PerColumnDriftCompensation": "output",
}


def _material(r: Reading, config: Any) -> None:
    model, compensation = getattr(config, "noise_model", None), getattr(config, "drift_compensation", None)
    kind = type(model).__name__
    r.given = {**r.given, "noise_model": kind, "drift_compensation": type(compensation).__name__}
    factors = COMPENSATIONS.get(type(compensation).__name__)
    if factors is not None:
        r.put("drift.compensation", factors, "drift_compensation")
    else:
        r.lose("drift_compensation", "drift is compensated by a factor a layer or an output here, of the chip when new")
    if model is None:
        r.ignore(["noise_model"])
        return
    if kind == "ReRamCMONoiseModel":
        why = "a weight is one device between g_min and g_max, without a reference, and is clipped to them as it ages"
        r.lose("noise_model", why)
        return
    if kind not in MATERIALS:
        r.lose("noise_model", f"no law of the profile; there are {', '.join(MATERIALS)}")
        return
    for part, values in MATERIALS[kind](model).items():
        for name, value in values.items():
            r.put(f"{part}.{name}", value, "noise_model")
        if part == "flicker" and values.get("amplitude", 0) != 0:
            r.put("flicker.frozen", True, "noise_model")  # drawn when cells are aged, and in all reads from then on
    converter = model.g_converter
    kind = type(converter).__name__
    r.given = {**r.given, "noise_model.g_converter": kind}
    r.put("cells.mapping", "differential", "noise_model.g_converter")
    pairs = getattr(converter, "f_lst", [1.0])
    if kind == "SinglePairConductanceConverter" or (kind == "NPairConductanceConverter" and len(pairs) == 1):
        r.put("cells.g_min", converter.g_min / converter.g_max, "noise_model.g_converter")
        r.put("cells.g_max", float(converter.g_max), "noise_model.g_converter")
    elif kind in ("NPairConductanceConverter", "DualPairConductanceConverter"):
        why = f"{len(pairs)} pairs, each filled when the one before is full; devices of a cell have one target here"
        r.lose("noise_model.g_converter", why)
    else:
        r.lose("noise_model.g_converter", "a pair of cells here, in one of which the whole weight is")
