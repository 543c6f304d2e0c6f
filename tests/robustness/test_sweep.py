"""The sweep: accuracies agree with theory, nothing is left changed, any data will do; then the curve as an object."""

import json
import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from analogsim.convert import convert
from analogsim.errors import ConversionError, DataError, FitError, NonFiniteError, ShapeError, UnreachedWarning
from analogsim.noise import NoiseSpec, inject_noise, noise_sites
from analogsim.profile import HardwareProfile
from analogsim.quantities import QUANTITIES, TARGETS, Quantity
from analogsim.robustness.curve import RobustnessCurve
from analogsim.robustness.midpoint import fit_midpoint
from analogsim.robustness.sweep import SIGMAS, accuracy, noise_sweep
from analogsim.storage.kept import CHECKSUM

GRID = np.array([0.1, 0.3, 1.0, 3.0, 10.0])


def identity(classes=2):
    """A network whose logits are its inputs; its two noise sites are the input and the linear layer."""
    model = nn.Sequential(nn.Linear(classes, classes, bias=False))
    nn.init.eye_(model[0].weight)
    return model


def points(samples=2000, classes=2, distance=1.0):
    """Class c at distance·e_c."""
    y = torch.arange(samples) % classes
    return distance * nn.functional.one_hot(y, classes).float(), y


def sweep(model, data=None, sigmas=GRID, repeats=2, **options):
    return noise_sweep(model, points() if data is None else data, sigmas, repeats, **options)


def rows(curve):
    return curve.accuracies.tolist()


# What is measured


def agrees(curve, expected):
    """Chi-square of all S·R counts against their binomials; false alarms: α = 1e-3."""
    samples, expected = curve.samples, expected[:, None]
    z2 = samples * (curve.accuracies - expected) ** 2 / (expected * (1 - expected))
    return z2.sum() < stats.chi2.ppf(1 - 1e-3, z2.size)


def test_activation_noise_gives_the_accuracy_of_theory():
    # Logits differ by d; each has the noise of two sites: P(right) = Φ(d / 2σ). n = 8 × 20000; an accuracy wrong by
    # 0.01 everywhere is found with a power above 0.99.
    sigmas = np.array([0.3, 0.6, 1.0, 3.0])
    curve = sweep(identity(), points(20_000), sigmas)
    assert agrees(curve, stats.norm.cdf(1 / (2 * sigmas)))
    assert not agrees(curve, stats.norm.cdf(1 / (2 * 1.05 * sigmas)))
    assert (curve.noise_free, curve.chance, curve.samples, curve.quantity) == (1.0, 0.5, 20_000, "activations")


def test_hardware_noise_gives_the_accuracy_of_theory():
    # One crossbar, weights of full scale 1, input range 2: logits carry 2σ each, P(right) = Φ(d / (2σ√2)).
    sigmas = np.array([0.2, 0.5, 1.0, 3.0])
    analog = convert(identity(), HardwareProfile(dac={"bits": 8, "input_range": 2.0}))
    curve = sweep(analog, points(20_000, distance=2.0), sigmas, quantity="noise.output")
    assert agrees(curve, stats.norm.cdf(1 / (sigmas * math.sqrt(2))))
    assert not agrees(curve, stats.norm.cdf(1 / (1.05 * sigmas * math.sqrt(2))))


def test_quantities_are_those_of_the_hardware_and_of_injected_noise():
    assert set(get_args(Quantity)) == set(QUANTITIES)
    fields = {f"noise.{name}" for name in HardwareProfile().noise.model_dump()}
    assert {*TARGETS} < set(QUANTITIES) <= {*TARGETS, *fields}


def test_words_of_version_0_1_are_understood(tmp_path):
    x, y = points(50)
    for word, now in (("activation", "activations"), ("weight", "weights")):
        with pytest.warns(DeprecationWarning, match=f"'{word}' is '{now}' now"):
            old = sweep(identity(), (x, y), quantity=word)
        assert old.quantity == now
        assert rows(old) == rows(sweep(identity(), (x, y), quantity=now))
    path = tmp_path / "curve.json"
    old.save(path)
    values = {**json.loads(path.read_text()), "quantity": "weight"}
    path.write_text(json.dumps({key: value for key, value in values.items() if key != CHECKSUM}))
    assert RobustnessCurve.load(path).quantity == "weights"


