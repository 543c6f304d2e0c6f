"""A profile in CrossSim's words, the inverse of `crosssim.read`."""

import copy
import math
from collections.abc import Mapping
from typing import Any

from .report import Reading, Translation, parts

R_MIN = 1e4
"""Ohm: where a profile does not say what its largest conductance is, which sets no result but that of a model in µS."""


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
    signed = r["cells.mapping"] == "signed"
    g_min = r["cells.g_min"]
    r_min = 1e6 / r["cells.g_max"] if r["cells.g_max"] else R_MIN
    r.put("xbar.device.Rmin", r_min, "cells.g_max")
    r.put("xbar.device.infinite_on_off_ratio", not g_min, "cells.g_min")
    r.put("xbar.device.Rmax", r_min / g_min if g_min else 1e3 * r_min, "cells.g_min")
    _cells(r)
    _weights(r)
    _converters(r, 1 - g_min)
    _errors(r, g_min, signed)
    _wires(r, r_min)
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


def _converters(r: Reading, span: float) -> None:
    bits, signed, rule = r["dac.bits"], r["dac.signed"], r["dac.input_range"]
    where, inputs = "xbar.dac.mvm", "core.mapping.inputs.mvm"
    if rule == "dynamic":
        r.put(f"{inputs}.percentile", 1.0, "dac.input_range")
    else:
        size = rule if isinstance(rule, float | int) else 1.0
        if isinstance(rule, str):
            r.lose("dac.input_range", "set core.mapping.inputs.mvm.min and .max to a layer's calibrated range")
        r.put(f"{inputs}.min", -size if signed else 0.0, "dac.input_range")
        r.put(f"{inputs}.max", size, "dac.input_range")
    r.put(f"{where}.signed", signed, "dac.signed")
    r.put(f"{where}.bits", bits or 0, "dac.bits")
    r.put(f"{where}.model", "IdealDAC" if not bits else "SignMagnitudeDAC" if signed else "QuantizerDAC", "dac.bits")
    step, where = r["dac.step_bits"], "xbar.adc.mvm"
    if step is not None:
        r.put("xbar.dac.mvm.input_bitslicing", True, "dac.step_bits")
        r.put("xbar.dac.mvm.slice_size", step, "dac.step_bits")
        r.put(f"{where}.adc_per_ibit", True, "dac.step_bits")
    bits, kind, full_scale = r["adc.bits"], r["adc.kind"], r["adc.full_scale"]
    if bits is None:
        r.put(f"{where}.model", "IdealADC", "adc.bits")
        if full_scale is not None:
            r.lose("adc.full_scale", "sums clip in an ADC with bits alone there")
        return
    models = {"ideal": "SignMagnitudeADC" if r["adc.signed"] else "QuantizerADC", "sar": "SarADC", "ramp": "RampADC"}
    if kind not in models:
        r.lose("adc.kind", "an ideal quantizer there")
    r.put(f"{where}.model", models.get(kind, models["ideal"]), "adc.kind", "adc.signed")
    r.put(f"{where}.bits", bits, "adc.bits")
    r.put(f"{where}.signed", r["adc.signed"], "adc.signed")
    if isinstance(full_scale, str) or r["cells.mapping"] == "offset":
        r.put(f"{where}.adc_range_option", "MAX", "adc.full_scale")
        why = "converted with their offset there" if r["cells.mapping"] == "offset" else "set calibrated_range instead"
        r.lose("adc.full_scale", f"the range is all that a sum can be; {why}")
    else:
        high = float(full_scale) * span
        if kind != "ideal":
            high *= 2 ** (bits - 1) / (2 ** (bits - 1) - 1)
            r.lose("adc.kind", "levels stand half a step beside ours there")
        limits = [-high if r["adc.signed"] else 0.0, high]
        if r["cells.bits"] is not None:
            limits = [limits] * r.values["core"]["bit_sliced"]["num_slices"]
        r.put(f"{where}.calibrated_range", limits, "adc.full_scale")
        r.put(f"{where}.adc_range_option", "CALIBRATED", "adc.full_scale")
    if kind in ("sar", "ramp"):
        r.put(f"{where}.sigma_capacitor", r["adc.capacitor_mismatch"], "adc.capacitor_mismatch")
        offset = r["adc.offset_error"] * (2 ** (bits - 1) - 1) / 2 ** (bits - 1)
        r.put(f"{where}.sigma_comparator", offset, "adc.offset_error")
        if kind == "sar":
            r.put(f"{where}.split_cdac", False, "adc.kind")
            r.put(f"{where}.group_size", 1, "adc.kind")


def _errors(r: Reading, g_min: float, signed: bool) -> None:
    sigma, where = r["programming.sigma"], "xbar.device.programming_error"
    constant = isinstance(sigma, float | int)
    if constant and sigma:
        _error(r, where, "NormalIndependentDevice", sigma, "programming.sigma")
    elif isinstance(sigma, list | tuple) and len(sigma) == 2 and not sigma[0]:
        _error(r, where, "NormalProportionalDevice", sigma[1], "programming.sigma")
    elif not constant:
        r.lose("programming.sigma", "a law is a class there; a constant or a part of the conductance are carried over")
    # Noise of a weight is that of two cells, or of one over half the range of a weight.
    weight, cell, two = r["noise.read"], r["cells.read_noise"], 2.0 if r["cells.mapping"] == "offset" else math.sqrt(2)
    if weight and cell:
        r.lose("noise.read", "one kind of read noise there, that of cells")
    size, name = (cell, "cells.read_noise") if cell != 0 else (weight * (1 - g_min) / two, "noise.read")
    where = "xbar.device.read_noise"
    if isinstance(size, list | tuple) and len(size) == 2 and not size[0]:
        _error(r, where, "NormalProportionalDevice", size[1], name)
    elif not isinstance(size, float | int):
        r.lose(name, "a law is a class there; a constant or a part of the conductance are carried over")
    elif size:
        _error(r, where, "NormalIndependentDevice", size, name)
        if g_min < 4 * size:
            r.lose(name, "cells stop at 0 there, those near it are noisy on one side; here on both")


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


def _error(r: Reading, where: str, model: str, size: float, name: str) -> None:
    for setting, value in {"enable": True, "model": model, "magnitude": size}.items():
        r.put(f"{where}.{setting}", value, name)
