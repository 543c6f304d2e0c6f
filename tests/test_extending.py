"""docs/extending.md: every recipe runs as it stands, from outside the package, and what is refused is told."""

import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.chip import ADCKind, CellModel, NoiseDistribution
from analogsim.errors import ConversionError, ProfileError, ProgrammingError, ShapeError, UnreachedWarning
from analogsim.nn import known
from analogsim.profile import kinds

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
CODE = {title: block for title, text in RECIPES for block in re.findall(r"```python\n(.+?)```", text, re.DOTALL)}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Let what a test registers end with it."""
    monkeypatch.setattr(known, "_TABLE", dict(known._TABLE))
    for table in (kinds.ADC_KINDS, kinds.CELL_MODELS, kinds.DISTRIBUTIONS):
        monkeypatch.setattr(table, "_made", dict(table._made))


def test_every_recipe_has_its_code():
    titles = [title for title, _ in RECIPES]
    promised = re.findall(r"^\| (an? .+?) \|", PAGE, re.MULTILINE)
    assert len(CODE) >= 7
    for kind in ("layer type", "ADC kind", "cell model", "distribution", "metric", "backend", "engine", "axis"):
        assert any(kind in title for title in titles), kind
        assert any(kind in row for row in promised), kind


@pytest.mark.parametrize("title", CODE)
def test_recipes_run_as_they_stand(title, monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    exec(compile(CODE[title], f"docs/extending.md, {title}", "exec"), {"__name__": "recipe"})


def test_a_recipe_needs_nothing_but_itself():
    """In a process of its own, where nothing else was registered or imported."""
    subprocess.run([sys.executable, "-c", CODE["A layer type"]], cwd=ROOT, check=True)


def test_profiles_name_what_is_registered_and_nothing_else():
    for field, value in (("adc", {"kind": "odd", "bits": 4}), ("cells", {"model": "odd"})):
        with pytest.raises(ProfileError, match=r"Input should be .*registered.*import the module.*\(got 'odd'\)"):
            an.HardwareProfile(**{field: value})
    with pytest.raises(ProfileError, match="'gaussian', 'uniform' or 'laplace'.*got 'odd'"):
        an.HardwareProfile(noise={"distribution": "odd"})

    @an.register
    class Odd(NoiseDistribution):
        name = "odd"

        def shaped(self, normal):
            return normal.sign()

    profile = an.HardwareProfile(noise={"distribution": "odd", "output": 0.5}, dac={"input_range": 1.0})
    assert hash(profile) == hash(pickle.loads(pickle.dumps(profile)))
    assert an.HardwareProfile(**profile.model_dump()) == profile


def test_what_cannot_be_registered_is_told():
    class Nameless(CellModel):
        def program(self, target, profile, draws):
            return target

    class Second(ADCKind):
        name = "sar"

        def transfer(self, adc, codes, draw):
            return codes[None, 1:], codes[None]

    class Another(an.AnalogLayer, nn.Linear):
        digital = nn.Linear

    with pytest.raises(ProfileError, match="Nameless has no name"):
        an.register(Nameless)
    with pytest.raises(ProfileError, match="'sar' is taken by SAR"):
        an.register(Second)
    with pytest.raises(ConversionError, match="AnalogLinear stands for Linear already"):
        an.register(Another)
    for other in (nn.Linear, "sar", len):
        with pytest.raises(ConversionError, match="derives from none of AnalogLayer"):
            an.register(other)
    an.register(known.exactly(nn.Linear).analog)  # once more is no error


def test_a_definition_that_is_run_again_takes_the_place_of_the_last():
    def define(sign):
        class Cell(NoiseDistribution):
            name = "again"

            def shaped(self, normal):
                return sign * normal

        return Cell

    for sign in (1.0, -1.0):
        an.register(define(sign))
        assert kinds.DISTRIBUTIONS["again"].shaped(torch.ones(1)).item() == sign


def test_a_profile_of_a_process_that_knew_more_is_refused_where_it_is_used(monkeypatch):
    class Only(NoiseDistribution):
        name = "only there"

        def shaped(self, normal):
            return normal

    an.register(Only)
    profile = an.HardwareProfile(noise={"distribution": "only there", "output": 0.5}, dac={"input_range": 1.0})
    layer = an.convert(nn.Linear(2, 2), profile).eval()
    layer(torch.ones(1, 2))
    monkeypatch.setattr(kinds.DISTRIBUTIONS, "_made", {})
    with pytest.raises(ProfileError, match="nothing is registered here as 'only there'; import the module"):
        layer(torch.ones(1, 2))


@pytest.mark.parametrize("mapping", ["signed", "differential", "offset"])
def test_a_cell_model_is_drawn_and_ages_like_the_standard_one(mapping):
    """One that says what the standard model says, with the same random numbers, gives its chips."""
    from analogsim.chip.cell_models import Standard

    class Twin(Standard):
        name = "twin"

    an.register(Twin)
    base = {"programming": {"sigma": 0.05}, "drift": {"nu": 0.05}, "flicker": {"amplitude": 0.02}}
    cells = {"mapping": mapping}
    x, out = torch.randn(6, 12), []
    digital = nn.Linear(12, 5)
    for model in ("standard", "twin"):
        profile = an.HardwareProfile(cells={**cells, "model": model}, dac={"input_range": 3.0}, **base)
        layer = an.convert(digital, profile).eval()
        an.program(layer, 3)
        an.at_time(layer, 1000.0)
        an.set_seed(layer, 1)
        out.append(layer(x))
    assert torch.equal(*out)
    assert an.HardwareProfile(cells={"model": "twin"}).is_drawn
    assert not an.HardwareProfile(cells={"model": "twin"}).without_variation().is_drawn


def test_the_table_of_layers_is_the_only_one():
    """What each verb does with a layer is said in its row."""
    for row in known.rows():
        assert row.analog.digital is row.digital
        assert known.exactly(row.digital) is row
    assert set(known.kinds(lambda row: row.quantized)) == {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d}
    assert set(known.kinds(lambda row: row.packed)) == {nn.Linear, nn.Conv1d, nn.Conv2d}
    assert known.like(type("Own", (nn.Conv2d,), {})(1, 1, 1)) is known.exactly(nn.Conv2d)
    assert known.like(nn.ReLU()) is None


def adc(name, transfer, **fields):
    kind = type("Kind", (ADCKind,), {"name": name, "transfer": lambda self, *args: transfer(*args), **fields})
    an.register(kind)
    profile = an.HardwareProfile(adc={"bits": 3, "full_scale": 3.0, "kind": name}, dac={"input_range": 1.0})
    return an.convert(nn.Linear(2, 4), profile).eval()


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_tables_of_adcs_have_the_shapes_that_machine_code_reads(backend):
    def cut(rows, thresholds, outputs):
        return lambda adc, codes, draw: (
            codes[None, 1 : 1 + thresholds].repeat(rows, 1),
            codes[None, :outputs].repeat(rows, 1),
        )

    for number, shapes in enumerate([(2, 7, 8), (4, 6, 8), (4, 7, 7), (3, 7, 8)]):
        layer = adc(f"odd {number}", cut(*shapes))
        layer.backend = backend
        with pytest.raises(ShapeError, match=r"adc.kind 'odd .': a table of shape \(4, .\) or \(1, .\) is needed"):
            layer(torch.ones(3, 2))
    wanted = adc("whole", lambda adc, codes, draw: (codes[None, 1:] - 0.5, codes[None]))
    mixed = adc("mixed", lambda adc, codes, draw: (codes[None, 1:].double() - 0.5, codes[None].repeat(4, 1)))
    mixed.load_state_dict(wanted.state_dict())
    mixed.backend = wanted.backend = backend
    x = torch.randn(5, 2)
    assert torch.equal(mixed(x), wanted(x))


def test_an_adc_that_draws_is_one_chip_s_and_says_so():
    def shaky(adc, codes, draw):
        return codes[None, 1:] - 0.5 + 0.3 * draw(7), codes.expand(4, -1)

    layer, x = adc("shaky", shaky, draws=True), torch.randn(50, 2)
    with pytest.raises(ProgrammingError, match="run program"):
        layer(x)
    outputs = [an.program(layer, seed) and layer(x) for seed in (1, 1, 2)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert layer.profile.without_variation().adc.kind == "ideal"
    forgetful = adc("forgetful", shaky)
    with pytest.raises(ProfileError, match="'forgetful': it draws, so its class must say `draws = True`"):
        forgetful(x)


BAD = {
    "another shape": lambda target: target.T,
    "another dtype": lambda target: target.double(),
    "no tensor": lambda target: 0.5,
    "nothing": lambda target: None,
    "NaN": lambda target: target * math.nan,
    "negative": lambda target: target - 2,
}


@pytest.mark.parametrize("method", ["program", "age", "read_noise"])
@pytest.mark.parametrize("bad", BAD)
def test_what_a_cell_model_returns_is_looked_at(bad, method):
    if (bad, method) == ("nothing", "read_noise"):
        pytest.skip("no noise")

    class Bad(CellModel):
        name = "bad"

        def program(self, target, profile, draws):
            return BAD[bad](target) if method == "program" else target

        def age(self, written, target, profile, seconds, draws):
            return BAD[bad](written) if method == "age" else written

        def read_noise(self, now, written, profile, seconds):
            return BAD[bad](now) if method == "read_noise" else None

    an.register(Bad)
    layer = an.convert(nn.Linear(6, 4), an.HardwareProfile(cells={"mapping": "differential", "model": "bad"}))
    layer.input_range.fill_(1.0)
    an.program(layer, 0)
    with pytest.raises((ProgrammingError, AttributeError), match=f"cells.model 'bad': {method}"):
        layer.eval()(torch.ones(1, 6))


def test_a_distribution_has_mean_0_and_variance_1():
    for shape in (lambda n: 3 * n, lambda n: n + 0.2, lambda n: n[:1], lambda n: n * math.nan, lambda n: 0 * n):
        kind = type("Off", (NoiseDistribution,), {"name": "off", "shaped": lambda self, n, shape=shape: shape(n)})
        with pytest.raises(ProfileError, match="'off'.*mean 0 and variance 1"):
            an.register(kind)
    for name in kinds.DISTRIBUTIONS.names:
        kinds.DISTRIBUTIONS[name].check()


def test_a_layer_without_weights_is_no_noise_site():
    class Own(nn.Linear):
        pass

    class AnalogOwn(an.AnalogLayer, Own):
        digital = Own

    an.register(AnalogOwn, weights=None)
    model = nn.Sequential(Own(3, 3), nn.Linear(3, 3))
    with pytest.warns(UnreachedWarning, match="0.weight"):
        noisy = an.inject_noise(model, an.NoiseSpec(sigma=1.0))
    assert list(an.noise_sites(noisy)) == ["input", "1"]
    with pytest.warns(UnreachedWarning, match="0.weight"):
        noisy = an.inject_noise(model, an.NoiseSpec(sigma=1.0, target="weights"))
    assert list(an.noise_sites(noisy, "weights")) == ["1"]


def test_classes_that_cannot_work_are_not_registered():
    class NoTwin(an.AnalogLayer):
        pass

    class Another(an.AnalogLayer, nn.Linear):
        digital = nn.Bilinear

    class Unfinished(ADCKind):
        name = "unfinished"

    class Wanting(NoiseDistribution):
        name = "wanting"

        def __init__(self, scale):
            self.scale = scale

        def shaped(self, normal):
            return normal

    for kind in (NoTwin, Another):
        with pytest.raises(ConversionError, match="must derive from the layer that its `digital` names"):
            an.register(kind)
    for kind in (Unfinished, Wanting):
        with pytest.raises(ProfileError, match="give an object of a finished class"):
            an.register(kind)
    an.register(Wanting(1))
    an.register(Wanting(1))
    with pytest.raises(ProfileError, match="is taken by"):
        an.register(Wanting(2))
