"""The CPU backend's machine code: flat arrays and scalars only, compiled by Numba and cached.

What ends in `_kernel` is run by `openmp.run` on a team of threads, each of which takes a share; its one argument is the
address of the 64-bit integers that its docstring lists, a size or an array's address each.

All of it stands in this one file, because Numba's cache notices a change of the file of the function that it loads, but
not of a helper's file. Everything is float32: a Python float or an int64 in a loop would widen it, so constants are
wrapped. Slices are taken before each inner loop: indexing with an offset keeps LLVM from vectorising (8 times slower).

`philox.py` states readably what the first two functions compute.
"""

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .openmp import SIGNATURE, sgemm, team_size, thread_number
from .philox import ANGLE_MULTIPLIER, MULTIPLIERS, PANEL, ROUNDS, WEYL

CHUNK = 1024  # elements whose words, normals and sums stay in the first-level cache together
_WORDS = CHUNK // 2
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_ANGLE = np.uint32(ANGLE_MULTIPLIER)
_F = np.float32

# contract: fused multiply-adds. Nothing that would reorder sums or forget NaN.
_options = {"error_model": "numpy", "fastmath": {"contract", "nsz"}}


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(int64), generate


@njit
def _integers(address, first, stop):
    return carray(_pointer(address + 8 * first), (stop - first,), np.int64)


@njit
def _floats(address, first, stop):
    """Return the float32 numbers first … stop of an array; nothing where there is none (address 0)."""
    return carray(_pointer(address + 4 * first), (stop - first if address else 0,), np.float32)


@njit
def _bytes(address, first, stop):
    return carray(_pointer(address + first), (stop - first if address else 0,), np.uint8)


@njit
def _share(count, unit):
    """Return the range of 0 … count that is this thread's: whole units, but for the end."""
    team = np.int64(team_size())
    size = (count + team * unit - 1) // (team * unit) * unit
    start = min(count, size * np.int64(thread_number()))
    return start, min(count, start + size)


@njit(**_options)
def philox_words(words, first_block, k0, k1, s0, s1, tile):
    """Write the words of consecutive Philox blocks, 4 of 16 blocks at a time: [group][word][lane].

    A word of state lives in the low half of 64 bits, so that a product is one instruction and needs no unpacking.
    """
    for group in range(words.shape[0] // 64):
        out = words[group * 64 : group * 64 + 64]
        for lane in range(16):
            c0 = (first_block + np.uint64(group * 16 + lane)) & _LOW
            c1, c2, c3 = tile, s0, s1
            a, b = k0, k1
            for _ in range(ROUNDS):
                p0 = _M0 * (c0 & _LOW)
                p1 = _M1 * (c2 & _LOW)
                c0 = (p1 >> _HALF) ^ c1 ^ a
                c1 = p1 & _LOW
                c2 = (p0 >> _HALF) ^ c3 ^ b
                c3 = p0 & _LOW
                a = (a + _W0) & _LOW
                b = (b + _W1) & _LOW
            out[lane] = np.uint32(c0)
            out[lane + 16] = np.uint32(c1)
            out[lane + 32] = np.uint32(c2)
            out[lane + 48] = np.uint32(c3)


@njit(**_options)
def box_muller(words, out):
    """Two normals from each word, 16 cosines then their 16 sines; minimax polynomials, error below 1e-6."""
    for group in range(words.shape[0] // 16):
        w = words[group * 16 : group * 16 + 16]
        o = out[group * 32 : group * 32 + 32]
        for lane in range(16):
            word = w[lane]
            u = (_F(np.int32(word >> np.uint32(1))) + _F(0.5)) * _F(2.0**-31)
            # ln u = e·ln 2 + ln(1 + f), with 1 + f in [sqrt(1/2), sqrt(2))
            bits = np.float32(u).view(np.int32)
            e = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23))
            f = np.int32(bits - np.int32(e << np.int32(23))).view(np.float32) - _F(1)
            p = _F(-0.10106763988733292)
            p = p * f + _F(0.16222524642944336)
            p = p * f + _F(-0.17250847816467285)
            p = p * f + _F(0.1990017294883728)
            p = p * f + _F(-0.24969908595085144)
            p = p * f + _F(0.33335059881210327)
            p = p * f + _F(-0.5000036358833313)
            p = p * f + _F(0.9999999403953552)
            r = np.sqrt(_F(-2) * p * f - _F(e) * _F(1.3862943611198906))
            x = _F(np.int32(np.uint32(word * _ANGLE))) * _F(2.0**-32)
            y = x * x
            s = _F(0.07756038755178452)
            s = s * y + _F(-0.5982421040534973)
            s = s * y + _F(2.550069808959961)
            s = s * y + _F(-5.167709827423096)
            s = s * y + _F(3.1415927410125732)
            c = _F(0.2196967899799347)
            c = c * y + _F(-1.3318802118301392)
            c = c * y + _F(4.058412075042725)
            c = c * y + _F(-4.934792995452881)
            c = c * y + _F(0.9999999403953552)
            sign = np.int32(np.uint32(word << np.uint32(31)))
            o[lane] = np.int32(np.float32(r).view(np.int32) ^ sign).view(np.float32) * c
            o[lane + 16] = r * (s * x)


