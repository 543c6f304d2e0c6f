"""The results of a study as pandas frames: one row a training, or one row a method over its seeds."""

import math
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import StudyError
from ..robustness.curve import RobustnessCurve
from ..storage.files import write_text
from ..training.run_file import Run
from .grid import Entry
from .store import Store
from .variants import Variant, fit_of, kept_fits, load_variants

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

RESULTS, SUMMARY, HARDWARE, MAP = "results.csv", "summary.csv", "hardware.csv", "map.csv"
SETTINGS = ("model", "method", "variant", "curve", "sigma", "bits", "scaling", "s")
NUMBERS = ("peak", "noise_free", "midpoint", "ci_low", "ci_high", "crossing", "slope", "r2")


def load_results(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return a study's results, one row a training that has ended.

    Parameters
    ----------
    directory : path
        The study's.

    Returns
    -------
    DataFrame
        model, method, variant, curve ("matched": the training is one of a matched curve), sigma (of training), bits,
        scaling, s, seed, job, status, data, epochs, test_accuracy, and of the training's own curve over all σ peak,
        noise_free, midpoint (µ), ci_low, ci_high (95 % over repeats), crossing (where the curve itself falls through
        half height), slope, r2, flags; seconds. µ is NaN where there is none; see `flags` and `status` then.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    return _results(Store(directory))


def summarise(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return a study's results, one row a method's variant: its trainings of all seeds pooled.

    µ is that of the mean curve; its 95 % interval comes from a bootstrap over trainings where there are several, else
    over repeats. `brittle` is judged against the study's baseline on the same network.

    In the column `curve` stands "matched" where each point is of a network that was trained under its σ (`sigma` is NaN
    then), else "swept". `trainings` of `of` seeds have a curve.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    return _summary(load_variants(Store(directory)))


def load_hardware(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return what the trained networks of a study are worth on its hardware: one row a training, combination and chip.

    Returns
    -------
    DataFrame
        model, method, variant, curve, sigma (of training), bits, scaling, s, seed, job, a column for each field that is
        varied, chip, accuracy. Empty where the study has no hardware.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    return _hardware(Store(directory))


def load_map(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return how good the networks of matched curves are at every σ, not only their own: one row a training and σ.

    Returns
    -------
    DataFrame
        model, method, variant, seed, job, trained (σ of training), sigma (of evaluation; 0: without noise), accuracy
        (mean over repeats). Empty where the study has no matched curve.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.

    Examples
    --------
    The map σ_train × σ_inf of one method: load_map(DIR).pivot_table("accuracy", "trained", "sigma").
    """
    return _map(Store(directory))


def load_network(directory: str | os.PathLike[str], job: str, *, trust: Collection[str] = ()) -> "nn.Module":
    """Load the trained network of a job, where the study was run with `keep_networks`.

    Parameters
    ----------
    directory : path
        The study's.
    job : str
        As `load_results` and `analogsim study list` name it.
    trust : collection of str
        As in `run_study`.

    Returns
    -------
    nn.Module
        In evaluation mode; with its quantizers, where the job has a `QATSpec`.

    Raises
    ------
    StudyError
        There is no such network.
    CheckpointError
        It is damaged, or does not fit what its import path names now.

    Examples
    --------
    >>> runs = load_results("runs/digits")  # doctest: +SKIP
    >>> best = runs.loc[runs["midpoint"].idxmax()]  # doctest: +SKIP
    >>> network = load_network("runs/digits", best["job"])  # doctest: +SKIP
    """
    path = Store(directory).network(job)
    if not path.is_file():
        raise StudyError(f"{path}: no such file; networks are kept by `analogsim study run --keep-networks`")
    run = Run.load(path)
    return run.network(path, run.model if run.model in trust else None).eval()


def write_map(store: Store) -> None:
    """Write map.csv likewise, where the study has a matched curve."""
    if any(cell.matched for cell in store.plan()):
        write_text(store.root / MAP, _map(store).to_csv(index=False, float_format="%.6g"))


def write_results(store: Store) -> None:
    """Write results.csv from what the jobs left; it is written aside, then renamed."""
    write_text(store.root / RESULTS, _results(store).to_csv(index=False, float_format="%.6g"))


def write_hardware(store: Store) -> None:
    """Write hardware.csv likewise, where the study has hardware."""
    if store.study().hardware is not None:
        write_text(store.root / HARDWARE, _hardware(store).to_csv(index=False, float_format="%.6g"))


def write_summary(store: Store, variants: Sequence[Variant] | None = None) -> None:
    """Write summary.csv likewise, and the fits of pooled curves, so that they are made once.

    `variants`: of `load_variants`, where they are at hand.
    """
    variants = load_variants(store) if variants is None else variants
    write_text(store.root / SUMMARY, _summary(variants).to_csv(index=False, float_format="%.6g"))
    store.keep_fits(kept_fits(variants))


def _results(store: Store) -> "pd.DataFrame":
    import pandas as pd

    plan = store.plan()
    # The file has its order; jobs are run in another one.
    order = {place: number for number, place in enumerate(dict.fromkeys((c.model, c.method, c.variant) for c in plan))}
    rows: list[dict[str, Any]] = []
    for cell in sorted(plan, key=lambda cell: (order[cell.model, cell.method, cell.variant], cell.seed, cell.sigma)):
        result = store.result(cell.job)
        status = result.status if result else store.state(cell.job)
        if result is None and status != "failed":
            continue
        history = result.history if result else []
        row = _settings(cell) | {"seed": cell.seed, "job": cell.job, "status": status}
        row |= {"data": result.data if result else "", "epochs": len(history)}
        row["test_accuracy"] = history[-1]["test_accuracy"] if history else math.nan
        row |= _numbers(store.curve(cell.job))
        row["seconds"] = result.seconds.all if result and result.seconds else math.nan
        rows.append(row)
    columns = [*SETTINGS, "seed", "job", "status", "data", "epochs", "test_accuracy", *NUMBERS, "flags", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def _hardware(store: Store) -> "pd.DataFrame":
    import pandas as pd

    hardware = store.study().hardware
    axes = list(hardware.vary) if hardware else []
    rows = [
        _settings(cell) | {"seed": cell.seed, "job": cell.job} | point.values | {"chip": chip, "accuracy": accuracy}
        for cell in store.plan()
        if (result := store.result(cell.job))
        for point in result.hardware or ()
        for chip, accuracy in enumerate(point.found)
    ]
    return pd.DataFrame(rows, columns=[*SETTINGS, "seed", "job", *axes, "chip", "accuracy"])


def _map(store: Store) -> "pd.DataFrame":
    import pandas as pd

    places = ("model", "method", "variant", "seed", "job")
    rows = [
        {name: getattr(cell, name) for name in places} | {"trained": cell.sigma, "sigma": sigma, "accuracy": accuracy}
        for cell in store.plan()
        if cell.matched and (curve := store.curve(cell.job))
        for sigma, accuracy in zip([0.0, *curve.sigmas.tolist()], [curve.noise_free, *curve.mean.tolist()])
    ]
    return pd.DataFrame(rows, columns=[*places, "trained", "sigma", "accuracy"])


def _summary(variants: Sequence[Variant]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for variant in variants:
        row = _settings(variant.cell) | {"trainings": variant.trainings, "of": variant.of}
        row["sigma"] = math.nan if variant.cell.matched else row["sigma"]
        row |= _numbers(variant.curve) | {"flags": " ".join(variant.flags), "claim": variant.claim}
        rows.append(row)
    return pd.DataFrame(rows, columns=[*SETTINGS, "trainings", "of", *NUMBERS, "flags", "claim"])


def _settings(cell: Entry) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in SETTINGS}


def _numbers(curve: RobustnessCurve | None) -> dict[str, Any]:
    if curve is None:
        return dict.fromkeys(NUMBERS, math.nan) | {"flags": ""}
    fit, flags = fit_of(curve)
    numbers = {"peak": curve.peak, "noise_free": curve.noise_free, "flags": " ".join(flags)}
    if fit is None:
        return dict.fromkeys(NUMBERS, math.nan) | numbers
    low, high = fit.ci
    numbers |= {"midpoint": fit.midpoint, "ci_low": low, "ci_high": high, "crossing": fit.crossing}
    return numbers | {"slope": fit.slope, "r2": fit.r2}
