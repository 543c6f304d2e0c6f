"""What reaches machine code by its address: how tensors may lie in memory, and what is no tensor with memory at all."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import analogsim as an
from analogsim.errors import AnalogSimError, BackendError, ShapeError
from analogsim.kernels import ConvGeometry, MatmulSpec, add_noise, tiled_conv, tiled_matmul
from analogsim.kernels.memory import address, contiguous, in_rows, refuse_bodiless, room, rows_address

SPEC = MatmulSpec(4, 1.5, 8, True, 2.0, None, 0.1, 0.05, 0.1)
PROFILES = {
    "constant ranges": an.HardwareProfile(dac={"bits": 8, "input_range": 4.0}, noise={"output": 0.01}),
    "dynamic range": an.HardwareProfile(dac={"bits": 8, "input_range": "dynamic"}, noise={"output": 0.01}),
    "calibrated ranges": an.HardwareProfile(dac={"bits": 8}, adc={"bits": 8}),
}


# The one place that hands out addresses.


def test_an_address_is_where_the_numbers_are():
    x = torch.arange(12.0).view(3, 4)
    assert address(x, 12) == x.data_ptr()
    assert address(x[1:], 8) == x.data_ptr() + 16
    assert address(None, 5) == 0
    assert address(torch.ones(0), 0) == 0
    assert rows_address(x[:, 1:3], 3, 2) == (x.data_ptr() + 4, 4)
    assert address(torch.ones(2, dtype=torch.int64), 2, torch.int64)


def test_rooms_do_not_overlap():
    for lengths in itertools.product((0, 1, 15, 16, 17), repeat=3):
        memory, starts = room(torch.ones(1), *lengths)
        assert all(bool(start) == bool(length) for start, length in zip(starts, lengths))
        spans = [(start, start + 4 * length) for start, length in zip(starts, lengths) if length]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert not spans or memory.data_ptr() <= spans[0][0] <= spans[-1][1] <= memory.data_ptr() + 4 * memory.numel()


def shrunk(numbers):
    x = torch.ones(numbers)
    x.untyped_storage().resize_(4 * (numbers - 1))
    return x


def freed(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


NOT_THERE = {
    "one too few": lambda: torch.ones(7),
    "one too many": lambda: torch.ones(9),
    "float64": lambda: torch.ones(8, dtype=torch.float64),
    "integers": lambda: torch.ones(8, dtype=torch.int32),
    "one number, expanded": lambda: torch.ones(1).expand(8),
    "every other": lambda: torch.ones(16)[::2],
    "transposed": lambda: torch.ones(2, 4).T,
    "meta": lambda: torch.ones(8, device="meta"),
    "freed": lambda: freed(torch.ones(8)),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_what_is_not_there_has_no_address(case):
    with pytest.raises(BackendError if case == "freed" else ShapeError):
        address(NOT_THERE[case](), 8)


def test_storage_that_ends_too_early_has_no_address():
    with pytest.raises(BackendError, match="memory"):
        address(shrunk(8), 8)
    x = shrunk(8)
    assert address(x[:7], 7) == x.data_ptr()
    with pytest.raises(BackendError, match="memory"):
        rows_address(shrunk(8).view(2, 4), 2, 4)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.ones(3, 4),
        torch.ones(3, 4, dtype=torch.float64).float().T,
        torch.ones(1, 4).expand(3, 4),
        torch.ones(3, 1).expand(3, 4),
        torch.ones(4, 3)[:, :1],
        torch.ones(4, 3).T[:1],
        torch.ones(4, 3)[::4, ::2][:, 1:],
        torch.ones(12).as_strided((1, 4), (2**40, 1)),
        torch.ones(12).as_strided((3, 4), (2, 1)),
        torch._neg_view(torch.ones(3, 4)),
        torch.ones(3, 8)[:, 2:6],
    ],
    ids=lambda matrix: f"{tuple(matrix.shape)} {tuple(matrix.stride())}",
)
def test_every_matrix_has_rows_that_lie_apart(matrix):
    found = in_rows(matrix)
    begin, apart = rows_address(found, *matrix.shape)
    assert torch.equal(found, matrix)
    assert not found.is_neg()
    assert begin == found.data_ptr()
    assert matrix.shape[1] <= apart < 2**31


# Ways in which the same numbers may lie in memory.


def lying(x):
    """Yield tensors equal to x that lie otherwise, by name."""
    spread = torch.full([2 * size + 1 for size in x.shape], torch.nan)
    spread[tuple(slice(0, 2 * size, 2) for size in x.shape)] = x
    yield "every other element of a larger one", spread[tuple(slice(0, 2 * size, 2) for size in x.shape)]
    yield "transposed", x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    yield "from the middle of memory", torch.cat([torch.full((3,), torch.nan), x.flatten()])[3:].view(x.shape)
    yield "with the other sign", torch._neg_view(-x)
    yield "the imaginary part of a conjugate", torch.complex(x, -x).conj().imag
    yield "a parameter", nn.Parameter(x.clone())
    if x.ndim == 4:
        yield "channels last", x.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        yield "of inference", x.clone()


def products(**arguments):
    x, w, scale, bias = (arguments[key] for key in ("x", "w", "scale", "bias"))
    return tiled_matmul(x, w, SPEC, 5, 9, scale=scale, bias=bias)[0]


def convolutions(**arguments):
    x, w, scale, bias = (arguments[key] for key in ("x", "w", "scale", "bias"))
    return tiled_conv(x, w, SPEC, ConvGeometry((1, 1), (1, 1), (1, 1)), 5, 9, scale=scale, bias=bias)[0]


def exact_convolutions(**arguments):
    x, w, scale, bias = (arguments[key] for key in ("x", "w", "scale", "bias"))
    return tiled_conv(x, w, MatmulSpec(4), ConvGeometry((1, 1), (1, 1), (1, 1)), scale=scale, bias=bias)[0]


def noises(**arguments):
    return add_noise(arguments["x"], arguments["scale"].view(-1, 1).abs(), arguments["bias"].view(-1, 1).abs(), 5, 9)


SIZES = {
    products: [((m, 5), (n, 5), n) for m in (1, 3) for n in (1, 4, 17)],
    convolutions: [((b, 2, 4, 3), (n, 2, 3, 3), n) for b in (1, 17) for n in (1, 9)],
    exact_convolutions: [((2, 2, 4, 3), (n, 2, 3, 3), n) for n in (1, 3)],
    noises: [((n, 5), (1,), n) for n in (1, 4)],
}


@pytest.mark.parametrize("compute", SIZES)
def test_how_a_tensor_lies_in_memory_changes_nothing(compute):
    for x_shape, w_shape, n in SIZES[compute]:
        generator = torch.Generator().manual_seed(n)
        shapes = {"x": x_shape, "w": w_shape, "scale": (n,), "bias": (n,)}
        plain = {key: torch.rand(shape, generator=generator) - 0.4 for key, shape in shapes.items()}
        want = compute(**plain)
        for key, value in plain.items():
            for way, other in lying(value):
                torch.testing.assert_close(
                    compute(**plain | {key: other}).detach(), want, atol=2e-6, rtol=1e-5, msg=f"{key}: {way}"
                )


@pytest.mark.parametrize("kind", ["linear", "convolution", "transposed"])
def test_how_a_layers_tensors_lie_in_memory_changes_nothing(kind):
    profile = an.HardwareProfile(tile={"rows": 8}, dac={"bits": 6, "input_range": 2.0}, adc={"full_scale": 2.0})
    make, shape = {
        "linear": (lambda: an.nn.AnalogLinear(5, 1, profile=profile), (4, 5)),
        "convolution": (lambda: an.nn.AnalogConv2d(3, 2, 2, profile=profile), (2, 3, 4, 4)),
        "transposed": (lambda: an.nn.AnalogConvTranspose2d(3, 1, 2, profile=profile), (2, 3, 4, 4)),
    }[kind]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape)

    def both(x, grad=None):
        x = x if x.is_inference() or x.is_leaf and x.requires_grad else x.detach().requires_grad_()
        out = layer(x)
        if x.is_inference():
            return out, None
        return out, torch.autograd.grad(out, x, torch.ones_like(out) if grad is None else grad)[0]

    want, want_grad = both(x)
    for way, other in lying(x):
        out, grad = both(other)
        torch.testing.assert_close(out, want, msg=way)
        if grad is not None:
            torch.testing.assert_close(grad, want_grad, msg=way)
    for grad in (torch.ones(1).expand(want.shape), torch._neg_view(-torch.ones(want.shape))):
        torch.testing.assert_close(both(x, grad)[1], want_grad)


@pytest.mark.parametrize("name", ["scale", "bias"])
@pytest.mark.parametrize(
    "wrong",
    [torch.ones(3), torch.ones(5), torch.ones(1), torch.ones(4, 1), torch.ones(4).double(), torch.ones(4).bfloat16()],
    ids=lambda value: f"{tuple(value.shape)} {value.dtype}",
)
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_scale_and_bias_are_one_number_an_output(name, wrong, backend):
    x, w, image, kernel = torch.ones(2, 3), torch.ones(4, 3), torch.ones(2, 3, 4), torch.ones(4, 3, 2)
    with pytest.raises(ShapeError, match=f"{name}: 4 numbers"):
        tiled_matmul(x, w, SPEC, **{name: wrong}, backend=backend)
    with pytest.raises(ShapeError, match=f"{name}: 4 numbers"):
        tiled_conv(image, kernel, SPEC, ConvGeometry((1,), (0,), (1,)), **{name: wrong}, backend=backend)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_tensor_of_sigma_is_one_number_a_sample(backend):
    x = torch.randn(4, 5)
    for wrong in (torch.ones(3), torch.ones(5), torch.ones(4, 5), torch.ones(1, 4), torch.ones(0)):
        with pytest.raises(ShapeError, match="sigma: one value"):
            add_noise(x, wrong, backend=backend)
        with pytest.raises(ShapeError, match="multiplicative: one value"):
            add_noise(x, 0.1, wrong, backend=backend)
    for right in (torch.tensor(2.0), torch.full((1,), 2.0), torch.full((4,), 2.0), torch.full((4, 1), 2.0).double()):
        assert torch.equal(add_noise(x, right, backend=backend), add_noise(x, 2.0, backend=backend))
    with pytest.raises(ShapeError, match="floating-point"):
        add_noise(torch.ones(3, dtype=torch.int64), 0.1, backend=backend)
    site = an.noise.NoiseSite("a", 0, an.NoiseSpec(sigma=1.0), torch.ones(2))
    with pytest.raises(ShapeError, match="2 values for a batch of 1"):
        site.perturb(torch.tensor(1.0), True)


def test_tensors_that_are_negated_when_read_are_negated():
    x = torch._neg_view(torch.ones(3, 4))
    assert x.is_contiguous()
    assert torch.equal(contiguous(x), -torch.ones(3, 4))
    assert torch.equal(add_noise(x, 0.0), x)
    torch.testing.assert_close(tiled_matmul(x, x, MatmulSpec(2, 2.0))[0], torch.full((3, 3), 2.0))


# What has no memory of its own.


class Wrapper(torch.Tensor):
    """A subclass without storage, as DTensor is."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*(arg.inner if isinstance(arg, cls) else arg for arg in args), **(kwargs or {}))


