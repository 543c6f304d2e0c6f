"""CrossSim's parameters (Sandia National Laboratories; its version 3.2) and ours.

Its conductances are fractions of the largest, 1/Rmin, as ours are. Its sums are in units of the largest cell's current,
where ours are in units of a full-scale weight: with g_min = Rmin/Rmax, a range of r there is r/(1 - g_min) here.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ProfileError
from ...storage.files import content
from . import crosssim_devices as devices
from .report import Reading, Translation, flat

LARGEST = 1_000_000  # bytes of a file
STYLES = {1: "BALANCED", 2: "BITSLICED", 3: "OFFSET"}
PAIRS = {1: "ONE_SIDED", 2: "TWO_SIDED"}
OFFSETS = {1: "DIGITAL_OFFSET", 2: "UNIT_COLUMN_SUBTRACTION"}
RANGES = {1: "CALIBRATED", 2: "MAX", 3: "GRANULAR"}
DEFAULTS: dict[str, Any] = {
    "core.style": 1,
    "core.rows_max": 0,
    "core.cols_max": 0,
    "core.weight_bits": 0,
    "core.complex_matrix": False,
    "core.complex_input": False,
    "core.output_dtype": 1,
    "core.balanced.style": 1,
    "core.balanced.interleaved_posneg": False,
    "core.balanced.subtract_current_in_xbar": True,
    "core.bit_sliced.style": 1,
    "core.bit_sliced.num_slices": 2,
    "core.offset.style": 1,
    "core.mapping.weights.clipping": True,
    "core.mapping.weights.min": None,
    "core.mapping.weights.max": None,
    "core.mapping.weights.percentile": 1.0,
    "core.mapping.weights.row_partition_priority": [],
    "core.mapping.weights.col_partition_priority": [],
    "core.mapping.weights.row_partition_strategy": 2,
    "core.mapping.weights.col_partition_strategy": 2,
    "core.mapping.inputs._match": True,
    "core.mapping.inputs.mvm.clipping": False,
    "core.mapping.inputs.mvm.min": -1.0,
    "core.mapping.inputs.mvm.max": 1.0,
    "core.mapping.inputs.mvm.percentile": None,
    "xbar.device.cell_bits": 0,
    "xbar.device.Rmin": 1000,
    "xbar.device.Rmax": 10000,
    "xbar.device.Vread": 0.1,
    "xbar.device.time": 0,
    "xbar.device.infinite_on_off_ratio": False,
    "xbar.device.clip_conductance": False,
    **{
        f"xbar.device.{part}.{name}": value
        for part in ("read_noise", "programming_error", "drift_error", "nonlinear_IV")
        for name, value in {"enable": False, "model": "IdealDevice", "magnitude": 0}.items()
    },
    "xbar.array.Icol_max": 0,
    "xbar.array.parasitics.enable": False,
    "xbar.array.parasitics.Rp_row": 0,
    "xbar.array.parasitics.Rp_col": 0,
    "xbar.array.parasitics.Rp_row_terminal": 0,
    "xbar.array.parasitics.Rp_col_terminal": 0,
    "xbar.array.parasitics.current_from_input": True,
    "xbar.array.parasitics.selected_rows": "top",
    "xbar.adc._match": True,
    "xbar.adc.mvm.model": "IdealADC",
    "xbar.adc.mvm.bits": 0,
    "xbar.adc.mvm.signed": True,
    "xbar.adc.mvm.stochastic_rounding": False,
    "xbar.adc.mvm.adc_per_ibit": False,
    "xbar.adc.mvm.calibrated_range": None,
    "xbar.adc.mvm.adc_range_option": 1,
    "xbar.adc.mvm.gain_db": 100,
    "xbar.adc.mvm.sigma_capacitor": 0.0,
    "xbar.adc.mvm.sigma_comparator": 0.0,
    "xbar.adc.mvm.split_cdac": True,
    "xbar.adc.mvm.symmetric_cdac": True,
    "xbar.adc.mvm.group_size": 8,
    "xbar.adc.mvm.sigma_C1": 0.0,
    "xbar.adc.mvm.sigma_C2": 0.0,
    "xbar.adc.mvm.sigma_Cpar": 0.0,
    "xbar.dac._match": True,
    "xbar.dac.mvm.model": "IdealDAC",
    "xbar.dac.mvm.bits": 0,
    "xbar.dac.mvm.input_bitslicing": False,
    "xbar.dac.mvm.signed": True,
    "xbar.dac.mvm.slice_size": 1,
}
NO_GAIN_ERROR = 400
"""dB: a gain that float64 does not tell from an infinite one."""
SHARED_CAPACITORS = "in version 3.2 all ADCs of an array have the same capacitors; here each has its own"
# How it computes, and the transposed product, which a layer's forward does not use.
COMPUTING = ("simulation.*", "core.output_dtype", "*.vmm.*", "*._match")


def read(config: Any) -> Translation:
    """Return what CrossSim's parameters say as the parts of a profile, and what they say beyond it.

    Parameters
    ----------
    config : path, dict or CrossSimParameters
        A JSON file as its `to_json` writes it, what such a file holds, or anything with its `as_dict`. A path is read
        as JSON, whatever its name is, and no code in it is run.

    Raises
    ------
    ProfileError
        It is none of these.
    """
    given = flat(_plain(_values(config)))
    if not {name.split(".")[0] for name in given} <= {"core", "xbar", "simulation"}:
        raise ProfileError("CrossSim's parameters have the parts core, xbar and simulation, and no others")
    r = Reading("CrossSim", "a profile", given, DEFAULTS)
    r.ignore(COMPUTING)
    if any(_unmatched(given, part) for part in ("core.mapping.inputs", "xbar.adc", "xbar.dac")):
        r.lose("xbar.dac._match", "the transposed product (vmm) has converters of its own")
    r.put("tile.rows", r["core.rows_max"] or None, "core.rows_max")
    r.put("tile.cols", r["core.cols_max"] or None, "core.cols_max")
    g_min = 0.0 if r["xbar.device.infinite_on_off_ratio"] else r["xbar.device.Rmin"] / r["xbar.device.Rmax"]
    _cells(r, g_min)
    _weights(r)
    # Their input of 1 is half of an asymmetric range, ours its end farther from 0; sums and voltages are in proportion.
    unit = _dac(r)
    _adc(r, unit / (1 - g_min))
    devices.read(r, g_min, r["xbar.device.Vread"] / unit)
    _wires(r)
    _integrators(r, unit)
    return r.done()


def _values(config: Any) -> Mapping[str, Any]:
    if hasattr(config, "as_dict"):
        return config.as_dict()
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, str | os.PathLike):
        raise ProfileError(f"a path, a dict or CrossSimParameters are needed, not {type(config).__name__}")
    try:
        found = json.loads(content(Path(config), LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise ProfileError(f"{config}: no JSON file of CrossSim's parameters: {error}") from None
    if not isinstance(found, Mapping):
        raise ProfileError(f"{config}: no JSON file of CrossSim's parameters: it holds {type(found).__name__}")
    return found


def _plain(values: Any) -> Any:
    """Return settings without the classes that CrossSim's enumerations have."""
    if isinstance(values, Mapping):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return int(values) if isinstance(values, int) and not isinstance(values, bool) else values


