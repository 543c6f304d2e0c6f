"""How a network is quantized: a value, for the whole and for single layers."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..errors import QuantizationError
from ..value import Value, explain

Bits = Annotated[int, Field(ge=2, le=16)]
PER_LAYER = ("weight_bits", "weight_scaling", "act_bits", "scaling", "s", "span", "act_dynamic")


class QATSpec(Value):
    """How a network is quantized. A value: immutable and comparable.

    Raises
    ------
    QuantizationError
        A value is impossible, values do not fit together, or a key is unknown.

    Examples
    --------
    >>> QATSpec(scaling="constant", s=0.1).act_step
    0.10039215686274511
    """

    weight_bits: Bits | None = 8
    """Resolution of the weights in bits. null: weights stay floating point."""
    act_bits: Bits | None = 8
    """Resolution of the activations' outputs in bits: unsigned of ReLU, ReLU6, sigmoid and softplus, signed of the
    others. null: activations stay floating point."""
    weight_scaling: Literal["channel", "tensor"] = "channel"
    """One weight scale per output channel, or one for the whole tensor."""
    head_weight_scaling: Literal["channel", "tensor"] = "tensor"
    """The same for the last linear layer in the order of the modules, the classifier's output (the paper: tensor)."""
    scaling: Literal["constant", "dynamic"] = "dynamic"
    """Range of the activations: `constant`, [0, 2^b·s] for ever (signed: ±2^b·s), or `dynamic`, found by
    `act_dynamic`."""
    s: Annotated[float, Field(gt=0)] | None = None
    """Scaling factor of constant scaling, activation units; the quantization step is s·2^b/(2^b - 1)."""
    span: Annotated[float, Field(gt=0)] | None = None
    """Range of constant scaling in units of s: [0, span·s] (signed: ±span·s). null: 2^b. The scripts of the paper's
    group have 15 at 4 bits, where the step is s itself."""
    act_dynamic: Literal["learned", "statistics"] = "learned"
    """Dynamic scaling. learned (Brevitas' default): the 99.999th percentile, averaged over the first `collect_steps`
    training steps, then a parameter that is trained. statistics: each training batch's maximum; its running mean in
    evaluation."""
    collect_steps: Annotated[int, Field(ge=1)] = 300
    """Training steps after which a learned range becomes a parameter (Brevitas' collect_stats_steps)."""
    input_bits: Bits | None = None
    """Resolution of the network's input, signed, learned range; applied where the first quantized layer reads it.
    null (the paper): the input is not quantized."""
    relu_noise: Literal["before", "after"] = "before"
    """Where noise injected at an activation meets its quantizer. before: noise is added to the activation, then
    quantized. after: the quantized activation is disturbed."""
    overrides: dict[str, dict[str, Any]] = {}
    """Per layer: module name or pattern ("fc*", "features.0"; a container means all in it) → changed fields out of
    weight_bits, weight_scaling, act_bits, scaling, s, act_dynamic. Where several match, the last wins."""
    exclude: tuple[str, ...] = ()
    """Names or patterns of what stays floating point: modules, and bare parameters."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise QuantizationError(explain(error, type(self))) from None

    @model_validator(mode="after")
    def _constant_scaling_needs_s(self) -> Self:
        if self.scaling == "constant" and self.s is None:
            raise ValueError("constant scaling needs the factor s (the activations' range is [0, 2^b·s])")
        if self.scaling == "dynamic" and self.s is not None:
            raise ValueError("s belongs to constant scaling; give scaling='constant' or leave s out")
        if self.scaling == "dynamic" and self.span is not None:
            raise ValueError("span belongs to constant scaling, whose range it is in units of s; leave it out")
        return self

    @model_validator(mode="after")
    def _overrides_are_possible(self) -> Self:
        for name, changes in self.overrides.items():
            if unknown := set(changes) - set(PER_LAYER):
                raise ValueError(
                    f"overrides[{name!r}]: {', '.join(sorted(unknown))}: a layer may change {', '.join(PER_LAYER)}"
                )
            self._merged(changes)
        return self

    @property
    def act_range(self) -> float | None:
        """Upper end of constant scaling's range, 2^b·s or span·s, activation units; None where there is none."""
        if self.s is None or self.act_bits is None:
            return None
        return (2.0**self.act_bits if self.span is None else self.span) * self.s

    @property
    def act_step(self) -> float | None:
        """Quantization step of constant scaling, its range / (2^b - 1), activation units; None where there is none."""
        if self.act_range is None or self.act_bits is None:
            return None
        return self.act_range / (2**self.act_bits - 1)

    def layer(self, *names: str, head: bool = False) -> "QATSpec":
        """Return what holds for one layer: this spec with the overrides that match one of its names merged in."""
        spec = self._merged({"weight_scaling": self.head_weight_scaling} if head else {})
        for pattern, changes in self.overrides.items():
            if matches(pattern, names):
                spec = spec._merged(changes)
        return spec

    def _merged(self, changes: dict[str, Any]) -> "QATSpec":
        if changes.get("scaling") == "dynamic":
            changes = {"s": None, "span": None} | changes
        return QATSpec(**(self.model_dump(exclude={"overrides"}) | changes))


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Say whether the pattern names the module, by one of its names, or a container around it."""
    heads = (name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1))
    return any(fnmatchcase(head, pattern) for head in heads)
