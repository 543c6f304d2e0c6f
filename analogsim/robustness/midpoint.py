"""The midpoint noise level µ of a robustness curve: the falling flank's fit, its interval and its flags."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FitError
from ..storage.files import plain
from . import law
from .crossing import AT_ZERO, apart, half_height, half_heights
from .interval import MeanCurve, agree, percentiles, with_cell
from .law import LOG_K, LOG_MU, Array
from .measure import ACCURACY, Measure, as_measure

VERSION = 2  # raised where the same curve would get another fit
MIN_R2 = 0.95  # below: poor_fit
MISS = 0.05  # of the fall; a point farther from the law, by more than noise does it: poor_fit
MIN_RISE = 0.02  # of the way from chance to 1; a peak below it is collapsed however many samples were tested
ALPHA = 1e-3  # false-alarm rate at which guessing is told from knowing (one-sided, Bonferroni over the grid)
MIN_FALL = 0.1  # of the peak's rise above chance; a curve that falls less shows no midpoint
BRITTLE_FACTOR = 2.0  # µ below the baseline's by more than this
BRITTLE_PEAK = 0.9  # of the baseline's rise above chance


@dataclass(frozen=True)
class MidpointFit:
    """acc(σ) = floor + (top − floor) / (1 + (σ/µ)^k), fitted to a curve's falling flank.

    Of another measure than accuracy, its values stand in place of accuracies, their logarithms where its scale is
    logarithmic; where less is better the flank rises.

    Attributes
    ----------
    midpoint : float
        µ, unit of σ. inf or 0 where it lies beyond the grid's end so far that there is nothing to fit, NaN where the
        curve has none (`collapsed`).
    slope : float
        k, no unit; NaN where nothing was fitted, as are `floor` and `r2` then.
    peak : float
        Maximum of the mean curve over the grid; of a measure of which less is better the minimum.
    top, floor : float
        The fitted levels before and after the fall; where µ is 0, `top` is the noise-free accuracy.
    r2 : float
        Share of the fitted points' variance that the fit explains.
    ci : (float, float)
        95 % interval of µ, and of the half-height crossing too where that is elsewhere; NaN where there is nothing to
        estimate it from (one repeat, number of samples unknown).
    chance : float
        Accuracy, or value, of guessing; NaN where it is not known.
    points_used : tuple of int
        Which points of the grid were fitted.
    flags : tuple of str
        "collapsed", "brittle", "extrapolated", "poor_fit"; see `fit_midpoint`.
    crossing : float
        σ at which the curve itself, from its peak on, falls through half height (halfway between the peak and its
        lowest accuracy, at most `chance`), by a monotone cubic through the mean points: µ without a law. Of a grid that
        begins or ends on the flank, top or floor are the law's. inf, 0: beyond, before the grid; NaN: there is no µ.
    higher_is_better, logarithmic : bool
        The measure's direction and scale.

    Examples
    --------
    >>> import numpy as np, analogsim as an
    >>> accuracies = 0.1 + 0.8 / (1 + (an.SIGMAS / 0.5) ** 2)
    >>> fit = an.fit_midpoint(an.SIGMAS, accuracies, chance=0.1)
    >>> round(fit.top, 3), round(fit.floor, 3), round(fit.crossing, 2)
    (0.9, 0.1, 0.5)
    """

    midpoint: float
    slope: float
    peak: float
    top: float
    floor: float
    r2: float
    ci: tuple[float, float]
    chance: float
    points_used: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    crossing: float = math.nan
    higher_is_better: bool = True
    logarithmic: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a file has them; direction and scale where they are not those of accuracy."""
        values = {key: plain(value) for key, value in asdict(self).items()}
        usual = {"higher_is_better": True, "logarithmic": False}
        return {key: value for key, value in values.items() if key not in usual or value != usual[key]}

    def __str__(self) -> str:
        low, high = self.ci
        if math.isnan(self.midpoint):
            text = "no µ"
        elif math.isinf(self.midpoint):
            text = f"µ > {three_digits(low)}"
        elif self.midpoint == 0:
            text = f"µ < {three_digits(high)}"
        else:
            text = f"µ = {three_digits(self.midpoint)}"
            text += "" if math.isnan(low) else f" [{three_digits(low)}, {three_digits(high)}]"
            if "poor_fit" in self.flags:
                at = "at " if 0 < self.crossing < math.inf else ""
                text += f", half height {at}{crossing_text(self.crossing)}"
        return text + (f" ({', '.join(self.flags)})" if self.flags else "")

    @property
    def bar(self) -> tuple[float, float]:
        """The interval as a picture can show it: an end that is 0 or infinite lies a thousand times from µ."""
        low, high = self.ci
        return low or self.midpoint / 1e3, min(high, self.midpoint * 1e3)

    def predict(self, sigmas: ArrayLike) -> Array:
        """Return the fitted accuracy (or value) at each σ, shape of `sigmas`; NaN where nothing was fitted."""
        with np.errstate(divide="ignore"):
            t = np.maximum(np.log(np.asarray(sigmas, dtype=float)), AT_ZERO)
        if not 0 < self.midpoint < math.inf:
            return np.full(t.shape, math.nan)
        ends = (math.log(self.top), math.log(self.floor)) if self.logarithmic else (self.top, self.floor)
        params = np.array([[math.log(self.midpoint), math.log(self.slope), *ends]])
        values = law.curve(t.ravel(), params).reshape(t.shape)
        return np.exp(values) if self.logarithmic else values

    def against(self, baseline: "MidpointFit | tuple[float, float]") -> "MidpointFit":
        """Return this fit judged beside the floating-point baseline's: with the flag `brittle` where it is deserved.

        Brittle is false robustness: the peak keeps at least 90 % of the baseline's rise above chance (on the measure's
        scale; where chance is not known, above the floor of the baseline's fit), but µ is less than half the
        baseline's, and the intervals do not overlap (where they are known).

        Parameters
        ----------
        baseline : MidpointFit or (float, float)
            The baseline's fit, or its (µ, peak).

        Raises
        ------
        FitError
            The baseline has no µ.
        """
        if isinstance(baseline, MidpointFit):
            # µ beyond the grid: at least the grid's end.
            other = baseline.ci[0] if math.isinf(baseline.midpoint) else baseline.midpoint
            peak, other_low, worst = baseline.peak, baseline.ci[0], baseline.floor
        else:
            (other, peak), other_low, worst = baseline, math.nan, math.nan
        if not (math.isfinite(other) and other >= 0 and math.isfinite(peak)):
            raise FitError(
                f"baseline: it has no midpoint (µ = {other}, peak = {peak}); compare with a network that has"
            )
        scale = Measure("", self.higher_is_better, logarithmic=self.logarithmic)
        high, top, peak, low = map(
            float, scale.heights([self.peak, self.top, peak, worst if math.isnan(self.chance) else self.chance])
        )
        high_peak = np.fmax(high, top) - low >= BRITTLE_PEAK * (peak - low)
        apart = not self.ci[1] >= other_low  # True where either is unknown
        brittle = bool(high_peak and self.midpoint < other / BRITTLE_FACTOR and apart)
        flags = [flag for flag in self.flags if flag != "brittle"] + ["brittle"] * brittle
        return replace(self, flags=tuple(flags))