def fake(x):
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


BODILESS = {
    "a wrapper": Wrapper,
    "a FakeTensor": fake,
    "meta": lambda x: x.to("meta"),
    "sparse": torch.Tensor.to_sparse,
    "sparse rows": lambda x: x.to_sparse_csr(dense_dim=x.ndim - 2),
    "packed": torch.Tensor.to_mkldnn,
    "freed": freed,
}
ignored = pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*nested", "ignore:.*beta")


@ignored
@pytest.mark.parametrize("kind", BODILESS)
def test_kernels_refuse_what_has_no_memory(kind):
    x, w, image, kernel = torch.randn(2, 3), torch.randn(4, 3), torch.randn(2, 3, 4), torch.randn(4, 3, 2)
    bodiless, geometry = BODILESS[kind], ConvGeometry((1,), (0,), (1,))
    for call in (
        lambda: refuse_bodiless(None, x, bodiless(x)),
        lambda: tiled_matmul(bodiless(x), w, SPEC),
        lambda: tiled_matmul(x, bodiless(w), SPEC),
        lambda: tiled_matmul(x, w, SPEC, bias=bodiless(w)),
        lambda: tiled_conv(bodiless(image), kernel, SPEC, geometry),
        lambda: add_noise(bodiless(x), 0.1),
        lambda: add_noise(x, bodiless(torch.ones(2, 1))),
    ):
        with pytest.raises(BackendError, match="memory") as raised:
            call()
        assert "\n" not in str(raised.value)