@pytest.mark.parametrize("quantity", ["weights", "noise.read", "noise.multiplicative"])
def test_every_quantity_lowers_accuracy(quantity):
    model = identity(4)
    if quantity != "weights":
        model = convert(model, HardwareProfile())
    x, y = points(classes=4)
    curve = sweep(model, (x + 0.5, y), quantity=quantity, repeats=5)
    assert curve.noise_free == 1.0
    assert curve.mean[0] > 0.9 > 0.7 > curve.mean[-1]


def test_other_noise_is_silent_but_the_rest_of_the_profile_stays():
    analog = convert(identity(), HardwareProfile(noise={"multiplicative": 5.0}))
    assert sweep(analog, quantity="noise.read").noise_free < 0.9
    noisy = inject_noise(convert(identity(), HardwareProfile()), NoiseSpec(sigma=5.0, multiplicative=5.0))
    assert sweep(noisy, quantity="noise.read").noise_free == 1.0
    assert sweep(noisy, quantity="activations").noise_free == 1.0
    assert rows(sweep(noisy)) == rows(sweep(identity())), "sites that exist are used"


def test_repeats_are_independent_even_where_sites_have_a_seed():
    curve = sweep(inject_noise(identity(), NoiseSpec(sigma=0.5, seed=7)), repeats=4)
    assert len(set(curve.accuracies[2])) > 1
    assert rows(curve) == rows(sweep(identity(), repeats=4))


def test_the_network_is_in_evaluation_mode():
    model = nn.Sequential(nn.Dropout(0.9), *identity())
    assert sweep(model.train()).noise_free == 1.0


def test_an_accuracy_does_not_depend_on_the_rest_of_the_sweep():
    whole = sweep(identity(), repeats=3)
    torch.manual_seed(12345)
    part = sweep(identity(), sigmas=GRID[[3, 1]], repeats=2)
    assert part.sigmas.tolist() == [0.3, 3.0]
    assert rows(part) == whole.accuracies[[1, 3], :2].tolist()
    assert rows(sweep(identity(), repeats=3, seed=1)) != rows(whole)


def test_nothing_is_computed_twice():
    model, calls = identity(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    sweep(model, sigmas=[0.0, *GRID, GRID[0]], repeats=3)
    assert len(calls) == (1 + 3 * len(GRID)) * 4  # batches of 500


def test_nan_under_noise_counts_as_wrong():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def forward(self, x):
            return torch.cat([x.sqrt(), -torch.ones_like(x)], 1)[:, :2]

    x, y = points(classes=1)
    with pytest.warns(UnreachedWarning, match=r"never called: net \(Linear\)"):
        curve = sweep(Root(), (torch.cat([x * 0.01, x * 0], 1), y), sigmas=[10.0], chance=0.5)
    # Right only where both roots exist and the first is larger: 1/4 · 1/2.
    assert curve.mean[0] == pytest.approx(1 / 8, abs=0.03)


# What is left behind


def everything(model):
    sites = [vars(site).copy() for kind in ("activations", "weights") for site in noise_sites(model, kind).values()]
    layers = [(m.profile, m.seed, m.calls) for m in model.modules() if hasattr(m, "profile")]
    return [m.training for m in model.modules()], list(map(str, sites)), layers, model.state_dict().__repr__()


class Interrupting(nn.Module):
    """Passes its input on, a limited number of times."""

    def __init__(self, error=None):
        super().__init__()
        self.left, self.error = 10, error

    def forward(self, x):
        self.left -= 1
        if self.error and self.left < 0:
            raise self.error
        return x


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("quantity", ["activations", "weights", "noise.output"])
def test_model_and_random_state_are_left_as_they_were(error, quantity):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2), Interrupting(error))
    model = convert(model, HardwareProfile(name="mine", dac={"input_range": 1.0}, noise={"output": 0.25}))
    model[0].seed = 3
    inject_noise(model, NoiseSpec(sigma=0.5, multiplicative=0.1, layers={"2": 0.7}, eval=False, seed=5), inplace=True)
    inject_noise(model, NoiseSpec(sigma=0.2, target="weights"), inplace=True)
    model.train()
    model[1].eval()
    before, state = everything(model), torch.get_rng_state()
    if error:
        with pytest.raises(error):
            sweep(model, DataLoader(TensorDataset(*points()), 500, shuffle=True), quantity=quantity)
    else:
        sweep(model, DataLoader(TensorDataset(*points()), 500, shuffle=True), quantity=quantity)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_sites_stays_without():
    model = identity()
    sweep(model)
    assert not noise_sites(model)
    assert next(model.parameters()).grad is None


