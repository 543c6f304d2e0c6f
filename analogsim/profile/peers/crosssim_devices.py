"""CrossSim's devices by the names of their classes: their errors, drift, noise and curves as laws of a profile.

Its laws are of conductances in µS, or of currents in nA; a profile's are of fractions of the largest conductance,
1/Rmin, or of the largest current, Vread/Rmin. Conductances do not stop at 0 where they are read here.
"""

import math
from typing import Any

from .report import Reading, same

DAY = 86_400.0  # seconds
ROUNDED = 1e-4  # by how much laws differ whose numbers were written with a few digits
# σ of programming, µS: coefficients of a polynomial in µS, the lowest first.
POLYNOMIALS = {
    "PCMJoshi": (0.28638599, 0.07585724, -0.00178767),
    "RRAMMilo": (4.782321, -0.009107),
    "RRAMWan": (1.053, 2.374e-1, -1.167e-2, 1.536e-4),
}
# σ after so many days, A·(1 - exp(-I/B)): A and B in nA.
SONOS = (
    (19.88665, 176.3115),
    (25.59102, 186.85544),
    (28.72753, 193.56834),
    (31.04318, 198.90332),
    (33.76214, 204.77023),
    (34.57909, 207.34309),
)
# By how much the mean has moved after 1 to 5 days, nA: coefficients of a polynomial in nA.
# fmt: off
SONOS_MEAN = (
    (1.72684e-01, 5.72552e-02, -6.85715e-04, 3.50271e-06, -9.37682e-09, 1.40575e-11, -1.19803e-14, 5.41293e-18,
     -8.85448e-22, -1.66869e-25, 5.95180e-29),
    (2.50712e-01, 6.62195e-02, -6.83218e-04, 2.99442e-06, -6.78255e-09, 7.70482e-12, -3.04983e-15, -2.15919e-18,
     2.94617e-21, -1.23359e-24, 1.85329e-28),
    (-1.75300e-02, 9.76883e-02, -9.63791e-04, 4.55551e-06, -1.22391e-08, 1.93786e-11, -1.85899e-14, 1.07659e-17,
     -3.58211e-21, 5.96785e-25, -3.30410e-29),
    (4.03338e-02, 1.03111e-01, -1.04740e-03, 4.83961e-06, -1.28132e-08, 1.99484e-11, -1.85139e-14, 1.00008e-17,
     -2.84944e-21, 3.01008e-25, 1.18747e-29),
    (3.19927e-01, 1.06596e-01, -1.04054e-03, 4.50290e-06, -1.10352e-08, 1.56477e-11, -1.27592e-14, 5.45513e-18,
     -7.26841e-22, -2.43893e-25, 7.14608e-29),
)
# fmt: on
SONOS_LARGEST = 1800.0  # nA: that its drift is fitted for
SONOS_NOISE = (12.58037, 215.36557)
UNIFORM = "uniform there; here normal, with the same variance"


def saturating(law: tuple[float, float], largest: float) -> dict[str, float]:
    """Return a saturating law, of nA there, for the largest current in nA."""
    return {"amplitude": law[0] / largest, "scale": law[1] / largest}


def polynomial(law: tuple[float, ...], largest: float) -> list[float]:
    """Return Σ c_i g^i in fractions of the largest conductance or current from that in µS or nA."""
    return [c * largest ** (i - 1) for i, c in enumerate(law)]


def moments(largest: float) -> dict[str, Any]:
    """Return how SONOS cells move and spread apart in five days, for the largest current in nA."""
    return {
        "seconds": [day * DAY for day in range(1, len(SONOS))],
        "mean": [polynomial(law, largest) for law in SONOS_MEAN],
        "sigma": [saturating(law, largest) for law in SONOS[1:]],
    }


def _generic(model: str, size: float) -> Any:
    """Return σ of one of the generic devices; None of another, also of one whose errors grow without end towards 0."""
    spread = size / math.sqrt(12) if model.startswith("Uniform") else size
    laws = {"IndependentDevice": spread, "ProportionalDevice": [0.0, spread]}
    return next((law for name, law in laws.items() if model in (f"Normal{name}", f"Uniform{name}")), None)


