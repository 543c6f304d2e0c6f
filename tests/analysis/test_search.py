"""The design search: its best and front against all it tried, resuming, and what it refuses."""

import builtins
import copy

import numpy as np
import pytest
import torch
from torch import nn

from analogsim import HardwareProfile, calibrate, convert, cost, design_search, program, set_seed
from analogsim.analysis.journal import read_journal
from analogsim.analysis.search import varied
from analogsim.cli.search import read_space
from analogsim.errors import ProfileError, SearchError
from analogsim.robustness.sweep import accuracy
from analogsim.seeds import Key, derive
from analogsim.training.data import load_data

SPACE = {"adc.bits": [2, 3, 4, 6], "tile.rows": [16, 64], "calibration": ["maximum", "mse"]}
EIGHT = HardwareProfile.load("8bit")


@pytest.fixture(scope="module")
def digits():
    """A small network on digits, its test part, and calibration inputs."""
    torch.manual_seed(0)
    data = load_data("digits")
    x, y = data.normalise(data.train_x), data.train_y
    layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(layers.parameters(), 1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        nn.functional.cross_entropy(layers(x), y).backward()
        optimiser.step()
    return layers.eval(), [(data.normalise(data.test_x), data.test_y)], [x[:200]]


def search(digits, **options):
    model, test, inputs = digits
    options = {"space": SPACE, "trials": 14, "max_drop": 0.02, "progress": False} | options
    return design_search(model, test, calibration=inputs, **options)


def test_the_best_is_the_cheapest_allowed_and_no_design_beats_the_front(digits):
    model, test, inputs = digits
    found = search(digits, trials=30)
    assert found.accuracy == accuracy(model, test) > 0.9
    costs, right = (np.array([getattr(one, name) for one in found.designs]) for name in ("cost", "accuracy"))
    allowed = right >= found.accuracy - 0.02
    assert allowed.any()
    assert not allowed.all()
    assert found.best.cost == costs[allowed].min()
    for one in found.designs:
        beaten = ((costs < one.cost) & (right >= one.accuracy)) | ((costs <= one.cost) & (right > one.accuracy))
        assert (one in found.pareto) <= (not beaten.any())
    # Each figure again, by hand.
    for one in found.designs[:4]:
        profile = varied(EIGHT, one.values)
        assert one.cost == cost(model, profile, (1, 32, 32)).total.conversion_steps
        analog = convert(model, profile)
        calibrate(analog, inputs[0], one.values["calibration"])
        assert one.accuracy == accuracy(analog, test)
    # Both corners were tried, none twice.
    values = [tuple(one.values.values()) for one in found.designs]
    assert {(2, 16, "maximum"), (6, 64, "mse")} <= set(values)
    assert len(set(values)) == len(values)
    # The search's answer is that of trying all 16.
    every = search(digits, trials=30, seed=1).designs + found.designs
    cheapest = min(one.cost for one in every if found.allows(one))
    assert found.best.cost == cheapest
    assert found.profile().adc.bits == found.best.values["adc.bits"]


@pytest.mark.parametrize("when", [0, 1, 5])
def test_an_interrupted_search_goes_on(digits, tmp_path, when):
    journal = tmp_path / "search.journal"
    tried = []

    def steps(counted):
        if len(tried) == when:
            tried.append("interrupted")
            raise KeyboardInterrupt
        tried.append(counted)
        return counted.total.conversion_steps

    with pytest.raises(KeyboardInterrupt):
        search(digits, objective=steps, storage=journal, seed=3)
    before = len(tried)
    found = search(digits, objective=steps, storage=journal, seed=3)
    assert len(found.designs) == len(tried) - 1, "no design was computed twice"
    assert len(tried) > before
    for place in (0, -1):
        assert {key: values[place] for key, values in SPACE.items()} in [one.values for one in found.designs]
    again = search(digits, objective=steps, storage=journal, seed=3)
    assert again == found
    with pytest.raises(SearchError, match="another"):
        search(digits, objective=steps, storage=journal, seed=3, max_drop=0.1)


def test_a_network_of_the_same_accuracy_is_another_one(digits, tmp_path):
    model, *data = digits
    journal = tmp_path / "search.journal"
    search(digits, trials=1, storage=journal)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(1 + 2**-20)
    with pytest.raises(SearchError, match="holds a search of another network, data, space"):
        search((other, *data), trials=1, storage=journal)
    twice = [*data[0], *data[0]], data[1]
    with pytest.raises(SearchError, match="holds a search of another network, data, space"):
        search((model, *twice), trials=1, storage=journal)


def test_noise_is_averaged_and_replays(digits):
    options = {"base": EIGHT.varied(noise={"output": 0.3}), "trials": 5, "repeats": 3}
    found = search(digits, **options)
    assert found == search(digits, **options)
    model, test, inputs = digits
    one = found.designs[0]
    analog = convert(model, varied(options["base"], one.values))
    calibrate(analog, inputs[0], one.values["calibration"])
    set_seed(analog, derive(0, Key.SEARCH_READS))
    assert one.accuracy == pytest.approx(np.mean([accuracy(analog, test) for _ in range(3)]))


def test_every_repeat_is_on_a_chip_of_its_own(digits):
    base = EIGHT.varied(programming={"sigma": 0.3})
    one = search(digits, base=base, trials=2, repeats=2).designs[0]
    model, test, inputs = digits
    analog, right = convert(model, varied(base, one.values)), []
    calibrate(analog, inputs[0], one.values["calibration"])
    for chip in range(2):
        program(analog, derive(0, Key.SEARCH_CHIP, chip))
        right.append(accuracy(analog, test))
    assert right[0] != right[1]
    assert one.accuracy == pytest.approx(np.mean(right))


def test_frame_and_picture(digits):
    found = search(digits, trials=8)
    frame = found.to_frame()
    assert list(frame["accuracy"]) == [one.accuracy for one in found.designs]
    assert frame["best"].sum() == (found.best is not None)
    axes = found.plot()
    points, front = axes.lines[0], axes.lines[1]
    assert len(points.get_xdata()) == len(found.designs)
    assert list(front.get_ydata()) == [one.accuracy for one in found.pareto]


def test_nothing_good_enough(digits):
    found = search(digits, space={"adc.bits": [2]}, trials=2, max_drop=0.0)
    assert found.best is None
    with pytest.raises(SearchError, match="allow more"):
        found.profile()


def test_what_cannot_be_is_refused(digits, monkeypatch):
    with pytest.raises(ProfileError, match="adc.bits"):
        search(digits, space={"adc.bits": [0, 4]})
    with pytest.raises(ProfileError, match="did you mean 'adc.bits'"):
        search(digits, space={"adc.bit": [4]})
    with pytest.raises(SearchError, match="unknown method"):
        search(digits, space={"calibration": ["guess"]})
    with pytest.raises(SearchError, match="at least one field"):
        search(digits, space={})
    with pytest.raises(SearchError, match="energy of .* is unknown: the profile has no cost.dac_energy"):
        search(digits, objective="energy")
    with pytest.raises(SearchError, match="max_drop"):
        search(digits, max_drop=-0.1)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("optuna"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SearchError, match=r"analogsim\[search\]"):
        search(digits)


def test_a_damaged_journal_and_another_calibration_are_refused(digits, tmp_path):
    journal = tmp_path / "journal"
    search(digits, trials=1, storage=journal)
    whole = read_journal(journal)
    whole.model_copy(update={"tried": (whole.tried[0].model_copy(update={"accuracy": 2.0}),)}).save(journal)
    with pytest.raises(SearchError, match="damaged .accuracy 2"):
        search(digits, trials=1, storage=journal)
    whole.save(journal)
    with pytest.raises(SearchError, match="another .* calibration"):
        search((*digits[:2], [digits[2][0][:9]]), trials=1, storage=journal)
    journal.write_text("no JSON\n")
    with pytest.raises(SearchError, match="journal: damaged"):
        search(digits, trials=1, storage=journal)
    with pytest.raises(SearchError, match="nowhere"):
        search(digits, trials=1, storage=tmp_path / "nowhere" / "journal")


def test_an_error_is_raised_and_not_logged_too_and_logging_stays_as_it_was(digits, capfd):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    with pytest.raises(SearchError, match="energy of .* is unknown: the profile has no cost.dac_energy"):
        search(digits, objective="energy")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert "Traceback" not in capfd.readouterr().err


def test_a_space_as_a_shell_gives_it():
    items = ["adc.bits=4-6", "tile.rows=64,128", "calibration=maximum,noise-aware", "noise.output=0.1"]
    assert read_space(items) == {
        "adc.bits": [4, 5, 6],
        "tile.rows": [64, 128],
        "calibration": ["maximum", "noise-aware"],
        "noise.output": [0.1],
    }
    for bad in ("adc.bits", "=4", "adc.bits="):
        with pytest.raises(SearchError, match="FIELD=VALUES"):
            read_space([bad])
