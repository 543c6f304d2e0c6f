"""LeNet-5 as the paper uses it (arXiv 2501.14531): 32×32 inputs, ReLU, and pooling that is maximum or average."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn


class LeNet5(nn.Module):
    """Conv 6@5×5, pool, conv 16@5×5, pool, linear 120, 84, classes; 62,006 parameters for 3 channels and 10 classes.

    Parameters
    ----------
    classes, channels : int
    pool : {"max", "average"}
        The paper's group uses average pooling in its float script and maximum pooling in its quantized one.
    head_bias : bool
        Whether the last layer has a bias; that of the group's quantized networks has none.

    Notes
    -----
    Input (B, channels, 32, 32), output (B, classes) logits. Activations and pooling are modules, so that every
    transform finds them.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-based learning applied to document recognition*, 1998.
    """

    def __init__(
        self, classes: int = 10, channels: int = 3, pool: Literal["max", "average"] = "max", head_bias: bool = True
    ) -> None:
        super().__init__()
        kinds = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
        if pool not in kinds:
            raise ValueError(f"pool: must be 'max' or 'average' (got {pool!r})")
        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 6, 5),
                relu1=nn.ReLU(),
                pool1=kinds[pool](2),
                conv2=nn.Conv2d(6, 16, 5),
                relu2=nn.ReLU(),
                pool2=kinds[pool](2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                linear1=nn.Linear(16 * 5 * 5, 120),
                relu3=nn.ReLU(),
                linear2=nn.Linear(120, 84),
                relu4=nn.ReLU(),
                linear3=nn.Linear(84, classes, bias=head_bias),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.classifier(self.features(x))
