"""Quantization-aware training: Brevitas quantizers on the layers of a plain torch network (design section 7).

What is quantized: weights of linear and convolution layers (signed, narrow range: 2^b - 1 levels, scale from the
largest absolute weight) and the outputs of activation modules (2^b levels, one scale a tensor; unsigned where they are
never negative). Biases, pooling, residual additions and the network's output stay as they are, and so do activation
functions, with a warning.
Gradients are Brevitas' straight-through: 1 inside the range, 0 where the quantizer clips.
"""

from .freeze import freeze_quantization
from .layers import FixedQuantizer, QuantActivation, QuantReLU, activation_quantizer, quantized_weight, weight_quantizer
from .prepare import prepare_qat
from .spec import QATSpec

__all__ = [
    "FixedQuantizer",
    "QATSpec",
    "QuantActivation",
    "QuantReLU",
    "activation_quantizer",
    "freeze_quantization",
    "prepare_qat",
    "quantized_weight",
    "weight_quantizer",
]
