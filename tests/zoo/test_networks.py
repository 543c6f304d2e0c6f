"""Networks of other libraries, small and random: on crossbars, under noise, quantized, trained, and through a file."""

import logging
import re
import warnings

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.nn.known import exactly, like

pytestmark = pytest.mark.filterwarnings("ignore::analogsim.UnreachedWarning")
IDS = torch.randint(1, 30, (2, 6), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SOUND = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(2))
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"vocab_size": 32, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NOISY = an.HardwareProfile(
    tile={"rows": 64}, dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}, noise={"output": 0.01}
)


def transformers(kind, config, **options):
    library = pytest.importorskip("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    library.logging.set_verbosity_error()
    return getattr(library, kind)(getattr(library, config)(**options))


def timm(name, **options):
    return pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=5, **options)


def bert():
    return transformers("BertForSequenceClassification", "BertConfig", **SMALL, **TEXT, num_labels=3)


def gpt2():
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return transformers("GPT2LMHeadModel", "GPT2Config", **sizes, **TEXT | {"max_position_embeddings": 32})


def llama():
    return transformers("LlamaForCausalLM", "LlamaConfig", **SMALL, **TEXT, num_key_value_heads=1)


def mixtral():
    return transformers(
        "MixtralForCausalLM", "MixtralConfig", **SMALL, **TEXT, num_key_value_heads=1, num_local_experts=3
    )


def vit():
    return transformers("ViTForImageClassification", "ViTConfig", **SMALL, image_size=32, patch_size=16, num_labels=3)


def t5():
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    return transformers("T5ForConditionalGeneration", "T5Config", **sizes, decoder_start_token_id=0)


def whisper():
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
    sizes |= {"d_model": 16, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
    tokens = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return transformers("WhisperForConditionalGeneration", "WhisperConfig", **sizes, **tokens)


def mixer():
    kind = pytest.importorskip("timm.models.mlp_mixer").MlpMixer
    model = kind(num_classes=5, img_size=32, patch_size=16, num_blocks=1, embed_dim=16)
    nn.init.normal_(model.head.weight)  # it begins with zeros
    return model


def efficientnet():
    """With statistics of its own: with those that it begins with, nothing is left of the signal after its blocks."""
    model = timm("tf_efficientnet_b0")
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return model


def torchvision(name, **options):
    import torchvision

    return torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)


