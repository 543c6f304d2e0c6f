"""What a public docstring says is left out, stays, or makes no difference is so: each such sentence has its test.

`CLAIMS` names the tests. Those that stand elsewhere are with their kind; the rest are below, each with the thing on
that the sentence excludes.
"""

import ast
import copy
import inspect
import math
import pickle
import re
import resource
import signal
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import analogsim as an
from analogsim.analysis.meter import STAGES
from analogsim.nn.observing import observed
from analogsim.ranges.observer import Observer
from analogsim.robustness.measure import ACCURACY
from tests.support import zoo

WORDS = re.compile(
    r"\b(without|never|kept|unchanged|independent(ly)? of|nor on|whatever|do(es)? not depend)\b"
    r"|\bstays?\b(?=[.;]| as | what | in evaluation)",
    re.IGNORECASE,
)

# (qualified name, words of the sentence, the tests that hold it, "file.py::test")
CLAIMS = [
    ("HardwareProfile.save", "half a file", "test_claims.py::test_a_save_that_breaks_off_leaves_the_old_file"),
    ("Result.save", "half a file", "test_claims.py::test_a_save_that_breaks_off_leaves_the_old_file"),
    (
        "evaluate",
        "whatever noise was injected",
        "test_evaluate.py::test_a_digital_network_is_measured_with_the_noise_that_it_has",
    ),
    ("evaluate", "without `profile`", "test_evaluate.py::test_its_ranges_are_its_own_without_a_profile"),
    ("calibrate_outputs", "never set", "test_outputs.py::test_another_chip_or_other_hardware_is_refused"),
    ("evaluate", "never called", "test_evaluate.py::test_layers_that_are_never_called_are_named"),
    ("RobustnessCurve.save", "half a file", "test_claims.py::test_a_save_that_breaks_off_leaves_the_old_file"),
    ("Noise.distribution", "whatever", "test_adc.py::test_noise_has_its_shape_and_the_same_variance"),
    ("ADC.sum_bits", "never", "test_claims.py::test_a_sum_saturates_only_in_a_register"),
    (
        "convert",
        "hooks, noise sites",
        "test_claims.py::test_conversion_keeps_what_is_on_a_network",
        "test_convert.py::test_training_modes_and_hooks_and_frozen_parameters_stay",
        "test_convert.py::test_tied_weights_stay_tied",
        "test_convert.py::test_parametrised_layers_convert_train_and_return",
        "test_inherited.py::test_crossbars_have_their_layers_mode",
    ),
    ("convert", "without calling", "test_claims.py::test_what_is_digital_is_exact_on_the_noisiest_hardware"),
    (
        "calibrate",
        "runs once without converters and noise",
        "test_claims.py::test_calibration_runs_once_and_hears_neither_converters_nor_noise",
    ),
    (
        "calibrate",
        "amount of data",
        "test_claims.py::test_what_calibration_keeps_is_as_large_for_any_data",
        "test_calibrate.py::test_a_histogram_does_not_depend_on_the_batches",
    ),
    (
        "calibrate",
        "that was never called",
        "test_calibrate.py::test_layers_that_the_batches_tell_nothing_of_get_ranges_and_are_named",
    ),
    ("calibrate", "without inputs", "test_claims.py::test_what_calibration_assumes"),
    ("calibrate", "without sums", "test_claims.py::test_what_calibration_assumes"),
    (
        "learn_ranges",
        "keys stay",
        "test_calibrate.py::test_learned_ranges_are_parameters_and_constants_again",
    ),
    ("learn_ranges", "never set", "test_calibrate.py::test_what_cannot_be_learned_is_refused"),
    (
        "estimate_batch_norm",
        "wrong without it",
        "test_batch_norm.py::test_statistics_fit_each_sigma_and_are_given_back",
    ),
    (
        "estimate_batch_norm",
        "without training",
        "test_claims.py::test_statistics_are_estimated_on_a_chip_whose_weights_stay",
    ),
    (
        "estimate_batch_norm",
        "never called",
        "test_unreached.py::test_normalisations_that_are_never_called_keep_their_statistics",
    ),
    (
        "estimate_batch_norm",
        "All else",
        "test_batch_norm.py::test_all_else_stays",
        "test_batch_norm.py::test_statistics_are_the_means_over_batches",
        "test_claims.py::test_statistics_are_estimated_on_a_chip_whose_weights_stay",
    ),
    (
        "estimate_batch_norm",
        "its statistics stay",
        "test_unreached.py::test_normalisations_that_are_never_called_keep_their_statistics",
    ),
    ("estimate_batch_norm", "the statistics stay", "test_batch_norm.py::test_refusals_leave_the_statistics"),
    (
        "program",
        "a seed and a time",
        "test_chip.py::test_a_saved_chip_is_loaded_as_it_was",
        "test_state.py::test_a_state_puts_another_network_on_the_chip",
    ),
    ("at_time", "asked before", "test_claims.py::test_a_chip_s_age_is_all_that_is_asked"),
    (
        "at_time",
        "never programmed",
        "test_chip.py::test_a_chip_that_was_not_programmed",
        "test_chip.py::test_programming_is_refused_where_it_means_nothing",
    ),
    ("set_seed", "repeats the first", "test_claims.py::test_a_seed_makes_a_checkpoint_draw_anew"),
    ("inject_noise", "repeats the first", "test_claims.py::test_a_seed_makes_a_checkpoint_draw_anew"),
    ("inject_noise", "its structure", "test_noise.py::test_structure_and_original_stay"),
    ("inject_noise", "input of integers", "test_torch_conventions.py::test_networks_of_tokens"),
    ("inject_noise", "passes additive noise", "test_noise.py::test_gradients"),
    ("set_noise", "None stays", "test_claims.py::test_setting_noise_leaves_the_network_itself"),
    ("set_noise", "without rebuilding", "test_claims.py::test_setting_noise_leaves_the_network_itself"),
    (
        "prepare_qat",
        "noise sites",
        "test_claims.py::test_quantizing_keeps_what_is_on_a_network",
        "test_qat.py::test_what_is_kept",
    ),
    ("prepare_qat", "training it further", "test_claims.py::test_ranges_are_found_without_training"),
    (
        "freeze_quantization",
        "noise sites",
        "test_claims.py::test_quantizing_keeps_what_is_on_a_network",
        "test_inherited.py::test_frozen_quantizers_have_the_hooks_of_those_before",
        "test_inherited.py::test_quantizers_have_their_layers_mode_device_and_type",
    ),
    ("freeze_quantization", "never set", "test_qat.py::test_evaluating_before_there_is_a_range_is_refused"),
    ("noise_sweep", "the network stays", "test_sweep.py::test_model_and_random_state_are_left_as_they_were"),
    (
        "noise_sweep",
        "in a profile stays",
        "test_sweep.py::test_other_noise_is_silent_but_the_rest_of_the_profile_stays",
    ),
    (
        "noise_sweep",
        "the rest of the grid",
        "test_sweep.py::test_an_accuracy_does_not_depend_on_the_rest_of_the_sweep",
        "test_random.py::test_sweeps_in_threads_give_what_they_give_alone",
    ),
    ("noise_sweep", "they stay as", "test_batch_norm.py::test_statistics_fit_each_sigma_and_are_given_back"),
    ("noise_sweep", "not finite without noise", "test_sweep.py::test_unusable_data_is_refused"),
    ("noise_sweep", "never called", "test_unreached.py::test_layers_that_are_never_called_are_named"),
    (
        "noise_budget",
        "a layer was never reached",
        "test_budget.py::test_what_cannot_be_is_refused",
        "test_claims.py::test_a_budget_names_a_layer_that_was_never_reached",
    ),
    ("NoiseBudget", "0 without errors", "test_claims.py::test_a_budget_without_errors"),
    ("LayerBudget", "NaN without repeats", "test_claims.py::test_a_budget_without_repeats"),
    ("LayerBudget.snr", "infinite without errors", "test_claims.py::test_a_budget_without_errors"),
    ("cost", "stays as it is", "test_cost.py::test_the_model_stays_as_it_was_and_may_be_analog"),
    ("cost", "without the batch", "test_cost.py::test_lenet"),
    ("cost", "never called", "test_unreached.py::test_layers_that_are_never_called_are_named"),
    ("hardware_sweep", "never called", "test_sensitivity.py::test_layers_that_are_never_called_are_named"),
    ("sensitivity", "never called", "test_sensitivity.py::test_layers_that_are_never_called_are_named"),
    (
        "MidpointFit",
        "without a law",
        "test_midpoint.py::test_what_is_flagged_is_printed_with_its_half_height",
        "test_midpoint.py::test_a_curve_of_two_falls_says_so",
    ),
    (
        "AnalogLayer.from_digital",
        "parameters, hooks",
        "test_convert.py::test_training_modes_and_hooks_and_frozen_parameters_stay",
        "test_convert.py::test_parametrised_layers_convert_train_and_return",
    ),
    (
        "AnalogLayer.to_digital",
        "parameters, hooks",
        "test_convert.py::test_training_modes_and_hooks_and_frozen_parameters_stay",
        "test_convert.py::test_parametrised_layers_convert_train_and_return",
    ),
    (
        "AnalogComposite.from_digital",
        "parameters, hooks",
        "test_claims.py::test_layers_of_several_matrices_keep_parameters_hooks_and_parametrisations",
    ),
    (
        "AnalogComposite.to_digital",
        "parameters, hooks",
        "test_claims.py::test_layers_of_several_matrices_keep_parameters_hooks_and_parametrisations",
    ),
    ("AnalogLayer.spec", "never set", "test_linear_and_conv.py::test_uncalibrated_layer_says_which_and_what_to_do"),
    ("AnalogLayer.write", "never programmed", "test_chip.py::test_a_chip_that_was_not_programmed"),
    ("AnalogLinear", "without one", "test_linear_and_conv.py::test_layer_without_a_profile_is_ideal"),
    (
        "AnalogMultiheadAttention",
        "or without",
        "test_composites.py::test_attention_noise_does_not_depend_on_batch_first",
    ),
    ("AnalogMultiheadAttention", "never runs", "test_claims.py::test_fused_inference_does_not_pass_by_crossbars"),
    ("save", "never half of one", "test_saving.py::test_a_save_that_fails_leaves_the_old_file"),
    ("load", "training modes stay", "test_saving.py::test_a_digital_network_becomes_what_was_saved"),
    ("compare", "it stays as it is", "test_results_printed.py::test_a_comparison_is_its_evaluations_and_costs"),
    ("summary", "it stays as it is", "test_summary.py::test_the_network_stays_as_it_is"),
    ("UnreachedWarning", "never called", "test_unreached.py::test_every_verb_says_it_in_its_own_name"),
]


