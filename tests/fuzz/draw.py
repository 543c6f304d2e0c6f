"""Random cases for `tests.fuzz`, each a function of a seed: a profile, a layer and its input, valid by schema."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import analogsim as an
from analogsim.errors import ProfileError

SIZES = (1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
BATCHES = (1, 1, 2, 3, 4, 7, 15, 16, 17, 33)
STYLES = ("normal",) * 10 + (
    *("zeros", "sparse", "constant", "one-hot", "positive", "negative", "mixed", "ties", "large", "tiny", "subnormal"),
    *("dead", "nan", "infinite", "one-hot", "sparse"),
)


class Draw:
    """Random choices of one case."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([seed, number])

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def among(self, values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def log(self, low: float, high: float) -> float:
        return float(math.exp(self.rng.uniform(math.log(low), math.log(high))))

    def size(self) -> int:
        if self.chance(0.02):
            return 0
        return self.among((127, 128, 129, 255, 256, 257)) if self.chance(0.02) else self.among(SIZES)

    def batch(self) -> int:
        return (
            0 if self.chance(0.03) else self.among((255, 256, 257, 300)) if self.chance(0.02) else self.among(BATCHES)
        )

    def tensor(self, shape: tuple[int, ...], style: str) -> Tensor:
        """Numbers of a style, float64."""
        values = self.rng.standard_normal(shape)
        if style == "zeros":
            values[...] = 0
        elif style == "sparse":
            values *= self.rng.random(shape) < 0.2
        elif style == "constant":
            values[...] = self.log(1e-3, 1e3) * self.among((-1, 1))
        elif style == "one-hot":
            values[...] = 0
            if values.size:
                values.flat[self.whole(0, values.size - 1)] = 1.0
        elif style in ("positive", "negative"):
            values = np.abs(values) * (1 if style == "positive" else -1)
        elif style == "mixed":
            values = np.sign(values) * 10.0 ** self.rng.uniform(-44, 30, shape)
        elif style == "ties":
            values = self.rng.integers(-4, 5, shape) / 4
        elif style == "large":
            values *= 1e30
        elif style == "tiny":
            values *= 1e-38
        elif style == "subnormal":
            values *= self.among((1e-40, 1e-44, 1e-46))
        elif style == "dead" and values.ndim:
            values *= (self.rng.random(shape[0]) < 0.5).reshape(-1, *[1] * (values.ndim - 1))
        elif style in ("nan", "infinite") and values.size:
            number = math.nan if style == "nan" else self.among((math.inf, -math.inf))
            values.flat[self.whole(0, values.size - 1)] = number
        return torch.from_numpy(np.ascontiguousarray(values))


@dataclass
class Case:
    """One case.

    `batch` is the dimension of `inputs[0]` that counts samples, and `output_batch` that of the output; None where there
    is one sample. `styles` are of weights and of inputs.
    """

    profile: an.HardwareProfile
    kind: str
    module: nn.Module
    inputs: list[Any]
    batch: int | None
    output_batch: int | None
    styles: tuple[str, str]
    dtype: torch.dtype
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        changed = self.profile.model_dump(exclude_defaults=True)
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else x for x in self.inputs]
        styles = f"weights {self.styles[0]}, inputs {self.styles[1]}"
        return f"{self.module} {self.dtype} on {shapes}, {styles}, {self.options}, {changed}"


MOST = 6  # conversions of an output, in nearly all cases: each takes milliseconds


def profile(d: Draw, k: int) -> an.HardwareProfile:
    """Draw a profile for matrices of k inputs: all fields, of which about half are what they are by default."""
    for _ in range(100):
        try:
            return _bounded(d, an.HardwareProfile(**_fields(d)), k)
        except ProfileError as error:
            if "\n" in str(error):
                raise AssertionError(f"a message of several lines: {error!r}") from error
    raise AssertionError("no valid profile in 100")