def fit_midpoint(
    sigmas: ArrayLike,
    accuracies: ArrayLike,
    *,
    chance: float | None = None,
    noise_free: float | None = None,
    samples: int | None = None,
    trainings: ArrayLike | None = None,
    metric: str | Measure = ACCURACY,
    resamples: int = 1000,
    seed: int = 0,
) -> MidpointFit:
    """Fit µ to accuracies over a σ grid: acc(σ) = floor + (top − floor) / (1 + (σ/µ)^k), least squares over log σ.

    Fitted are the points from the maximum of the mean curve on (at least the last four), for a network trained under
    noise is best near its training σ. floor lies in [0, chance].

    Parameters
    ----------
    sigmas : array (S,)
        Positive, ascending; at least four.
    accuracies : array (S, R)
        R repeats with independent noise at every σ, each in [0, 1]; or values of the metric. (S,) is one repeat.
    chance : float, optional
        Accuracy of guessing, in (0, 1): 1 / classes, or the largest class's share. Of other measures: the value of
        guessing, None where it is not known; the worst level is then the plateau of the fit.
    noise_free : float, optional
        Accuracy at σ = 0. Used only where the grid starts on the flank: where that is below the plateau by more than
        10 % of the rise above chance, as one more point of the fit; and as the top that half height is of.
    samples : int, optional
        Test samples behind each accuracy.
    trainings : array (R,) of int, optional
        Which training each column comes from; default: all from one. Every training weighs the same.
    metric : str or Measure
        What the values are of: it decides the direction and the scale. Values beyond guessing count as guessing, but
        for accuracy and other shares.
    resamples : int
        Of the bootstrap.
    seed : int
        Of the bootstrap.

    Returns
    -------
    MidpointFit
        With the flags

        * `collapsed`: the peak (the noise-free accuracy too) is at most chance + max(0.02 (1 − chance), b), where b is
          what guessing on `samples` samples exceeds in one of S points with probability 1e-3 (binomial; repeats share
          the test samples and so count as one). There is no µ then (NaN).
        * `extrapolated`: µ lies outside the points that were fitted, from the peak to the end of the grid. A curve that
          falls by less than 10 % of its rise above chance has µ = inf and the interval (last σ, inf); one whose
          noise-free accuracy is lost by the first σ has µ = 0.
        * `poor_fit`: the law does not describe the curve, so that µ hangs on the law: R² < 0.95; or the half-height
          crossing lies elsewhere than µ, by a factor of more than 1.25 and with a point of the grid between them; or a
          point lies off the law by more than 5 % of the fall, and the points by more than noise does it (F test at
          0.01; where the noise is not known, in any case). Look at `crossing` then.

        `brittle` needs a baseline: see `MidpointFit.against`.

    Raises
    ------
    FitError
        Fewer than four points, shapes that do not fit, a value that is not finite or out of range, σ not ascending.

    Notes
    -----
    *Top.* It is fitted, not set to the maximum of the mean curve, which noise shifts upwards: set so, µ came out up to
    2.3 % low and its interval missed on one side only, in 7 of 8 simulated settings.

    *Interval.* Percentiles of log µ over bootstrap samples, the noise of every σ resampled apart. With n repeats, plain
    resampling misses the variance by (n − 1)/n, and its percentiles take the estimated variance as known; so
    deviations are scaled by √(n/(n − 1)), and percentiles stretched by t_ν/z with Satterthwaite's ν for the variances
    of all points, weighted by their influence on log µ. Several trainings are resampled whole (each carries its
    repeats' noise), n and ν + 1 being their number. Where the fall is steeper than the grid resolves (k at its bound),
    the interval includes the two points that enclose µ.

    Measured on curves with binomial noise, 1000 for each of 9 settings (2 to 10 repeats, k 1.5 to 6, 360 to 10 000
    samples): 0.937 to 0.968 of the intervals cover µ, where plain percentiles cover 0.74 (2 repeats), 0.81 (3), 0.88 to
    0.90 (5) and 0.92 (10). With 2, 3, 5 and 10 trainings, whose µ differ by 20 %, 0.932, 0.927, 0.938 and 0.950 do.

    *Misfit.* That is about the law's µ. Where the half-height crossing is elsewhere than noise explains (by the
    difference over the bootstrap's samples, at 95 %), or the law misses the points by more than noise does it, the
    interval has the crossing's as well; of a `poor_fit` also the two points of the grid that enclose the crossing. How
    often such intervals have the true half height of curves of other laws: design, section 6.

    With one repeat and `samples` known, accuracies are resampled from the binomial distribution: an upper limit, since
    noise does not flip every test sample.

    References
    ----------
    A. C. Davison, D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8.
    F. E. Satterthwaite, *An Approximate Distribution of Estimates of Variance Components*, 1946.

    Examples
    --------
    >>> import numpy as np, analogsim as an
    >>> accuracies = 0.1 + 0.8 / (1 + (an.SIGMAS / 0.5) ** 2)
    >>> fit = an.fit_midpoint(an.SIGMAS, accuracies, chance=0.1)
    >>> round(fit.midpoint, 3), round(fit.slope, 3), fit.flags
    (0.5, 2.0, ())
    """
    measure = as_measure(metric)
    grid, values, group = _checked(sigmas, accuracies, chance, noise_free, samples, trainings, measure)
    if measure.share and chance is not None:
        units, together = _units(values, group)
        samples = samples if measure.counts else None
        case = _Case(chance, _guessing(chance, samples, len(grid)), (chance, 0.0, 1.0), samples)
        return _fitted(grid, units, together, noise_free, case, resamples, seed)
    return _rescaled(grid, values, group, chance, noise_free, measure, resamples, seed)