def _unmatched(given: Mapping[str, Any], part: str) -> bool:
    mvm, vmm = (
        {
            name.removeprefix(f"{part}.{kind}."): value
            for name, value in given.items()
            if name.startswith(f"{part}.{kind}.")
        }
        for kind in ("mvm", "vmm")
    )
    return not given.get(f"{part}._match", True) and vmm not in ({}, mvm)


def _choice(r: Reading, name: str, choices: Mapping[int, str]) -> str:
    """Return a choice by its name, as which or by whose number it may be given."""
    value = r[name]
    if value not in choices and value not in choices.values():
        raise ProfileError(f"{name}: {value!r} is none of {', '.join(choices.values())}")
    return choices.get(value, value)


def _cells(r: Reading, g_min: float) -> None:
    style, cell_bits, bits = _choice(r, "core.style", STYLES), r["xbar.device.cell_bits"], r["core.weight_bits"]
    offset = style == "OFFSET"
    if style == "BITSLICED":
        sliced = _choice(r, "core.bit_sliced.style", STYLES)
        offset = sliced == "OFFSET"
        slices = r["core.bit_sliced.num_slices"]
        even = bits % slices == 0
        each = bits // slices if even else math.ceil((bits - (not offset)) / slices)
        r.put("weight.bits", bits, "core.weight_bits")
        r.put("cells.bits", each, "core.bit_sliced.num_slices", "core.weight_bits")
        if cell_bits not in (0, each):
            r.lose("xbar.device.cell_bits", f"a cell has the levels of its slice, {each} bits")
    elif cell_bits:
        # One-sided, 2^c levels from g_min to 1 are 2^c - 1 steps on each side of 0; offset cells leave out the lowest.
        r.put("weight.bits", cell_bits + (not offset), "xbar.device.cell_bits")
    if style != "BITSLICED":
        r.ignore(["core.weight_bits", "core.bit_sliced.*"])
    r.ignore(["core.balanced.*" if offset else "core.offset.*"])
    if offset:
        if style == "OFFSET" and cell_bits:
            steps = 2**cell_bits - 1
            g_min = 1 - (1 - g_min) * (steps - 1) / steps
            r.lose("xbar.device.cell_bits", f"outputs are smaller by {steps - 1}/{steps} there, an error of gain")
        if _choice(r, "core.offset.style", OFFSETS) == "DIGITAL_OFFSET":
            r.lose("core.offset.style", "exact and digital; here it is a reference column of cells")
        r.put("cells.mapping", "offset", "core.style", "core.offset.style")
    else:
        r.put("cells.mapping", "differential", "core.style")
        apart = not r["core.balanced.subtract_current_in_xbar"]
        if apart and not r["core.balanced.interleaved_posneg"]:  # in one column currents cannot but subtract
            r.put("cells.subtraction", "digital", "core.balanced.subtract_current_in_xbar")
        if _choice(r, "core.balanced.style", PAIRS) == "TWO_SIDED":
            r.lose("core.balanced.style", "both cells share a weight; here one of a pair is at g_min")
    r.put("cells.g_min", g_min, "xbar.device.Rmin", "xbar.device.Rmax", "xbar.device.infinite_on_off_ratio")
    r.put("cells.g_max", 1e6 / r["xbar.device.Rmin"], "xbar.device.Rmin")