def _bounded(d: Draw, given: an.HardwareProfile, k: int) -> an.HardwareProfile:
    """Return the profile with fewer tiles, steps or slices, where they are very many."""
    most = d.among((MOST,) * 12 + (4 * MOST, 40 * MOST))
    tiles = -(-k // given.tile.rows) if given.tile.rows else 1
    if tiles > most // 2:
        given = given.varied(tile={"rows": -(-k // d.whole(2, most // 2))})
    tiles = -(-k // given.tile.rows) if given.tile.rows else 1
    if tiles * given.lines > most and given.cells.bits is not None:
        given = given.varied(cells={"bits": None})
    if tiles * given.lines * given.dac.steps > most:
        given = given.varied(dac={"step_bits": None})
    return given


def _fields(d: Draw) -> dict[str, Any]:
    deep = d.chance(0.5)

    def some(probability: float, low: float, high: float) -> float:
        return d.log(low, high) if d.chance(probability) else 0.0

    tile = {
        "rows": d.among((None, 1, 2, 3, 5, 8, 16, 17, 64, 256)),
        "cols": d.among((None, 1, 2, 5, 8, 16, 40, 256)),
        "mapping": d.among(("channel", "im2col")),
    }
    signed = d.chance(0.75)
    bits = None if d.chance(0.25) else d.among((1, 2, 3, 4, 6, 8, 8, 12, 16))
    if signed and bits == 1:
        bits = 2
    ranges: Any = d.among(("calibrated", "dynamic", d.log(0.1, 10), d.log(0.1, 10)))
    if d.chance(0.03):
        ranges = d.among((2.0**-100, 2.0**100, 1e-30, 1e30))
    dac: dict[str, Any] = {"bits": bits, "signed": signed, "input_range": ranges}
    if deep and bits is not None and bits > signed and d.chance(0.3):
        dac["step_bits"] = d.whole(1, bits - signed)
    if bits is not None:
        dac["rounding"] = d.among(("nearest",) * 6 + ("down", "stochastic"))
        if d.chance(0.1) and "step_bits" not in dac:
            dac |= {"signed": True, "symmetric": False}
            dac["input_range"] = _ends(d, ranges) if isinstance(ranges, float) else ranges
        elif bits <= 8 and d.chance(0.1):
            most = 2 ** dac["step_bits"] - 1 if "step_bits" in dac else 2 ** (bits - signed) - 1
            inl = d.rng.normal(0, 0.5, (d.among((1, 1, 2, 3)), most * (1 + signed) + 1))
            inl[:, most if signed else 0] = 0
            dac["inl"] = inl.tolist()
    if dac.get("symmetric", True) and d.chance(0.1):
        dac["input_range"] = "vector"
    weight: dict[str, Any] = {"bits": None if d.chance(0.5) else d.among((2, 3, 4, 6, 8, 12, 16))}
    weight["w_max"] = d.among(("column", "column", "tensor", "tile", "tile-column", d.log(0.05, 5)))
    if d.chance(0.1):
        weight["w_max"] = {"percentile": d.among((50.0, 99.0, 100.0)), "per": d.among(("column", "tensor", "tile"))}
    if d.chance(0.02):
        weight["w_max"] = d.among((1e-30, 1e30))
    noise: dict[str, Any] = {
        "output": some(0.4, 1e-3, 2),
        "read": some(0.3, 1e-3, 0.5),
        "multiplicative": some(0.3, 1e-3, 0.5),
    }
    full_scale: Any = d.among((None, "calibrated", "calibrated", d.log(0.2, 20)))
    if d.chance(0.02):
        full_scale = d.among((1e-30, 1e30))
    adc: dict[str, Any] = {"full_scale": full_scale, "per": d.among(("network", "layer", "tile"))}
    if full_scale is not None and d.chance(0.75):
        adc["bits"] = d.among((2, 3, 4, 6, 8, 8, 10, 16))
    if full_scale is not None and d.chance(0.1):
        adc["bound_management"] = d.whole(1, 4)
    result: dict[str, Any] = {"tile": tile, "dac": dac, "weight": weight, "noise": noise, "adc": adc}
    return result | _deep(d, result, some) if deep else result


def _ends(d: Draw, size: float) -> list[float]:
    """Draw the ends of a range of this size."""
    near = size * d.among((0.0, 0.0, 0.1, 0.5, 1.0))
    return [-near, size] if d.chance(0.5) else [-size, near]


def _kind(d: Draw, adc: dict[str, Any], some: Any) -> None:
    """Draw an ADC that is no ideal quantizer."""
    kind = d.among(("sar", "ramp", "split-sar", "pipeline", "cyclic", "measured"))
    adc["kind"] = kind
    if kind == "measured":
        count = 2 ** adc["bits"] - 1
        edges = np.sort(np.arange(count) + d.rng.normal(0, 0.5, (d.among((1, 2, 3)), count)), 1)
        first = -(2 ** (adc["bits"] - 1)) + 0.5 if adc["signed"] else 0.5
        adc["transfer"] = {"edge": (edges + first).tolist()}
        return
    if kind == "split-sar":
        adc["signed"] = True
    adc["capacitor_mismatch"] = some(0.5, 1e-3, 0.2)
    if d.chance(0.3):
        adc["gain_db"] = float(d.rng.uniform(20, 100))
    if kind in ("pipeline", "cyclic"):
        adc["comparator_offset"] = some(0.5, 1e-3, 0.2)
    if kind == "ramp" and d.chance(0.4):
        adc["inl"] = float(d.rng.uniform(-3, 3))


def _deep(d: Draw, given: dict[str, Any], some: Any) -> dict[str, Any]:
    noise, adc, weight = given["noise"], given["adc"], given["weight"]
    noise["distribution"] = d.among(("gaussian", "gaussian", "uniform", "laplace"))
    noise["wander"] = some(0.2, 1e-3, 1)
    noise["wander_length"] = d.log(0.01, 1e4)
    adc["gain_error"] = some(0.25, 1e-3, 0.3)
    if adc["full_scale"] is not None:
        adc["signed"] = d.chance(0.8)
        adc["offset_error"] = some(0.25, 1e-3, 0.3)
    if adc["full_scale"] is not None and d.chance(0.15):
        adc |= {"signed": True, "symmetric": False}
        if isinstance(adc["full_scale"], float):
            adc["full_scale"] = _ends(d, adc["full_scale"])
        adc["rounding"] = d.among(("nearest", "stochastic")) if "bits" in adc else "nearest"
    elif "bits" in adc and adc["bits"] <= 10 and d.chance(0.35):
        _kind(d, adc, some)
    elif "bits" in adc:
        adc["rounding"] = d.among(("nearest", "nearest", "down", "stochastic"))
    if "bits" in adc and adc["per"] != "tile" and d.chance(0.15):
        adc["sum_bits"] = d.whole(2, 16)
    mapping = d.among(("signed", "differential", "differential", "offset"))
    cells: dict[str, Any] = {"mapping": mapping, "devices": d.among((1, 1, 1, 1, 2, 3))}
    if mapping != "signed":
        cells["g_min"] = d.among((0.0, 0.01, 0.2, 0.9))
    if mapping == "differential":
        cells["subtraction"] = d.among(("analog", "digital"))
    if weight["bits"] is not None and d.chance(0.4):
        cells["bits"] = d.whole(1, weight["bits"] - (mapping != "offset"))
    if cells.get("bits") or given["dac"].get("step_bits"):
        adc["per"] = d.among((adc["per"], "slice"))
    law = {"constant": d.log(1e-3, 0.2), "slope": float(d.rng.uniform(-0.05, 0.05)), "low": 0.0, "high": d.log(0.01, 1)}
    branches = {"below": law, "limit": d.log(0.01, 1), "above": tuple(d.rng.normal(0, 0.1, d.whole(1, 8)).tolist())}
    points = {"g": [0.0, d.log(1e-3, 0.9), 1.0], "value": d.rng.uniform(0, 0.2, 3).tolist(), "outside": "hold"}
    grid = {
        "g0": [0.0, d.log(1e-3, 0.9), 1.0],
        "seconds": [1.0, d.log(2, 1e6)],
        "g": d.rng.uniform(0, 1, (3, 2)).tolist(),
    }
    sigma: Any = d.among(
        (
            points,
            d.log(1e-3, 0.3),
            tuple(d.rng.normal(0, 0.1, d.whole(1, 8)).tolist()),
            {"amplitude": d.log(1e-3, 0.3), "scale": d.log(1e-2, 10)},
        )
    )
    read_time = d.log(1e-9, 1)
    deep: dict[str, dict[str, Any]] = {
        "cells": cells,
        "programming": {
            "sigma": sigma if d.chance(0.4) else 0.0,
            "mean": d.among((0.0, 0.0, 0.0, 0.01, (0.01, -0.03), points)),
        },
        "drift": {
            "t0": d.log(1e-3, 1e4),
            "nu": d.among((0.0, 0.0, 0.0, d.log(1e-3, 0.3), law, branches)),
            "nu_sigma": d.among((0.0, 0.0, 0.0, d.log(1e-3, 0.1), law, branches)),
            "compensation": d.among(("none", "global", "output")),
        },
        "flicker": {
            "amplitude": d.among((0.0, 0.0, 0.0, 0.0, d.log(1e-4, 0.2), d.log(1e-4, 0.2), law, branches)),
            "exponent": some(0.5, 0.1, 2),
            "maximum": d.log(1e-2, 2),
            "read_time": read_time,
        },
        "faults": {
            "stuck_off": d.among((0.0, 0.0, 0.01, 0.5)),
            "stuck_on": d.among((0.0, 0.0, 0.01, 0.5)),
            "dead_rows": d.among((0.0, 0.0, 0.0, 0.1, 1.0)),
            "dead_columns": d.among((0.0, 0.0, 0.0, 0.1, 1.0)),
        },
        "wires": {"row": some(0.2, 1e-5, 1e-1), "column": some(0.2, 1e-5, 1e-1)},
    }
    if deep["programming"]["sigma"] != 0 and d.chance(0.2):
        deep["programming"]["verify"] = {
            "tolerance": d.log(1e-3, 0.3),
            "pulses": d.whole(1, 6),
            "step": d.among((1.0, 0.5)),
            "sigma": d.among((None, d.log(1e-3, 0.3))),
            "read": some(0.3, 1e-4, 0.1),
        }
    if mapping != "signed" and d.chance(0.3):
        deep["wires"] |= {"solution": "exact", "gated": d.chance(0.3), "row_terminal": some(0.3, 1e-5, 1e-1)}
        deep["wires"]["column_terminal"] = some(0.3, 1e-5, 1e-1)
        if deep["wires"]["gated"] and d.chance(0.5):
            given["dac"] = {"bits": d.among((1, 4)), "step_bits": 1, "signed": False}
            deep["wires"] |= {"row": 0.0, "row_terminal": 0.0, "source": d.log(1e-5, 1e-1)}
            deep["wires"]["source_terminal"] = some(0.3, 1e-5, 1e-1)
        deep["wires"]["interleaved"] = mapping == "differential" and cells["subtraction"] == "analog" and d.chance(0.5)
    elif mapping != "signed" and given["dac"]["bits"] is not None and d.chance(0.2):
        del deep["wires"]
        cells["devices"] = 1
        deep["iv"] = {
            "second": {"log": d.rng.normal(0, 0.1, d.whole(1, 4)).tolist()},
            "third": d.among((0.0, -0.1, points)),
        }
    cells["read_noise"] = d.among((0.0, 0.0, 0.0, d.log(1e-3, 0.2), law, points))
    if mapping != "signed" and d.chance(0.2):
        given["tile"]["current_limit"] = d.log(0.05, 20)
    if d.chance(0.1):
        deep["drift"] |= {"nu": 0.0, "nu_sigma": 0.0, "table": grid | {"outside": "hold"}}
    elif d.chance(0.1):
        ages = sorted({d.log(1, 1e8) for _ in range(d.whole(1, 3))})
        means = [d.rng.normal(0, 0.05, d.whole(1, 4)).tolist() for _ in ages]
        sigmas = [
            d.among(([d.log(1e-3, 0.3)], {"amplitude": d.log(1e-3, 0.3), "scale": d.log(1e-2, 10)})) for _ in ages
        ]
        moments = {"seconds": ages, "mean": means, "sigma": sigmas, "outside": "hold"}
        deep["drift"] |= {"nu": 0.0, "nu_sigma": 0.0, "moments": moments}
    deep["flicker"]["frozen"] = d.chance(0.3)
    if isinstance(deep["flicker"]["amplitude"], dict):  # a law, which has no exponent
        deep["flicker"]["exponent"] = 0.0
    return deep


def draw(seed: int, number: int) -> Case:
    """Draw case `number` of a seed."""
    d = Draw(seed, number)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return _drawn(d)


def _drawn(d: Draw) -> Case:
    kind, module, inputs, batch, output_batch, style = d.among(MAKERS)(d)
    hardware = profile(d, max(p[0].numel() if len(p) else 1 for p in module.parameters() if p.ndim > 1))
    weights = d.among(STYLES) if d.chance(0.5) else "normal"
    with torch.no_grad():
        for parameter in module.parameters():
            own = weights if parameter.ndim > 1 or d.chance(0.3) else "normal"
            scale = 1.0 if own in ("mixed", "one-hot", "constant", "ties") else d.log(0.1, 1)
            parameter.copy_(d.tensor(tuple(parameter.shape), own) * scale)
    dtype = d.among((torch.float32,) * 12 + (torch.float64, torch.float16, torch.bfloat16))
    options = {
        "method": d.among(("maximum", "maximum", "percentile", "percentile", "mse", "noise-aware")),
        "per": d.among((None, None, "network", "layer", "tile")),
        "chip": d.whole(0, 2**62),
        "age": d.among((0.0, 1.0, 3600.0, d.log(1e-3, 1e9))),
        "seed": d.whole(0, 2**62),
        "learn": d.chance(0.2),
        "threads": d.chance(0.05),
        "gradients": d.among((False, False, "evaluation", "training", "both")),
        "victim": d.whole(0, 2**30),
    }
    cast = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    return Case(hardware, kind, module.to(dtype), cast, batch, output_batch, (weights, style), dtype, options)


def _style(d: Draw) -> str:
    return d.among(STYLES) if d.chance(0.5) else "normal"


def linear(d: Draw) -> Any:
    k, n, style = d.size(), d.size(), _style(d)
    lead = d.among(((d.batch(),),) * 5 + ((), (d.among((1, 2, 3)), d.batch())))
    x = d.tensor((*lead, k), style)
    if d.chance(0.1) and len(lead) == 1:
        x = d.tensor((k, *lead), style).T  # not contiguous
    batch = 0 if lead else None
    return "linear", nn.Linear(k, n, bias=d.chance(0.7)), [x], batch, batch, style


def _spatial(d: Draw, transposed: bool) -> Any:
    dims, style = d.among((1, 1, 2, 2, 2, 3)), _style(d)
    groups = d.among((1, 1, 1, 2, 3))
    few = (1, 1, 2, 3, 4, 5, 8, 9)
    channels, outputs = groups * d.among(few), groups * d.among(few if dims > 1 else SIZES)
    kernel = tuple(d.among((1, 2, 3, 3, 5) if dims < 3 else (1, 2, 3)) for _ in range(dims))
    stride = tuple(d.among((1, 1, 2, 3)) for _ in range(dims))
    dilation = tuple(d.among((1, 1, 1, 2)) for _ in range(dims))
    padding: Any = tuple(d.whole(0, k // 2 + 1) for k in kernel)
    options: dict[str, Any] = {"groups": groups, "bias": d.chance(0.7), "stride": stride, "dilation": dilation}
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    if transposed:
        options["output_padding"] = tuple(d.whole(0, max(s, w) - 1) for s, w in zip(stride, dilation))
    else:
        options["padding_mode"] = d.among(("zeros", "zeros", "reflect", "replicate", "circular"))
        if d.chance(0.15):
            padding = d.among(("same", "valid"))
            options["stride"] = 1
    module = getattr(nn, name)(channels, outputs, kernel, padding=padding, **options)
    longest = {1: 40, 2: 12, 3: 5}[dims]
    spatial = tuple(d.whole(max(1, w * (k - 1) + 1), w * (k - 1) + longest) for k, w in zip(kernel, dilation))
    if transposed:
        spatial = tuple(d.whole(1, longest // 2) for _ in kernel)
    if d.chance(0.02):
        spatial = (d.among((0, 1)), *spatial[1:])
    batch = d.among((0,) if d.chance(0.03) else (1, 2, 3, 5, 16, 17, 33) if dims < 3 else (1, 2, 3))
    shape = (channels, *spatial) if d.chance(0.1) else (batch, channels, *spatial)
    where = 0 if len(shape) == dims + 2 else None
    return name, module, [d.tensor(shape, style)], where, where, style


def convolution(d: Draw) -> Any:
    return _spatial(d, False)


def transposed(d: Draw) -> Any:
    return _spatial(d, True)


class Attention(nn.Module):
    """Attention with its masks, so that one tensor goes in and one comes out."""

    def __init__(self, inner: nn.MultiheadAttention, keys: Tensor | None, values: Tensor | None, **masks: Any) -> None:
        super().__init__()
        self.inner, self.masks = inner, masks
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = (x if v is None else v for v in (self.keys, self.values))
        return self.inner(x, keys, values, **self.masks)[0]


def attention(d: Draw) -> Any:
    heads, style = d.among((1, 1, 2, 3)), _style(d)
    width = heads * d.among((1, 2, 4, 5))
    first, other = d.chance(0.5), d.chance(0.3)
    batch, length = d.among((1, 2, 3, 5)), d.among((1, 2, 3, 5))
    sizes = {"kdim": d.among((1, 3, 8)), "vdim": d.among((1, 2, 9))} if other else {}
    extra = {"bias": d.chance(0.7), "add_bias_kv": d.chance(0.2), "add_zero_attn": d.chance(0.2)}
    inner = nn.MultiheadAttention(width, heads, batch_first=first, **extra, **sizes)
    source = d.among((1, 2, 4)) if other else length
    shape = (batch, length, width) if first else (length, batch, width)
    keys = values = None
    if other:
        lead = (batch, source) if first else (source, batch)
        keys, values = d.tensor((*lead, sizes["kdim"]), "normal"), d.tensor((*lead, sizes["vdim"]), "normal")
    masks: dict[str, Any] = {"need_weights": d.chance(0.5)}
    if d.chance(0.3):
        # The first key is never masked: where all are, torch's own layer gives NaN.
        closed = torch.from_numpy(d.rng.random((length, source)) < 0.3)
        closed[:, 0] = False
        masks["attn_mask"] = closed if d.chance(0.5) else closed.float() * -3
        if masks["attn_mask"].dtype == torch.bool and d.chance(0.3):
            masks["attn_mask"] = closed.expand(batch * heads, -1, -1).contiguous()
    if d.chance(0.3) and masks.get("attn_mask", torch.zeros(1, dtype=torch.bool)).dtype == torch.bool:
        padding = torch.from_numpy(d.rng.random((batch, source)) < 0.3)
        padding[:, 0] = False
        masks["key_padding_mask"] = padding
    where = 0 if first else 1
    module = Attention(inner, keys, values, **masks)
    return "MultiheadAttention", module, [d.tensor(shape, style)], where, where, style


class Recurrent(nn.Module):
    """A recurrent layer's outputs, without its last state."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


def recurrent(d: Draw) -> Any:
    kind, style = d.among(("LSTM", "GRU", "RNN")), _style(d)
    k, hidden, first = d.among(SIZES), d.among((1, 2, 3, 5, 8, 16)), d.chance(0.5)
    options: dict[str, Any] = {"bias": d.chance(0.7), "bidirectional": d.chance(0.4), "batch_first": first}
    options["num_layers"] = d.among((1, 1, 2))
    if kind == "LSTM" and hidden > 1 and d.chance(0.4):
        options["proj_size"] = d.whole(1, hidden - 1)
    if kind == "RNN":
        options["nonlinearity"] = d.among(("tanh", "relu"))
    module = Recurrent(getattr(nn, kind)(k, hidden, **options))
    batch, steps = d.among((1, 2, 3, 7)), d.among((1, 2, 2, 3))
    shape: tuple[int, ...] = (batch, steps, k) if first else (steps, batch, k)
    where: int | None = 0 if first else 1
    if d.chance(0.1):
        shape, where = (steps, k), None
    return kind, module, [d.tensor(shape, style)], where, where, style


class Cell(nn.Module):
    """A cell's hidden state after one step."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        state = self.inner(x)
        return state[0] if isinstance(state, tuple) else state


def cell(d: Draw) -> Any:
    kind, style = d.among(("LSTMCell", "GRUCell", "RNNCell")), _style(d)
    k, hidden = d.among(SIZES), d.among((1, 2, 3, 5, 8, 16))
    options: dict[str, Any] = {"bias": d.chance(0.7)}
    if kind == "RNNCell":
        options["nonlinearity"] = d.among(("tanh", "relu"))
    x = d.tensor((d.among((1, 2, 3, 7)), k), style)
    return kind, Cell(getattr(nn, kind)(k, hidden, **options)), [x], 0, 0, style


MAKERS = (linear,) * 5 + (convolution,) * 5 + (transposed,) * 3 + (attention,) * 2 + (recurrent,) * 2 + (cell,)