def documented():
    """Yield (qualified name, text) of all that is public: functions, classes, their members, the fields of values."""
    seen = set()

    def walk(one):
        if one in seen:
            return
        seen.add(one)
        if not inspect.isclass(one):
            yield one.__name__, one.__doc__
            return
        yield one.__name__, vars(one).get("__doc__")
        for name, member in vars(one).items():
            inner = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
            if not name.startswith("_") and inspect.isroutine(inner):
                yield f"{one.__name__}.{name}", inner.__doc__
        if issubclass(one, BaseModel):
            for name, field in one.model_fields.items():
                yield f"{one.__name__}.{name}", field.description
                yield from ours(field.annotation, *getattr(field.annotation, "__args__", ()))
        yield from ours(*one.__mro__)

    def ours(*kinds):
        for kind in kinds:
            if inspect.isclass(kind) and kind.__module__.startswith("analogsim"):
                yield from walk(kind)

    yield "analogsim", an.__doc__
    for name in an.__all__:
        if callable(getattr(an, name)):
            yield from walk(getattr(an, name))


def claims():
    """Return (qualified name, sentence) of every sentence with one of the words."""
    found = []
    for name, text in documented():
        text = re.sub(r"^.+\n-{3,}$", "\n", inspect.cleandoc(text or ""), flags=re.MULTILINE)  # headings
        for sentence in re.split(r"(?<=[.;:])\s+|\n\n", text):
            if WORDS.search(sentence):
                found.append((name, " ".join(sentence.split())))
    return found


