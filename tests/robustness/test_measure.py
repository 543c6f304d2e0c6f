"""Measures: each is what its definition says, rising ones have the µ of falling ones, and NaN is never an error."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import analogsim as an
from analogsim.errors import AnalogSimWarning, DataError, FitError, NonFiniteError, ShapeError
from analogsim.robustness.curve import RobustnessCurve
from analogsim.robustness.measure import ACCURACY, MEASURES, Measure, as_measure
from analogsim.robustness.metric import guessed, made, measured
from analogsim.robustness.midpoint import fit_midpoint

GRID = np.logspace(-2, 2, 17)
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(60, 7, generator=GENERATOR) * 2
LABELS = torch.randint(0, 7, (60,), generator=GENERATOR)


def value(metric, output, target, parts=3):
    """A measure of a network that answers with its input, over several batches; and what guessing gives."""
    measure = as_measure(metric)
    computing = made(measure)
    batches = list(zip(output.chunk(parts), target.chunk(parts)))
    return measured(nn.Identity(), batches, computing, measure)[0], guessed(measure, computing)


def fall(mu=0.5, k=3.0):
    return 1 / (1 + (GRID / mu) ** k)


# --- what each is ----------------------------------------------------------------------------------------------------


def test_measures_of_classes():
    ranks = (LOGITS > LOGITS.gather(1, LABELS[:, None])).sum(1)
    assert value("accuracy", LOGITS, LABELS)[0] == float((ranks == 0).double().mean())
    assert value("top5", LOGITS, LABELS) == (float((ranks < 5).double().mean()), 5 / 7)
    entropy = -LOGITS.double().log_softmax(1).gather(1, LABELS[:, None]).mean()
    assert value("perplexity", LOGITS, LABELS) == (pytest.approx(float(entropy.exp()), rel=1e-6), 7)
    assert value("perplexity", torch.zeros(60, 7), LABELS)[0] == pytest.approx(7)


def test_measures_of_tokens_leave_out_what_is_not_labelled():
    logits, labels = LOGITS.view(6, 10, 7), LABELS.view(6, 10).clone()
    labels[:, 5:] = -100
    for name in ("token_accuracy", "perplexity"):
        wanted = value(name, logits[:, :5].flatten(0, 1), labels[:, :5].flatten())
        for outputs in (logits, logits.transpose(1, 2)):  # classes last, as transformers; or second, as torch
            assert value(name, outputs, labels, 2) == pytest.approx(wanted)


def test_measures_of_numbers():
    x, y = LOGITS[:, 0], LOGITS[:, 0] + LOGITS[:, 1]
    error, spread = (x - y).double(), (y - y.mean()).double()
    assert value("mse", x, y) == pytest.approx((float(error.square().mean()), float(spread.square().mean())))
    median = (y - y.median()).double().abs().mean()
    assert value("mae", x, y) == pytest.approx((float(error.abs().mean()), float(median)))
    explained = 1 - float(error.square().sum() / spread.square().sum())
    assert value("r2", x[:, None], y) == pytest.approx((explained, 0.0), abs=1e-6)
    cosines = nn.functional.cosine_similarity(LOGITS, LOGITS.roll(1, 1))
    assert value("cosine", LOGITS, LOGITS.roll(1, 1)) == (pytest.approx(float(cosines.mean()), abs=1e-6), 0)


def test_measures_of_torchmetrics():
    library = pytest.importorskip("torchmetrics.functional")
    options = {"task": "multiclass", "num_classes": 7}
    f1 = float(library.f1_score(LOGITS, LABELS, average="macro", **options))
    assert value("f1", LOGITS, LABELS) == (pytest.approx(f1), 1 / 7)
    assert value("auroc", LOGITS, LABELS) == (pytest.approx(float(library.auroc(LOGITS, LABELS, **options))), 0.5)
    images, labels = LOGITS.view(3, 5, 4, 7).movedim(-1, 1), LABELS.view(3, 5, 4)
    wanted = float(library.jaccard_index(images, labels, **options))
    assert value("miou", images, labels) == (pytest.approx(wanted), 1 / 13)
    void = labels.clone()
    void[0] = 255
    assert value("miou", images, void)[0] == pytest.approx(
        float(library.jaccard_index(images[1:], labels[1:], **options))
    )
    one, right = LOGITS[:, :1], (LOGITS[:, 0] + LOGITS[:, 1] > 0).float()  # one logit
    assert value("auroc", one, right)[0] == pytest.approx(float(library.auroc(one[:, 0], right.long(), task="binary")))
    assert 0.5 < value("f1", one, right)[0] < 1
    ranks = float(library.spearman_corrcoef(LOGITS[:, 0], LOGITS[:, 1]))
    assert value("spearman", LOGITS[:, 0], LOGITS[:, 1])[0] == pytest.approx(ranks, abs=1e-6)


def test_guessing_is_what_guessing_gives():
    """Uniform guesses on 7 equally frequent classes, n = 70,000: each measure is at its guessing value."""
    pytest.importorskip("torchmetrics")
    logits = torch.rand(70_000, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(70_000) % 7
    for name in ("accuracy", "top5", "token_accuracy", "f1", "miou", "auroc"):
        assert value(name, logits, labels)[0] == pytest.approx(MEASURES[name].guess(7), abs=0.005), name


def test_metrics_of_one_s_own():
    torchmetrics = pytest.importorskip("torchmetrics")
    accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=7, average="micro")
    assert value(accuracy, LOGITS, LABELS) == (pytest.approx(value("accuracy", LOGITS, LABELS)[0]), None)
    assert accuracy.update_count == 0, "a copy is used"
    error = torchmetrics.MeanSquaredError()
    assert not as_measure(error).higher_is_better

    def each(output, target):  # one value a sample
        return (output.argmax(1) == target).float()

    def together(output, target):  # one a batch
        return float((output.argmax(1) == target).float().mean())

    for function in (each, together):
        assert value(function, LOGITS, LABELS, 7)[0] == pytest.approx(value("accuracy", LOGITS, LABELS)[0])
    assert as_measure(each).name == "each"
    with pytest.raises(FitError, match="does not say whether more is better; give Measure"):
        as_measure(torchmetrics.MeanMetric())


def test_a_mean_over_uneven_batches_is_that_of_all_samples():
    wrong = (LOGITS.argmax(1) != LABELS).double()
    wanted = float(wrong.mean())

    def one(output, target):
        return (output.argmax(1) != torch.as_tensor(target)).double().mean()

    def kept(output, target):
        return one(output, target)[None]

    for function in (one, kept, lambda output, target: float(one(output, target))):
        for convert in (torch.Tensor.long, torch.Tensor.tolist, lambda labels: tuple(labels.tolist()), np.asarray):
            batches = [(LOGITS[part], convert(LABELS[part])) for part in (slice(0, 40), slice(40, 60))]
            measure = as_measure(function)
            found = measured(nn.Identity(), batches, made(measure), measure)
            assert found == (pytest.approx(wanted), 60)


def test_a_function_s_values_are_those_of_labels_where_a_batch_has_one():
    labels = torch.tensor([0, 1, -100, -100, -100, 2])
    found = as_measure(lambda output, target: output[target != -100])
    outputs, batches = torch.tensor([1.0, 2, 0, 0, 0, 6]), [slice(0, 2), slice(2, 6)]
    assert value_of(found, [(outputs[part], labels[part]) for part in batches]) == 3


def value_of(measure, batches):
    return measured(nn.Identity(), batches, made(measure), measure)[0]


def test_of_torch_s_losses_less_is_better():
    losses = nn.CrossEntropyLoss(), nn.MSELoss(), F.cross_entropy, F.smooth_l1_loss, F.kl_div
    for loss in (*losses, partial(F.cross_entropy, label_smoothing=0.1)):
        assert not as_measure(loss).higher_is_better
    assert as_measure(partial(F.cross_entropy, label_smoothing=0.1)).name == "cross_entropy"
    assert as_measure(F.cosine_similarity).higher_is_better
    assert as_measure(nn.CosineSimilarity()).higher_is_better


def test_a_measure_that_nothing_computes_is_refused():
    for measure in (Measure("loss", False), Measure("loss", of=torch.nn.MSELoss), Measure("loss", of=3)):
        with pytest.raises(FitError, match="an object with reset, update and compute, or a function"):
            made(measure)
    for wrong in (None, {}, "0.5"):
        with pytest.raises(FitError, match="the function gave"):
            value(lambda output, target, wrong=wrong: wrong, LOGITS, LABELS)


class Counting:
    """A metric of one's own; it knows what guessing gives."""

    def reset(self):
        self.right = self.samples = 0

    def update(self, preds, target):
        self.right, self.samples = self.right + int((preds.argmax(1) == target).sum()), self.samples + target.numel()

    def compute(self):
        return self.right / self.samples

    def guess(self):
        return 0.25


