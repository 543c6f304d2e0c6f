"""VGG-11 for 32x32 images (Simonyan and Zisserman, "Very deep convolutional networks", 2015, configuration A)."""

from typing import Literal

from torch import Tensor, nn

# Channels of the 3x3 convolutions; P is a 2x2 max-pool. Five pools take 32x32 to 1x1.
LAYOUT = (64, "P", 128, "P", 256, 256, "P", 512, 512, "P", 512, 512, "P")


class VGG11(nn.Module):
    """Eight convolutions and three linear layers, no batch normalisation (design section 7).

    Parameters
    ----------
    classes, channels : int
        Outputs and input channels.
    dropout : float
        Probability, after each of the two hidden linear layers.
    hidden : int
        Width of the two hidden linear layers.
    init : {"torch", "vgg"}
        Initial weights: PyTorch's, or those of torchvision's VGG (He's normal by fan-out for convolutions, N(0, 0.01²)
        for linear layers, zero biases).
    head_bias : bool
        Whether the last layer has a bias; that of the quantized networks of the paper's group has none.

    Notes
    -----
    Input (B, channels, 32, 32), output (B, classes). With the default widths 28,144,010 parameters, 9,220,480 of them
    in the convolutions.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        dropout: float = 0.5,
        hidden: int = 4096,
        init: Literal["torch", "vgg"] = "torch",
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for item in LAYOUT:
            if isinstance(item, int):
                layers += [nn.Conv2d(width, item, 3, padding=1), nn.ReLU()]
                width = item
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes, bias=head_bias),
        )
        if init == "vgg":
            self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, channels, 32, 32) -> (B, classes)."""
        return self.classifier(self.flatten(self.features(x)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
