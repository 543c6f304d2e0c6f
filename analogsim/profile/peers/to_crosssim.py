"""A profile in CrossSim's words, the inverse of `crosssim.read`."""

import copy
import math
from collections.abc import Mapping
from typing import Any

from . import crosssim_devices as devices
from .crosssim import NO_GAIN_ERROR, SHARED_CAPACITORS
from .report import Reading, Translation, parts, same

R_MIN = 1e4
"""Ohm: where a profile does not say what its largest conductance is, which sets no result but that of a model in µS."""

WHY = {
    "programming.mean": "errors of programming have no mean there",
    "programming.verify": "cells are written once there, with the error that is left",
    "drift.table": "no measured drift there, but a class",
}


def write(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Translation:
    """Return CrossSim's parameters for a profile, and what they do not say of it.

    Parameters
    ----------
    values, defaults : mapping
        What `model_dump` gives of the profile, and of the profile without anything set.
    """
    r = Reading("a profile", "CrossSim", parts(values), parts(defaults))
    r.ignore(["name", "description", "tile.mapping", "drift.t0", "flicker.*", "noise.wander_length", "adc.per"])
    r.put("core.rows_max", r["tile.rows"] or 0, "tile.rows")
    r.put("core.cols_max", r["tile.cols"] or 0, "tile.cols")
    for strategy in ("row", "col"):
        r.put(f"core.mapping.weights.{strategy}_partition_strategy", 1)  # full arrays and a rest, as here
    g_min = r["cells.g_min"]
    g_max = r["cells.g_max"] or devices.largest_conductance(r["programming.sigma"])
    r_min = 1e6 / g_max if g_max else R_MIN
    r.put("xbar.device.Rmin", r_min, "cells.g_max")
    r.put("xbar.device.infinite_on_off_ratio", not g_min, "cells.g_min")
    r.put("xbar.device.Rmax", r_min / g_min if g_min else 1e3 * r_min, "cells.g_min")
    _cells(r)
    _weights(r)
    unit = _inputs(r)
    _adc(r, (1 - g_min) / unit)
    _devices(r, g_min, 1e6 / r_min, unit)
    _wires(r, r_min)
    if r["tile.current_limit"] is not None:
        r.put("xbar.array.Icol_max", r["tile.current_limit"] / unit, "tile.current_limit")
        if r["wires.interleaved"]:
            r.put("core.balanced.interleaved_posneg", True, "wires.interleaved")
    for name, why in WHY.items():
        if r[name] != r.defaults[name]:
            r.lose(name, why)
    if any(name.startswith("cost.") and value != r.defaults.get(name) for name, value in r.given.items()):
        r.lose("cost.mac_energy", "energies and latencies are not of CrossSim's")
    r.ignore(["cost.*"])
    for pair in (r.values["core"]["mapping"]["inputs"], r.values["xbar"]["adc"], r.values["xbar"]["dac"]):
        pair["vmm"] = copy.deepcopy(pair["mvm"])  # the transposed product has the same converters
    if r["flicker.amplitude"] != 0:
        r.lose("flicker.amplitude", "no 1/f noise there")
    return r.done()


def _cells(r: Reading) -> None:
    bits, each, mapping = r["weight.bits"], r["cells.bits"], r["cells.mapping"]
    offset = mapping == "offset"
    if offset:
        r.put("core.offset.style", "UNIT_COLUMN_SUBTRACTION", "cells.mapping")
    if mapping == "signed" and r["programming.sigma"] != 0:
        r.lose("cells.mapping", "a pair of cells there, each with an error of its own")
    r.put("core.balanced.subtract_current_in_xbar", r["cells.subtraction"] == "analog", "cells.subtraction")
    if each is None:
        r.put("core.style", "OFFSET" if offset else "BALANCED", "cells.mapping")
        if bits is not None:
            r.put("xbar.device.cell_bits", bits - (not offset), "weight.bits")
            if offset:
                r.lose("weight.bits", f"outputs are smaller by {2**bits - 2}/{2**bits - 1} there, an error of gain")
        return
    slices = -(-(bits - (not offset)) // each)
    r.put("core.style", "BITSLICED", "cells.bits")
    r.put("core.bit_sliced.style", "OFFSET" if offset else "BALANCED", "cells.mapping")
    r.put("core.weight_bits", bits, "weight.bits")
    if slices < 2:
        r.lose("cells.bits", "slices are at least two there")
        slices = 2
    r.put("core.bit_sliced.num_slices", slices, "cells.bits")
    theirs = bits // slices if bits % slices == 0 else math.ceil((bits - (not offset)) / slices)
    if theirs != each:
        r.lose("cells.bits", f"so many bits in {slices} slices are {theirs} a cell there")
    r.put("xbar.device.cell_bits", theirs, "cells.bits")


def _weights(r: Reading) -> None:
    rule, where = r["weight.w_max"], "core.mapping.weights"
    if isinstance(rule, float | int):
        for name, value in {"percentile": None, "min": -rule, "max": rule, "clipping": True}.items():
            r.put(f"{where}.{name}", value, "weight.w_max")
        return
    for name, value in {"percentile": 1.0, "min": None, "max": None}.items():
        r.put(f"{where}.{name}", value, *["weight.w_max"][: rule == "tensor"])
    if rule not in ("tensor", "tile"):
        r.lose("weight.w_max", "one scale for the weights of each array there")


def _ends(given: Any, bits: int) -> tuple[float, float]:
    """Return the least and the largest level of an asymmetric range, so that one is at 0 there, too."""
    low, high = given
    step = (high - low) / (2**bits - 1)
    below = -round(-low / step)
    return below * step, (below + 2**bits - 1) * step


def _inputs(r: Reading) -> float:
    """Set the inputs' range and DAC, and return their unit of inputs in units of ours."""
    bits, signed, rule = r["dac.bits"], r["dac.signed"], r["dac.input_range"]
    where, inputs = "xbar.dac.mvm", "core.mapping.inputs.mvm"
    even, unit = r["dac.symmetric"], 1.0
    if rule == "dynamic":
        r.put(f"{inputs}.percentile", 1.0, "dac.input_range")
    elif isinstance(rule, list | tuple):
        low, high = _ends(rule, bits)
        r.put(f"{inputs}.min", low, "dac.input_range")
        r.put(f"{inputs}.max", high, "dac.input_range")
        unit = (high - low) / 2 / max(-rule[0], rule[1])
    else:
        size = rule if isinstance(rule, float | int) else 1.0
        if isinstance(rule, str):
            r.lose("dac.input_range", "set core.mapping.inputs.mvm.min and .max to a layer's calibrated range")
        r.put(f"{inputs}.min", -size if signed else 0.0, "dac.input_range")
        r.put(f"{inputs}.max", size, "dac.input_range")
    r.put(f"{where}.signed", signed, "dac.signed")
    r.put(f"{where}.bits", bits or 0, "dac.bits")
    model = "IdealDAC" if not bits else "SignMagnitudeDAC" if signed and even else "QuantizerDAC"
    r.put(f"{where}.model", model, "dac.bits", *["dac.symmetric"][: not even])
    if not even and rule == "dynamic":
        r.lose("dac.symmetric", "a range that follows the inputs is even there, and has no level at 0")
    step = r["dac.step_bits"]
    if step is not None:
        r.put(f"{where}.input_bitslicing", True, "dac.step_bits")
        r.put(f"{where}.slice_size", step, "dac.step_bits")
        r.put("xbar.adc.mvm.adc_per_ibit", True, "dac.step_bits")
    return unit


MODELS = {"sar": "SarADC", "split-sar": "SarADC", "ramp": "RampADC", "pipeline": "PipelineADC", "cyclic": "CyclicADC"}


def _adc(r: Reading, unit: float) -> None:
    """Set the ADC; `unit` is what a sum of 1 here is there."""
    where, signed = "xbar.adc.mvm", r["adc.signed"]
    bits, kind, full_scale = r["adc.bits"], r["adc.kind"], r["adc.full_scale"]
    if bits is None:
        r.put(f"{where}.model", "IdealADC", "adc.bits")
        if full_scale is not None:
            r.lose("adc.full_scale", "sums clip in an ADC with bits alone there")
        return
    ideal = "SignMagnitudeADC" if signed and r["adc.symmetric"] else "QuantizerADC"
    if kind not in ("ideal", *MODELS):
        r.lose("adc.kind", "an ideal quantizer there")
    elif not signed and kind != "ideal":
        r.lose("adc.signed", "levels lie around 0 there, half of them below")
    r.put(f"{where}.model", MODELS.get(kind, ideal), "adc.kind", "adc.signed", "adc.symmetric")
    r.put(f"{where}.bits", bits, "adc.bits")
    r.put(f"{where}.signed", signed, "adc.signed")
    if isinstance(full_scale, str) or r["cells.mapping"] == "offset":
        r.put(f"{where}.adc_range_option", "MAX", "adc.full_scale")
        why = "converted with their offset there" if r["cells.mapping"] == "offset" else "set calibrated_range instead"
        r.lose("adc.full_scale", f"the range is all that a sum can be; {why}")
    else:
        slices = 1 if r["cells.bits"] is None else r.values["core"]["bit_sliced"]["num_slices"]
        several = isinstance(full_scale, list | tuple) and full_scale[0] > 0
        if several:
            limits = [[-high * unit if signed else 0.0, high * unit] for high in _of_slices(r, full_scale, slices)]
            limits = limits if r["cells.bits"] is not None else limits[0]
        elif isinstance(full_scale, list | tuple):
            limits = [end * unit for end in _ends(full_scale, bits)]
        else:
            high = float(full_scale) * unit
            if kind != "ideal":
                high *= 2 ** (bits - 1) / (2 ** (bits - 1) - 1)
                r.lose("adc.kind", "levels stand half a step beside ours there")
            limits = [-high if signed else 0.0, high]
        if r["cells.bits"] is not None and not several:
            limits = [limits] * slices
        r.put(f"{where}.calibrated_range", limits, "adc.full_scale")
        r.put(f"{where}.adc_range_option", "CALIBRATED", "adc.full_scale")
    if r["adc.rounding"] == "stochastic":
        r.put(f"{where}.stochastic_rounding", True, "adc.rounding")
    elif r["adc.rounding"] != "nearest":
        r.lose("adc.rounding", "to the nearest there, or at random")
    if kind in MODELS:
        _kind(r, kind, bits)


def _of_slices(r: Reading, full_scale: Any, slices: int) -> list[float]:
    """Return each slice's full scale of those of slices and steps."""
    each = [list(steps) for steps in zip(*[iter(full_scale)] * max(1, len(full_scale) // slices), strict=True)]
    if any(len(set(steps)) > 1 for steps in each):
        r.lose("adc.full_scale", "a range for each slice there, and all steps of inputs; the largest of them")
    return [max(steps) for steps in each]


def _kind(r: Reading, kind: str, bits: int) -> None:
    where, mismatch = "xbar.adc.mvm", r["adc.capacitor_mismatch"]
    r.put(f"{where}.gain_db", NO_GAIN_ERROR if r["adc.gain_db"] is None else r["adc.gain_db"], "adc.gain_db")
    if kind != "ramp":
        r.put(f"{where}.group_size", 1, "adc.kind")
    if kind in ("pipeline", "cyclic"):
        for name in ("sigma_C1", "sigma_C2"):
            r.put(f"{where}.{name}", mismatch, "adc.capacitor_mismatch")
        r.put(f"{where}.sigma_comparator", r["adc.comparator_offset"], "adc.comparator_offset")
        return
    r.put(f"{where}.sigma_capacitor", mismatch, "adc.capacitor_mismatch")
    offset = r["adc.offset_error"] * (2 ** (bits - 1) - 1) / 2 ** (bits - 1)
    r.put(f"{where}.sigma_comparator", offset, "adc.offset_error")
    if kind != "ramp":
        r.put(f"{where}.split_cdac", kind == "split-sar", "adc.kind")
        if mismatch:
            r.lose("adc.capacitor_mismatch", SHARED_CAPACITORS)


def _devices(r: Reading, g_min: float, g_max: float, unit: float) -> None:
    """Set errors, drift, noise and curves, by the names of the devices that have such laws."""
    many = r["cells.devices"]
    where, fewer = "xbar.device", 1 / math.sqrt(many)

    def together(law: Any) -> Any:  # of many devices side by side, whose mean is the cell
        if isinstance(law, float | int):
            return law * fewer
        return [value * fewer for value in law] if isinstance(law, list | tuple) else law

    sigma, moments = together(r["programming.sigma"]), r["drift.moments"]
    found = {"programming_error": devices.named(sigma, g_max) if sigma != 0 else None}
    why = "a law is a class there; constants, parts of the conductance and those of CrossSim's devices are carried over"
    if sigma != 0 and found["programming_error"] is None:
        r.lose("programming.sigma", why)
    if moments is not None:
        model = found["programming_error"]
        largest = model[2] * g_max * 1e3 if model is not None and model[0] == "SONOS" else 0.0
        if largest and same(
            {**moments, "outside": "error"}, devices.moments(largest) | {"outside": "error"}, devices.ROUNDED
        ):
            found["drift_error"] = model
        else:
            r.lose("drift.moments", "a class there; those of SONOS are carried over")
    # Noise of a weight is that of two cells, or of one over half the range of a weight.
    weight, cell, two = r["noise.read"], r["cells.read_noise"], 2.0 if r["cells.mapping"] == "offset" else math.sqrt(2)
    if weight and cell:
        r.lose("noise.read", "one kind of read noise there, that of cells")
    size, name = (together(cell), "cells.read_noise") if cell != 0 else (weight * (1 - g_min) / two, "noise.read")
    found["read_noise"] = devices.named_noise(size, g_max) if size != 0 else None
    if size != 0 and found["read_noise"] is None:
        r.lose(name, why)
    elif isinstance(size, float | int) and g_min < 4 * size:
        r.lose(name, "cells stop at 0 there, those near it are noisy on one side; here on both")
    curves = r["iv.second"], r["iv.third"]
    found["nonlinear_IV"] = devices.named_curve(*curves, g_max) if curves != (0, 0) else None
    if curves != (0, 0) and found["nonlinear_IV"] is None:
        r.lose("iv.third", "a class there; those of CrossSim's devices are carried over")
    if found["nonlinear_IV"]:
        model, none, volts = found["nonlinear_IV"]
        found["nonlinear_IV"] = model, none, volts * unit
    fields = {
        "programming_error": ("programming.sigma",),
        "drift_error": ("drift.moments",),
        "read_noise": (name,),
        "nonlinear_IV": ("iv.second", "iv.third"),
    }
    volts = 0.0
    for part, one in found.items():
        if one is None:
            continue
        model, magnitude, needed = one
        if volts and needed and not math.isclose(volts, needed, rel_tol=devices.ROUNDED):
            r.lose(fields[part][0], "of this device at another voltage; one voltage there")
            continue
        volts = volts or needed
        used = (*fields[part], *["cells.devices"][: many > 1 and part != "nonlinear_IV"])
        for setting, value in {"enable": True, "model": model, "magnitude": magnitude}.items():
            r.put(f"{where}.{part}.{setting}", value, *used)
    if volts:
        r.put(f"{where}.Vread", volts)
    if many > 1 and any(isinstance(law, dict) for law in (r["programming.sigma"], cell)):
        r.lose("cells.devices", "one device a cell there")
    elif many > 1 and isinstance(sigma, float | int) and g_min < 4 * sigma:
        r.lose("cells.devices", "one device there, with the spread of their mean; here each of them stops at 0")


def _wires(r: Reading, unit: float) -> None:
    where = "xbar.array.parasitics"
    source = r["wires.source"] is not None
    r.ignore(["wires.source", "wires.gated", "wires.interleaved", "wires.solution"])
    pairs = {"column": "Rp_col", "column_terminal": "Rp_col_terminal"}
    ours = ("source", "source_terminal") if source else ("row", "row_terminal")
    pairs |= dict(zip(ours, ("Rp_row", "Rp_row_terminal")))
    found = {f"wires.{name}": theirs for name, theirs in pairs.items() if r[f"wires.{name}"]}
    for name, theirs in found.items():
        r.put(f"{where}.{theirs}", r[name] * unit, name)
        r.put(f"{where}.enable", True, name)
    if not found:
        return
    if r["wires.solution"] != "exact":
        r.lose("wires.solution", "solved exactly there")
    if source:
        r.put(f"{where}.current_from_input", False, "wires.source", "wires.gated")
    elif r["wires.gated"]:
        r.lose("wires.gated", "rows of 0 are driven to 0 there, unless cells have source wires")
    if r["wires.interleaved"]:
        r.put("core.balanced.interleaved_posneg", True, "wires.interleaved")