@cache
def functions(file):
    """Return the names of a test file's functions and methods."""
    (path,) = Path(__file__).parent.rglob(file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}


def test_every_claim_has_its_test():
    unheld = [one for one in claims() if not any(name == one[0] and words in one[1] for name, words, *_ in CLAIMS)]
    assert not unheld, "name in CLAIMS the test that holds each of these, with the thing on that it excludes"


def test_every_entry_names_a_sentence_and_tests():
    found = claims()
    for name, words, *tests in CLAIMS:
        assert len([one for one in found if one[0] == name and words in one[1]]) == 1, f"{name}, {words!r}: a sentence?"
        assert tests
        for test in tests:
            file, _, function = test.partition("::")
            assert function.startswith("test_")
            assert function in functions(file), test


def test_sentences_are_found():
    """Of functions, classes, members, fields of nested values and what is inherited from ours, but nothing of torch."""
    names = dict(documented())
    for name in (
        *("convert", "AnalogLSTM", "LayerBudget.snr", "RobustnessCurve.load", "ADC.sum_bits", "NoiseSpec.seed"),
        *("AnalogComposite.to_digital", "AnalogLayer.from_digital"),
    ):
        assert names[name]
    theirs = {"Module", "Linear", "LSTM", "BaseModel", "AnalogLSTM.flatten_parameters", "HardwareProfile.model_dump"}
    assert not theirs & set(names)


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def room(size):
    """Let no file grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "name", ["profile.yaml", "profile.json", "budget.json", "curve.json", "sweep.csv", "evaluation.csv"]
)
def test_a_save_that_breaks_off_leaves_the_old_file(name, tmp_path):
    layer = an.LayerBudget("a", dict.fromkeys(STAGES, 0.5), 0.0, 4.0, 4.0, 9.0, 0.0, 0.0)
    thing = {
        "profile": an.HardwareProfile(dac={"bits": 8}),
        "budget": an.NoiseBudget((layer,), 0.1, 0.1, "a"),
        "curve": an.RobustnessCurve([0.1, 1.0], [[0.9], [0.2]], 0.9, 0.1),
        "sweep": an.HardwareSweep({"adc.bits": (4,)}, (({"adc.bits": 4}, (0.5, 0.25)),), 1.0, "8bit", ACCURACY),
        "evaluation": an.Evaluation((0.0,), ((0.5, 0.25),), 1.0, 0.1, 100, "8bit", ACCURACY),
    }[name.split(".")[0]]
    path = tmp_path / name
    thing.save(path)
    whole = path.read_bytes()
    assert len(whole) > 20
    for before in (None, b"old"):
        path.unlink()
        if before is not None:
            path.write_bytes(before)
        with pytest.raises((an.AnalogSimError, OSError)), room(20):
            thing.save(path)
        assert [one.read_bytes() for one in tmp_path.iterdir()] == ([] if before is None else [before])
        thing.save(path)
        assert path.read_bytes() == whole


# --- hardware --------------------------------------------------------------------------------------------------------


def test_a_sum_saturates_only_in_a_register():
    """300 tiles, each at its ADC's full scale of 127 steps: more than the largest register holds."""
    adc = {"bits": 8, "full_scale": 1.0}
    for bits, most in ((None, 300 * 127), (10, 511), (16, 32767)):
        profile = an.HardwareProfile(tile={"rows": 1}, dac={"input_range": 1.0}, adc=adc | {"sum_bits": bits})
        layer = an.AnalogLinear(300, 1, bias=False, profile=profile).eval()
        nn.init.ones_(layer.weight)
        with torch.no_grad():
            assert float(layer(torch.ones(1, 300))) * 127 == pytest.approx(most, rel=1e-6)