@pytest.mark.parametrize("of", [Counting(), lambda output, target: (output.argmax(1) == target).double()])
def test_the_classes_that_guessing_is_of_are_those_of_the_outputs(of):
    measure = Measure("right", guess=lambda classes: 1 / classes, of=of)
    assert value(measure, LOGITS, LABELS)[1] == 1 / 7
    assert value(measure, torch.randn(6, 5, 8, 9), torch.zeros(6, 8, 9).long())[1] == 1 / 5, "of (batch, classes, …)"
    with pytest.raises(FitError, match="what guessing gives of right for 0 classes"):
        value(Measure("right", guess=lambda classes: 1 / classes, of=lambda output, target: output), LABELS, LABELS)


def test_a_metric_may_know_itself_what_guessing_gives():
    assert value(Counting(), LOGITS, LABELS)[1] == 0.25


def test_auroc_tells_confident_outputs_apart():
    pytest.importorskip("torchmetrics")
    outputs, labels = torch.tensor([20.0, 30, 40, math.inf])[:, None], torch.tensor([0, 0, 1, 1])
    assert value("auroc", outputs, labels, 2)[0] == 1
    assert value("auroc", torch.cat([0 * outputs[:3], outputs[:3]], 1), labels[:3], 1)[0] == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="must have one shape"):
        value("mse", LOGITS, LABELS)
    with pytest.raises(ShapeError, match="labels must be whole numbers"):
        value("perplexity", LOGITS, LOGITS)
    with pytest.raises(DataError, match="labels must lie in 0 … 6"):
        value("top5", LOGITS, LABELS + 3)
    with pytest.raises(ShapeError, match="needs tensors"):
        measured(nn.Identity(), [(LOGITS, "text")], made(MEASURES["mse"]), MEASURES["mse"])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics", None)
    with pytest.raises(FitError, match=r"metric 'f1' needs torchmetrics: pip install 'analogsim\[metrics\]'"):
        made(MEASURES["f1"])


