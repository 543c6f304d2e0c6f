"""Input ranges that training learns."""

import torch
from torch import nn

from ..errors import CalibrationError, ConversionError
from ..nn import AnalogLayer, analog_layers

NAME = "input_range"


@torch.inference_mode(False)  # the parameters must outlive it
def learn_ranges(model: nn.Module, learn: bool = True) -> list[nn.Parameter]:
    r"""Make every analog layer's input range α a parameter, so that any optimiser trains it with the weights.

    The gradient is straight-through (`analogsim.nn.function.range_gradient`): clipped inputs pull α up, the rounding of
    the others and the noise that α scales push it down, each as far as the loss cares. Noise that grows with the inputs
    (of weights and cells, and multiplicative) does neither.

    Parameters
    ----------
    model : nn.Module
        Converted and calibrated, with `dac.input_range: calibrated` in its profile; α starts from what calibration
        found.
    learn : bool
        False turns the parameters back into constants.

    Returns
    -------
    list of nn.Parameter ()
        One for each layer, activation units, for an optimiser's parameter group; empty where `learn` is False.

    Raises
    ------
    ConversionError
        The model has no analog layer whose range is calibrated, or a range is [low, high].
    CalibrationError
        A range was never set.

    Notes
    -----
    The gradient sums over a batch's every input of the layer, so that α's is many times a weight's: Adam does not mind,
    plain SGD wants a smaller rate for these parameters (LSQ scales the gradient instead). Leave weight decay off, which
    pulls α to zero. Where noise grows with the inputs, a backward computes every partial sum again. The `state_dict`
    keys stay what they are.

    References
    ----------
    S. K. Esser et al., *Learned Step Size Quantization*, ICLR 2020. J. Choi et al., *PACT: Parameterized Clipping
    Activation for Quantized Neural Networks*, arXiv 1805.06085.

    Examples
    --------
    >>> from analogsim import AnalogLinear, HardwareProfile
    >>> layer = AnalogLinear(8, 3, profile=HardwareProfile(dac={"bits": 4}))
    >>> _ = layer.input_range.fill_(2.0)
    >>> learn_ranges(layer)
    [Parameter containing:
    tensor(2., requires_grad=True)]
    """
    layers = [(name, layer) for name, layer in analog_layers(model) if layer.profile.dac.input_range == "calibrated"]
    if not layers:
        raise ConversionError(
            f"{type(model).__name__}: no analog layer has dac.input_range 'calibrated'; only such ranges can be learned"
        )
    for name, layer in layers:
        if layer.profile.tile.current_limit is not None and learn:
            raise ConversionError(
                f"{name or 'the layer'}: no input ranges are learned where integrators limit columns' currents; set "
                "tile.current_limit to null"
            )
        if not layer.profile.dac.symmetric or layer.profile.dac.rounding != "nearest":
            raise ConversionError(
                f"{name or 'the layer'}: only symmetric input ranges are learned, of DACs that round to the nearest "
                "level; set dac.symmetric to true and dac.rounding to 'nearest'"
            )
        if learn and layer.input_range.isnan():
            raise CalibrationError(
                f"{name or 'the layer'}: its range was never set; run calibrate(model, batches) first"
            )
        learn_alone(layer, learn)
    return [layer.input_range for _, layer in layers if isinstance(layer.input_range, nn.Parameter)]


def learn_alone(layer: AnalogLayer, learn: bool) -> None:
    """Make one layer's input range a parameter, or a constant again."""
    value = layer.input_range.detach().clone()
    if learn and NAME in layer._buffers:
        delattr(layer, NAME)
        layer.register_parameter(NAME, nn.Parameter(value))
    elif not learn and NAME in layer._parameters:
        delattr(layer, NAME)
        layer.register_buffer(NAME, value)