def programming(model: str, size: float, g_max: float, largest: float) -> Any:
    """Return σ of a device's programming error, with g_max in µS and the largest current in nA; None of another."""
    if model == "SONOS":
        return saturating(SONOS[0], largest)
    return polynomial(POLYNOMIALS[model], g_max) if model in POLYNOMIALS else _generic(model, size)


def read(r: Reading, g_min: float, volts: float) -> None:
    """Set what the device does; `volts` is the voltage of a full-scale input of ours."""
    g_max = 1e6 / r["xbar.device.Rmin"]
    largest = r["xbar.device.Vread"] * g_max * 1e3
    drifting = _programming(r, g_max, largest)
    noise = _read_noise(r, g_min, largest)
    curved = _curves(r, volts)
    if not (drifting or noise or curved):
        r.ignore(["xbar.device.Vread"])


def _programming(r: Reading, g_max: float, largest: float) -> bool:
    """Return whether the voltage counts."""
    where = "xbar.device"
    error, drift, days = f"{where}.programming_error", f"{where}.drift_error", r[f"{where}.time"]
    sources = {part: r[f"{part}.enable"] and r[f"{part}.model"] != "IdealDevice" for part in (error, drift)}
    drifts, late = sources[drift], r[f"{drift}.model"]
    # At 0 days a device has the programming's error or, where that has no model, the drift's.
    source = drift if drifts and r[f"{error}.model"] == "IdealDevice" else error
    model, size = r[f"{source}.model"], r[f"{source}.magnitude"]
    if sources[source]:
        sigma = programming(model, size, g_max, largest)
        if sigma is not None:
            r.put("programming.sigma", sigma, f"{source}.model", f"{source}.magnitude", f"{source}.enable")
            if model.startswith("Uniform"):
                r.lose(f"{source}.model", UNIFORM)
        else:
            r.lose(f"{source}.model", "no law of the profile")
    if drifts and late == "SONOS" and model == "SONOS" and largest < SONOS_LARGEST:
        r.put("drift.moments", moments(largest), f"{drift}.model", f"{drift}.enable")
        if days:
            r.lose(f"{where}.time", f"a chip's age, not the profile's: at_time(model, {days * DAY:g})")
    elif drifts and late == "SONOS" and model == "SONOS":
        r.lose(f"{drift}.model", f"its fit ends at {SONOS_LARGEST:g} nA; the largest current is {largest:.5g} nA")
    elif drifts and (days or late != model):
        r.lose(f"{drift}.model", "drift by this model is not carried over, nor its errors at any time")
    elif days:
        r.lose(
            f"{where}.time", "there cells have no errors after this time, as no model of drift is on; here at all ages"
        )
    r.ignore([f"{error}.*", f"{drift}.*", f"{where}.time"])
    return "SONOS" in (model, late) and any(sources.values())


def _read_noise(r: Reading, g_min: float, largest: float) -> bool:
    where = "xbar.device.read_noise"
    model, size = r[f"{where}.model"], r[f"{where}.magnitude"]
    if not r[f"{where}.enable"] or model == "IdealDevice":
        r.ignore([f"{where}.*"])
        return False
    sigma = saturating(SONOS_NOISE, largest) if model == "SONOS" else _generic(model, size)
    if sigma is None:
        r.lose(f"{where}.model", "no law of the profile")
    else:
        r.put("cells.read_noise", sigma, f"{where}.model", f"{where}.magnitude", f"{where}.enable")
        if model.startswith("Uniform"):
            r.lose(f"{where}.model", UNIFORM)
        if model == "NormalIndependentDevice" and g_min < 4 * size:
            r.lose(f"{where}.magnitude", "cells stop at 0 there, those near it are noisy on one side; here on both")
    r.ignore([f"{where}.*"])
    return model == "SONOS"