def _weights(r: Reading) -> None:
    where = "core.mapping.weights"
    share, low, high = r[f"{where}.percentile"], r[f"{where}.min"], r[f"{where}.max"]
    if share is None:
        r.put("weight.w_max", float(max(abs(low), abs(high))), f"{where}.min", f"{where}.max")
        if low != -high:
            r.lose(f"{where}.min", "the range of weights is symmetric here")
        if not r[f"{where}.clipping"]:
            r.lose(f"{where}.clipping", "weights beyond a constant range clip here")
    else:
        # Of weights with a sign there, so that a share p below is 2p - 1 of even magnitudes.
        few = {"percentile": 100 * (2 * share - 1), "per": "tensor"}
        r.put("weight.w_max", few if 0.5 < share < 1 else "tensor", f"{where}.percentile")
        if share != 1.0:
            why = "of weights with a sign there, of magnitudes here" if 0.5 < share < 1 else "the largest weight's here"
            r.lose(f"{where}.percentile", why)
    r.ignore([f"{where}.clipping"])
    for strategy in ("row", "col"):
        if r[f"{where}.{strategy}_partition_strategy"] not in (1, "MAX") and r.given.get(f"core.{strategy}s_max"):
            r.lose(f"{where}.{strategy}_partition_strategy", "equal parts there; here full arrays and a rest")