NOISY = an.HardwareProfile(
    tile={"rows": 16},
    dac={"bits": 3, "input_range": 1.0},
    adc={"bits": 3, "full_scale": 1.0},
    noise={"output": 1.0, "read": 0.5},
)


class Reads(nn.Module):
    """Every kind that stays digital, and a linear layer whose weight is read by other code."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.pool = nn.Embedding(9, 8), nn.LayerNorm(8), nn.AvgPool1d(2)
        self.read, self.called = nn.Linear(4, 4), nn.Linear(4, 3)

    def body(self, tokens):
        x = self.pool(self.norm(self.embedding(tokens)).relu())
        scores = (x @ x.transpose(-2, -1)).softmax(-1) @ x
        return nn.functional.linear(scores, self.read.weight, self.read.bias)

    def forward(self, tokens):
        return self.called(self.body(tokens))


def test_what_is_digital_is_exact_on_the_noisiest_hardware():
    digital, tokens = Reads(), torch.arange(18).view(2, 9) % 9
    analog = an.convert(digital, NOISY)
    assert {name for name, _ in an.analog_layers(analog)} == {"read", "called"}
    assert torch.equal(analog.body(tokens), digital.body(tokens))
    assert not torch.equal(analog(tokens), digital(tokens))
    assert not torch.equal(analog.read(torch.ones(1, 4)), digital.read(torch.ones(1, 4)))


def furnished(parametrised):
    """A network with a hook, noise, tied and frozen weights, a parametrisation, and a layer in a mode of its own."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[4].weight = model[2].weight
    if parametrised:
        parametrizations.weight_norm(model[5])
    model.eval()[3].train()
    model[0].weight.requires_grad_(False)
    model = an.inject_noise(model, an.NoiseSpec(layers={"0": 0.5, "3": 0.25, "input": 0.125}, train=False, seed=3))
    heard = []
    model[0].register_forward_hook(lambda module, args, output: heard.append(output))
    return model, heard


