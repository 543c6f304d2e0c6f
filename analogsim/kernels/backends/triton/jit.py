"""The GPU backend's kernels, in Triton: pointers, sizes and scalars only; `gpu.py` launches them.

Everything is float32 and int32 or uint32, but for row starts and flat indices that may pass 2^31: a 64-bit product a
row or a program, none an element. `philox.py` states readably what `normal_pairs` computes; the polynomials are those
of `jit.box_muller`, so that a GPU's normals are the CPU's to a few roundings.

A Philox block gives eight normals, for elements 16 apart in a panel of 128. Wherever panels can be made to lie within
a program's block of outputs (`PANELS`), one thread computes a block once and uses all of it; where they cannot, every
element computes its block for itself, eight times the work.
"""

import triton
import triton.language as tl
from triton.language.random import philox_impl

from ...philox import ANGLE_MULTIPLIER, ROUNDS

_ROUNDS = tl.constexpr(ROUNDS)
_ANGLE = tl.constexpr(ANGLE_MULTIPLIER)
# Arguments that differ from call to call: Triton shall not compile anew for their values.
KEY = ["k0", "k1", "s0", "s1"]
PLACE = ["panel", "lead", "tile"]


@triton.jit
def normal_pairs(word):
    """Make two normals of each 32-bit word: cosine's and sine's."""
    u = (word >> 1).to(tl.int32).to(tl.float32) * 4.656612873077393e-10 + 2.3283064365386963e-10  # 2^-31, 2^-32
    # ln u = e·ln 2 + ln(1 + f), with 1 + f in [sqrt(1/2), sqrt(2)); e stays where a float has its exponent, and the
    # factor of -2 ln u is within the polynomial.
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) & -0x800000
    f = (bits - e).to(tl.float32, bitcast=True) - 1.0
    p = f * (-2 * -0.10106763988733292) + -2 * 0.16222524642944336
    p = p * f + -2 * -0.17250847816467285
    p = p * f + -2 * 0.1990017294883728
    p = p * f + -2 * -0.24969908595085144
    p = p * f + -2 * 0.33335059881210327
    p = p * f + -2 * -0.5000036358833313
    p = p * f + -2 * 0.9999999403953552
    r = tl.sqrt(p * f - e.to(tl.float32) * 1.6525916589735634e-07)  # 2·ln 2·2^-23
    x = (word * _ANGLE).to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10  # 2^-32
    y = x * x
    s = y * 0.07756038755178452 - 0.5982421040534973
    s = s * y + 2.550069808959961
    s = s * y - 5.167709827423096
    s = s * y + 3.1415927410125732
    c = y * 0.2196967899799347 - 1.3318802118301392
    c = c * y + 4.058412075042725
    c = c * y - 4.934792995452881
    c = c * y + 0.9999999403953552
    signed = (r.to(tl.uint32, bitcast=True) ^ (word << 31)).to(tl.float32, bitcast=True)
    return signed * c, r * (s * x)


@triton.jit
def words(block, tile, k0, k1, s0, s1):
    """Return the four words of Philox blocks (uint32); the scalars come as int32, whose bits count."""
    # The tile takes the blocks' shape and type, so that no variable of the rounds changes its own.
    c1 = (tl.zeros_like(block) + tile).to(tl.uint32)
    c2 = tl.zeros_like(block) + s0.to(tl.uint32, bitcast=True)
    c3 = tl.zeros_like(block) + s1.to(tl.uint32, bitcast=True)
    key0, key1 = k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True)
    return philox_impl(block, c1, c2, c3, key0, key1, _ROUNDS)


@triton.jit
def eight_normals(block, tile, k0, k1, s0, s1):
    """Return the normals of elements 0, 16, … 112 after each block's first one."""
    w0, w1, w2, w3 = words(block, tile, k0, k1, s0, s1)
    n0, n1 = normal_pairs(w0)
    n2, n3 = normal_pairs(w1)
    n4, n5 = normal_pairs(w2)
    n6, n7 = normal_pairs(w3)
    return n0, n1, n2, n3, n4, n5, n6, n7


@triton.jit
def element_normals(index, tile, k0, k1, s0, s1):
    """Return the normal of each flat index (int64), whatever its neighbours are."""
    block = ((index >> 7) * 16 + (index & 15)).to(tl.uint32)
    w0, w1, w2, w3 = words(block, tile, k0, k1, s0, s1)
    component = (index & 127).to(tl.int32) >> 4
    which = component >> 1
    word = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
    cosine, sine = normal_pairs(word)
    return tl.where((component & 1) == 0, cosine, sine)