def test_measures_are_one_object_each_wherever_they_come_from():
    assert pickle.loads(pickle.dumps(ACCURACY)) is ACCURACY
    own = Measure("loss", higher_is_better=False)
    assert pickle.loads(pickle.dumps(own)) == own


# --- µ ---------------------------------------------------------------------------------------------------------------

# (measure, guessing, value of a perfect network, noise-free value): µ is at half height on the measure's scale.
KINDS = {
    "falls to guessing": ("r2", 0.0, 0.8),
    "rises to guessing": ("mse", 2.5, 0.1),
    "rises to guessing, on a log scale": ("perplexity", 65.0, 3.0),
    "falls to a plateau": (Measure("score"), None, 40.0),
    "rises to a plateau": (Measure("loss", False), None, 0.5),
    "rises to a plateau, on a log scale": (Measure("odds", False, logarithmic=True), None, 0.5),
}


def rising_or_falling(kind, share):
    """Values whose height on the measure's scale is a share (S,) of the way from worst to best."""
    metric, guess, best = KINDS[kind]
    measure = as_measure(metric)
    worst = guess if guess is not None else (8.0 if not measure.higher_is_better else -10.0)
    low, high = (float(measure.heights(one)) for one in (worst, best))
    return measure, guess, measure.values(low + (high - low) * share)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mu", [0.1, 0.5, 3.0])
def test_mu_is_halfway_between_best_and_worst(kind, mu):
    measure, guess, values = rising_or_falling(kind, fall(mu))
    free = KINDS[kind][2]
    fit = fit_midpoint(GRID, values, chance=guess, noise_free=free, metric=measure, resamples=1)
    assert fit.midpoint == pytest.approx(mu, rel=2e-3)
    assert fit.crossing == pytest.approx(mu, rel=0.03)
    assert fit.flags == ()
    assert fit.predict(GRID) == pytest.approx(values, rel=0.02, abs=0.02)
    assert fit.top == pytest.approx(free, rel=0.02)
    half = float(measure.values((measure.heights(fit.top) + measure.heights(fit.floor)) / 2))
    assert float(fit.predict(fit.midpoint)) == pytest.approx(half)
    assert fit.peak == measure.best(values)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_have_mu_whatever_the_direction(kind):
    """Noise of 2 % of the height, 5 repeats, 20 curves: at α = 1e-3 fewer than 14 of 95 % intervals is wrong."""
    hits = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.02, (len(GRID), 5))
        measure, guess, values = rising_or_falling(kind, fall()[:, None] + noise)
        fit = fit_midpoint(
            GRID, values, chance=guess, noise_free=KINDS[kind][2], metric=measure, resamples=200, seed=seed
        )
        hits += fit.ci[0] <= 0.5 <= fit.ci[1]
        assert fit.ci[1] / fit.ci[0] < 1.2
    assert hits >= 14


