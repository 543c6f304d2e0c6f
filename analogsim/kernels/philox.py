r"""The random numbers, stated readably: counter-based Philox words, and normals from them by Box-Muller.

Normal number ``e`` of a tile (``e`` is the flat index of an element in its partial-sum tensor) is a pure function of
(seed, stream, tile, e), so it depends neither on the number of threads nor on block sizes nor on the backend.

Elements come in panels of 128, and a panel in 16 Philox blocks of 4 words, each word giving two normals; neighbouring
elements belong to neighbouring *blocks*, so that vector lanes run along memory:

    block  = 16·(e div 128) + e mod 16          counter = (block, tile, stream low, stream high), key = seed
    word   = (e mod 128) div 32                 trig    = cosine if ((e mod 128) div 16) is even, else sine

One word makes one Box-Muller pair. Its upper 31 bits are the radius' uniform. The angle's uniform is the word times an
odd constant mod 2^32, so that the 2^32 possible pairs form a rank-1 lattice which fills the unit square evenly
(Korobov; the multiplier is from L'Ecuyer's table of good ones for this modulus):

    u = (float32(word >> 1) + 1/2) / 2^31          x = float32(int32(word · A)) / 2^32   in [-1/2, 1/2]
    r = sqrt(-2 ln u), negated where word is odd    normals: r·cos(πx), |r|·sin(πx)

The angle covers the right half circle and the sign of r turns half of the cosines to the left one.
The largest normal is 6.66.

References
----------
J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
P. L'Ecuyer, "Tables of linear congruential generators of different sizes and good lattice structure",
Math. Comp. 68 (1999).
"""

import math

import torch
from torch import Tensor

from ..errors import BackendError, ShapeError
from ..seeds import checked, of_rank

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ANGLE_MULTIPLIER = 2891336453
PANEL = 128  # elements of one panel: 16 blocks · 4 words · 2 normals
LANES = 16
_MASK = 0xFFFFFFFF
_FAKE, _PROXY = torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32: four 32-bit words of counter and two of key make four random words (all held in int64).

    Products of two 32-bit words wrap around in int64, but their 64 bits are the right ones.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32 & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            (product0 >> 32 & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = k0 + WEYL[0] & _MASK, k1 + WEYL[1] & _MASK
    return [c0, c1, c2, c3]


def box_muller(word: Tensor) -> tuple[Tensor, Tensor]:
    """Two normals (float64) from each 32-bit word (int64), as the module's docstring defines them."""
    u = ((word >> 1).float() + 0.5).double() * 2.0**-31
    angle = word * ANGLE_MULTIPLIER & _MASK
    x = (angle - (angle >> 31 << 32)).float().double() * 2.0**-32
    r = torch.sqrt(-2 * torch.log(u))
    return r * (1 - 2 * (word & 1)) * torch.cos(math.pi * x), r * torch.sin(math.pi * x)


def normals(
    shape: tuple[int, ...], seed: int, stream: int, tile: int, *, offset: int = 0, device: str | torch.device = "cpu"
) -> Tensor:
    """Draw the standard normal numbers of one tile.

    Parameters
    ----------
    shape : tuple of int
        Shape of the (block of a) partial-sum tensor.
    seed, stream : int
        64 bits each: the key, and the number of the layer or site (and call) that draws.
    tile : int
        32 bits.
    offset : int
        Flat index, within the whole partial-sum tensor, of this block's first element.

    Returns
    -------
    Tensor
        float64, of the given shape.

    Raises
    ------
    ShapeError
        More than 2^35 elements: the counter's block number has 32 bits.
    """
    count = math.prod(shape)
    check_extent(offset + count)
    first, end = offset // PANEL, -(-(offset + count) // PANEL)  # whole panels, from which the elements are cut
    block = torch.arange(first * LANES, end * LANES, dtype=torch.int64, device=device)
    word = (
        torch.full_like(block, tile & _MASK),
        torch.full_like(block, stream & _MASK),
        torch.full_like(block, stream >> 32 & _MASK),
    )
    words = torch.stack(philox4x32((block, *word), (seed & _MASK, seed >> 32 & _MASK)))
    pairs = torch.stack(box_muller(words), 1)  # (word, cosine or sine, block)
    panels = pairs.unflatten(2, (-1, LANES)).permute(2, 0, 1, 3).flatten()
    return panels[offset - first * PANEL :][:count].reshape(shape)


def seed_of_call(given: int | None, device: torch.device, training: bool = False) -> int:
    """Return the seed of a call that draws on this device: the given one, or a new one from torch's default generator.

    In training it differs between the ranks of torch.distributed (`seeds.of_rank`).

    Raises
    ------
    SeedError
        The given one is no whole number in [0, 2^64).
    BackendError
        A CUDA graph is captured, whose replays would all draw the numbers of that one call. (Other recordings are
        refused before a call begins: `memory.refuse_unreal`.)
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise BackendError(
            "noise cannot be captured in a CUDA graph, whose replays would repeat it; capture what comes before and "
            "after, or use torch.compile, whose graphs leave it out"
        )
    seed = int(torch.randint(2**63 - 1, (), device="cpu")) if given is None else checked(given)
    return of_rank(seed) if training else seed


def refuse_recording() -> None:
    """Refuse to be recorded or transformed: machine code leaves no trace, and a seed would become a constant.

    Raises
    ------
    BackendError
        Within torch.export, torch.jit.trace, ONNX's export, make_fx, a FakeTensorMode or a transform of torch.func.
    """
    if torch._C._is_tracing() or torch.compiler.is_exporting() or _made_into_a_graph():
        raise BackendError(
            "torch.export, torch.jit.trace, make_fx and ONNX cannot record crossbars and noise, which they would lose; "
            "export what to_digital(model) and remove_noise(model) leave"
        )
    if torch._C._get_dispatch_mode(_FAKE) is not None:
        raise BackendError(
            "a FakeTensorMode is on, in which nothing has numbers: crossbars and noise compute on numbers; for shapes "
            "alone move the model to the meta device"
        )
    if torch._C._are_functorch_transforms_active():
        raise BackendError(
            "torch.func (vmap, grad, jvp, functionalize, …) cannot transform crossbars and noise, which are machine "
            "code; use a loop for vmap and tensor.backward() or torch.autograd.grad for gradients"
        )


def _made_into_a_graph() -> bool:
    """Return whether make_fx watches, before torch's dispatcher or within it."""
    modes = torch._C._get_dispatch_mode(_PROXY), torch._ops._get_dispatch_mode_pre_dispatch(_PROXY)
    return modes[0] is not None or modes[1] is not None


def check_extent(elements: int) -> None:
    """Refuse a partial-sum tensor that the 32-bit block number cannot count."""
    if elements > 2**35:
        raise ShapeError(f"{elements} outputs in one call: at most 2^35 can draw noise; use smaller batches")