def state_of(model):
    """What is on a network, in comparable form."""
    return (
        {name: module.training for name, module in model.named_children()},
        {
            name: (site.sigma, site.train, site.eval, site.seed, site.calls)
            for name, site in an.noise_sites(model).items()
        },
        model[4].weight is model[2].weight,
        [p.requires_grad for p in (model[0].weight, model[2].weight)],
        {name: len(module._forward_hooks) for name, module in model.named_children()},
    )


def same_numbers(one, other, heard, x):
    """What the first layer's hook hears, noise and all: the copy's hook is the same function."""
    heard.clear()
    with torch.no_grad():
        for model in (one, other):
            for site in an.noise_sites(model).values():
                site.calls = 0
            model(x)
    assert len(heard) == 2
    return heard


def test_conversion_keeps_what_is_on_a_network():
    model, heard = furnished(parametrised=True)
    before, x = state_of(model), torch.randn(3, 4)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    analog = an.convert(model, an.HardwareProfile())  # exact, so that the noise of the sites can be compared
    noisy = an.convert(analog, NOISY)
    for made in (analog, noisy, an.to_digital(noisy)):
        assert state_of(made) == before
        assert parametrize.is_parametrized(made[5], "weight")
        assert all(torch.equal(made.state_dict()[key], value) for key, value in state.items())
    torch.testing.assert_close(*same_numbers(model, analog, heard, x))
    an.set_noise(model, 0.0)
    first, second = same_numbers(model, analog, heard, x)
    assert (first - second).abs().max() > 0.1, "the sites of the copy are heard"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.MultiheadAttention])
def test_layers_of_several_matrices_keep_parameters_hooks_and_parametrisations(kind):
    """Into the analog twin and back, in place: the same parameters, and each hook is called once."""
    attends = kind is nn.MultiheadAttention
    layer = kind(4, 2) if attends else kind(4, 3)
    parametrizations.weight_norm(layer, next(name for name, p in layer.named_parameters() if p.ndim == 2))
    before, called = dict(layer.named_parameters()), []
    layer.register_forward_pre_hook(lambda module, args: called.append("before"))
    layer.register_forward_hook(lambda module, args, out: called.append("after"))
    inputs = [torch.randn(2, 4) if "Cell" in kind.__name__ else torch.randn(5, 2, 4)] * (3 if attends else 1)

    def output():
        called.clear()
        with torch.no_grad():
            out = layer(*inputs)
        assert called == ["before", "after"]
        return out if isinstance(out, torch.Tensor) else out[0]

    digital = output()
    for verb, noisy in (
        (lambda: an.convert(layer, NOISY, inplace=True), True),
        (lambda: an.to_digital(layer, inplace=True), False),
    ):
        assert verb() is layer
        after = dict(layer.named_parameters())
        assert before.keys() == after.keys()
        assert all(after[name] is parameter for name, parameter in before.items())
        assert torch.equal(output(), digital) is not noisy