# name → (how to build it, its inputs by name, share of matrices that stay digital as the warning says)
NETWORKS = {
    "bert": (bert, {"input_ids": IDS}, None),
    "gpt2": (gpt2, {"input_ids": IDS}, None),
    "llama": (llama, {"input_ids": IDS}, None),
    "mixtral": (mixtral, {"input_ids": IDS}, r"1 of 8 .*gate\.weight \(MixtralTopKRouter 3×16\)"),
    "vit": (vit, {"pixel_values": IMAGES}, None),
    "t5": (t5, {"input_ids": IDS, "decoder_input_ids": IDS}, None),
    "whisper": (whisper, {"input_features": SOUND, "decoder_input_ids": IDS}, None),
    "timm resnet": (lambda: timm("resnet10t"), {"x": IMAGES}, None),
    "timm efficientnet": (efficientnet, {"x": IMAGES}, None),
    "timm nfnet": (lambda: timm("nfnet_l0", channels=(16, 16, 16, 16), depths=(1, 1, 1, 1), num_features=16,
                                stem_chs=8, group_size=8), {"x": IMAGES}, None),
    "timm convnext": (lambda: timm("convnext_atto", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1)), {"x": IMAGES}, None),
    "timm vit": (lambda: timm("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1), {"x": IMAGES}, None),
    "timm mixer": (mixer, {"x": IMAGES}, None),
    "timm swin": (lambda: timm("swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=12,
                               depths=(1, 1), num_heads=(2, 2)), {"x": IMAGES}, None),
    "segmentation": (lambda: torchvision("lraspp_mobilenet_v3_large", num_classes=4), {"input": IMAGES}, None),
}  # fmt: skip


def built(name):
    torch.manual_seed(0)
    build, inputs, words = NETWORKS[name]
    return build().eval(), inputs, words


def tensor(out):
    if isinstance(out, torch.Tensor):
        return out
    return out["out"] if isinstance(out, dict) and "out" in out else out.logits


def run(model, inputs):
    with torch.no_grad():
        return tensor(model(**inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_ideal_crossbars_give_what_the_digital_network_gives(name):
    """So does hardware with tiles and no converters, to rounding; and what stays digital is said by name."""
    model, inputs, words = built(name)
    expected = run(model, inputs)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", an.UnreachedWarning)
        ideal = an.convert(model, an.HardwareProfile())
    said = [str(one.message) for one in said if issubclass(one.category, an.UnreachedWarning)]
    assert re.search(words, said[0]) if words else not said, said
    assert torch.equal(run(ideal, inputs), expected)
    tiled = an.convert(model, an.HardwareProfile(tile={"rows": 7}, dac={"bits": 16, "input_range": "dynamic"}))
    got = run(tiled, inputs)
    assert (got - expected).abs().max() < 2e-3 * expected.abs().max()
    assert not torch.equal(got, expected)
    for kind, one in zip(model.modules(), an.to_digital(tiled).modules(), strict=True):
        assert type(one) is type(kind)


@pytest.mark.parametrize("name", NETWORKS)
def test_noise_training_and_a_file(name, tmp_path):
    model, inputs, _ = built(name)
    hardware = an.convert(model, NOISY)
    for _, layer in an.analog_layers(hardware):
        layer.input_range.fill_(4.0)
        layer.adc_full_scale = torch.tensor(4.0)
    assert not torch.equal(run(hardware, inputs), run(hardware, inputs))
    hardware.train()
    tensor(hardware(**inputs)).square().mean().backward()
    weights = [layer.weight for _, layer in an.analog_layers(hardware) if hasattr(layer, "weight")]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights if weight.requires_grad)
    an.save(hardware, tmp_path / "net")
    torch.manual_seed(5)
    again = an.load(tmp_path / "net", NETWORKS[name][0]().eval())
    outs = []
    for net in (hardware.eval(), again):
        an.set_seed(net, 1)
        outs.append(run(net, inputs))
    assert torch.equal(*outs)
    assert len(an.summary(again).layers) >= len(weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_abstract_noise_and_quantizers(name):
    model, inputs, _ = built(name)
    expected = run(model, inputs)
    silent = an.inject_noise(model, an.NoiseSpec(sigma=0.0))
    assert torch.equal(run(silent, inputs), expected)
    for target in ("activations", "weights"):
        noisy = an.inject_noise(model, an.NoiseSpec(sigma=0.01, target=target))
        assert not torch.equal(run(noisy, inputs), expected)
    fine = an.QATSpec(weight_bits=16, act_bits=16, scaling="constant", s=2.0**-11, exclude=skipped(model))
    quantized = run(an.prepare_qat(model, fine), inputs)
    assert not torch.equal(quantized, expected)
    assert (quantized - expected).abs().max() < 0.03 * expected.abs().max()


def skipped(model):
    """Layers of classes that Brevitas has none for, and that prepare_qat refuses by name."""

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return tuple(name for name, one in layers if like(one) and not getattr(exactly(type(one)), "quantized", False))


def test_a_language_model_generates():
    model, inputs, _ = built("llama")
    hardware = an.convert(model, an.HardwareProfile())
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(hardware.generate(**inputs, **options), model.generate(**inputs, **options))
    for _, layer in an.analog_layers(an.convert(hardware, NOISY, inplace=True)):
        layer.input_range.fill_(4.0)
        layer.adc_full_scale = torch.tensor(4.0)
    assert hardware.generate(**inputs, **options).shape == (2, 10)


def test_detection():
    """Images of different sizes, boxes as output, losses in training: conversion needs to know none of it."""
    torch.manual_seed(0)
    model = torchvision("ssdlite320_mobilenet_v3_large", num_classes=3, width_mult=0.25).eval()
    images = [torch.rand(3, 40, 50), torch.rand(3, 30, 20)]
    hardware = an.convert(model, an.HardwareProfile())
    with torch.no_grad():
        for wanted, got in zip(model(images), hardware(images), strict=True):
            assert all(torch.equal(wanted[key], got[key]) for key in ("boxes", "labels", "scores"))
    noisy = an.convert(model, an.HardwareProfile(dac={"bits": 8, "input_range": "dynamic"})).train()
    boxes = {"boxes": torch.tensor([[2.0, 2.0, 15.0, 15.0]]), "labels": torch.tensor([1])}
    sum(noisy(images, [boxes, boxes]).values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in noisy.parameters())
    assert sum(p.grad is not None for p in noisy.parameters()) > 100