@dataclass(frozen=True)
class _Case:
    """What a fit takes for granted.

    Attributes
    ----------
    worst : float
        The level that rises are counted from.
    limit : float
        The highest peak that is no better than guessing.
    levels : (float, float, float)
        What floor and top lie on both sides of, the lowest floor and the highest top.
    samples : int or None
        Behind each value, where their noise is binomial.
    """

    worst: float
    limit: float
    levels: tuple[float, float, float]
    samples: int | None


def _rescaled(
    grid: Array,
    values: Array,
    group: Array,
    chance: float | None,
    noise_free: float | None,
    measure: Measure,
    resamples: int,
    seed: int,
) -> MidpointFit:
    """Fit any measure: its heights are brought to a scale on which the worst level is 0 and the best 1."""
    heights = measure.heights(values)
    plain_units = _units(heights, group)[0].mean(1)
    first, free = int(plain_units.argmax()), -math.inf if noise_free is None else float(measure.heights(noise_free))
    best, lowest = max(float(plain_units.max()), free), float(plain_units[first:].min())
    worst = lowest if chance is None else float(measure.heights(chance))
    kind = {"higher_is_better": measure.higher_is_better, "logarithmic": measure.logarithmic}
    known = {"peak": measure.best(measure.values(plain_units)), "chance": math.nan if chance is None else chance} | kind
    flat = best - lowest < (-math.log(1 - MIN_FALL) if measure.logarithmic else MIN_FALL * abs(best))
    if chance is None and (flat or best == worst) or chance is not None and best <= worst:
        nan, used = math.nan, tuple(range(min(first, len(grid) - 4), len(grid)))
        fit = MidpointFit(nan, nan, nan, nan, nan, nan, (nan, nan), nan, used, ("collapsed",))
        if chance is None:
            ci = (float(grid[-1]), math.inf)
            fit = replace(fit, midpoint=math.inf, ci=ci, crossing=math.inf, flags=("extrapolated",))
        return replace(fit, **known)
    span = best - worst
    scaled, free_scaled = (heights - worst) / span, None if noise_free is None else (free - worst) / span
    if chance is None:
        case = _Case(0.0, -math.inf, (0.5, -1.0, 2.0), None)
    else:  # nobody needs a network that is worse than guessing
        scaled = scaled.clip(0.0)
        perfect = 0.0 if measure.perfect is None else float(measure.heights(measure.perfect)) - worst
        case = _Case(0.0, MIN_RISE * perfect / span, (0.0, -1e-9, 2.0), None)
    fit = _fitted(grid, *_units(scaled, group), free_scaled, case, resamples, seed)
    top, floor = (float(measure.values(worst + span * level)) for level in (fit.top, fit.floor))
    return replace(fit, top=top, floor=floor, **known)