def test_quantizing_keeps_what_is_on_a_network():
    model, heard = furnished(parametrised=False)
    before, x = state_of(model), torch.randn(3, 4)
    names = {f"{number}.{part}" for number in (0, 2, 4, 5) for part in ("weight", "bias")}
    quantized = an.prepare_qat(model, an.QATSpec(scaling="constant", s=0.1, weight_bits=16, act_bits=16))
    frozen = an.freeze_quantization(quantized)
    for made in (quantized, frozen):
        assert state_of(made)[:4] == before[:4]
        assert names <= set(made.state_dict())
        torch.testing.assert_close(*same_numbers(model, made, heard, x), rtol=0, atol=1e-3)
    an.set_noise(model, 0.0)
    for made in (quantized, frozen):
        first, second = same_numbers(model, made, heard, x)
        assert (first - second).abs().max() > 0.1, "the sites of the copy are heard"


def test_fused_inference_does_not_pass_by_crossbars():
    """Torch's encoder layers take their fused path in evaluation without gradients only: with them, the same noise."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval(), torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    for keep in ((), ("*.linear?",), ("*.self_attn",)):
        analog = an.convert(model, NOISY, keep_digital=keep)
        for mask in (None, padding):
            an.set_seed(analog, 1)
            slow = analog(x, src_key_padding_mask=mask).detach()
            an.set_seed(analog, 1)
            with torch.no_grad():
                fast = analog(x, src_key_padding_mask=mask)
            exact = model(x, src_key_padding_mask=mask).detach()
            torch.testing.assert_close(fast, slow)
            assert (fast - exact)[0].abs().max() > 0.1


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_runs_once_and_hears_neither_converters_nor_noise():
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    profile = NOISY.varied(
        dac={"input_range": "calibrated"}, adc={"full_scale": "calibrated"}, programming={"sigma": 0.1}
    )
    model = an.inject_noise(an.convert(digital, profile), an.NoiseSpec(sigma=5.0)).train()
    calls = []
    model[3].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    x = torch.randn(40, 6)
    report = an.calibrate(model, [x[:30], x[30:]], progress=False)
    assert calls == [30, 10]
    with torch.no_grad():
        inner = digital[1](digital[0](x))
    for name, layer, values in (("0", digital[0], x), ("3", digital[3], inner)):
        assert report[name]["input_range"] == pytest.approx(float(values.abs().max()), rel=1e-6)
        sums = values @ (layer.weight / layer.weight.abs().amax(1, True)).T.detach()
        full_scale = float(sums.abs().max() / values.abs().max())
        assert report[name]["adc_full_scale"] == pytest.approx(full_scale, rel=1e-5)


def test_what_calibration_keeps_is_as_large_for_any_data():
    sizes = []
    for batches in (1, 50):
        model = an.convert(nn.Linear(6, 5), NOISY.varied(tile={"rows": 3}))
        with observed(model, lambda layer: Observer(layer.profile)) as seen, torch.no_grad():
            for number in range(batches):
                model(torch.randn(20 * batches, 6) * (1 + number))
        ((_, _, observer),) = seen
        assert observer.inputs.number == 6 * 20 * batches**2
        sizes.append(len(pickle.dumps([vars(one) for one in (observer.inputs, *observer.sums)])))
        sizes[-1] -= len(pickle.dumps([observer.norms]))
    assert abs(sizes[0] - sizes[1]) < 100  # of 33 kB a histogram: Python's whole numbers grow by a byte or two


def test_what_calibration_assumes():
    """Without inputs the largest ranges of the others; without sums those of weights from [-1, 1], and 4σ of them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large, self.idle, self.head = (nn.Linear(12, 12, bias=False) for _ in range(4))
            nn.init.zeros_(self.head.weight)

        def forward(self, x):
            return self.head(self.small(x)) + self.large(3 * x)

    torch.manual_seed(0)
    model = an.convert(Net(), NOISY.varied(dac={"input_range": "calibrated"}, adc={"full_scale": "calibrated"}))
    x = torch.randn(5000, 12)
    with pytest.warns(an.AnalogSimWarning, match="idle"):
        report = an.calibrate(model, x, progress=False)
    for key in ("input_range", "adc_full_scale"):
        assert report["idle"][key] == max(report[name][key] for name in ("small", "large", "head"))
    with torch.no_grad():
        rows = x @ model.small.weight.T
        rows = rows / report["head"]["input_range"]
        # 4 · 60 000 sums with random weights; the share of the variance that 4 000 weights leave open is 2 %.
        sums = rows @ (2 * torch.rand(12, 400) - 1)
    assert report["head"]["adc_full_scale"] == pytest.approx(4 * float(sums.square().mean().sqrt()), rel=0.05)