@njit(**_options)
def normals(scratch, words, first, k0, k1, s0, s1, tile):
    """Fill `scratch` with the normals from element `first` (a multiple of 128) on."""
    philox_words(words, np.uint64(first // 8), k0, k1, s0, s1, tile)
    box_muller(words, scratch)


@njit(**_options)
def dac(x, out, scalars):
    """Convert: out = step · round(clip(x · gain)); where step is 0, out = x · gain.

    scalars: gain, lowest and highest code, step.
    """
    gain, low, high, step = scalars[0], scalars[1], scalars[2], scalars[3]
    if step == 0:
        for i in range(x.shape[0]):
            out[i] = x[i] * gain
    else:
        for i in range(x.shape[0]):
            v = x[i] * gain
            v = high if v > high else v
            v = low if v < low else v
            out[i] = np.rint(v) * step


@cfunc(SIGNATURE, cache=True)
def dac_kernel(arguments):
    """Arrays x, out; count, scalars (4)."""
    a = carray(arguments, (4,), np.int64)
    first, stop = _share(a[2], CHUNK)
    dac(_floats(a[0], first, stop), _floats(a[1], first, stop), _floats(a[3], 0, 4))


@njit(**_options)
def accumulate(out, partial, norm2, bits, offset, scalars, key, tile, first):
    """Add a tile's converted partial sums to `out`; return how many clipped.

    scalars: σ_out, σ_r, σ_m, full scale (inf: none), gain = levels / full scale, step (0: no rounding).
    key: the four words of seed and stream. `norm2` (σ_r > 0) and `bits` (to be marked with 1 << tile % 8) may be empty.
    `first` overwrites `out` instead.
    """
    sigma, read, multiplicative = scalars[0], scalars[1], scalars[2]
    full_scale, gain, step = scalars[3], scalars[4], scalars[5]
    k0, k1, s0, s1, number = key[0], key[1], key[2], key[3], np.uint64(tile)
    words = np.empty(_WORDS, np.uint32)
    scratch = np.empty(CHUNK, np.float32)
    noisy = sigma > 0 or read > 0 or multiplicative > 0
    plain = read == 0 and multiplicative == 0
    top = full_scale * gain
    mark = np.uint8(1 << (tile & 7))
    clipped = 0
    n = out.shape[0]
    start = 0
    while start < n:
        lead = (offset + start) % PANEL
        m = min(CHUNK - lead, n - start)
        if noisy:
            normals(scratch, words, offset + start - lead, k0, k1, s0, s1, number)
        v = scratch[lead : lead + m]
        p = partial[start : start + m]
        o = out[start : start + m]
        if noisy and plain:
            for i in range(m):
                v[i] = p[i] + sigma * v[i]
        elif noisy:
            variance = sigma * sigma
            if read > 0:
                q = norm2[start : start + m]
                for i in range(m):
                    s = p[i] * multiplicative
                    v[i] = p[i] + np.sqrt(variance + read * read * q[i] + s * s) * v[i]
            else:
                for i in range(m):
                    s = p[i] * multiplicative
                    v[i] = p[i] + np.sqrt(variance + s * s) * v[i]
        else:
            for i in range(m):
                v[i] = p[i]
        if bits.shape[0]:
            b = bits[start : start + m]
            count = np.int32(0)
            for i in range(m):
                over = np.abs(v[i]) > full_scale
                b[i] |= mark if over else np.uint8(0)
                count += np.int32(over)
            clipped += count
        if first:
            for i in range(m):
                o[i] = 0
        if step > 0:
            for i in range(m):
                s = v[i] * gain
                s = top if s > top else s
                s = -top if s < -top else s
                o[i] += np.rint(s) * step
        else:
            for i in range(m):
                s = v[i]
                s = full_scale if s > full_scale else s
                s = -full_scale if s < -full_scale else s
                o[i] += s
        start += m
    return clipped


@cfunc(SIGNATURE, cache=True)
def accumulate_kernel(arguments):
    """Arrays out, partial, norm2 or 0, bits or 0; count, offset, scalars (6), key (4), tile, first, clipped or 0.

    `clipped` has 8 integers, a cache line, for each thread; the first is its count.
    """
    a = carray(arguments, (11,), np.int64)
    start, stop = _share(a[4], CHUNK)
    key = carray(_pointer(a[7]), (4,), np.uint64)
    clipped = accumulate(
        _floats(a[0], start, stop),
        _floats(a[1], start, stop),
        _floats(a[2], start, stop),
        _bytes(a[3], start, stop),
        a[5] + start,
        _floats(a[6], 0, 6),
        key,
        a[8],
        a[9] != 0,
    )
    if a[10]:
        _integers(a[10], 0, 8 * (thread_number() + 1))[8 * thread_number()] = clipped


@njit(**_options)
def noise(x, out, sigma, multiplicative, per_sample, offset, key):
    """Out = x·(1 + σ_m·n₁) + σ·n₂; each σ holds one value, or one a sample of `per_sample` elements."""
    k0, k1, s0, s1 = key[0], key[1], key[2], key[3]
    words = np.empty(_WORDS, np.uint32)
    one = np.empty(CHUNK, np.float32)
    two = np.empty(CHUNK, np.float32)
    relative = np.any(multiplicative > 0)
    additive = np.any(sigma > 0)
    n = x.shape[0]
    start = 0
    while start < n:
        lead = (offset + start) % PANEL
        stop = start + min(CHUNK - lead, n - start)
        if additive:
            normals(two, words, offset + start - lead, k0, k1, s0, s1, np.uint64(0))
        if relative:
            normals(one, words, offset + start - lead, k0, k1, s0, s1, np.uint64(1))
        while start < stop:
            sample = (offset + start) // per_sample
            m = min(stop, (sample + 1) * per_sample - offset) - start
            v = x[start : start + m]
            o = out[start : start + m]
            n1, n2 = one[lead : lead + m], two[lead : lead + m]
            sg = sigma[min(sample, sigma.shape[0] - 1)]
            sm = multiplicative[min(sample, multiplicative.shape[0] - 1)]
            if relative:
                for i in range(m):
                    o[i] = v[i] + v[i] * (sm * n1[i])
                if additive:
                    for i in range(m):
                        o[i] += sg * n2[i]
            else:
                for i in range(m):
                    o[i] = v[i] + sg * n2[i]
            start += m
            lead += m


@cfunc(SIGNATURE, cache=True)
def noise_kernel(arguments):
    """Arrays x, out; σ, how many, σ_m, how many, elements a sample, count, key (4)."""
    a = carray(arguments, (9,), np.int64)
    start, stop = _share(a[7], PANEL)
    x, out = _floats(a[0], start, stop), _floats(a[1], start, stop)
    key = carray(_pointer(a[8]), (4,), np.uint64)
    noise(x, out, _floats(a[2], 0, a[3]), _floats(a[4], 0, a[5]), a[6], start, key)


@cfunc(SIGNATURE, cache=True)
def scale_channels_kernel(arguments):
    """Arrays out, scale, bias; channels, positions, images: out · scale + bias in place, one value a channel."""
    a = carray(arguments, (6,), np.int64)
    channels, positions = a[3], a[4]
    scale, bias = _floats(a[1], 0, channels), _floats(a[2], 0, channels)
    start, stop = _share(a[5] * channels, 1)
    for row in range(start, stop):
        o = _floats(a[0], row * positions, (row + 1) * positions)
        s, b = scale[row % channels], bias[row % channels]
        for i in range(positions):
            o[i] = o[i] * s + b


@njit(**_options)
def transpose_few(source, target, few, rows):
    """Transpose (few, rows) → (rows, few)."""
    for first in range(0, rows, 64):  # so that what is written stays in the first-level cache
        m = min(64, rows - first)
        part = target[first * few : (first + m) * few]
        for k in range(few):
            row = source[k * rows + first : k * rows + first + m]
            column = part[k:]
            for i in range(m):
                column[i * few] = row[i]


@njit(**_options)
def scale_rows(out, scale, bias):
    """Out · scale + bias in place, both repeating every period = their length."""
    period = scale.shape[0]
    for first in range(0, out.shape[0], period):
        o = out[first : first + period]
        for i in range(o.shape[0]):
            o[i] = o[i] * scale[i] + bias[i]


@njit(error_model="numpy", fastmath={"contract", "reassoc"})
def _square_sum(row):
    total = _F(0)
    for i in range(row.shape[0]):
        total += row[i] * row[i]
    return total


@njit
def _product(inputs, stride, weight, weight_stride, out, rows, width, n, transposed):
    """Multiply inputs (rows, width) by weight (n, width), transposed, into out (rows, n), or (n, rows) if `transposed`.

    BLAS counts columns first, and knows none but addresses.
    """
    size = np.empty(6, np.int32)
    size[0], size[1], size[2] = (rows, n, width) if transposed else (n, rows, width)
    size[3], size[4] = (stride, weight_stride) if transposed else (weight_stride, stride)
    size[5] = size[0]
    flag = np.empty(2, np.uint8)
    flag[0], flag[1] = 84, 78  # T, N: the first matrix is transposed
    factor = np.empty(2, np.float32)
    factor[0], factor[1] = 1, 0
    s, c, f = size.ctypes.data, flag.ctypes.data, factor.ctypes.data
    left, right = (inputs, weight) if transposed else (weight, inputs)
    sgemm(c, c + 1, s, s + 4, s + 8, f, left, s + 12, right, s + 16, f + 4, out, s + 20)


@cfunc(SIGNATURE, cache=True)
def matmul_kernel(arguments):
    """`tiled_matmul` of this thread's rows.

    x, stride, w, stride, out, m, k, n; rows of a tile, most rows of a block, inputs converted together, whether there
    are few outputs, whether inputs are converted; room for each thread's inputs, sums, transposed sums if few, squared
    lengths or 0; scalars of `dac` and `accumulate`, key; clip bits or 0, counts of clips (threads, tiles); length of
    scale and bias or 0, scale, bias.

    The threads never wait for each other, and call BLAS for themselves: one of a team computes alone.
    """
    a = carray(arguments, (25,), np.int64)
    x, x_stride, w, w_stride, out, m, k, n = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    width, most, group, few, converts = a[8], a[9], a[10], a[11] != 0, a[12] != 0
    number = np.int64(thread_number())
    inputs, sums = a[13] + 4 * number * most * group, a[14] + 4 * number * most * n
    columns, squares = a[15] + 4 * number * most * n, a[16] + 4 * number * most * n if a[16] else 0
    dac_scalars, adc_scalars, key = _floats(a[17], 0, 4), _floats(a[18], 0, 6), carray(_pointer(a[19]), (4,), np.uint64)
    bits, period = a[20], a[22]
    tiles = (k + width - 1) // width
    counts = _integers(a[21], number * tiles, (number + 1) * tiles)
    scale, bias = _floats(a[23], 0, period), _floats(a[24], 0, period)
    first, last = _share(m, 16)
    blocks = (last - first + most - 1) // most
    for block in range(blocks):
        # All of about the same size: BLAS is slow on few rows.
        start = first + (last - first) * block // blocks
        stop = first + (last - first) * (block + 1) // blocks
        rows = stop - start
        into, total = _floats(out, start * n, stop * n), _floats(sums, 0, rows * n)
        ready, stride, begin = x + 4 * start * x_stride, x_stride, 0
        for tile in range(tiles):
            left, right = tile * width, min(k, tile * width + width)
            if converts and left % group == 0:
                # Several tiles at once, in long runs: reading them tile by tile takes several times as long.
                ready, stride, begin = inputs, min(group, k - left), left
                if stride == x_stride:
                    run = _floats(x, start * stride, stop * stride)
                    dac(run, _floats(inputs, 0, rows * stride), dac_scalars)
                else:
                    for row in range(rows):
                        place = (start + row) * x_stride + left
                        line = _floats(inputs, row * stride, (row + 1) * stride)
                        dac(_floats(x, place, place + stride), line, dac_scalars)
            here, weight = ready + 4 * (left - begin), w + 4 * left
            if few:
                _product(here, stride, weight, w_stride, columns, rows, right - left, n, True)
                transpose_few(_floats(columns, 0, rows * n), total, n, rows)
            else:
                _product(here, stride, weight, w_stride, sums, rows, right - left, n, False)
            if squares:
                for row in range(rows):
                    square = _square_sum(_floats(here, row * stride, row * stride + right - left))
                    _floats(squares, row * n, (row + 1) * n)[:] = square
            marks = _bytes(bits + m * n * (tile // 8) if bits else 0, start * n, stop * n)
            norm2 = _floats(squares, 0, rows * n)
            clipped = accumulate(into, total, norm2, marks, start * n, adc_scalars, key, tile, tile == 0)
            if bits:
                counts[tile] += clipped
        if period:
            scale_rows(into, scale, bias)


# Between channels first and channels last. oneDNN convolves channels-last inputs with any number of channels at full
# speed, where it pads channels-first ones to multiples of 16 (28 channels of a 3×3 tile of 256 rows: to 32) and
# reorders them; but noise counts channels first.


@intrinsic
def _transpose16(typing, source, start, stride, target, into, step):
    """Write 16 rows of 16 numbers, `stride` apart, as columns, `step` apart; a loop takes three times as long.

    Step d = 1, 2, 4, 8 exchanges bit d of a number's row and column, so that four of them transpose.
    """

    def generate(context, builder, signature, arguments):
        row_type, wide = ir.VectorType(ir.FloatType(), 16), ir.IntType(64)

        def row(array, kind, first, stride, k):
            data = context.make_array(kind)(context, builder, array).data
            place = builder.gep(data, [builder.add(first, builder.mul(stride, ir.Constant(wide, k)))])
            return builder.bitcast(place, row_type.as_pointer())

        def pick(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 16), lanes))

        source, start, stride, target, into, step = arguments
        rows = [builder.load(row(source, signature.args[0], start, stride, k), align=4) for k in range(16)]
        for d in (1, 2, 4, 8):
            low = [16 + (lane ^ d) if lane & d else lane for lane in range(16)]
            high = [16 + lane if lane & d else lane | d for lane in range(16)]
            for k in range(16):
                if not k & d:
                    a, b = rows[k], rows[k | d]
                    rows[k], rows[k | d] = pick(a, b, low), pick(a, b, high)
        for k in range(16):
            builder.store(rows[k], row(target, signature.args[3], into, step, k), align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), generate


@njit
def channels_first(source, target, positions, channels):
    """Transpose one image, (positions, channels) → (channels, positions)."""
    n, m = channels // 16 * 16, positions // 16 * 16
    for c in range(0, n, 16):
        for p in range(0, m, 16):
            _transpose16(source, p * channels + c, channels, target, c * positions + p, positions)
    for c in range(channels):
        for p in range(m if c < n else 0, positions):
            target[c * positions + p] = source[p * channels + c]


@cfunc(SIGNATURE, cache=True)
def channels_first_kernel(arguments):
    """Source (images, positions, channels), target (images, channels, positions), images, positions, channels."""
    a = carray(arguments, (5,), np.int64)
    size = a[3] * a[4]
    start, stop = _share(a[2], 1)
    for image in range(start, stop):
        source = _floats(a[0], image * size, (image + 1) * size)
        channels_first(source, _floats(a[1], image * size, (image + 1) * size), a[3], a[4])


@cfunc(SIGNATURE, cache=True)
def split_channels_last_kernel(arguments):
    """Source (images, channels, positions), target, images, channels, positions, order, cuts, tiles.

    The target is a block (images, positions, channels of a tile) for each tile; `order` names the channels of one tile
    after the other (one may come twice), `cuts` (tiles + 1) where each tile's begin.
    """
    a = carray(arguments, (8,), np.int64)
    images, channels, positions = a[2], a[3], a[4]
    cuts = _integers(a[6], 0, a[7] + 1)
    order = _integers(a[5], 0, cuts[a[7]])
    first, last = _share(images, 1)
    for tile in range(a[7]):
        width = cuts[tile + 1] - cuts[tile]
        for image in range(first, last):
            begin = (cuts[tile] * images + image * width) * positions
            block = _floats(a[1], begin, begin + width * positions)
            for start in range(0, positions, 64):  # so that what is written stays in the first-level cache
                m = min(64, positions - start)
                for k in range(width):
                    place = (image * channels + order[cuts[tile] + k]) * positions + start
                    row = _floats(a[0], place, place + m)
                    column = block[start * width + k :]
                    for p in range(m):
                        column[p * width] = row[p]