def milo(g_max: float, volts: float) -> dict[str, Any]:
    """Polynomials in log10 of siemens, the lowest power first, times V/g_max and V²/g_max: in ln g here."""
    g_max /= 1e6
    inner = math.log10(g_max), 1 / math.log(10)  # log10 G = log10 g_max + ln g / ln 10
    laws = {"second": (0.007063, 0.005711, 0.001541, 0.0001388), "third": (1.2968e-03, 6.7919e-04, 8.8710e-05)}
    found = {}
    for power, (name, law) in enumerate(laws.items(), 1):
        terms = [
            sum(c * math.comb(i, k) * inner[0] ** (i - k) for i, c in enumerate(law) if i >= k) * inner[1] ** k
            for k in range(len(law))
        ]
        found[name] = {"log": [term * volts**power / g_max for term in terms]}
    return found


def cubic(g_max: float, volts: float) -> dict[str, Any]:
    """I = G (V - V³/4): in proportion to the conductance, as is the line between two points."""
    return {"third": {"g": [0.0, 1.0], "value": [0.0, -0.25 * volts**2], "outside": "hold"}}


CURVES = {"RRAMMilo": milo, "CubicDevice": cubic}


def _curves(r: Reading, volts: float) -> bool:
    where = "xbar.device.nonlinear_IV"
    model = r[f"{where}.model"]
    curved = r[f"{where}.enable"] and model != "IdealDevice"
    if curved and model in CURVES:
        for name, law in CURVES[model](1e6 / r["xbar.device.Rmin"], volts).items():
            r.put(f"iv.{name}", law, f"{where}.model", f"{where}.enable", "xbar.device.Vread")
    elif curved:
        r.lose(f"{where}.model", "no law of the profile")
    r.ignore([f"{where}.*"])
    return bool(curved)


# --- and back --------------------------------------------------------------------------------------------------------


def largest_conductance(sigma: Any) -> float | None:
    """Return g_max, µS, with which this is the law of one of the devices; None where there is none."""
    for law in POLYNOMIALS.values():
        if isinstance(sigma, list) and sigma[0] > 0 and same(sigma, polynomial(law, law[0] / sigma[0]), ROUNDED):
            return law[0] / sigma[0]
    return None


def named(sigma: Any, g_max: float) -> tuple[str, float, float] | None:
    """Return the device whose programming error has this law, its magnitude, and the volts that it takes (or 0)."""
    if isinstance(sigma, float | int):
        return ("NormalIndependentDevice", float(sigma), 0.0)
    if isinstance(sigma, list) and len(sigma) == 2 and not sigma[0]:
        return ("NormalProportionalDevice", sigma[1], 0.0)
    for model, law in POLYNOMIALS.items():
        if same(sigma, polynomial(law, g_max), ROUNDED):
            return (model, 0.0, 0.0)
    largest = _largest(sigma, SONOS[0])
    return ("SONOS", 0.0, largest / g_max / 1e3) if largest else None


def named_noise(sigma: Any, g_max: float) -> tuple[str, float, float] | None:
    """Likewise of read noise."""
    if isinstance(sigma, float | int | list):
        found = named(sigma, g_max)
        return None if found is None or found[0] in POLYNOMIALS else found
    largest = _largest(sigma, SONOS_NOISE)
    return ("SONOS", 0.0, largest / g_max / 1e3) if largest else None


def named_curve(second: Any, third: Any, g_max: float) -> tuple[str, float, float] | None:
    """Return the device with these `iv.second` and `iv.third`, 0, and the volts that it takes."""
    given = {"second": second, "third": third}
    given = {
        name: {key: value for key, value in curve.items() if key != "source"} if isinstance(curve, dict) else curve
        for name, curve in given.items()
    }
    for model, law in CURVES.items():
        unit = law(g_max, 1.0)["third"]
        kind = "log" if "log" in unit else "value"
        share = third[kind][-1] / unit[kind][-1] if isinstance(third, dict) and kind in third else 0.0
        if share > 0 and same(given, {"second": 0.0} | law(g_max, math.sqrt(share)), ROUNDED):
            return (model, 0.0, math.sqrt(share))
    return None


def _largest(sigma: Any, law: tuple[float, float]) -> float:
    """Return the largest current, nA, with which a saturating law is this one of nA; 0 where there is none."""
    if not isinstance(sigma, dict) or not sigma.get("amplitude"):
        return 0.0
    largest = law[0] / sigma["amplitude"]
    return largest if same(sigma, saturating(law, largest), ROUNDED) else 0.0