def test_statistics_are_estimated_on_a_chip_whose_weights_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    profile = an.HardwareProfile(
        dac={"bits": 8, "input_range": 4.0},
        adc={"bits": 8, "full_scale": 4.0},
        noise={"output": 0.1},
        programming={"sigma": 0.1},
        drift={"nu": 0.05},
    )
    chip = an.convert(model, profile).train()
    an.program(chip, 1)
    an.at_time(chip, 1e6)
    before = {key: copy.deepcopy(value) for key, value in chip.state_dict().items()}
    x = torch.randn(4000, 6)
    an.estimate_batch_norm(chip, x, progress=False)
    after = chip.state_dict()
    changed = {key for key, value in before.items() if not _equal(value, after[key])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(p.grad is None for p in chip.parameters())
    chip.eval()
    with torch.no_grad():
        seen, wanted = chip[0](x), model[0](x)
    # Of 4 000 rows: the noise of another read moves the mean by a fraction of its standard error.
    torch.testing.assert_close(after["1.running_mean"], seen.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(after["1.running_var"], seen.var(0), rtol=0.05, atol=0)
    assert ((seen.var(0) / wanted.var(0) - 1).abs() > 0.2).any(), "the chip is another network"


def _equal(one, other):
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if isinstance(one, torch.Tensor) else one == other


def test_a_chip_s_age_is_all_that_is_asked():
    """Other ages before, reads at them, calibration, training steps and going back in time leave no trace."""
    profile = an.HardwareProfile(
        dac={"bits": 8, "input_range": 1.0}, programming={"sigma": 0.1}, drift={"nu": 0.06, "nu_sigma": 0.02}
    )
    torch.manual_seed(0)
    straight = an.convert(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), profile).eval()
    an.program(straight, 5)
    winding, x = copy.deepcopy(straight), torch.rand(7, 6)
    with torch.no_grad():
        for seconds in (1e7, 0.0, 3.0, 1e5, 1e5 + 1):
            an.at_time(winding, seconds)
            aged = winding(x)
        winding.train()(x)
        winding.eval()
        an.at_time(winding, 1e4)
        an.at_time(straight, 1e4)
        assert torch.equal(winding(x), straight(x))
    assert not torch.equal(aged, straight(x))


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["crossbars", "sites"])
def test_a_seed_makes_a_checkpoint_draw_anew(where):
    from torch.utils.checkpoint import checkpoint

    def seen(seed):
        """What a layer behind the noise gets in both forwards of a checkpoint."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        if where == "crossbars":
            model = an.convert(model, NOISY, keep_digital="2")
            an.set_seed(model, seed)
        else:
            model = an.inject_noise(model, an.NoiseSpec(sigma=1.0, seed=seed))
        inputs = []
        model[2].register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().clone()))
        checkpoint(model, torch.ones(3, 4, requires_grad=True), use_reentrant=True).sum().backward()
        first, second = inputs
        return torch.equal(first, second)

    assert seen(None)
    assert not seen(7)


@pytest.mark.parametrize("target", ["activations", "weights"])
def test_setting_noise_leaves_the_network_itself(target):
    torch.manual_seed(0)
    model = an.inject_noise(zoo.Net(), an.NoiseSpec(sigma=0.5, multiplicative=0.25, target=target, seed=1))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    x = zoo.inputs()

    def parts():
        hooks = [id(hook) for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks)]
        sites = an.noise_sites(model, target).values()
        return [id(one) for one in (*model.modules(), *model.parameters(), *sites)] + hooks

    def output():
        for site in an.noise_sites(model, target).values():
            site.calls = 0
        return model(x).detach()

    before, loud = parts(), output()
    an.set_noise(model, 0.0, target=target)
    assert {site.multiplicative for site in an.noise_sites(model, target).values()} == {0.25}  # what is None stays
    relative = output()
    an.set_noise(model, multiplicative=0.0, target=target)
    exact = output()
    an.set_noise(model, 0.5, multiplicative=0.25, target=target)
    again = output()
    assert parts() == before
    assert torch.equal(again, loud)
    assert not torch.equal(relative, loud)
    assert not torch.equal(relative, exact)
    torch.manual_seed(0)
    assert torch.equal(exact, zoo.Net()(x))
    model(x).square().sum().backward()
    optimiser.step()
    assert not torch.equal(output(), loud)


# --- quantization ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", ["learned", "statistics"])
def test_ranges_are_found_without_training(dynamic):
    """Batches in training mode, but for what has a mode of its own: nothing but the quantizers' ranges has changed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantized = an.prepare_qat(model, an.QATSpec(act_dynamic=dynamic))
    with torch.no_grad():
        quantized.train()
        quantized(torch.randn(100, 6))
        assert not torch.equal(quantized[1].running_mean, before["1.running_mean"]), "it follows, unless it is told"
    quantized = an.prepare_qat(model, an.QATSpec(act_dynamic=dynamic)).train()
    for number in (1, 3):
        quantized[number].eval()
    with torch.no_grad():
        for _ in range(20):
            quantized(torch.randn(100, 6))
    state, x = quantized.state_dict(), torch.randn(300, 6)
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert all(p.grad is None for p in quantized.parameters())
    with torch.no_grad():
        exact, found = model.eval()(x), quantized.eval()(x)
    assert 0 < (found - exact).square().mean() < 1e-3 * exact.var()


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_a_budget_without_errors():
    """Exact hardware, tiles and all, on data that float32 sums without rounding."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-1, 2, p.shape))
            p.view(-1)[0] = 1
    x = torch.randint(-3, 4, (20, 6)).float()
    for change in ({}, {"tile": {"rows": 2}}, {"weight": {"w_max": 1.0}, "tile": {"rows": 3}}):
        budget = an.noise_budget(an.convert(model, an.HardwareProfile(**change)), x, progress=False)
        assert budget.equivalent_sigma == 0
        assert [layer.snr for layer in budget.layers] == [math.inf] * 2
        assert [layer.measured for layer in budget.layers] == [0.0] * 2


def test_a_budget_without_repeats():
    model, x = an.convert(nn.Linear(6, 4), NOISY), torch.rand(20, 6)
    without, with_some = (an.noise_budget(model, x, repeats=repeats, progress=False) for repeats in (0, 2))
    assert math.isnan(without.layers[0].measured)
    assert math.isnan(without.equivalent_sigma)
    assert without.layers[0].total == with_some.layers[0].total > 0
    assert with_some.layers[0].measured > 0


def test_a_budget_names_a_layer_that_was_never_reached():
    model = zoo.Net()
    model.idle = nn.Linear(4, 4)
    with pytest.raises(an.errors.CalibrationError, match="idle: the network never called this layer"):
        an.noise_budget(an.convert(model, NOISY), zoo.inputs(), progress=False)