@ignored
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", BODILESS)
def test_layers_refuse_what_has_no_memory(kind, profile):
    layers = nn.Linear(3, 4), nn.Conv1d(3, 4, 2), nn.ConvTranspose1d(3, 4, 2), nn.LSTM(3, 4), nn.LSTMCell(3, 4)
    inputs = torch.randn(2, 3), torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(5, 2, 3), torch.randn(2, 3)
    for layer, x in zip(layers, inputs):
        model = an.convert(layer, PROFILES[profile])
        with pytest.raises(AnalogSimError, match="memory") as raised:
            model(BODILESS[kind](x))
        assert "\n" not in str(raised.value)
    noisy = an.inject_noise(nn.Sequential(nn.ReLU()), an.NoiseSpec(sigma=0.1))
    if kind != "meta":
        with pytest.raises(BackendError, match="memory"):
            noisy(BODILESS[kind](torch.randn(2, 3)))


def test_a_parameter_whose_storage_was_freed_is_refused():
    model = an.convert(nn.Linear(3, 4), PROFILES["constant ranges"])
    model.weight.untyped_storage().resize_(0)
    with pytest.raises(BackendError, match="memory"):
        model(torch.randn(2, 3))


def test_distributed_tensors_are_refused():
    distributed = pytest.importorskip("torch.distributed")
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        x = distribute_tensor(torch.randn(2, 3), mesh, [Shard(0)])
        with pytest.raises(BackendError, match="DTensor has none.*to_local"):
            an.convert(nn.Linear(3, 4), PROFILES["constant ranges"])(x)
        with pytest.raises(BackendError, match="DTensor has none.*to_local"):
            add_noise(x, 0.1)
    finally:
        distributed.destroy_process_group()


