"""The paper's networks: layer lists and parameter counts against the published ones, and what their options change."""

import pytest
import torch
from torch import nn

from analogsim import NoiseSpec, inject_noise, noise_sites
from models.lenet import LeNet5
from models.resnet import BasicBlock, ResNet18
from models.vgg import VGG11


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def layers(model, *kinds):
    return [module for module in model.modules() if isinstance(module, kinds)]


def conv_list(model):
    return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers(model, nn.Conv2d)]


class TestLeNet5:
    @pytest.mark.parametrize(("channels", "classes", "count"), [(3, 10, 62_006), (1, 10, 61_706), (3, 100, 69_656)])
    def test_parameters(self, channels, classes, count):
        # 3 channels: conv 456 + 2,416, linear 48,120 + 10,164 + 850. A channel fewer: 6·25 weights fewer, twice.
        model = LeNet5(classes, channels)
        assert parameters(model) == count
        assert model(torch.zeros(2, channels, 32, 32)).shape == (2, classes)

    @pytest.mark.parametrize(("pool", "kind"), [("max", "MaxPool2d"), ("average", "AvgPool2d")])
    def test_layers_are_the_papers(self, pool, kind):
        expected = f"Conv2d ReLU {kind} Conv2d ReLU {kind} Flatten Linear ReLU Linear ReLU Linear"
        leaves = [type(m).__name__ for m in LeNet5(pool=pool).modules() if not list(m.children())]
        assert " ".join(leaves) == expected

    def test_noise_finds_input_and_every_layer(self):
        model = inject_noise(LeNet5(), NoiseSpec(sigma=0.1))
        names = [name for name, m in model.named_modules() if not list(m.children()) and not isinstance(m, nn.Flatten)]
        assert list(noise_sites(model)) == ["input", *names]

    def test_unknown_pooling_is_refused(self):
        with pytest.raises(ValueError, match="pool: must be 'max' or 'average'.*got 'min'"):
            LeNet5(pool="min")


class TestVGG11:
    def test_layers_are_configuration_a(self):
        with torch.device("meta"):
            model = VGG11()
        widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
        assert conv_list(model) == [(i, o, 3, 1) for i, o in zip(widths, widths[1:])]
        kinds = "".join({"Conv2d": "C", "ReLU": "r", "MaxPool2d": "P"}[type(m).__name__] for m in model.features)
        assert kinds == "CrPCrPCrCrPCrCrPCrCrP"
        assert [type(m).__name__ for m in model.classifier] == "Linear ReLU Dropout Linear ReLU Dropout Linear".split()
        assert not layers(model, nn.modules.batchnorm._BatchNorm)

    def test_parameters(self):
        # 9,220,480: the convolutions of torchvision's vgg11. The classifier: 512·4096+4096 + 4096²+4096 + 4096·10+10.
        with torch.device("meta"):
            model = VGG11()
        assert parameters(model.features) == 9_220_480
        assert parameters(model) == 9_220_480 + 2_101_248 + 16_781_312 + 40_970

    def test_options(self):
        model = VGG11(classes=7, channels=1, dropout=0.25, hidden=32)
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
        assert [m.p for m in layers(model, nn.Dropout)] == [0.25, 0.25]
        assert [m.out_features for m in layers(model, nn.Linear)] == [32, 32, 7]

    def test_init_follows_torchvision(self):
        model = VGG11(hidden=512, init="vgg")
        conv, linear = layers(model, nn.Conv2d)[5], layers(model, nn.Linear)[0]
        # 2.4e6 and 2.6e5 normals: the sample's std is within 0.5 % by more than 3 standard errors.
        assert conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.005)
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.005)
        assert not conv.bias.any()
        assert not linear.bias.any()