def _units(values: Array, group: Array) -> tuple[Array, bool]:
    """Return the independent units' values (S, n), and whether a unit is a whole training."""
    names = np.unique(group)
    if len(names) == 1:
        return values, False
    return np.stack([values[:, group == name].mean(1) for name in names], 1), True


def _fitted(
    grid: Array,
    units: Array,
    together: bool,
    noise_free: float | None,
    case: _Case,
    resamples: int,
    seed: int,
) -> MidpointFit:
    """Fit values of units (S, n) that fall from a top to a floor."""
    chance, samples = case.worst, case.samples
    t, mean = np.log(grid), units.mean(1)
    peak = float(mean.max())
    first = min(int(mean.argmax()), len(t) - 4)
    nan = math.nan
    blank = MidpointFit(nan, nan, peak, nan, nan, nan, (nan, nan), chance, tuple(range(first, len(t))))

    free = peak if noise_free is None else noise_free
    if max(peak, free) <= case.limit:
        return replace(blank, flags=("collapsed",))
    starts_below = peak < free - MIN_FALL * (free - chance)
    if starts_below:
        if peak < chance + MIN_FALL * (free - chance):
            ci = (0.0, float(grid[0]))
            return replace(blank, midpoint=0.0, top=free, ci=ci, crossing=0.0, flags=("extrapolated",))
    elif peak - mean[first:].min() < MIN_FALL * (peak - chance):
        ci = (float(grid[-1]), math.inf)
        return replace(blank, midpoint=math.inf, ci=ci, crossing=math.inf, flags=("extrapolated",))

    x, units = t[first:], units[first:]
    if starts_below:
        x, units = np.r_[AT_ZERO, x], np.vstack([np.full(units.shape[1], free), units])
    measured, bounds = MeanCurve(units, together, samples), law.bounds(t, *case.levels)
    mean = measured.mean
    best = law.fit(x, mean, t, bounds)
    inner = law.inner(best, bounds)
    residual = mean - law.curve(x, best[None])[0]
    r2 = 1 - float((residual**2).sum() / ((mean - mean.mean()) ** 2).sum())
    top, floor = _levels(mean, best, noise_free, chance)
    half = half_height(x, mean, top, floor)
    misfit = measured.misfit(residual, int(inner.sum()))
    missed = np.abs(residual).max() > MISS * (top - floor)
    poor = r2 < MIN_R2 or (misfit and bool(missed)) or apart(t, best[LOG_MU], half)

    drawn = measured.drawn(resamples, seed)
    stretch = measured.stretch(np.linalg.pinv(law.jacobian(x, best[None])[0][:, inner])[0])  # d log µ / d mean
    fits = law.descend(x, drawn, np.repeat(best[None], len(drawn), 0), bounds)[:, LOG_MU]
    low, high = percentiles(fits, best[LOG_MU], stretch)
    if best[LOG_K] > bounds[1][LOG_K] - 1e-3:
        low, high = with_cell(low, high, t, best[LOG_MU])
    if len(drawn):
        halves = half_heights(x, drawn, mean, top, floor)
        if math.isfinite(half):
            # Between points a sample bends as the mean curve does.
            halves += half - half_heights(x, mean[None], mean, top, floor)
        if poor or misfit or not agree(best[LOG_MU] - half, fits - halves, stretch):
            ends = percentiles(halves, half, stretch)
            low, high = min(low, ends[0]), max(high, ends[1])
        if poor:
            low, high = with_cell(low, high, t, half)
    (mu, k), (top, floor) = np.exp(best[:2]).tolist(), best[2:].tolist()  # those of the law, no more the curve's own
    flags = ["extrapolated"] * (not grid[first] <= mu <= grid[-1]) + ["poor_fit"] * poor
    ci, crossing = (float(np.exp(low)), float(np.exp(high))), float(np.exp(half))
    return replace(
        blank, midpoint=mu, slope=k, top=top, floor=floor, r2=r2, ci=ci, crossing=crossing, flags=tuple(flags)
    )