def test_an_accuracy_leaves_every_module_s_mode_and_counts_no_nan():
    model = nn.Sequential(nn.Dropout(1.0), nn.Linear(2, 2))
    model[0].eval()
    assert 0 < accuracy(model, [points(100)]) <= 1
    assert [module.training for module in model.modules()] == [True, False, True]
    nn.init.constant_(model[1].weight, math.nan)
    assert accuracy(model, [points(100)]) == 0
    with pytest.raises(DataError, match="empty"):
        accuracy(model, [])


def test_quiet_where_there_is_no_terminal(capsys):
    sweep(identity(), progress=True)
    assert capsys.readouterr() == ("", "")


# Data


def test_data_comes_in_any_form(monkeypatch):
    x, y = points()
    batches = list(zip(x.split(500), y.split(500)))
    forms = [(x, y), [x, y], batches, TensorDataset(x, y), DataLoader(TensorDataset(x, y), 500), iter(batches)]
    results = [rows(sweep(identity(), data)) for data in forms]
    monkeypatch.setattr("analogsim.batches.KEEP", 1000)
    results += [
        rows(sweep(identity(), data)) for data in (batches, DataLoader(TensorDataset(x, y), 500), iter(batches))
    ]
    assert results == results[:1] * len(results)


X, Y = points(6)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], DataError, "empty"),
        ((X[:0], Y[:0]), DataError, "empty"),
        (iter([]), DataError, "empty"),
        ((X, Y[:-1]), DataError, "as many inputs as labels"),
        ([X, X, X], DataError, "batch 0 is no pair"),
        ([(X, "labels")], DataError, "batch 0 is no pair"),
        ((X, Y.float()), DataError, "labels must be integers"),
        ((X, nn.functional.one_hot(Y)), DataError, "labels must be integers"),
        ((X, Y + 1), DataError, "0 … 1.*got 1 … 2"),
        ((X * math.nan, Y), NonFiniteError, "not finite without noise"),
    ],
)
def test_unusable_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        sweep(identity(), data)


class Returning(nn.Module):
    """Hands its network's output through a function."""

    def __init__(self, function):
        super().__init__()
        self.net, self.function = nn.Linear(2, 2), function

    def forward(self, x):
        return self.function(self.net(x))


@pytest.mark.parametrize(
    "function", [lambda y: (y, y), lambda y: y[:, 0], lambda y: y[:, :, None], lambda y: y[:, :1], lambda y: y[:-1]]
)
def test_output_other_than_batch_by_classes_is_refused(function):
    with pytest.raises(ShapeError, match=r"output must be .*\(batch, classes\)"):
        sweep(Returning(function))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigmas": []}, FitError, "sigmas"),
        ({"sigmas": [-1.0, 1.0]}, FitError, "sigmas"),
        ({"sigmas": [math.nan]}, FitError, "sigmas"),
        ({"repeats": 0}, FitError, "repeats"),
        ({"seed": -1}, FitError, "seed"),
        ({"quantity": "temperature"}, FitError, "activations, weights, noise.output"),
        ({"quantity": "noise.output"}, ConversionError, "convert"),
    ],
)
def test_impossible_sweeps_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        sweep(identity(), **options)


# The curve


def synthetic(mu=0.3, peak=0.9, seed=0, **options):
    p = 0.1 + (peak - 0.1) / (1 + (SIGMAS / mu) ** 3)
    accuracies = np.random.default_rng(seed).binomial(1000, p[:, None], (17, 5)) / 1000
    return RobustnessCurve(SIGMAS, accuracies, peak, 0.1, samples=1000, **options)