class TestResNet18:
    # torchvision's resnet18 has 11,689,512 with 1000 classes: with 10 classes 990·513 fewer. The 3x3 stem has
    # 9408 - 1728 weights fewer. 4800 channels are normalised, 2 parameters each; without normalisation each has one
    # bias instead. Shortcut convolutions: 64·128 + 128·256 + 256·512 weights, 896 channels.
    PUBLISHED = 11_689_512 - 990 * 513
    STEM = 9408 - 1728
    NORMALISED = 4800
    SHORTCUTS = 172_032

    @pytest.mark.parametrize("stem", ["7x7", "3x3"])
    @pytest.mark.parametrize("batch_norm", [True, False])
    @pytest.mark.parametrize("shortcuts", [True, False])
    def test_parameters(self, stem, batch_norm, shortcuts):
        expected = self.PUBLISHED - (stem == "3x3") * self.STEM - (not batch_norm) * self.NORMALISED
        expected -= (not shortcuts) * (self.SHORTCUTS + 896 * (2 if batch_norm else 1))
        with torch.device("meta"):
            model = ResNet18(batch_norm=batch_norm, shortcuts=shortcuts, stem=stem)
        assert parameters(model) == expected
        assert len(layers(model, nn.Conv2d)) == (20 if shortcuts else 17)
        assert len(layers(model, nn.BatchNorm2d)) == batch_norm * len(layers(model, nn.Conv2d))
        assert all((m.bias is None) == batch_norm for m in layers(model, nn.Conv2d))

    def test_the_usual_cifar_variant_has_11_173_962_parameters(self):
        with torch.device("meta"):
            assert parameters(ResNet18(batch_norm=True, stem="3x3")) == 11_173_962

    def test_biases_beside_normalisation_and_none_of_the_head(self):
        with torch.device("meta"):
            model = ResNet18(batch_norm=True, conv_bias=True, head_bias=False)
            bare = ResNet18(batch_norm=False, conv_bias=False)
        assert parameters(model) == self.PUBLISHED + self.NORMALISED - 10
        assert parameters(bare) == self.PUBLISHED - 2 * self.NORMALISED

    def test_one_relu_a_block_is_called_twice(self):
        torch.manual_seed(0)
        two = ResNet18()
        torch.manual_seed(0)
        one = ResNet18(one_relu=True)
        assert len(layers(one, nn.ReLU)) == 9
        assert len(layers(two, nn.ReLU)) == 17
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(one(x), two(x))

    def test_layers(self):
        convolutions = [(3, 64, 7, 2)] + [(64, 64, 3, 1)] * 4
        for width in (128, 256, 512):
            first = [(width // 2, width, 3, 2), (width, width, 3, 1), (width // 2, width, 1, 2)]
            convolutions += first + [(width, width, 3, 1)] * 2
        with torch.device("meta"):
            model = ResNet18()
        assert conv_list(model) == convolutions

    @pytest.mark.parametrize(("stem", "size"), [("7x7", 8), ("3x3", 32), ("3x3-pool", 16)])
    def test_the_stem_decides_the_resolution(self, stem, size):
        model = ResNet18(stem=stem)
        seen = []
        model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
        assert seen == [(2, 64, size, size)]

    @pytest.mark.parametrize("shortcut", [True, False])
    def test_a_block_is_the_formula(self, shortcut):
        block = BasicBlock(4, 8, stride=2, batch_norm=False, shortcut=shortcut)
        x = torch.randn(2, 4, 6, 6)
        inner = nn.functional.conv2d(x, block.conv1.weight, block.conv1.bias, stride=2, padding=1).relu()
        inner = nn.functional.conv2d(inner, block.conv2.weight, block.conv2.bias, padding=1)
        if shortcut:
            side = block.shortcut[0]
            inner = inner + nn.functional.conv2d(x, side.weight, side.bias, stride=2)
        assert torch.allclose(block(x), inner.relu(), atol=1e-6)

    def test_an_unchanged_shape_has_an_identity_shortcut(self):
        block = BasicBlock(4, 4, stride=1, batch_norm=False, shortcut=True)
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        x = torch.randn(2, 4, 6, 6)
        assert torch.equal(block(x), x.relu())

    def test_fixup_starts_with_blocks_that_pass_on_their_input(self):
        model = ResNet18(init="fixup")
        block = model.blocks[1]
        x = torch.rand(2, 64, 8, 8)
        assert torch.equal(block(x), x)
        # The first convolution: He's normal, std sqrt(2/fan_in), times 8^(-1/2); 36,864 normals, 4 standard errors.
        expected = (2 / (64 * 9)) ** 0.5 * 8**-0.5
        assert block.conv1.weight.std().item() == pytest.approx(expected, rel=4 / (2 * 36_864) ** 0.5)
        assert not any(m.bias.any() for m in layers(model, nn.Conv2d))


@pytest.mark.parametrize("make", [lambda: VGG11(hidden=64), ResNet18])
def test_every_use_of_an_activation_or_pool_is_a_module_of_its_own(make):
    model = make()
    calls = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            calls[name] = 0

            def count(module, args, output, name=name):
                calls[name] += 1

            module.register_forward_hook(count)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert set(calls.values()) == {1}
    assert sum("relu" in name or "features" in name or "classifier" in name for name in calls) >= 10
    assert all(parameter.grad is not None for parameter in model.parameters())
