"""A batch of any form gives what the same numbers give as a pair of tensors, from every verb that takes data."""

import collections
import dataclasses
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import analogsim as an
from analogsim.batches import answered, as_batches, moved, samples_in, samples_of, tensors_of
from analogsim.errors import CalibrationError, DataError, ShapeError

PROFILE = an.HardwareProfile(dac={"bits": 8}, adc={"bits": 8}, noise={"output": 0.01}, tile={"rows": 4})
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Net(nn.Module):
    """Takes a tensor, keywords or a pair, and answers as it is asked to."""

    def __init__(self, answer=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.answer = nn.Linear(6, 3), answer

    def forward(self, x, labels=None, extra=None):
        assert labels is None, "so that no loss is computed"
        return self.answer(self.body(x))


@dataclasses.dataclass(frozen=True)
class Sample:
    x: torch.Tensor
    y: torch.Tensor


class Mappings(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, number):
        return {"x": X[number], "label": Y[number]}


def stepped(model, batch):
    return model(batch.x), batch.y


Output = dataclasses.make_dataclass("Output", ["logits"])
FORMS = {
    "pair": ((X, Y), {}, None),
    "list of pairs": ([[X[:12], Y[:12]], (X[12:], Y[12:])], {}, None),
    "mapping": ({"x": X, "labels": Y}, {}, None),
    "mappings": ([{"x": X[:12], "label": Y[:12]}, {"x": X[12:], "label": Y[12:]}], {}, None),
    "other mapping": (collections.UserDict(x=X, labels=Y), {}, None),
    "a mapping in a pair": ([({"x": X}, Y)], {}, None),
    "data set": (Mappings(), {}, None),
    "dataclass": (Sample(X, Y), {"step": stepped}, None),
    "dataclasses": ([Sample(X[:12], Y[:12]), Sample(X[12:], Y[12:])], {"step": stepped}, None),
    "logits": ((X, Y), {}, lambda logits: Output(logits)),
    "logits of a mapping": ((X, Y), {}, lambda logits: {"logits": logits}),
    "torchvision's segmentation": ((X, Y), {}, lambda logits: collections.OrderedDict(out=logits, aux=logits * 0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_verb_takes_every_form(form):
    data, options, answer = FORMS[form]
    first = data if isinstance(data, tuple | dict | Sample | collections.UserDict) else next(iter(as_batches(data)))

    def results(data, batch, options, *answer):
        model = Net(*answer)
        analog = an.convert(model, PROFILE)
        ranges = an.calibrate(analog, data, progress=False, **options)
        curve = an.noise_sweep(model, data, [0.3, 1.0], 2, progress=False, **options)
        budget = an.noise_budget(analog, batch, progress=False, **options)
        counted = an.cost(model, PROFILE, batch, **options)
        return ranges, curve.noise_free, curve.mean.tolist(), budget.output_error, counted.total.adc_conversions

    found = results(data, first, options, *([answer] if answer else []))
    wanted = results((X, Y), (X, Y), {})
    assert found[0] == wanted[0]
    assert found[1] == wanted[1]
    assert found[2] == pytest.approx(wanted[2], abs=0.3)  # noise is drawn by call: batches of other sizes draw others
    assert found[3] == pytest.approx(wanted[3], rel=0.5)
    assert found[4] == wanted[4] == 2 * 3  # tiles, columns: of one sample


def test_a_search_takes_mappings():
    pytest.importorskip("optuna")
    batches = [{"x": X, "labels": Y}]
    options = {"space": {"adc.bits": [3, 8]}, "trials": 2, "progress": False}
    pairs = an.design_search(Net(), [(X, Y)], calibration=[X], **options)
    found = an.design_search(Net(), batches, calibration=batches, **options)
    assert found.designs == pairs.designs
    entropy = an.design_search(Net(), batches, calibration=batches, metric="perplexity", max_drop=0.2, **options)
    assert entropy.metric.name == "perplexity"
    assert entropy.best is not None
    assert entropy.best.accuracy <= entropy.accuracy + 0.2
    assert "perplexity" in entropy.to_frame()


def test_normalisation_is_estimated_on_mappings():
    model = nn.Sequential(nn.BatchNorm1d(6))
    an.estimate_batch_norm(model, [{"input": X}], progress=False)
    assert model[0].running_mean == pytest.approx(X.mean(0), abs=1e-6)


def test_a_batch_is_moved_as_a_whole_and_stays_as_it_is():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    Point = collections.namedtuple("Point", "x y")
    batch = {"a": [X, (Y, "text")], "b": Sample(X, Y), "c": packed, "d": Point(X, 3), "e": collections.UserDict(f=X)}
    there = moved(batch, torch.device("meta"))
    assert {tensor.device.type for tensor in tensors_of(there)} == {"meta"}
    assert {tensor.device.type for tensor in tensors_of(batch)} == {"cpu"}
    assert len(list(tensors_of(there))) == 7
    assert isinstance(there["d"], Point)
    assert there["a"][1][1] == "text"
    assert [samples_of(one) for one in (X, batch, packed, [X, X], 3)] == [24, 24, 2, 2, 1]
    assert [samples_of(one) for one in ([1, 2, 3], (1, 2, 3), Y.numpy())] == [3, 3, 24]
    assert [samples_in(one) for one in ([X, Y], ([X, X], Y), {"x": X}, [{"x": X}, {"x": X}])] == [24, 2, 24, 2]


class Needs(nn.Module):
    """Cannot do without its labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)

    def forward(self, x, labels):
        return self.body(x) + 0 * labels[:, None]


def test_labels_that_a_network_needs_are_given_to_it():
    assert an.noise_sweep(Needs(), {"x": X, "labels": Y}, [1.0], 1, progress=False).samples == 24


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"x": X}], "none of x is `labels` or `label`; give step="),
        ([(X, Y, Y)], "no pair .* but tuple of 3; give step="),
        ([Sample(X, Y)], "Sample; give step="),
        (3, "batches are needed, got int"),
    ],
)
def test_what_is_no_batch_needs_a_step(data, message):
    with pytest.raises(DataError, match=message):
        an.noise_sweep(Net(), data, [1.0], 1, progress=False)
    with pytest.raises(DataError, match=r"step gave Tensor; it must return \(output, target\)"):
        an.noise_sweep(Net(), [X], [1.0], 1, step=lambda model, batch: model(batch), progress=False)


def test_inputs_that_no_network_takes_need_a_step():
    analog = an.convert(Net(), PROFILE)
    for data in ([Sample(X, Y)], ["text"]):
        with pytest.raises(CalibrationError, match="batch 0 is neither a tensor.*give step="):
            an.calibrate(analog, data, progress=False)
    with pytest.raises(ShapeError, match="inputs: the batch is neither"):
        an.cost(analog, PROFILE, Sample(X, Y))


def test_loaders_are_lent_torch_s_random_numbers():
    labels, p = Y, PROFILE
    loader = DataLoader(TensorDataset(X, labels), 6, shuffle=True)
    normed = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    analog = an.convert(Net(), p)
    verbs = {
        "noise_sweep": lambda: an.noise_sweep(normed, loader, [0.1], 1, batch_norm=loader, progress=False),
        "calibrate": lambda: an.calibrate(analog, loader, progress=False),
        "evaluate": lambda: an.evaluate(Net(), loader, profile=p, calibration=loader, progress=False),
        "sensitivity": lambda: an.sensitivity(Net(), p, loader, calibration=loader, chips=1, progress=False),
        "hardware_sweep": lambda: an.hardware_sweep(
            Net(), loader, {"adc.bits": [8]}, profile=p, calibration=loader, chips=1, progress=False
        ),
    }
    for verb, measure in verbs.items():
        before = torch.get_rng_state()
        measure()
        assert torch.equal(torch.get_rng_state(), before), verb


class Stream(IterableDataset):
    def __iter__(self):
        return iter(list(zip(X, Y)))


def test_a_data_set_without_a_length_is_one_too():
    analog, stream = an.convert(Net(), PROFILE), an.convert(Net(), PROFILE)
    an.calibrate(analog, X, progress=False)
    an.calibrate(stream, Stream(), progress=False)
    assert repr(stream.body.profile) == repr(analog.body.profile)
    assert an.evaluate(Net(), Stream(), progress=False) == an.evaluate(Net(), (X, Y), progress=False)


def test_two_batches_in_a_list_are_two_for_a_step():
    def step(model, batch):
        return model(batch), Y[: len(batch)]

    found = [
        an.evaluate(Net(), batches, step=step, profile=PROFILE, progress=False)
        for batches in ([X, X[:5]], iter([X, X[:5]]), [X, X[:5], X[:0]])
    ]
    assert found[0] == found[1] == found[2]
    assert found[0].samples == 29
    pair = an.evaluate(Net(), [X, Y], step=lambda model, batch: (model(batch[0]), batch[1]), progress=False)
    assert pair == an.evaluate(Net(), (X, Y), progress=False)


class InPlace(Net):
    def forward(self, x):
        x -= 1
        return super().forward(x)


def test_a_network_that_changes_its_inputs_is_refused_and_they_are_not():
    data = X.clone()
    for measure in (
        lambda: an.evaluate(InPlace(), [{"x": data, "label": Y}], progress=False),
        lambda: an.noise_sweep(InPlace(), (data, Y), [0.1], 1, progress=False),
    ):
        with pytest.raises(DataError, match="batch 0: the network changes it in place"):
            measure()
        assert torch.equal(data, X)
    rectified = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))
    assert an.evaluate(rectified, (X.relu(), Y), progress=False).samples == 24, "the same after as before"


def test_a_network_without_numbers_is_refused():
    with pytest.raises(DataError, match="device meta"):
        an.evaluate(Net().to("meta"), (X, Y), progress=False)


def test_costs_of_a_loader_s_batch_are_those_of_a_sample_with_a_step_too():
    wanted = repr(an.cost(Net(), PROFILE, (6,)))
    for batch in ([X, Y], (X, Y)):
        assert repr(an.cost(Net(), PROFILE, batch, step=lambda model, batch: (model(batch[0]), batch[1]))) == wanted


def test_costs_of_a_batch_are_those_of_a_sample():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    counted = an.cost(model, PROFILE, torch.randn(7, 2, 8, 8))
    assert repr(counted) == repr(an.cost(model, PROFILE, (2, 8, 8)))


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens():
    pytest.importorskip("transformers")
    return torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(0))


def test_labels_of_a_causal_language_model_are_shifted_as_transformers_does(tokens):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=30, **sizes)).eval()
    labels = tokens.clone()
    labels[0, 4:] = -100
    with torch.no_grad():
        loss = model(input_ids=tokens, labels=labels).loss
    data = {"input_ids": tokens, "labels": labels}
    curve = an.noise_sweep(model, [data], [0.1], 1, metric="perplexity", progress=False)
    assert curve.noise_free == pytest.approx(float(loss.exp()), rel=1e-5)
    assert curve.chance == 30
    assert curve.samples == 4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_labels_are_shifted_where_transformers_shifts_them(tokens):
    import transformers as library

    own = {"vocab_size": 30, "n_layer": 1, "n_head": 2}
    text = library.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    vision = library.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    gpt = library.GPT2LMHeadModel(library.GPT2Config(n_embd=16, n_positions=16, **own))
    models = [
        library.XLNetLMHeadModel(library.XLNetConfig(d_model=16, d_inner=16, **own)),
        library.XLMWithLMHeadModel(library.XLMConfig(vocab_size=30, emb_dim=16, n_layers=1, n_heads=2)),
        library.LlavaForConditionalGeneration(library.LlavaConfig(text_config=text, vision_config=vision)),
    ]
    with suppress(ImportError):
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)
        models.append(get_peft_model(gpt, lora))
    for model in models:
        with torch.no_grad():
            loss = model.eval()(input_ids=tokens, labels=tokens).loss
        output, target = answered(model, {"input_ids": tokens, "labels": tokens}, None, "data")
        found = nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())
        assert float(found.detach()) == pytest.approx(float(loss), rel=1e-5), type(model).__name__


def test_an_encoder_decoder_is_given_its_labels(tokens):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        loss = model(input_ids=tokens, labels=tokens).loss
    data = [{"input_ids": tokens, "labels": tokens}]
    curve = an.noise_sweep(model, data, [0.1], 1, metric="perplexity", progress=False)
    assert curve.noise_free == pytest.approx(float(loss.exp()), rel=1e-5)