def _levels(mean: Array, best: Array, noise_free: float | None, chance: float) -> tuple[float, float]:
    """Return a curve's top and floor as measured, or the law's where the grid begins or ends on the flank."""
    top, floor = float(mean.max()), min(float(mean.min()), chance)
    if not mean.argmax():
        top = max(top, float(best[2]) if noise_free is None else noise_free)
    if mean[-2] - mean[-1] > MISS * (top - floor):
        floor = float(best[3])
    return top, floor


def three_digits(value: float) -> str:
    """Three digits, trailing zeros too, so that numbers compare."""
    return f"{value:#.3g}".rstrip(".")


def midpoint_texts(midpoint: float, low: float, high: float) -> tuple[str, str]:
    """Return µ and its interval as a table shows them; a µ beyond the grid as the bound that is known."""
    if math.isnan(midpoint):
        return "none", "-"
    if math.isinf(midpoint):
        return f"> {three_digits(low)}", "-"
    if midpoint == 0:
        return f"< {three_digits(high)}", "-"
    return three_digits(midpoint), "-" if math.isnan(low) else f"{three_digits(low)} - {three_digits(high)}"


def crossing_text(crossing: float) -> str:
    """Return the half-height crossing as a table shows it."""
    if math.isnan(crossing):
        return "-"
    return {0.0: "before the grid", math.inf: "beyond the grid"}.get(crossing) or three_digits(crossing)