def _dac(r: Reading) -> float:
    """Set the inputs' range and DAC, and return their unit of inputs in units of ours."""
    where, inputs = "xbar.dac.mvm", "core.mapping.inputs.mvm"
    model, bits, signed = r[f"{where}.model"], r[f"{where}.bits"], r[f"{where}.signed"]
    share, low, high = r[f"{inputs}.percentile"], r[f"{inputs}.min"], r[f"{inputs}.max"]
    converts = model != "IdealDAC" and bits
    uneven = share is None and signed and converts and model == "QuantizerDAC" and low <= 0 <= high
    unit = 1.0
    if share is not None:
        r.put("dac.input_range", "dynamic", f"{inputs}.percentile")
        if share != 1.0:
            r.lose(f"{inputs}.percentile", "the range reaches to the batch's largest input here")
    elif uneven:
        r.put("dac.symmetric", False, f"{where}.model")
        r.put("dac.input_range", [float(low), float(high)], f"{inputs}.min", f"{inputs}.max")
        _say_where_levels_are(r, f"{where}.model", low, high, bits)
        unit = (high - low) / 2 / max(-low, high)
    else:
        # Signed inputs are multiplied by 2/(max - min) there, others by 1/(max - min).
        r.put("dac.input_range", (high - low) / (2 if signed else 1), f"{inputs}.min", f"{inputs}.max")
        if low != (-high if signed else 0):
            r.lose(f"{inputs}.min", "the range of inputs is even, or begins at 0, here")
    if r[f"{inputs}.clipping"] and not bits:
        r.lose(f"{inputs}.clipping", "inputs clip in a DAC with bits alone here")
    if not converts:
        return unit
    r.put("dac.bits", bits, f"{where}.bits", f"{where}.model")
    r.put("dac.signed", bool(signed), f"{where}.signed")
    if model == "QuantizerDAC" and signed and not uneven:
        r.lose(f"{where}.model", "2^bits levels, none at 0, there; here 2^bits - 1 and one at 0")
    if r[f"{where}.input_bitslicing"]:
        if r["xbar.adc.mvm.adc_per_ibit"]:
            r.put("dac.step_bits", r[f"{where}.slice_size"], f"{where}.slice_size", f"{where}.input_bitslicing")
        else:  # added up before the one conversion: the same as all at once
            r.put("dac.step_bits", None, f"{where}.input_bitslicing", "xbar.adc.mvm.adc_per_ibit")
            r.ignore([f"{where}.slice_size"])
    return unit


def _say_where_levels_are(r: Reading, name: str, low: float, high: float, bits: int) -> None:
    """Levels begin at the lower end there; here one is at 0, for which the range is shifted."""
    place = -low * (2**bits - 1) / (high - low)
    beside = abs(place - round(place))
    if beside > 1e-6:
        r.lose(name, f"levels stand {beside:.2g} of a step beside ours, of which one is at 0")


KINDS = {"SarADC": "sar", "RampADC": "ramp", "PipelineADC": "pipeline", "CyclicADC": "cyclic"}


def _adc(r: Reading, unit: float) -> None:
    """Set the ADC; `unit` is what a current of 1 there is here."""
    where = "xbar.adc.mvm"
    model, bits = r[f"{where}.model"], r[f"{where}.bits"]
    if model == "IdealADC" or not bits:
        r.put("adc.full_scale", None, f"{where}.model")
        r.ignore([f"{where}.*"])
        return
    r.put("adc.bits", bits, f"{where}.bits")
    kind = KINDS.get(model, "ideal")
    low, high = _range(r)
    if low is None or high is None:
        if model == "QuantizerADC":
            r.put("adc.symmetric", False, f"{where}.model")
        r.put("adc.full_scale", "calibrated", f"{where}.calibrated_range")
        r.lose(f"{where}.calibrated_range", "no range that is known before the array is; `calibrate` finds one")
    else:
        if not low <= 0 <= high:
            r.lose(f"{where}.calibrated_range", "the range reaches to 0 here")
            low, high = min(low, 0.0), max(high, 0.0)
        each = [(min(one[0], 0.0), max(one[1], 0.0)) for one in _of_slices(r) or [(low, high)]]
        names = f"{where}.calibrated_range", f"{where}.adc_range_option"
        if kind == "ideal" and model != "SignMagnitudeADC" and low < 0:
            r.put("adc.symmetric", False, f"{where}.model")
            r.put("adc.full_scale", _each_step(r, [[first * unit, last * unit] for first, last in each]), *names)
            _say_where_levels_are(r, f"{where}.model", low, high, bits)
        else:
            full_scales = [max(-first, last) * unit for first, last in each]
            if kind != "ideal":
                # 2^b levels from end to end, none at 0, whatever the lower end is: ours have the same step.
                full_scales = [one * (2 ** (bits - 1) - 1) / 2 ** (bits - 1) for one in full_scales]
                r.lose(f"{where}.model", "levels stand half a step beside ours, of which one is at 0")
                if any(first != -last for first, last in each):
                    r.lose(
                        f"{where}.calibrated_range", "sums clip to it there; here to the even range that levels have"
                    )
            r.put("adc.full_scale", _each_step(r, full_scales), *names)
            r.put("adc.signed", low < 0 or kind != "ideal", f"{where}.calibrated_range")
    offset = "OFFSET" in (_choice(r, "core.style", STYLES), _choice(r, "core.bit_sliced.style", STYLES))
    if offset and not (_choice(r, "core.style", STYLES) == "BALANCED"):
        r.lose(f"{where}.model", "converts sums with their offset; here it is subtracted before the ADC")
    _kind(r, kind, bits)