def test_beyond_guessing_counts_as_guessing():
    """A perplexity far above that of guessing moves µ no further than guessing itself does."""
    heights = math.log(65) + (math.log(3) - math.log(65)) * fall()
    fits = [
        fit_midpoint(GRID, np.exp(heights + beyond), chance=65, noise_free=3, metric="perplexity", resamples=1)
        for beyond in (0, np.where(GRID > 5, 9.0, 0.0))
    ]
    assert fits[0].midpoint == pytest.approx(fits[1].midpoint, rel=1e-3)


def test_a_curve_of_a_loss_that_never_moves_has_no_midpoint_in_the_grid():
    for metric, chance in (("mse", 2.0), (Measure("loss", False), None)):
        fit = fit_midpoint(GRID, np.full(17, 0.5), chance=chance, noise_free=0.5, metric=metric)
        assert fit.midpoint == math.inf
        assert fit.flags == ("extrapolated",)
    assert fit_midpoint(GRID, np.full(17, 2.0), chance=2.0, noise_free=2.0, metric="mse").flags == ("collapsed",)
    late = fit_midpoint(GRID, np.full(17, 2.0), chance=2.0, noise_free=0.1, metric="mse")
    assert (late.midpoint, late.flags) == (0.0, ("extrapolated",))


def test_a_loss_is_brittle_as_accuracy_is():
    def of(mu):
        return fit_midpoint(GRID, 2.5 - 2.4 * fall(mu), chance=2.5, noise_free=0.1, metric="mse", resamples=1)

    assert of(0.1).against(of(1.0)).flags == ("brittle",)
    assert of(0.6).against(of(1.0)).flags == ()


@pytest.mark.parametrize("kind", KINDS)
def test_curves_of_any_measure_are_kept_and_drawn(kind, tmp_path):
    measure, guess, values = rising_or_falling(kind, fall()[:, None] * np.linspace(0.98, 1, 3))
    curve = RobustnessCurve(GRID, values, KINDS[kind][2], guess, metric=measure)
    curve.save(tmp_path / "curve.json")
    again = RobustnessCurve.load(tmp_path / "curve.json")
    assert again.metric == curve.metric
    assert str(again.fit) == str(curve.fit)
    assert again.digest == curve.digest
    assert again.values.tolist() == curve.values.tolist()
    assert list(again.to_frame()) == ["sigma", "repeat", measure.name]
    assert measure.name in str(again)
    axes = again.plot()
    assert axes.get_ylabel() == measure.name + (" (fraction)" if measure.share else "")
    assert axes.get_yscale() == ("log" if measure.logarithmic else "linear")
    for value in (KINDS[kind][2], *values.ravel()):
        assert axes.get_ylim()[0] <= value <= axes.get_ylim()[1]
    __import__("matplotlib.pyplot").pyplot.close("all")


@pytest.mark.parametrize("metric", ["mse", "perplexity", "r2"])
def test_a_picture_shows_the_way_to_guessing_and_little_beyond(metric):
    measure, guess, free = MEASURES[metric], *{"mse": (1.0, 0.1), "perplexity": (65.0, 3.0), "r2": (0.0, 0.8)}[metric]
    far = measure.values(
        measure.heights(guess) - np.where(GRID > 5, 1e2, 0.0) * (0.05 if metric == "perplexity" else 1)
    )
    curve = RobustnessCurve(GRID, np.c_[np.where(GRID < 0.5, free, far)], free, guess, metric=metric)
    axes = curve.plot()
    low, high = axes.get_ylim()
    curve.plot(axes)
    assert axes.get_ylim() == (low, high)
    assert low < min(free, guess) < max(free, guess) < high
    heights = measure.heights([low, high] if measure.logarithmic or low > 0 or metric == "r2" else [1e-9, high])
    assert heights.min() >= measure.heights(guess) - 0.5 * (measure.heights(free) - measure.heights(guess))
    __import__("matplotlib.pyplot").pyplot.close("all")


