"""Every verb on networks of every kind: calibration, sweeps, budgets, costs, searches, evaluations."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import analogsim as an
from analogsim.batches import logits_of

from .test_networks import IDS, IMAGES, NETWORKS, SMALL, TEXT, built, torchvision, transformers

pytestmark = pytest.mark.filterwarnings("ignore::analogsim.AnalogSimWarning")
LABELS = torch.tensor([0, 2])
# Images that differ, and classes that both occur: what has to be measured is there.
PROFILE = an.HardwareProfile(
    name="eight bits",
    tile={"rows": 64},
    dac={"bits": 8},
    adc={"bits": 8},
    cells={"mapping": "differential"},
    programming={"sigma": 0.01},
    noise={"output": 0.01},
)


def tokens():
    return transformers("BertForTokenClassification", "BertConfig", **SMALL, **TEXT, num_labels=3)


def one_logit():
    return transformers("BertForSequenceClassification", "BertConfig", **SMALL, **TEXT, num_labels=1)


def regression():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 2))


MORE = {
    "tokens": (tokens, {"input_ids": IDS}, None),
    "one logit": (one_logit, {"input_ids": IDS}, None),
    "regression": (regression, {"input": IMAGES}, None),
}
LARGE = "t5", "timm efficientnet", "timm resnet", "segmentation"  # that take 10 seconds each
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in (*NETWORKS, *MORE)]
LANGUAGE = "gpt2", "llama", "mixtral", "t5", "whisper"


def subject(name):
    """Return a network, a batch with a target, and the measure of its task."""
    if name in MORE:
        torch.manual_seed(0)
        build, inputs, _ = MORE[name]
        model = build().eval()
    else:
        model, inputs, _ = built(name)
    if name in LANGUAGE:
        return model, inputs | {"labels": IDS}, "perplexity"
    if name == "tokens":
        return model, inputs | {"labels": IDS % 3}, "token_accuracy"
    if name == "segmentation":
        return model, (IMAGES, (IMAGES[:, 0] > 0).long()), "miou"
    if name == "one logit":
        return model, inputs | {"labels": torch.tensor([0.0, 1.0])}, "auroc"
    if name == "regression":
        return model, (IMAGES, IMAGES.mean((2, 3))[:, :2]), "mse"
    if set(inputs) == {"x"}:
        return model, (IMAGES, LABELS), "accuracy"
    return model, inputs | {"labels": LABELS}, "accuracy"


def outputs(model, batch):
    inputs = {k: v for k, v in batch.items() if k != "labels"} if isinstance(batch, dict) else None
    with torch.no_grad():
        return logits_of(model(batch[0]) if inputs is None else model(**inputs))


def by_hand(name, model, batch, measure):
    """The measure as its definition says it."""
    logits = outputs(model, batch).double()
    target = batch["labels"] if isinstance(batch, dict) else batch[1]
    if measure == "perplexity":
        if name not in ("t5", "whisper"):  # each place predicts the next
            logits, target = logits[:, :-1], target[:, 1:]
        return float(nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()).exp())
    if measure == "miou":
        found, ratios = logits.argmax(1), []
        for one in range(4):
            both, either = ((found == one) & (target == one)).sum(), ((found == one) | (target == one)).sum()
            ratios.append(float(both / either) if either else None)
        return sum(r for r in ratios if r is not None) / sum(r is not None for r in ratios)
    if measure == "auroc":
        return 0.5 if logits[0] == logits[1] else float(logits[1] > logits[0])
    if measure == "mse":
        return float((logits - target).square().mean())
    return float((logits.argmax(-1) == target).double().mean())


@pytest.mark.parametrize("name", EVERY)
def test_every_verb_works(name):
    model, batch, measure = subject(name)
    pytest.importorskip("torchmetrics")
    analog = an.convert(model, PROFILE)
    found = an.calibrate(analog, [batch], progress=False)
    called = [layer for _, layer in an.analog_layers(analog) if not layer.input_range.isnan().any()]
    assert len(called) == len(list(an.analog_layers(analog)))
    assert found

    wanted = by_hand(name, model, batch, measure)
    curve = an.noise_sweep(model, [batch], [1e-9, 10.0], 1, metric=measure, progress=False)
    assert curve.noise_free == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert curve.values[0, 0] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert curve.samples == 2

    ideal = an.evaluate(model, [batch], metric=measure, profile=an.HardwareProfile(name="ideal"))
    assert ideal.values == ((ideal.digital,),)
    assert ideal.digital == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    aged = an.evaluate(analog, [batch], metric=measure, chips=2, ages=["0", "1d"], seed=1)
    assert all(math.isfinite(value) for row in aged.values for value in row)
    # What is near the digital output has nearly its value, where the measure is smooth.
    if measure in ("perplexity", "mse"):
        assert aged.mean[0] == pytest.approx(wanted, rel=0.3)

    swept = an.hardware_sweep(model, [batch], {"adc.bits": [8]}, profile=PROFILE, metric=measure, seed=1)
    fresh = an.evaluate(model, [batch], profile=PROFILE, metric=measure, seed=1)
    assert swept.points[0][1] == fresh.values[0]


@pytest.mark.parametrize("name", EVERY)
def test_budgets_and_costs(name):
    model, batch, _ = subject(name)
    quiet = PROFILE.varied(programming={"sigma": 0.0})
    analog = an.convert(model, quiet)
    an.calibrate(analog, [batch], progress=False)
    budget = an.noise_budget(analog, batch, repeats=8, progress=False)
    assert {layer.name for layer in budget.layers} == {name for name, _ in an.analog_layers(analog)}
    # Of a single layer with few outputs the simulation is too coarse; half of all layers are within a fifth.
    ratios = torch.tensor([layer.total / layer.measured for layer in budget.layers if layer.measured])
    assert 0.8 < ratios.median() < 1.25 or len(ratios) < 3
    assert ((0.2 < ratios) & (ratios < 5)).all()
    assert budget.output_error > 0

    counted = an.cost(model, PROFILE.varied(cells={"mapping": "signed"}), batch)
    with FlopCounterMode(display=False) as counter:
        outputs(model, batch)
    products = sum(flops for kind, flops in counter.get_flop_counts()["Global"].items() if "bmm" not in str(kind)) / 2
    ours = counted.total.macs * 2  # of two samples
    if name == "mixtral":  # experts are batched products, as scores are
        assert ours > products
    elif any("Attention" in type(part).__name__ for part in model.modules()):
        assert 0.5 * products <= ours <= products * 1.0001  # scores are products, too
    else:
        assert ours == pytest.approx(products, rel=0.02)


@pytest.mark.parametrize("name", ["bert", "gpt2", "timm convnext", "regression"])
def test_sensitivity_and_search(name):
    model, batch, measure = subject(name)
    found = an.sensitivity(model, PROFILE, [batch], metric=measure, chips=1, seed=1)
    assert {layer.name for layer in found.layers} == {name for name, _ in an.analog_layers(an.convert(model, PROFILE))}
    pytest.importorskip("optuna")
    searched = an.design_search(
        model, [batch], {"adc.bits": [3, 8]}, calibration=[batch], metric=measure, trials=2, max_drop=0.5
    )
    assert len(searched.designs) == 2


@pytest.mark.parametrize("name", ["timm resnet", "timm efficientnet", "segmentation"])
def test_normalisation_is_estimated(name):
    model, batch, _ = subject(name)
    before = outputs(model, batch)
    noisy = an.inject_noise(model, an.NoiseSpec(sigma=1.0, eval=True))
    an.estimate_batch_norm(noisy, [batch], progress=False)
    assert not torch.equal(outputs(an.remove_noise(noisy) or noisy, batch), before)


def test_detection_needs_a_step():
    """Images of different sizes in lists, boxes as output: anything is measured that a function can tell."""
    torch.manual_seed(0)
    model = torchvision("ssdlite320_mobilenet_v3_large", num_classes=3, width_mult=0.25, score_thresh=0.0).eval()
    for part in model.modules():  # with those that it begins with, nothing is left of the signal
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    images = [torch.rand(3, 40, 50), torch.rand(3, 30, 20)]
    with torch.no_grad():
        model.backbone.train()(torch.rand(8, 3, 320, 320))
        for part in model.head.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.3)
        wanted = model.eval()(images)
    batches = [(images, wanted)]

    def overlap(found, target):
        from torchvision.ops import box_iou

        return torch.stack([box_iou(a["boxes"], b["boxes"]).amax(1).mean() for a, b in zip(target, found)])

    found = an.evaluate(model, batches, metric=overlap, profile=an.HardwareProfile(name="ideal"))
    assert found.digital == pytest.approx(1.0, abs=1e-4)
    assert found.values[0][0] == pytest.approx(1.0, abs=1e-4)
    noisy = an.evaluate(model, batches, metric=overlap, profile=PROFILE.varied(noise={"output": 1.0}), seed=1)
    assert 0 < noisy.mean[0] < 1
    assert noisy.samples == 2
    with pytest.raises(an.AnalogSimError, match="tensor"):
        an.evaluate(model, batches, profile=PROFILE)
    assert an.cost(model, PROFILE, batches[0]).total.macs > 0