def _of_slices(r: Reading) -> list[list[float]]:
    """Return the ends of each slice's range, in units of the largest cell's current; none where all have one."""
    where = "xbar.adc.mvm"
    sliced = _choice(r, "core.style", STYLES) == "BITSLICED"
    if not sliced or _choice(r, f"{where}.adc_range_option", RANGES) != "CALIBRATED":
        return []
    return [list(one) for one in r[f"{where}.calibrated_range"] or []]


def _each_step(r: Reading, of_slices: list[Any]) -> Any:
    """Return the full scales of slices as a profile has them: one, or for each slice that of every step of inputs."""
    if all(one == of_slices[0] for one in of_slices):
        return of_slices[0]
    where = "xbar.dac.mvm"
    bits = r[f"{where}.bits"] if r[f"{where}.model"] != "IdealDAC" else 0
    apart = bits and r[f"{where}.input_bitslicing"] and r["xbar.adc.mvm.adc_per_ibit"]
    steps = math.ceil((bits - bool(r[f"{where}.signed"])) / r[f"{where}.slice_size"]) if apart else 1
    return [one for one in of_slices for _ in range(steps)]


def _range(r: Reading) -> tuple[float | None, float | None]:
    """Return the ADC's range in units of the largest cell's current; of slices, one that holds all of theirs."""
    where = "xbar.adc.mvm"
    style, option = _choice(r, "core.style", STYLES), _choice(r, f"{where}.adc_range_option", RANGES)
    sliced, bits, rows = style == "BITSLICED", r[f"{where}.bits"], r["core.rows_max"]
    signed, n = r["xbar.dac.mvm.signed"], r["xbar.dac.mvm.bits"]
    below = signed or (style != "OFFSET" and r["core.balanced.subtract_current_in_xbar"])
    if option == "CALIBRATED":
        limits = r[f"{where}.calibrated_range"]
        if not limits:
            return None, None
        if sliced:
            return min(one[0] for one in limits), max(one[1] for one in limits)
        return limits[0], limits[1]
    # As large as the largest digit makes it that is applied, 2^n/(2^n - 1) of the last one's weight.
    top = 2 ** (n - bool(signed)) if n else 0
    much = top / (top - 1) if top > 1 else 1.0
    each = math.ceil(r["core.weight_bits"] / r["core.bit_sliced.num_slices"])
    if option == "MAX":
        if not rows:
            return None, None
        r.lose(f"{where}.adc_range_option", f"the range follows each array's rows; here it is that of {rows}")
        if sliced and _choice(r, "core.bit_sliced.style", STYLES) == "OFFSET":
            levels = 2**bits - (2 if signed else 1)
            rows = 2 ** round(math.log2(rows)) * 2**each / (2**each - 1) * levels / 2**bits * much
        return (-float(rows) if below else 0.0), float(rows)
    step = much / (2**each - 1) if sliced else much / 2 ** r["core.weight_bits"]
    high = step * (2 ** (bits - 1) - 1 if below else 2**bits - 1)
    return (-high if below else 0.0), high