def test_the_file_of_an_accuracy_says_nothing_of_measures(tmp_path):
    RobustnessCurve(GRID, np.c_[0.1 + 0.8 * fall()], 0.9, 0.1).save(tmp_path / "curve.json")
    text = (tmp_path / "curve.json").read_text()
    assert not any(word in text for word in ("metric", "higher_is_better", "logarithmic"))
    assert RobustnessCurve.load(tmp_path / "curve.json").metric is ACCURACY


# --- sweeps ----------------------------------------------------------------------------------------------------------


def line():
    """y = x·w; its mean square error under noise of σ on input and output is σ²(|w|² + 1)."""
    model = nn.Linear(4, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(3))
    return model, (x, model(x).detach()[:, 0])


def test_a_sweep_of_an_error_is_that_of_theory():
    model, data = line()
    curve = an.noise_sweep(model, data, [0.1, 0.3], 4, metric="mse", progress=False)
    # Relative σ of a mean square of 16,000 normals: √(2/16000) = 0.011; 4.5 of them.
    assert curve.mean == pytest.approx(5 * curve.sigmas**2, rel=0.05)
    assert curve.noise_free < 1e-12
    assert curve.chance == pytest.approx(float(data[1].var(correction=0)), rel=1e-4)
    whole = an.noise_sweep(model, data, repeats=2, metric="mse", progress=False)
    assert whole.midpoint == pytest.approx(math.sqrt(whole.chance / 2 / 5), rel=0.1), "half of the targets' variance"


class Overflowing(nn.Module):
    """Its output is NaN where its input is below 0."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)
        nn.init.eye_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def forward(self, x):
        return self.net(x).sqrt()


@pytest.mark.parametrize("metric", ["top5", "token_accuracy", "f1", "miou"])
def test_nan_under_noise_is_wrong(metric):
    pytest.importorskip("torchmetrics")
    x = torch.tensor([[0.5, 0.1], [0.1, 0.5]]).repeat(200, 1)
    y = torch.arange(400) % 2
    curve = an.noise_sweep(Overflowing(), (x, y), [1e3], 1, metric=metric, progress=False)
    # Both exist in 1/4; of these half are right where one must be first.
    wanted = {"top5": 1 / 4, "token_accuracy": 1 / 8, "f1": 1 / 8, "miou": 1 / 15}[metric]
    assert curve.noise_free == 1
    assert curve.values[0, 0] == pytest.approx(wanted, abs=0.06)


@pytest.mark.parametrize(
    ("metric", "worst"), [("perplexity", 2.0), ("auroc", 0.5), ("spearman", 0.0), ("mine", None), ("theirs", None)]
)
def test_a_metric_that_is_nan_under_noise_is_the_worst(metric, worst):
    torchmetrics = pytest.importorskip("torchmetrics")
    x = torch.tensor([[0.5, 0.1], [0.1, 0.5]]).repeat(20, 1)
    y = torch.arange(40) % 2
    step = None
    if metric == "spearman":
        step = lambda model, batch: (model(batch[0])[:, 0], 1.0 - batch[1])  # noqa: E731
    given = {
        "mine": lambda output, target: (output.argmax(1) == target) * 1.0 + 0 * output.sum(1),
        "theirs": torchmetrics.Accuracy(task="binary"),  # refuses what it cannot take
    }.get(metric, metric)
    if metric == "theirs":
        step = lambda model, batch: (model(batch[0]).log_softmax(1)[:, 1].exp() - 0 * model(batch[0])[:, 1], batch[1])  # noqa: E731
    with pytest.warns(AnalogSimWarning, match="is not finite in 2 of 4 evaluations; they count as"):
        curve = an.noise_sweep(Overflowing(), (x, y), [1e-4, 1e3], 2, metric=given, step=step, progress=False)
    if worst is None:
        assert set(curve.values[1]) == {min(curve.noise_free, *curve.values[0])}
    else:
        assert set(curve.values[1]) == {worst}


def test_a_network_that_is_not_finite_without_noise_is_refused():
    with pytest.raises(NonFiniteError, match="not finite without noise"):
        an.noise_sweep(Overflowing(), (-torch.ones(4, 2), torch.zeros(4, 2)), [1.0], 1, metric="mse", progress=False)