def test_curve_reports_its_fit():
    curve = synthetic()
    fit = fit_midpoint(SIGMAS, curve.accuracies, chance=0.1, noise_free=0.9, samples=1000)
    assert (curve.midpoint, curve.ci, curve.flags, curve.peak) == (fit.midpoint, fit.ci, fit.flags, fit.peak)
    assert str(fit) in str(curve)
    assert str(curve) in repr(curve)


def test_curve_is_immutable():
    curve = synthetic()
    with pytest.raises(ValueError, match="read-only"):
        curve.accuracies[0] = 0
    with pytest.raises(AttributeError):
        curve.chance = 0.2


@pytest.mark.parametrize(
    ("sigmas", "accuracies"), [([1.0], [0.5]), ([1.0, 2.0], [[0.5]]), ([[1.0]], [[0.5]]), ([], [])]
)
def test_curve_refuses_shapes_that_do_not_fit(sigmas, accuracies):
    with pytest.raises(FitError, match="shape"):
        RobustnessCurve(sigmas, accuracies, 0.9, 0.1)


def test_a_curve_too_short_for_a_fit_still_holds_accuracies(tmp_path):
    curve = RobustnessCurve([0.1, 1.0], [[0.9], [0.5]], 0.9, 0.1)
    assert curve.peak == 0.9
    assert "no fit" in str(curve)
    curve.save(tmp_path / "curve.json")
    assert RobustnessCurve.load(tmp_path / "curve.json").peak == 0.9
    with pytest.raises(FitError, match="at least 4"):
        _ = curve.midpoint


def test_against_a_baseline():
    weak, baseline = synthetic(0.1), synthetic(1.0)
    assert weak.against(baseline).flags == weak.against((1.0, 0.9)).flags == ("brittle",)
    assert "brittle" in str(weak.against(baseline))
    assert weak.flags == ()


def test_frame_is_long():
    curve = synthetic()
    frame = curve.to_frame()
    assert list(frame.columns) == ["sigma", "repeat", "accuracy"]
    assert frame.pivot(index="sigma", columns="repeat", values="accuracy").to_numpy().tolist() == rows(curve)


def test_pool_keeps_trainings_apart():
    curves = [synthetic(mu, seed=seed, about={"a": 1, "seed": seed}) for seed, mu in enumerate((0.25, 0.3, 0.36))]
    pooled = RobustnessCurve.pool(curves)
    assert pooled.about == {"a": 1}
    assert pooled.mean == pytest.approx(np.mean([curve.mean for curve in curves], axis=0))
    assert pooled.ci[1] - pooled.ci[0] > 3 * (curves[0].ci[1] - curves[0].ci[0])
    frame = pooled.to_frame()
    assert list(frame.columns) == ["training", "sigma", "repeat", "accuracy"]
    of_second = frame[frame.training == 1].pivot(index="sigma", columns="repeat", values="accuracy")
    assert of_second.to_numpy().tolist() == rows(curves[1])
    nested = RobustnessCurve.pool([RobustnessCurve.pool(curves[:2]), curves[2]])
    assert (nested.trainings.tolist(), rows(nested)) == (pooled.trainings.tolist(), rows(pooled))
    assert nested.noise_free == pytest.approx(pooled.noise_free)


@pytest.mark.parametrize(
    "other",
    [
        RobustnessCurve(SIGMAS[1:], np.full((16, 1), 0.5), 0.9, 0.1),
        RobustnessCurve(SIGMAS, np.full((17, 1), 0.5), 0.9, 0.5),
        synthetic(quantity="weights"),
    ],
)
def test_pool_refuses_curves_that_do_not_belong_together(other):
    with pytest.raises(FitError, match=r"curves\[1\]"):
        RobustnessCurve.pool([synthetic(), other])
    with pytest.raises(FitError, match="none"):
        RobustnessCurve.pool([])


