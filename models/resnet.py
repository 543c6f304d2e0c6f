"""ResNet-18 for 32x32 images (He et al., "Deep residual learning for image recognition", 2016)."""

from typing import Literal

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: relu(conv2(relu(conv1(x))) + shortcut(x)).

    Parameters
    ----------
    inputs, width, stride : int
        Channels that come in, channels of both convolutions, stride of the first.
    batch_norm : bool
        Normalise after every convolution.
    shortcut : bool
        False: relu(conv2(relu(conv1(x)))), a plain network.
    bias : bool, optional
        Of the convolutions; default: where they are not normalised.
    one_relu : bool
        Whether both ReLUs are one module.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        batch_norm: bool,
        shortcut: bool,
        bias: bool | None = None,
        one_relu: bool = False,
    ) -> None:
        super().__init__()
        bias = not batch_norm if bias is None else bias
        self.conv1 = conv(inputs, width, 3, stride, bias)
        self.norm1 = norm(width, batch_norm)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(width, width, 3, 1, bias)
        self.norm2 = norm(width, batch_norm)
        self.shortcut: nn.Module | None = None
        if shortcut and (stride != 1 or inputs != width):
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride, bias), norm(width, batch_norm))
        elif shortcut:
            self.shortcut = nn.Identity()
        self.relu2 = self.relu1 if one_relu else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, inputs, H, W) -> (B, width, H/stride, W/stride)."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return self.relu2(y)


class ResNet18(nn.Module):
    """Eight basic blocks at 64, 128, 256 and 512 channels (design section 7); the defaults are the paper's.

    Parameters
    ----------
    classes, channels : int
        Outputs and input channels.
    batch_norm : bool
        Batch normalisation after every convolution.
    shortcuts : bool
        False leaves the residual connections out (a plain network of 18 layers).
    stem : {"7x7", "3x3", "3x3-pool"}
        "7x7": stride 2, then a 3x3 max-pool of stride 2 (32x32 becomes 8x8 before the first block);
        "3x3": stride 1, no pooling, the usual one for CIFAR; "3x3-pool": stride 1, and the max-pool.
    init : {"torch", "fixup"}
        Initial weights: PyTorch's, or those for residual networks without normalisation (Zhang et al., "Fixup
        initialization", 2019, rule 2): He's normal, the second convolution of every block zero, the first scaled by
        8^(-1/2), zero biases.
    head_bias : bool
        Whether the last layer has a bias; that of the quantized networks of the paper's group has none.
    conv_bias : bool, optional
        Whether convolutions have; default: where they are not normalised. Those of the paper's group have both.
    one_relu : bool
        Whether the two ReLUs of a block are one module, as in the scripts of the paper's group: one noise site, which
        draws at each call, and one quantizer, with one range for both.

    Notes
    -----
    Input (B, channels, 32, 32), output (B, classes). 11,173,962 parameters with the 3x3 stem and batch normalisation.
    Without normalisation, at the paper's learning rate 1e-2 with Adam, PyTorch's initial weights diverged within 50
    steps and stayed at chance (three seeds of three; 11,500 images of CIFAR-10, JPEG re-encoded; batch 128, at most 300
    steps). "fixup" trained (three of three), and so did PyTorch's weights at 1e-3 (one of one).
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        batch_norm: bool = False,
        shortcuts: bool = True,
        stem: Literal["3x3", "3x3-pool", "7x7"] = "7x7",
        init: Literal["torch", "fixup"] = "torch",
        head_bias: bool = True,
        conv_bias: bool | None = None,
        one_relu: bool = False,
    ) -> None:
        super().__init__()
        size, stride = (7, 2) if stem == "7x7" else (3, 1)
        bias = not batch_norm if conv_bias is None else conv_bias
        self.conv = conv(channels, WIDTHS[0], size, stride, bias)
        self.norm = norm(WIDTHS[0], batch_norm)
        self.relu = nn.ReLU()
        self.pool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, stride=2, padding=1)
        blocks: list[nn.Module] = []
        inputs = WIDTHS[0]
        how = batch_norm, shortcuts, bias, one_relu
        for width in WIDTHS:
            blocks.append(BasicBlock(inputs, width, 1 if width == WIDTHS[0] else 2, *how))
            blocks.append(BasicBlock(width, width, 1, *how))
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(WIDTHS[-1], classes, bias=head_bias)
        if init == "fixup":
            self._initialise(zero_residual=shortcuts)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, channels, 32, 32) -> (B, classes)."""
        x = self.pool(self.relu(self.norm(self.conv(x))))
        return self.head(self.flatten(self.average(self.blocks(x))))

    def _initialise(self, zero_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, BasicBlock) and zero_residual:
                module.conv1.weight.data.mul_(8**-0.5)
                nn.init.zeros_(module.conv2.weight)


def conv(inputs: int, outputs: int, size: int, stride: int, bias: bool) -> nn.Conv2d:
    """Return a convolution with half padding."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


def norm(width: int, batch_norm: bool) -> nn.Module:
    """Return batch normalisation, or nothing."""
    return nn.BatchNorm2d(width) if batch_norm else nn.Identity()