@triton.jit
def panel_normals(first, stride, tile, k0, k1, s0, s1, BM: tl.constexpr, BN: tl.constexpr):
    """Return the normals of a block (BM, BN) that consists of whole panels.

    Row-major, the block is BM·BN/128 panels; those of one row follow each other, and rows are `stride` Philox blocks
    apart. Where a row is shorter than a panel, BN = N and a panel spans rows: `stride` is then not used.
    """
    count: tl.constexpr = BM * BN // 128
    a_row: tl.constexpr = BN // 128 if BN >= 128 else 1
    panel = tl.arange(0, count)
    if BN >= 128:
        start = (panel // a_row).to(tl.uint32) * stride.to(tl.uint32) + (panel % a_row * 16).to(tl.uint32)
    else:
        start = (panel * 16).to(tl.uint32)
    block = (start + first.to(tl.uint32))[:, None] + tl.arange(0, 16).to(tl.uint32)[None, :]
    n0, n1, n2, n3, n4, n5, n6, n7 = eight_normals(block, tile, k0, k1, s0, s1)
    even = tl.join(tl.join(n0, n4), tl.join(n2, n6))
    odd = tl.join(tl.join(n1, n5), tl.join(n3, n7))
    n = tl.join(even, odd)  # (count, 16, bit 2, bit 1, bit 0 of the component)
    return n.permute(0, 2, 3, 4, 1).reshape(BM, BN)


@triton.jit
def codes(x, gain, low, high):
    """Round x·gain to whole numbers (half to even) between low and high; NaN stays NaN."""
    v = tl.clamp(x * gain, low, high, propagate_nan=tl.PropagateNan.ALL)
    return (v + 12582912.0) - 12582912.0  # 1.5·2^23: what a float32 this large cannot hold is rounded away


@triton.jit
def with_noise(s, n, squares, sigma, read, multiplicative, READ: tl.constexpr, RELATIVE: tl.constexpr):
    """Return s + sqrt(σ_out² + σ_r²·‖x̂‖² + σ_m²·s²)·n."""
    if READ or RELATIVE:
        variance = tl.zeros_like(s) + sigma * sigma
        if READ:
            variance += read * read * squares
        if RELATIVE:
            variance += (multiplicative * s) * (multiplicative * s)
        return s + tl.sqrt(variance) * n
    return s + sigma * n


@triton.jit
def converted(s, full, gain, step, CLIP: tl.constexpr, ROUND: tl.constexpr):
    """Return what an ADC makes of s, and where it clips."""
    over = tl.abs(s) > full
    if CLIP:
        s = tl.clamp(s, -full, full, propagate_nan=tl.PropagateNan.ALL)
    if ROUND:
        s = ((s * gain + 12582912.0) - 12582912.0) * step
    return s, over


@triton.jit
def divided(n, magic, shift):
    """Return n // d for n in [0, 2^31) as uint32, d by `gpu.divider`."""
    n = n.to(tl.uint32)
    factor = tl.zeros_like(n) + magic.to(tl.uint32, bitcast=True)
    return (tl.umulhi(n, factor) + n) >> shift.to(tl.uint32)


@triton.jit
def dac_kernel(x, out, count, gain, low, high, step, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    """Write step · round(clip(x · gain)), or x · gain · step."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    v = tl.load(x + index, mask=inside, other=0.0).to(tl.float32)
    v = codes(v, gain, low, high) * step if ROUND else v * gain * step
    tl.store(out + index, v, mask=inside)


@triton.jit(do_not_specialize=KEY)
def matmul_kernel(
    x,  # (M, K), rows x_stride apart
    w,  # (N, K), rows w_stride apart
    out,  # (M, N)
    bits,  # (ceil(tiles/8), M, N) uint8, where RECORD
    adc,  # (tiles, 3) float32: full scale and gain (of codes), step
    scale,  # (N)
    bias,  # (N)
    M,
    N,
    K,
    width,
    tiles,
    x_stride,
    w_stride,
    gain,
    low,
    high,
    unit,
    sigma,
    read,
    multiplicative,
    k0,
    k1,
    s0,
    s1,
    CONVERT: tl.constexpr,
    NOISY: tl.constexpr,
    READ: tl.constexpr,
    RELATIVE: tl.constexpr,
    CLIP: tl.constexpr,
    ROUND: tl.constexpr,
    RECORD: tl.constexpr,
    SCALE: tl.constexpr,
    BIAS: tl.constexpr,
    PANELS: tl.constexpr,
    EVEN: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Compute a block (BM, BN) of the tiled product: all tiles, their noise and conversion, and the digital end.

    The operands of the matrix unit are the DAC's whole-numbered codes, which bfloat16 holds exactly to 8 bits and TF32
    and float16 to 11. Sums, `sigma` and the ADC's full scale stay in codes; its step, or else `unit` at the end, turns
    them into normalised units. EVEN: tiles are whole blocks of K.
    """
    # Programs that run together share columns of w and rows of x: GROUP row blocks, column by column.
    program = tl.program_id(0)
    rows_of, columns_of = tl.cdiv(M, BM), tl.cdiv(N, BN)
    band = program // (GROUP * columns_of) * GROUP
    height = tl.minimum(rows_of - band, GROUP)
    pm = band + program % (GROUP * columns_of) % height
    pn = program % (GROUP * columns_of) // height
    m, n = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    inside = (m < M)[:, None] & (n < N)[None, :]
    x_rows = x + tl.where(m < M, m, 0).to(tl.int64) * x_stride
    w_rows = w + tl.where(n < N, n, 0).to(tl.int64) * w_stride
    place = m.to(tl.int64)[:, None] * N + n[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    byte = tl.zeros((BM, BN), tl.uint8)
    for tile in range(0, tiles):
        start = tile * width
        stop = tl.minimum(start + width, K)
        s = tl.zeros((BM, BN), tl.float32)
        squares = tl.zeros((BM,), tl.float32)
        for first in range(start, stop, BK):
            k = first + tl.arange(0, BK)
            if EVEN:
                a = tl.load(x_rows[:, None] + k[None, :])
                b = tl.load(w_rows[None, :] + k[:, None])
            else:
                a = tl.load(x_rows[:, None] + k[None, :], mask=(k < stop)[None, :], other=0.0)
                b = tl.load(w_rows[None, :] + k[:, None], mask=(k < stop)[:, None], other=0.0)
            if CONVERT:
                a = codes(a.to(tl.float32), gain, low, high).to(b.dtype)
            if READ:
                wide = a.to(tl.float32)
                squares += tl.sum(wide * wide, 1)
            if WIDEN:  # Triton's interpreter multiplies the bits of bfloat16 as if they were integers
                a, b = a.to(tl.float32), b.to(tl.float32)
            s = tl.dot(a, b, s, input_precision=PRECISION)
        if NOISY:
            if PANELS:
                # In Philox blocks, of 8 elements each.
                top = (pm * BM).to(tl.int64) * N + pn * BN
                number = panel_normals((top >> 3).to(tl.uint32), N >> 3, tile, k0, k1, s0, s1, BM, BN)
            else:
                number = element_normals(place, tile, k0, k1, s0, s1)
            s = with_noise(s, number, squares[:, None], sigma, read, multiplicative, READ, RELATIVE)
        full, adc_gain, step = tl.load(adc + 3 * tile), tl.load(adc + 3 * tile + 1), tl.load(adc + 3 * tile + 2)
        s, over = converted(s, full, adc_gain, step, CLIP, ROUND)
        total += s
        if RECORD:
            byte |= tl.where(over, 1 << (tile & 7), 0).to(tl.uint8)
            if ((tile & 7) == 7) | (tile == tiles - 1):
                plane = bits + tl.full((), tile >> 3, tl.int64) * M * N
                tl.store(plane + place, byte, mask=inside)
                byte = tl.zeros((BM, BN), tl.uint8)
    if not ROUND:
        total *= unit
    if SCALE:
        total *= tl.load(scale + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, total, mask=inside)


@triton.jit
def grad_x_kernel(
    g,  # (M, N)
    w,  # (N, K), rows w_stride apart
    bits,  # (planes, M, N) uint8
    x,  # (M, K), rows x_stride apart
    out,  # (M, K)
    M,
    N,
    K,
    width,
    blocks,  # of columns a tile
    x_stride,
    w_stride,
    low,
    high,
    CONVERT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """∂x = [x not clipped] · (g · [tile's ADC did not clip]) W, a block (BM, BK) within one tile."""
    tile = tl.program_id(1) // blocks
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tile * width + tl.program_id(1) % blocks * BK + tl.arange(0, BK)
    ends = k < tl.minimum(tile * width + width, K)
    rows = tl.where(m < M, m, 0).to(tl.int64)
    plane = bits + tl.full((), tile >> 3, tl.int64) * M * N
    total = tl.zeros((BM, BK), tl.float32)
    for first in range(0, N, BN):
        n = first + tl.arange(0, BN)
        mask = (n < N)[None, :] & (m < M)[:, None]
        place = rows[:, None] * N + n[None, :]
        clipped = (tl.load(plane + place, mask=mask, other=0).to(tl.int32) >> (tile & 7)) & 1
        part = tl.where(clipped == 0, tl.load(g + place, mask=mask, other=0.0), 0.0)
        weights = w + n.to(tl.int64)[:, None] * w_stride + k[None, :]
        b = tl.load(weights, mask=(n < N)[:, None] & ends[None, :], other=0.0)
        total = tl.dot(part, b, total, input_precision=PRECISION)
    mask = (m < M)[:, None] & ends[None, :]
    if CONVERT:
        v = tl.load(x + rows[:, None] * x_stride + k[None, :], mask=mask, other=0.0)
        total = tl.where((v > high) | (v < low), 0.0, total)
    tl.store(out + rows[:, None] * K + k[None, :], total, mask=mask)


@triton.jit
def grad_w_kernel(
    g,  # (M, N)
    x,  # (M, K), rows x_stride apart
    bits,  # (planes, M, N) uint8
    out,  # (splits, N, K)
    M,
    N,
    K,
    width,
    blocks,
    depth,  # rows of one split, a multiple of BM
    x_stride,
    gain,
    low,
    high,
    unit,
    CONVERT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """∂W = unit · (g · [tile's ADC did not clip])ᵀ codes(x) over `depth` rows, a block (BN, BK) within one tile."""
    tile = tl.program_id(1) // blocks
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tile * width + tl.program_id(1) % blocks * BK + tl.arange(0, BK)
    ends = k < tl.minimum(tile * width + width, K)
    plane = bits + tl.full((), tile >> 3, tl.int64) * M * N
    total = tl.zeros((BN, BK), tl.float32)
    begin = tl.program_id(2) * depth
    stop = tl.minimum(begin + depth, M)
    for first in range(begin, stop, BM):
        m = first + tl.arange(0, BM)
        rows = tl.where(m < stop, m, 0).to(tl.int64)
        mask = (n < N)[:, None] & (m < stop)[None, :]
        place = rows[None, :] * N + n[:, None]
        clipped = (tl.load(plane + place, mask=mask, other=0).to(tl.int32) >> (tile & 7)) & 1
        part = tl.where(clipped == 0, tl.load(g + place, mask=mask, other=0.0), 0.0)
        v = tl.load(x + rows[:, None] * x_stride + k[None, :], mask=(m < stop)[:, None] & ends[None, :], other=0.0)
        if CONVERT:
            v = codes(v, gain, low, high)
        total = tl.dot(part, v, total, input_precision=PRECISION)
    target = out + tl.program_id(2).to(tl.int64) * N * K + n.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(target, total * unit, mask=(n < N)[:, None] & ends[None, :])


@triton.jit(do_not_specialize=[*KEY, *PLACE, "position_magic", "position_shift", "channel_magic", "channel_shift"])
def accumulate_kernel(
    out,
    partial,
    squares,
    bits,
    adc,  # (tiles, 3) float32: full scale and gain (of what the sums are in), step
    scale,  # (channels)
    bias,  # (channels)
    count,
    panel,  # the first one that these elements touch
    lead,  # its elements before the first of these
    tile,
    channels,
    position_magic,  # dividers by the positions of a channel and by the channels
    position_shift,
    channel_magic,
    channel_shift,
    unit,
    sigma,
    read,
    multiplicative,
    k0,
    k1,
    s0,
    s1,
    NOISY: tl.constexpr,
    READ: tl.constexpr,
    RELATIVE: tl.constexpr,
    CLIP: tl.constexpr,
    ROUND: tl.constexpr,
    RECORD: tl.constexpr,
    FIRST: tl.constexpr,
    SCALE: tl.constexpr,
    BIAS: tl.constexpr,
    PANELS: tl.constexpr,
):
    """Add a tile's converted partial sums to `out`, flat arrays of `count` elements, PANELS panels a program.

    The ADC's step or else `unit` turns sums into normalised units. After the last tile come scale and bias of each
    channel, whose positions lie together.
    """
    first = tl.program_id(0) * PANELS
    p, lane = tl.arange(0, PANELS)[:, None], tl.arange(0, 16)[None, :]
    block = ((panel + first) * 16 + p * 16 + lane).to(tl.uint32)
    numbers = eight_normals(block, tile, k0, k1, s0, s1)
    full, gain, step = tl.load(adc + 3 * tile), tl.load(adc + 3 * tile + 1), tl.load(adc + 3 * tile + 2)
    for c in tl.static_range(8):
        # An index of the chunk's, which is far smaller than 2^31.
        i = (first + p) * 128 + c * 16 - lead + lane
        mask = (i >= 0) & (i < count)
        s = tl.load(partial + i, mask=mask, other=0.0)
        if NOISY:
            q = tl.load(squares + i, mask=mask, other=0.0) if READ else s
            s = with_noise(s, numbers[c], q, sigma, read, multiplicative, READ, RELATIVE)
        s, over = converted(s, full, gain, step, CLIP, ROUND)
        if RECORD:
            byte = tl.load(bits + i, mask=mask, other=0).to(tl.int32) | tl.where(over, 1 << (tile & 7), 0)
            tl.store(bits + i, byte.to(tl.uint8), mask=mask)
        if not ROUND:
            s *= unit
        if not FIRST:
            s += tl.load(out + i, mask=mask, other=0.0)
        if SCALE or BIAS:
            row = divided(tl.where(mask, i, 0), position_magic, position_shift)
            at = (row - divided(row, channel_magic, channel_shift) * channels).to(tl.int32)
            if SCALE:
                s *= tl.load(scale + at, mask=mask, other=0.0)
            if BIAS:
                s += tl.load(bias + at, mask=mask, other=0.0)
        tl.store(out + i, s, mask=mask)


@triton.jit(do_not_specialize=[*KEY, "magic", "shift"])
def noise_kernel(
    x,
    out,
    sigmas,  # one value a sample, where SIGMAS
    relatives,  # one value a sample, where RELATIVES
    sigma,
    relative,
    count,
    per_sample,
    magic,  # divider by per_sample
    shift,
    k0,
    k1,
    s0,
    s1,
    ADDITIVE: tl.constexpr,
    MULTIPLIED: tl.constexpr,
    SIGMAS: tl.constexpr,
    RELATIVES: tl.constexpr,
    MANY: tl.constexpr,
    PANELS: tl.constexpr,
):
    """Out = x·(1 + σ_m·n₁) + σ·n₂ over flat arrays, PANELS panels a program.

    MANY: a program's elements may be of more than two samples.
    """
    begin = tl.program_id(0).to(tl.int64) * PANELS * 128
    p, lane = tl.arange(0, PANELS)[:, None], tl.arange(0, 16)[None, :]
    block = (tl.program_id(0) * (PANELS * 16) + p * 16 + lane).to(tl.uint32)
    if ADDITIVE:
        additive = eight_normals(block, 0, k0, k1, s0, s1)
    if MULTIPLIED:
        multiplied = eight_normals(block, 1, k0, k1, s0, s1)
    rest = tl.minimum(count - begin, PANELS * 128).to(tl.int32)
    x += begin
    out += begin
    if SIGMAS or RELATIVES:
        sample = begin // per_sample
        offset = begin - sample * per_sample  # of the program's first element within its sample
        sigmas += sample
        relatives += sample
        next_one = tl.minimum(per_sample - offset, PANELS * 128).to(tl.int32)
    for c in tl.static_range(8):
        i = p * 128 + c * 16 + lane
        mask = i < rest
        v = tl.load(x + i, mask=mask, other=0.0).to(tl.float32)
        if SIGMAS or RELATIVES:
            at = divided(offset.to(tl.int32) + i, magic, shift) if MANY else (i >= next_one).to(tl.int32)
        if MULTIPLIED:
            level = tl.load(relatives + at, mask=mask, other=0.0) if RELATIVES else relative
            v = v + v * (level * multiplied[c])
        if ADDITIVE:
            level = tl.load(sigmas + at, mask=mask, other=0.0) if SIGMAS else sigma
            v = v + level * additive[c]
        tl.store(out + i, v, mask=mask)
