"""A profile in aihwkit's words, the inverse of `aihwkit.read`; aihwkit is imported where its classes are made."""

from collections.abc import Mapping
from typing import Any

from ...errors import ProfileError
from .aihwkit import HERMES, PCM, branches, logarithmic
from .report import Reading, Translation, parts, same

G_MAX = 25.0
"""µS: where a profile does not say what its largest conductance is, which sets no result."""


def write(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Translation:
    """Return settings of an InferenceRPUConfig for a profile, and what they do not say of it.

    Parameters
    ----------
    values, defaults : mapping
        What `model_dump` gives of the profile, and of the profile without anything set.

    Returns
    -------
    Translation
        `values` has the settings of forward, mapping and pre_post, and as "noise_model" a class' name and arguments.
    """
    r = Reading("a profile", "aihwkit", parts(values), parts(defaults))
    r.ignore(["name", "description", "tile.mapping", "noise.wander_length", "adc.per"])
    r.put("mapping.max_input_size", r["tile.rows"] or 0, "tile.rows")
    r.put("mapping.max_output_size", r["tile.cols"] or 0, "tile.cols")
    rule = r["weight.w_max"]
    columns = rule in ("column", "tile-column")
    r.put("mapping.weight_scaling_omega", 1.0, "weight.w_max")
    r.put("mapping.weight_scaling_columnwise", columns, "weight.w_max")
    if rule not in ("tile", "tile-column"):
        why = (
            "each tile there has a scale of its own"
            if isinstance(rule, str)
            else "the largest weight is the scale there"
        )
        r.lose("weight.w_max", why)
    _forward(r)
    _material(r)
    if any(name.startswith("cost.") and value != r.defaults.get(name) for name, value in r.given.items()):
        r.lose("cost.mac_energy", "energies and latencies are not of aihwkit's")
    r.ignore(["cost.*"])
    return r.done()


def _forward(r: Reading) -> None:
    put = {"bound_management": "NONE", "noise_management": "NONE", "inp_bound": 1.0, "inp_noise": 0.0}
    for name, value in put.items():
        r.put(f"forward.{name}", value)
    rule, bits = r["dac.input_range"], r["dac.bits"]
    if rule == "calibrated":
        r.put("pre_post.input_range.enable", True, "dac.input_range")
    elif rule in ("dynamic", "vector"):
        r.put("forward.noise_management", "ABS_MAX", "dac.input_range")
        if rule == "dynamic":
            r.lose("dac.input_range", "a scale for each vector there, for a batch here")
    else:
        r.put("forward.noise_management", "CONSTANT", "dac.input_range")
        r.put("forward.nm_thres", rule, "dac.input_range")
    r.put("forward.inp_res", 1 / (2**bits - 2) if bits else -1.0, "dac.bits")
    if bits is None and rule != "calibrated":
        r.put("forward.inp_bound", 0.0, "dac.bits")  # nothing clips there either
    elif bits is None:
        r.lose("dac.bits", "inputs clip to their range there, which is learned with them")
    if not r["dac.signed"]:
        r.lose("dac.signed", "a range that is even around 0 there, with half of the steps on each side")
    bits, full_scale = r["adc.bits"], r["adc.full_scale"]
    r.put("forward.out_res", 1 / (2**bits - 2) if bits else -1.0, "adc.bits")
    if full_scale == "calibrated":
        r.put("forward.out_bound", 12.0, "adc.full_scale")
        r.lose("adc.full_scale", "12, aihwkit's default: set forward.out_bound to what `calibrate` finds")
    elif isinstance(full_scale, list | tuple):  # of slices or steps, which it does not know
        r.put("forward.out_bound", max(full_scale), "adc.full_scale")
        r.lose("adc.full_scale", "one bound there, the largest")
    else:
        r.put("forward.out_bound", full_scale or 0.0, "adc.full_scale")
    for ours, theirs in {"dac": "inp", "adc": "out"}.items():
        if r[f"{ours}.rounding"] == "stochastic":
            r.put(f"forward.{theirs}_sto_round", True, f"{ours}.rounding")
        elif r[f"{ours}.rounding"] != "nearest":
            r.lose(f"{ours}.rounding", "to the nearest there, or at random")
    if r["adc.bound_management"]:
        r.put("forward.bound_management", "ITERATIVE", "adc.bound_management")
        r.put("forward.max_bm_factor", 2 ** (r["adc.bound_management"] - 1), "adc.bound_management")
        r.put("forward.max_bm_res", 1e9, "adc.bound_management")
    if not r["adc.signed"]:
        r.lose("adc.signed", "a range that is even around 0 there, with half of the steps on each side")
    r.put("forward.out_noise", r["noise.output"], "noise.output")
    read = r["noise.read"]
    if read:
        r.put("forward.w_noise", read, "noise.read")
        r.put("forward.w_noise_type", "ADDITIVE_CONSTANT", "noise.read")


def _material(r: Reading) -> None:
    g_max = float(r["cells.g_max"] or G_MAX)
    cells = {"g_max": g_max, "g_min": r["cells.g_min"] * g_max}
    sigma, drift = r["programming.sigma"], {name: r[f"drift.{name}"] for name in ("nu", "nu_sigma", "t0")}
    q, exponent, most, read_time = (r[f"flicker.{name}"] for name in ("amplitude", "exponent", "maximum", "read_time"))
    drawn = sigma != 0 or drift["nu"] != 0 or drift["nu_sigma"] != 0 or q != 0
    r.put("drift_compensation", r["drift.compensation"], "drift.compensation")
    if r["cells.devices"] > 1:
        r.lose("cells.devices", "one device there, or pairs that are filled one after the other")
    if r["cells.mapping"] == "offset":
        r.lose("cells.mapping", "a pair of cells there")
    elif r["cells.mapping"] == "signed" and drawn:
        r.lose("cells.mapping", "a pair of cells there, each with an error of its own")
    names = ("programming.sigma", "drift.nu", "drift.nu_sigma", "drift.t0", "flicker.amplitude", "flicker.read_time")
    names = (*names, "cells.g_min", "cells.g_max")
    coefficients = [sigma] if isinstance(sigma, float | int) else sigma
    if not isinstance(coefficients, list | tuple):
        r.lose("programming.sigma", "a polynomial of the conductance there")
        coefficients = [0.0]
    if q != 0 and not r["flicker.frozen"]:
        r.lose("flicker.frozen", "1/f noise is drawn once for an age there, and is the same in all reads of it")
    elif q != 0:
        names = (*names, "flicker.frozen")
    moments = r["drift.moments"]
    if moments is not None and _spreads(moments) and q == 0:
        times = {min(1.0, moments["seconds"][0] / 2): coefficients} | dict(zip(moments["seconds"], moments["sigma"]))
        model = {
            "class": "ReRamWan2022NoiseModel",
            "coeff_dic": {time: [c * g_max for c in law] for time, law in times.items()},
        }
        r.put("noise_model", model | {"g_converter": cells}, "drift.moments", *names[:1], *names[-2:])
        if moments["outside"] == "hold":
            r.lose("drift.moments", "other ages than these are refused there")
        return
    if moments is not None:
        r.lose("drift.moments", "a spread about the target, a polynomial of it, and no 1/f noise beside it there")
    common = {"t_0": drift["t0"], "t_read": read_time}
    pcm = {name: logarithmic(law, 1.0) for name, law in PCM.items()}
    if same({**drift, "q": q, "e": exponent, "m": most}, {**pcm, "t0": drift["t0"], "q": 0.0088, "e": 0.65, "m": 0.2}):
        # A fit's coefficients are in µS where g_max is the reference.
        model = {"class": "PCMLikeNoiseModel", "prog_coeff": [c * g_max for c in coefficients]}
        r.put("noise_model", model | common | {"g_converter": cells}, *names, "flicker.exponent", "flicker.maximum")
        return
    nu, nu_sigma = drift["nu"], drift["nu_sigma"]
    if isinstance(nu, Mapping) and isinstance(nu_sigma, Mapping) and "g" in nu and nu["g"] == nu_sigma.get("g"):
        reaches = nu["g"][0] <= r["cells.g_min"] and nu["g"][-1] >= 1  # a table that does not is refused there
        if reaches and same({"q": q, "e": exponent, "m": most}, {"q": 0.0088, "e": 0.65, "m": 0.2}):
            table = {"g_lst": [g * g_max for g in nu["g"]]}
            table |= {"nu_mean_lst": list(nu["value"]), "nu_std_lst": list(nu_sigma["value"])}
            model = {"class": "CustomDriftPCMLikeNoiseModel", "custom_drift_model": table}
            model["prog_coeff"] = [c * g_max for c in coefficients]
            r.put("noise_model", model | common | {"g_converter": cells}, *names, "flicker.exponent", "flicker.maximum")
            return
    for devices, laws in HERMES.items():
        law = {name: branches(value, 1.0) for name, value in laws.items()}
        wanted = {"nu": law["nu"], "nu_sigma": law["nu_sigma"], "t0": drift["t0"], "q": law["amplitude"]}
        if same({**drift, "q": q}, wanted):
            model = {
                "class": "HermesNoiseModel",
                "num_devices": devices,
                "prog_coeff": [c * g_max for c in coefficients],
            }
            r.put("noise_model", model | common | {"g_converter": cells}, *names)
            return
    numbers = {}
    for name, value in {"drift.nu": drift["nu"], "drift.nu_sigma": drift["nu_sigma"], "flicker.amplitude": q}.items():
        if not isinstance(value, float | int):
            r.lose(name, "a law of its own is a class there; constants, and those of pcm and hermes, are carried over")
        numbers[name] = float(value) if isinstance(value, float | int) else 0.0
    if q != 0 and exponent:
        r.lose("flicker.exponent", "1/f noise is a part of the conductance there")
    r.ignore(["flicker.exponent", "flicker.maximum", "flicker.read_time", "drift.t0"])
    model = {
        "class": "StateIndependentNoiseModel",
        "prog_coeff": [c * g_max for c in coefficients],
        "drift_nu_mean": numbers["drift.nu"],
        "drift_nu_std": numbers["drift.nu_sigma"],
        "read_noise_scale": numbers["flicker.amplitude"] * g_max,
    }
    kept = [name for name in names if name not in numbers or r[name] == numbers[name]]
    r.put("noise_model", model | common | {"g_converter": cells}, *kept)


def _spreads(moments: Mapping[str, Any]) -> bool:
    """Return whether cells only spread about their targets, by a polynomial at each age."""
    still = not any(any(law) for law in moments["mean"])
    return still and all(isinstance(law, list | tuple) for law in moments["sigma"])


def build(settings: Mapping[str, Any]) -> Any:
    """Return aihwkit's configuration with these settings.

    Raises
    ------
    ProfileError
        aihwkit is not installed.
    """
    try:
        from aihwkit.inference import GlobalDriftCompensation  # type: ignore[import-not-found]
        from aihwkit.inference.compensation.drift import PerColumnDriftCompensation  # type: ignore
        from aihwkit.inference.converter.conductance import SinglePairConductanceConverter  # type: ignore
        from aihwkit.inference.noise import custom, hermes, pcm, reram  # type: ignore[import-not-found]
        from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig  # type: ignore
        from aihwkit.simulator.parameters import enums  # type: ignore[import-not-found]
    except ImportError as error:
        raise ProfileError(
            f"aihwkit cannot be imported ({error}): pip install aihwkit, or `to_aihwkit.write` for plain settings"
        ) from None
    # Noise of weights at a read is of the tiles that are computed in C++ alone.
    kind = InferenceRPUConfig if settings["forward"].get("w_noise") else TorchInferenceRPUConfig
    config: Any = kind()
    named = {
        "noise_management": enums.NoiseManagementType,
        "bound_management": enums.BoundManagementType,
        "w_noise_type": enums.WeightNoiseType,
    }
    for part in ("forward", "mapping"):
        for name, value in settings[part].items():
            setattr(getattr(config, part), name, named[name][value] if name in named else value)
    for name, value in settings.get("pre_post", {}).get("input_range", {}).items():
        setattr(config.pre_post.input_range, name, value)
    factors = {"global": GlobalDriftCompensation, "output": PerColumnDriftCompensation}
    config.drift_compensation = factors.get(settings["drift_compensation"], lambda: None)()
    model = dict(settings["noise_model"])
    made = next(getattr(one, model["class"]) for one in (pcm, hermes, custom, reram) if hasattr(one, model["class"]))
    model["g_converter"] = SinglePairConductanceConverter(**model["g_converter"])
    config.noise_model = made(**{name: value for name, value in model.items() if name != "class"})
    return config