def networks():
    """Yield networks that draw or convert, by name."""
    for name, profile in PROFILES.items():
        model = an.convert(nn.Sequential(nn.Linear(3, 4)), profile)
        an.calibrate(model, [torch.randn(20, 3)], progress=False)
        yield name, model.eval()
    yield "noise", an.inject_noise(nn.Sequential(nn.Linear(3, 4)), an.NoiseSpec(sigma=0.1)).eval()
    yield "weight noise", an.inject_noise(nn.Linear(3, 4), an.NoiseSpec(sigma=0.1, target="weights")).eval()


RECORDERS = {
    "export": lambda model, x: torch.export.export(model, (x,)),
    "export, not strict": lambda model, x: torch.export.export(model, (x,), strict=False),
    "export, any batch": lambda model, x: torch.export.export(
        model, (x,), dynamic_shapes=({0: torch.export.Dim("b")},)
    ),
    "trace": torch.jit.trace,
    "onnx": lambda model, x: torch.onnx.export(model, (x,), "/dev/null", dynamo=False),
    "make_fx": lambda model, x: make_fx(model)(x),
    "make_fx, fake": lambda model, x: make_fx(model, tracing_mode="fake")(x),
    "make_fx, symbolic": lambda model, x: make_fx(model, tracing_mode="symbolic")(x),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
@pytest.mark.parametrize("recorder", RECORDERS)
def test_nothing_records_crossbars_or_noise(recorder):
    for name, model in networks():
        if (name, recorder) == ("weight noise", "export, any batch"):
            continue  # whose forward takes anything, so that torch does not know its inputs by name
        with pytest.raises(BackendError, match=r"cannot record.*to_digital"):
            RECORDERS[recorder](model, torch.randn(2, 3))
        assert model(torch.randn(2, 3)).isfinite().all(), name


TRANSFORMS = {
    "vmap": lambda model, x: torch.vmap(model)(x),
    "grad": lambda model, x: torch.func.grad(lambda given: model(given).sum())(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x,)),
    "functionalize": lambda model, x: torch.func.functionalize(model)(x),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_transforms_crossbars_or_noise(transform):
    for _, model in networks():
        with pytest.raises(BackendError, match=r"torch\.func"):
            TRANSFORMS[transform](model, torch.randn(2, 3))


def test_a_mode_without_numbers_is_refused():
    for _, model in networks():
        with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(BackendError, match="FakeTensorMode"):
            model(torch.randn(2, 3))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_forward_derivatives_are_not_lost():
    from torch.autograd import forward_ad

    for name, model in networks():
        with forward_ad.dual_level():
            x = forward_ad.make_dual(torch.randn(2, 3), torch.randn(2, 3))
            if name == "weight noise":  # torch's own product
                assert forward_ad.unpack_dual(model(x)).tangent is not None
                continue
            with pytest.raises((NotImplementedError, RuntimeError), match="(?i)jvp|forward"):
                model(x)


def test_on_the_meta_device_there_are_the_twins_shapes():
    cases = [
        (lambda: nn.Linear(3, 4), (2, 5, 3)),
        (lambda: nn.Conv2d(3, 4, 2), (2, 3, 4, 4)),
        (lambda: nn.ConvTranspose2d(3, 4, 2, stride=2), (2, 3, 4, 4)),
        (lambda: nn.GRU(3, 4), (5, 2, 3)),
    ]
    profiles = [*PROFILES.values(), an.HardwareProfile.load("pcm")]
    for (make, shape), profile in itertools.product(cases, profiles):
        digital = make().to("meta")
        analog = an.convert(make(), profile)
        analog = analog if isinstance(analog, nn.GRU) else an.inject_noise(analog, an.NoiseSpec(sigma=0.1))
        analog = analog.to("meta").eval()
        results = []
        for model in (digital, analog):
            x = torch.randn(shape, device="meta", requires_grad=True)
            out = model(x)
            out = out[0] if isinstance(out, tuple) else out
            out.sum().backward()
            results.append((out.shape, out.dtype, x.grad.shape, [p.grad.shape for p in model.parameters()]))
        assert results[0] == results[1]


# Nothing at all: what torch does with sizes of 0.


def sized(kind, *given, **more):
    return f"{kind.__name__}{given}", lambda: kind(*given, **more)


EMPTY = [
    *(
        (sized(nn.Linear, k, n), shape)
        for k, n in itertools.product((0, 3), (0, 2))
        for shape in ((5, k), (0, k), (k,), (0, 5, k))
        if 0 in (n, *shape)
    ),
    *(
        (sized(kind, i, o, 2, groups=g), (b, i, *[4] * d))
        for d in (1, 2, 3)
        for kind in (getattr(nn, f"Conv{d}d"), getattr(nn, f"ConvTranspose{d}d"))
        for i, o, g, b in ((4, 2, 1, 0), (4, 4, 2, 0), (0, 2, 1, 0), (0, 2, 1, 2))
        if i or "Transpose" not in kind.__name__  # which torch refuses
    ),
    (sized(nn.LSTM, 3, 2), (4, 0, 3)),
    (sized(nn.GRU, 3, 1), (4, 0, 3)),
    (sized(nn.LSTMCell, 3, 1), (0, 3)),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("hardware", ["constant", "dynamic", "pcm", "isaac"])
def test_of_nothing_a_layer_makes_what_torch_makes(hardware):
    profile = {
        "constant": an.HardwareProfile(
            dac={"bits": 8, "input_range": 4.0},
            adc={"bits": 8, "full_scale": 4.0},
            noise={"output": 0.01},
            weight={"w_max": "tensor"},
            tile={"rows": 4},
        ),
        "dynamic": PROFILES["dynamic range"],
    }.get(hardware) or an.HardwareProfile.load(hardware)
    for ((name, make), shape), dtype in itertools.product(EMPTY, (torch.float32, torch.float64)):
        digital = make().to(dtype)
        analog = an.convert(copy.deepcopy(digital), profile)
        results = []
        for model in (digital, analog):
            x = torch.randn(shape, dtype=dtype, requires_grad=True)
            out = model(x)
            out = out[0] if isinstance(out, tuple) else out
            out.sum().backward()
            results.append((out, x.grad, [p.grad for p in model.parameters()]))
        (want, want_grad, wanted), (out, grad, grads) = results
        assert out.dtype == dtype
        assert torch.equal(out, want), (name, shape)
        assert torch.equal(grad, want_grad), (name, shape)
        assert all(map(torch.equal, grads, wanted)), (name, shape)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_kernels_of_nothing(backend):
    for m, k, n, ends in itertools.product((0, 2), (0, 3), (0, 4), (False, True)):
        given = {"scale": torch.full((n,), 2.0), "bias": torch.arange(float(n))} if ends else {}
        out, clips = tiled_matmul(torch.ones(m, k), torch.ones(n, k), SPEC, **given, record_clips=True, backend=backend)
        assert out.shape == (m, n)
        assert clips.bits.shape[1:] == (m, n)
        if not k:
            assert torch.equal(out, given["bias"].expand(m, n) if ends else torch.zeros(m, n))
    for b, c, n, ends in itertools.product((0, 2, 17), (0, 3), (1, 9), (False, True)):
        given = {"scale": torch.full((n,), 2.0), "bias": torch.arange(float(n))} if ends else {}
        x, w, geometry = torch.ones(b, c, 4), torch.ones(n, c, 2), ConvGeometry((1,), (0,), (1,))
        out, _ = tiled_conv(x, w, SPEC, geometry, **given, record_clips=True, backend=backend)
        assert out.shape == (b, n, 3)
        if not c:
            assert torch.equal(out, given["bias"].view(-1, 1).expand(b, n, 3) if ends else torch.zeros(b, n, 3))