def _checked(
    sigmas: ArrayLike,
    accuracies: ArrayLike,
    chance: float | None,
    noise_free: float | None,
    samples: int | None,
    trainings: ArrayLike | None,
    measure: Measure,
) -> tuple[Array, Array, Array]:
    """Return σ (S,), the values (S, R), and which training each column is of (R,)."""
    grid, acc = np.asarray(sigmas, dtype=float), np.asarray(accuracies, dtype=float)
    acc = acc[:, None] if acc.ndim == 1 else acc
    if grid.ndim != 1 or acc.ndim != 2 or len(acc) != len(grid) or not acc.shape[1]:
        raise FitError(f"accuracies: shape (S, R) for sigmas (S,) is needed, got {acc.shape} for {grid.shape}")
    if len(grid) < 4:
        raise FitError(f"sigmas: a fit of four parameters needs at least 4 points, got {len(grid)}; sweep more")
    if not np.isfinite(grid).all() or grid[0] <= 0 or (np.diff(grid) <= 0).any():
        raise FitError(f"sigmas: positive, finite and strictly ascending is needed, got {grid.tolist()}")
    what, usable = "fractions in [0, 1]", (acc >= 0) & (acc <= 1)
    if not measure.share:
        what, usable = "finite values", np.isfinite(measure.heights(acc))
    if not usable.all():
        where = np.argwhere(~usable)[0]
        raise FitError(f"accuracies: {what} are needed, got {acc[tuple(where)]} at {where.tolist()}")
    if measure is ACCURACY and chance is None:
        raise FitError("chance: give the accuracy of guessing: 1 / classes, or the largest class's share")
    for name, value in (("chance", chance), ("noise_free", noise_free)):
        if value is not None and not measure.share and not np.isfinite(measure.heights(value)):
            raise FitError(f"{name}: a finite value of {measure.name} is needed, got {value}")
    if measure.share and chance is not None and not 0 < chance < 1:
        raise FitError(f"chance: the accuracy of guessing lies in (0, 1), got {chance}")
    if measure.share and noise_free is not None and not 0 <= noise_free <= 1:
        raise FitError(f"noise_free: a fraction in [0, 1] is needed, got {noise_free}")
    if samples is not None and samples < 1:
        raise FitError(f"samples: the number of test samples is at least 1, got {samples}")
    group = np.zeros(acc.shape[1], dtype=int) if trainings is None else np.asarray(trainings)
    if group.shape != (acc.shape[1],):
        raise FitError(f"trainings: one number a column ({acc.shape[1]},) is needed, got shape {group.shape}")
    return grid, acc, group


def _guessing(chance: float, samples: int | None, points: int) -> float:
    """Return the highest accuracy that a network may have without being told from guessing."""
    limit = chance + MIN_RISE * (1 - chance)
    if samples is None:
        return limit
    from scipy.special import bdtrik

    return max(limit, math.ceil(bdtrik(1 - ALPHA / points, samples, chance)) / samples)