@pytest.mark.parametrize(
    "curve",
    [
        synthetic(about={"seed": 3, "profile": {"name": "pcm"}}),
        synthetic().against((2.0, 0.9)),
        RobustnessCurve(SIGMAS, np.full((17, 2), 0.1), 0.1, 0.1),
        RobustnessCurve(SIGMAS, np.full((17, 2), 0.9), 0.9, 0.1, trainings=[0, 1]),
    ],
    ids=["plain", "brittle", "collapsed", "extrapolated"],
)
def test_save_and_load(curve, tmp_path):
    curve.save(tmp_path / "curve.json")
    again = RobustnessCurve.load(tmp_path / "curve.json")
    assert str(again.fit.__dict__) == str(curve.fit.__dict__)
    assert rows(again) == rows(curve)
    assert again.trainings.tolist() == curve.trainings.tolist()
    assert (again.noise_free, again.samples, again.quantity) == (curve.noise_free, curve.samples, curve.quantity)
    assert again.about == curve.about
    assert [path.name for path in tmp_path.iterdir()] == ["curve.json"]


def test_a_chance_of_numpy_can_be_saved(tmp_path):
    curve = sweep(identity(), chance=np.float32(0.5))
    curve.save(tmp_path / "curve.json")
    assert RobustnessCurve.load(tmp_path / "curve.json").chance == 0.5


def test_a_file_from_before_curves_said_how_they_were_measured(tmp_path):
    path = tmp_path / "curve.json"
    synthetic().save(path)
    values = json.loads(path.read_text())
    del values["about"], values["crc32"]
    path.write_text(json.dumps(values))
    assert RobustnessCurve.load(path).about == {}


def test_files_that_are_no_curve_are_refused(tmp_path):
    path = tmp_path / "curve.json"
    with pytest.raises(DataError, match="curve.json: no such file"):
        RobustnessCurve.load(path)
    synthetic().save(path)
    good = json.loads(path.read_text())
    del good["crc32"]
    damaged = {key: value for key, value in good.items() if key != "accuracies"}
    for content, message in [
        (path.read_text()[:100], "curve.json: damaged"),
        ("[]", "no JSON object"),
        ("{}", "no robustness curve"),
        (json.dumps(good | {"schema": 99}), "schema 99"),
        (json.dumps(damaged), "damaged.*accuracies"),
        (json.dumps(good | {"sigmas": [1.0]}), "damaged"),
        (json.dumps(good | {"about": [1]}), "damaged"),
        (json.dumps(good | {"fit": {"midpoint": 1.0}}), "damaged"),
        (json.dumps(good | {"accuracies": [[1e9] * 5] * 17}), r"accuracies: a fraction in \[0, 1\]"),
        (json.dumps(good | {"sigmas": good["sigmas"][::-1]}), "ascend"),
        (json.dumps(good | {"noise_free": 0.75, "crc32": "0" * 8}), "its checksum is"),
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            RobustnessCurve.load(path)


def test_plot_says_mu_with_its_flags():
    import matplotlib.pyplot as plt

    curve = synthetic(0.1).against((1.0, 0.9))
    ax = curve.plot(label="plain")
    assert curve.plot(ax, label="again", color="red") is ax
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"plain: {curve.fit}", f"again: {curve.fit}"]
    assert labels[0].endswith("(brittle)")
    assert ax.get_xscale() == "log"
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1  # it hides no point
    plt.close(ax.figure)


def test_a_curve_has_room_beside_a_lower_one():
    import matplotlib.pyplot as plt

    low, high = (RobustnessCurve([0.1, 1.0], [[top], [0.2]], top, 0.1) for top in (0.5, 0.9))
    for first, second in ((low, high), (high, low)):
        ax = second.plot(first.plot())
        bottom, top = ax.get_ylim()
        assert bottom == 0
        assert 0.9 < top < 1
        plt.close(ax.figure)


def test_every_curve_can_be_drawn():
    import matplotlib.pyplot as plt

    for accuracies in (np.full((17, 2), 0.1), np.full((17, 2), 0.9), synthetic(150).accuracies):
        ax = RobustnessCurve(SIGMAS, accuracies, 0.9, 0.1).plot()
        ax.figure.canvas.draw()
        plt.close(ax.figure)
    ax = RobustnessCurve([0.1, 1.0], [[0.9], [0.5]], 0.9, 0.1).plot()
    assert ax.get_legend().get_texts()[0].get_text() == "no fit"
    plt.close(ax.figure)