def _kind(r: Reading, kind: str, bits: int) -> None:
    where = "xbar.adc.mvm"
    model = r[f"{where}.model"]
    if kind == "ideal":
        if model not in ("SignMagnitudeADC", "QuantizerADC"):
            r.lose(f"{where}.model", "an ideal quantizer here")
        else:
            r.ignore([f"{where}.signed"])
        if r[f"{where}.stochastic_rounding"]:
            r.put("adc.rounding", "stochastic", f"{where}.stochastic_rounding")
        return
    split = kind == "sar" and r[f"{where}.split_cdac"]
    r.put("adc.kind", "split-sar" if split else kind, f"{where}.model", *[f"{where}.split_cdac"][: kind == "sar"])
    gain = r[f"{where}.gain_db"]
    r.put("adc.gain_db", float(gain) if gain < NO_GAIN_ERROR else None, f"{where}.gain_db")
    offset, many = r[f"{where}.sigma_comparator"], r[f"{where}.group_size"]
    if kind in ("pipeline", "cyclic"):
        first, second = r[f"{where}.sigma_C1"], r[f"{where}.sigma_C2"]
        drawn = math.hypot(first, second) / math.sqrt(2)  # only their ratio counts, the gain apart
        r.put("adc.capacitor_mismatch", drawn, f"{where}.sigma_C1", f"{where}.sigma_C2")
        if first != second:
            r.lose(
                f"{where}.sigma_C1", "both capacitors of a stage have one mismatch here, with the same error of gain"
            )
        r.put("adc.comparator_offset", offset, f"{where}.sigma_comparator")
        if r[f"{where}.sigma_Cpar"]:
            r.lose(f"{where}.sigma_Cpar", "no parasitic capacitance here, which counts with a finite gain alone")
        if (drawn or offset) and many > 1:
            r.lose(f"{where}.group_size", "so many columns share one ADC; here each has its own")
    else:
        drawn = r[f"{where}.sigma_capacitor"]
        r.put("adc.capacitor_mismatch", drawn, f"{where}.sigma_capacitor")
        # A fraction of the reference there, 2^(b-1) steps, and of the full scale here, one step less.
        r.put("adc.offset_error", offset * 2 ** (bits - 1) / (2 ** (bits - 1) - 1), f"{where}.sigma_comparator")
        if kind == "sar" and drawn:
            r.lose(f"{where}.sigma_capacitor", SHARED_CAPACITORS)
        if kind == "sar" and offset and many > 1:
            r.lose(f"{where}.group_size", "so many columns share one comparator; here each has its own")
        if kind == "ramp" and drawn and not r[f"{where}.symmetric_cdac"]:
            r.lose(f"{where}.symmetric_cdac", "here it is symmetric")
    r.ignore([f"{where}.{name}" for name in ("group_size", "split_cdac", "symmetric_cdac", "signed", "sigma_*")])


def _wires(r: Reading) -> None:
    where = "xbar.array.parasitics"
    if not r[f"{where}.enable"]:
        r.ignore([f"{where}.*", "core.balanced.interleaved_posneg"])
        return
    unit, source = r["xbar.device.Rmin"], not r[f"{where}.current_from_input"]
    if source and (r["xbar.dac.mvm.signed"] or 1 not in (r["xbar.dac.mvm.bits"], r["xbar.dac.mvm.slice_size"])):
        r.lose(f"{where}.current_from_input", "only unsigned inputs, bit by bit, switch cells here")
        source = False
    elif source:
        r.put("wires.gated", True, f"{where}.current_from_input")
        if r[f"{where}.selected_rows"] != "top":
            r.lose(f"{where}.selected_rows", "rows of an array that is not full are far from the ADC here")
    ours = ("source", "source_terminal") if source else ("row", "row_terminal")
    theirs = {ours[0]: "Rp_row", ours[1]: "Rp_row_terminal", "column": "Rp_col", "column_terminal": "Rp_col_terminal"}
    for field, name in theirs.items():
        r.put(f"wires.{field}", r[f"{where}.{name}"] / unit, f"{where}.{name}", "xbar.device.Rmin")
    if not source and r[f"{where}.Rp_row_terminal"]:
        r.lose(f"{where}.Rp_row_terminal", "in version 3.2 it is in every segment of the first row instead")
    r.put("wires.solution", "exact", f"{where}.enable")
    if r["core.balanced.interleaved_posneg"]:
        r.put("wires.interleaved", True, "core.balanced.interleaved_posneg")


def _integrators(r: Reading, unit: float) -> None:
    """Set the limit of columns' currents; `unit` is what an input of 1 there is here."""
    limit = r["xbar.array.Icol_max"]
    if limit <= 0:
        return
    r.put("tile.current_limit", limit * unit, "xbar.array.Icol_max")
    if r["core.balanced.interleaved_posneg"] and r.values.get("cells", {}).get("mapping") == "differential":
        r.put("wires.interleaved", True, "core.balanced.interleaved_posneg")
    if r["xbar.dac.mvm.input_bitslicing"] and not r["xbar.adc.mvm.adc_per_ibit"] and r["xbar.dac.mvm.bits"]:
        r.lose("xbar.array.Icol_max", "of the current of each step of inputs there; here of all bits at once")
