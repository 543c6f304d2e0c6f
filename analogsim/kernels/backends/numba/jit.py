"""The CPU backend's machine code: flat arrays and scalars only, compiled by Numba and cached.

What ends in `_kernel` is run by `openmp.run` on a team of threads, each of which takes a share; its one argument is the
address of the 64-bit integers that its docstring lists, a size or an array's address each.

Everything is float32: a Python float or an int64 in a loop would widen it, so constants are wrapped. Slices are taken
before each inner loop: indexing with an offset keeps LLVM from vectorising (8 times slower).

`philox.py` states readably what the first two functions compute.
"""

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import carray, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ...philox import ANGLE_MULTIPLIER, MULTIPLIERS, PANEL, ROUNDS, WEYL
from .compiled import compiled
from .openmp import sgemm, team_size, thread_number

BLOCK_KEYS = 1024  # 64-bit words that are hashed together
CHUNK = 1024  # elements whose words, normals and sums stay in the first-level cache together
_WORDS = CHUNK // 2
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_F = np.float32

# Called by machine code alone: what would let the interpreter call it takes a quarter of the time to compile.
_inside = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# contract: fused multiply-adds. Nothing that would reorder sums or forget NaN.
_options = {"error_model": "numpy", "fastmath": {"contract", "nsz"}, **_inside}
# reassoc: sums in any order.
_reordering = {"error_model": "numpy", "fastmath": {"contract", "reassoc"}, **_inside}


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(int64), generate


@njit(**_inside)
def _integers(address, first, stop):
    return carray(_pointer(address + 8 * first), (stop - first,), np.int64)


@njit(**_inside)
def _floats(address, first, stop):
    """Return the float32 numbers first … stop of an array; nothing where there is none (address 0)."""
    return carray(_pointer(address + 4 * first), (stop - first if address else 0,), np.float32)


@njit(**_inside)
def _bytes(address, first, stop):
    return carray(_pointer(address + first), (stop - first if address else 0,), np.uint8)


@intrinsic
def _copy16(typing, source, target):
    """Copy 16 float32 numbers between addresses: one load and one store, where a loop would count and test."""

    def generate(context, builder, signature, arguments):
        pointer = ir.VectorType(ir.FloatType(), 16).as_pointer()
        source, target = (builder.inttoptr(address, pointer) for address in arguments)
        builder.store(builder.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@njit(**_inside)
def _words_at(address, count):
    """Return so many 32-bit words; nothing where there is none (address 0)."""
    return carray(_pointer(address), (count if address else 0,), np.uint32)


@njit(**_inside)
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


# Minimax polynomials, highest power first: -2·ln(1 + f)/f for 1 + f in [sqrt(1/2), sqrt(2)), and of x² sin(πx)/x and
# cos(πx) for x in [-1/2, 1/2].
_LOGARITHM = (
    *(0.20213527977466583, -0.3244504928588867, 0.3450169563293457, -0.3980034589767456),
    *(0.4993981719017029, -0.6667011976242065, 1.0000072717666626, -1.9999998807907104),
)
_SINE = 0.07756038755178452, -0.5982421040534973, 2.550069808959961, -5.167709827423096, 3.1415927410125732
_COSINE = 0.2196967899799347, -1.3318802118301392, 4.058412075042725, -4.934792995452881, 0.9999999403953552


@intrinsic
def _pairs16(typing, words, start, out, into):
    """Turn 16 words into 16 cosines' normals and then their 16 sines' (`philox.box_muller`), within 1e-6.

    As vectors: in a loop each number's operations wait for one another, and so do the few that a processor looks ahead;
    two halves of a vector are at work at once, and both normals are written where they belong.
    """

    def generate(context, builder, signature, arguments):
        words, start, out, into = arguments
        floats, integers = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.IntType(32), 16)
        flags = "contract", "nsz"

        def numbers(kind, value):
            return ir.Constant(kind, [value] * 16)

        def times(a, b, plus=None):
            product = builder.fmul(a, b, flags=flags)
            return product if plus is None else builder.fadd(product, plus, flags=flags)

        def constants(values):
            return [numbers(floats, float(_F(value))) for value in values]

        def place(array, kind, first, of):
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [first]), of.as_pointer())

        word = builder.load(place(words, signature.args[0], start, integers), align=4)
        upper = builder.sitofp(builder.lshr(word, numbers(integers, 1)), floats)
        # u = (upper + 1/2)/2^31, and -2·ln u = -2·(e·ln 2 + ln(1 + f))
        bits = builder.bitcast(times(upper, *constants((2.0**-31, 2.0**-32))), integers)
        e = builder.ashr(builder.sub(bits, numbers(integers, 0x3F3504F3)), numbers(integers, 23))
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(e, numbers(integers, 23))), floats)
        f = builder.fsub(mantissa, numbers(floats, 1.0), flags=flags)
        f2, (total, *rest) = times(f, f), constants(_LOGARITHM)
        total = times(total, f, rest.pop(0))
        while rest:  # two powers at a time: fewer that wait for one another
            total = times(total, f2, times(rest.pop(0), f, rest.pop(0)))
        exponents = times(builder.sitofp(e, floats), *constants([1.3862943611198906]))
        square = builder.fsub(times(total, f), exponents, flags=flags)
        root = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats]), "llvm.sqrt.v16f32")
        r = builder.call(root, [square])
        angle = builder.sitofp(builder.mul(word, numbers(integers, ANGLE_MULTIPLIER)), floats)
        x = times(angle, *constants([2.0**-32]))
        y, (sine, *sines), (cosine, *cosines) = times(x, x), constants(_SINE), constants(_COSINE)
        for a, b in zip(sines, cosines, strict=True):
            sine, cosine = times(sine, y, a), times(cosine, y, b)
        sign = builder.shl(word, numbers(integers, 31))
        signed = builder.bitcast(builder.xor(builder.bitcast(r, integers), sign), floats)
        behind = builder.add(into, ir.Constant(ir.IntType(64), 16))
        builder.store(times(signed, cosine), place(out, signature.args[2], into, floats), align=4)
        builder.store(times(times(r, x), sine), place(out, signature.args[2], behind, floats), align=4)
        return context.get_dummy_value()

    return types.void(words, types.int64, out, types.int64), generate


@njit(**_options)
def box_muller(words, out):
    """Two normals from each word, 16 cosines then their 16 sines."""
    for group in range(words.shape[0] // 16):
        _pairs16(words, group * 16, out, group * 32)


@njit(**_options)
def normals(scratch, words, first, k0, k1, s0, s1, tile):
    """Fill `scratch` with the normals from element `first` (a multiple of 128) on."""
    philox_words(words, np.uint64(first // 8), k0, k1, s0, s1, tile)
    box_muller(words, scratch)


@njit(**_options)
def _draw(scratch, words, first, count, key, tile):
    """Fill `scratch` with `count` normals from element `first` (a multiple of 128) on, and with the rest of a panel."""
    drawn = (count + PANEL - 1) // PANEL * PANEL
    normals(scratch[:drawn], words[: drawn // 2], first, key[0], key[1], key[2], key[3], tile)


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


@compiled
def dac_kernel(arguments):
    """Arrays x, out; count, scalars (4)."""
    a = carray(arguments, (4,), np.int64)
    first, stop = _share(a[2], CHUNK)
    dac(_floats(a[0], first, stop), _floats(a[1], first, stop), _floats(a[3], 0, 4))


@njit(**_options)
def _shake(v, p, q, sigma, read, multiplicative):
    """Write v = p + √V·v, with V = σ² + σ_r²·q + (σ_m·p)²; q (where there is read noise) holds ‖x̂‖²."""
    variance = sigma * sigma
    if read > 0:
        for i in range(v.shape[0]):
            s = p[i] * multiplicative
            v[i] = p[i] + np.sqrt(variance + read * read * q[i] + s * s) * v[i]
    elif multiplicative > 0:
        for i in range(v.shape[0]):
            s = p[i] * multiplicative
            v[i] = p[i] + np.sqrt(variance + s * s) * v[i]
    else:
        for i in range(v.shape[0]):
            v[i] = p[i] + sigma * v[i]


@njit(**_inside)
def _draws(scalars):
    """Return whether a read draws noise, by the scalars of `accumulate`."""
    return scalars[0] > 0 or scalars[1] > 0 or scalars[2] > 0


@njit(**_options)
def accumulate(out, partial, norm2, bits, offset, scalars, key, tile, first):
    """Add a tile's converted partial sums to `out`; return how many clipped.

    scalars: σ_out, σ_r, σ_m, full scale (inf: none), gain = levels / full scale, step (0: no rounding).
    key: the four words of seed and stream. `norm2` (σ_r > 0) and `bits` (to be marked with 1 << tile % 8) may be empty.
    `first` overwrites `out` instead.
    """
    sigma, read, multiplicative = scalars[0], scalars[1], scalars[2]
    full_scale, gain, step = scalars[3], scalars[4], scalars[5]
    number = np.uint64(tile)
    words = np.empty(_WORDS, np.uint32)
    scratch = np.empty(CHUNK, np.float32)
    noisy = _draws(scalars)
    top = full_scale * gain
    mark = np.uint8(1 << (tile & 7))
    clipped = 0
    n = out.shape[0]
    start = 0
    while start < n:
        lead = (offset + start) % PANEL
        m = min(CHUNK - lead, n - start)
        if noisy:
            _draw(scratch, words, offset + start - lead, lead + m, key, number)
        p = partial[start : start + m]
        o = out[start : start + m]
        v = scratch[lead : lead + m] if noisy else p
        if noisy:
            _shake(v, p, norm2[start : start + m] if read > 0 else p, sigma, read, multiplicative)
        if bits.shape[0]:
            b = bits[start : start + m]
            count = np.int32(0)
            for i in range(m):
                over = np.abs(v[i]) > full_scale
                b[i] |= mark if over else np.uint8(0)
                count += np.int32(over)
            clipped += count
        if step > 0:
            if first:
                for i in range(m):
                    s = v[i] * gain
                    s = top if s > top else s
                    s = -top if s < -top else s
                    o[i] = np.rint(s) * step
            else:
                for i in range(m):
                    s = v[i] * gain
                    s = top if s > top else s
                    s = -top if s < -top else s
                    o[i] += np.rint(s) * step
        else:
            if first:
                for i in range(m):
                    o[i] = 0
            for i in range(m):
                s = v[i]
                s = full_scale if s > full_scale else s
                s = -full_scale if s < -full_scale else s
                o[i] += s
        start += m
    return clipped


@compiled
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


# ADCs that are no ideal quantizers: of a gain and an offset each, or that search a table; and noise of other shapes.


@njit(**_options)
def reshape_noise(v, distribution):
    """Turn standard normals into numbers of another distribution, in place: 1 uniform, 2 Laplace; minimax polynomials.

    They are √12·(Φ(n) - 1/2), within 1e-6, and -sign(n)·ln(2·Φ(-|n|))/√2, within 5e-7 of itself.
    """
    if distribution == 1:
        for i in range(v.shape[0]):
            a = np.abs(v[i])
            a = a if a < _F(5.5) else _F(5.5)
            u = a * _F(2 / 5.5) - _F(1)
            p = _F(-0.003204931039363146)
            p = p * u + _F(0.023910347372293472)
            p = p * u + _F(-0.009951930493116379)
            p = p * u + _F(-0.11837965250015259)
            p = p * u + _F(0.14293734729290009)
            p = p * u + _F(0.18670381605625153)
            p = p * u + _F(-0.4591405987739563)
            p = p * u + _F(0.11116623133420944)
            p = p * u + _F(0.5653982758522034)
            p = p * u + _F(-0.7537255883216858)
            p = p * u + _F(0.17759142816066742)
            p = p * u + _F(0.6132916808128357)
            p = p * u + _F(-0.9417698383331299)
            p = p * u + _F(0.7164285182952881)
            p = p * u + _F(-0.32756298780441284)
            p = p * u + _F(0.08663015067577362)
            p = p * u + _F(1.7217285633087158)
            v[i] = p if v[i] > 0 else -p
    elif distribution == 2:
        for i in range(v.shape[0]):
            a = np.abs(v[i])
            u = a * _F(2 / 6.75) - _F(1)
            p = _F(-0.00017435592599213123)
            p = p * u + _F(0.0003416147665120661)
            p = p * u + _F(-2.8726342861773446e-05)
            p = p * u + _F(-0.0005327019607648253)
            p = p * u + _F(0.0016542688244953752)
            p = p * u + _F(-0.004991345573216677)
            p = p * u + _F(0.012813691049814224)
            p = p * u + _F(-0.029270607978105545)
            p = p * u + _F(0.06313686817884445)
            p = p * u + _F(1.0585384368896484)
            p = p * u + _F(1.5108733177185059)
            v[i] = p * v[i]


@njit(**_options)
def _correct(v, place, gains, offsets, columns, positions):
    """Multiply by the gains of ADCs and add their offsets; v begins at element `place` of the output."""
    m = v.shape[0]
    i = 0
    if positions == 1:
        # They repeat every so many columns: several rows' worth, for long loops.
        period = gains.shape[0]
        at = place % period
        while i < m:
            run = min(period - at, m - i)
            s, g, o = v[i : i + run], gains[at : at + run], offsets[at : at + run]
            for k in range(run):
                s[k] = s[k] * g[k] + o[k]
            i += run
            at = 0
    else:
        c = place // positions % columns
        left = positions - place % positions
        while i < m:
            run = min(left, m - i)
            s = v[i : i + run]
            gain, shift = gains[c], offsets[c]
            for k in range(run):
                s[k] = s[k] * gain + shift
            c = c + 1 if c + 1 < columns else 0
            left = positions
            i += run


@njit(**_options)
def _rows_of_tables(rows, place, starts, columns, positions, stride):
    """Write where the table of each element's ADC begins; `starts` repeats as gains do in `_correct`."""
    m = rows.shape[0]
    i = 0
    if positions == 1:
        period = starts.shape[0]
        at = place % period
        while i < m:
            run = min(period - at, m - i)
            rows[i : i + run] = starts[at : at + run]
            i += run
            at = 0
    else:
        c = place // positions % columns
        left = positions - place % positions
        while i < m:
            run = min(left, m - i)
            rows[i : i + run] = np.uint32(c * stride)
            c = c + 1 if c + 1 < columns else 0
            left = positions
            i += run


@njit(**_options)
def _gather(source, places, target):
    """Target = source[places]. By itself: a loop that also computes takes longer."""
    for i in range(target.shape[0]):
        target[i] = source[places[i]]


@njit(**_options)
def _look_up(v, rows, code, near, table, values, levels, depth, comparisons):
    """Replace sums within the limits by what ADCs' tables make of them; NaN stays NaN.

    A table has 2^depth thresholds in order (the first is not used) and then as many NaN as there are comparisons. Where
    there are any, codes begin so evenly that a code is one of so many after the first guess: slope·v + shift, rounded
    down. Where there are none, thresholds may be in any order, and are searched bit by bit.
    """
    step, slope, shift, zero, least = levels[3], levels[4], levels[5], levels[6], levels[7]
    m = v.shape[0]
    if comparisons:
        last = _F((1 << depth) - 1)
        for i in range(m):
            s = v[i] * slope + shift
            s = s if s > 0 else _F(0)  # NaN, too
            s = s if s < last else last
            code[i] = np.uint32(np.uint32(rows[i] + np.uint32(np.int32(s))) + np.uint32(1))
        _gather(table, code, near)
        if comparisons == 1 and not values.shape[0]:
            for i in range(m):
                s = v[i] * slope + shift
                s = s if s > 0 else _F(0)
                s = s if s < last else last
                s = np.floor(s) - zero
                s = s + _F(1) if v[i] >= near[i] else s
                s = s if s > least else least
                v[i] = s * step if v[i] == v[i] else v[i]
            return
        for _ in range(comparisons - 1):
            for i in range(m):
                code[i] = np.uint32(code[i] + np.uint32(1)) if v[i] >= near[i] else code[i]
            _gather(table, code, near)
        for i in range(m):
            code[i] = code[i] if v[i] >= near[i] else np.uint32(code[i] - np.uint32(1))
    else:
        code[:] = rows
        for bit in range(depth - 1, -1, -1):
            half = np.uint32(1 << bit)
            for i in range(m):
                trial = np.uint32(code[i] + half)
                code[i] = trial if v[i] >= table[trial] else code[i]
    if values.shape[0]:
        _gather(values, code, near)
        for i in range(m):
            v[i] = near[i] if v[i] == v[i] else v[i]
    else:
        # Outputs are as evenly spaced as they should be.
        for i in range(m):
            s = _F(np.int32(np.uint32(code[i] - rows[i]))) - zero
            s = s if s > least else least
            v[i] = s * step if v[i] == v[i] else v[i]


@njit(**_options)
def convert(
    out,
    sums,
    norm2,
    slow,
    bits,
    offset,
    start,
    noise,
    key,
    tile,
    gains,
    offsets,
    table,
    values,
    starts,
    levels,
    sizes,
    first,
):
    """Add what ADCs of their own make of a tile's sums, with noise, to `out`; return how many clipped.

    Element i has the random number offset + i, and belongs to column (start + i) // positions % columns. norm2
    (σ_r > 0), slow (added) and bits (to be marked with 1 << tile % 8) may be empty. `first` overwrites `out` instead.

    noise: σ_out, σ_r, σ_m. gains, offsets (nothing: all 1 and 0) and starts, where each column's table begins (nothing:
    one for all): a number a column, in one dimension repeated for several rows.
    levels: least and largest sum, levels / full scale, step (0: no rounding); what `_look_up` needs.
    sizes: columns, positions, depth of the tables (0: an ideal quantizer), their length, comparisons, distribution.
    """
    sigma, read, multiplicative = noise[0], noise[1], noise[2]
    number = np.uint64(tile)
    low, high, gain, step = levels[0], levels[1], levels[2], levels[3]
    columns, positions, depth, stride = sizes[0], sizes[1], sizes[2], sizes[3]
    comparisons, distribution = sizes[4], sizes[5]
    words = np.empty(_WORDS, np.uint32)
    scratch = np.empty(CHUNK, np.float32)
    near = np.empty(CHUNK, np.float32)
    code = np.empty(CHUNK, np.uint32)
    rows = np.zeros(CHUNK, np.uint32)
    known, since = 0, -1  # how many rows are those of this place in the period
    noisy = sigma > 0 or read > 0 or multiplicative > 0
    mark = np.uint8(1 << (tile & 7))
    clipped = 0
    n = out.shape[0]
    begin = 0
    while begin < n:
        lead = (offset + begin) % PANEL
        m = min(CHUNK - lead, n - begin)
        v, p, o = scratch[lead : lead + m], sums[begin : begin + m], out[begin : begin + m]
        if noisy:
            _draw(scratch, words, offset + begin - lead, lead + m, key, number)
            reshape_noise(v, distribution)
            _shake(v, p, norm2[begin : begin + m] if read > 0 else p, sigma, read, multiplicative)
        else:
            for i in range(m):
                v[i] = p[i]
        if slow.shape[0]:
            q = slow[begin : begin + m]
            for i in range(m):
                v[i] += q[i]
        if gains.shape[0]:
            _correct(v, start + begin, gains, offsets, columns, positions)
        if bits.shape[0]:
            b = bits[begin : begin + m]
            count = np.int32(0)
            for i in range(m):
                over = (v[i] > high) | (v[i] < low)
                b[i] |= mark if over else np.uint8(0)
                count += np.int32(over)
            clipped += count
        for i in range(m):
            s = v[i]
            s = high if s > high else s
            v[i] = low if s < low else s
        if depth:
            if starts.shape[0]:
                phase = (start + begin) % (columns * positions)
                if phase != since or known < m:  # where columns divide a chunk, it is the same every time
                    _rows_of_tables(rows[:m], start + begin, starts, columns, positions, stride)
                    known, since = m, phase
            _look_up(v, rows[:m], code[:m], near[:m], table, values, levels, depth, comparisons)
        elif step > 0:
            for i in range(m):
                v[i] = np.rint(v[i] * gain) * step
        if first:
            for i in range(m):
                o[i] = v[i]
        else:
            for i in range(m):
                o[i] += v[i]
        begin += m
    return clipped


@compiled
def convert_kernel(arguments):
    """Arrays out, sums, norm2 or 0, slow or 0, bits or 0; count, offset, noise (3), key (4), tile; ADCs, levels (8),
    sizes (6); first, clipped or 0 (as `accumulate_kernel`).

    ADCs: gains, offsets, table, values, starts, an array or 0 and how many numbers it has each (10).
    """
    a = carray(arguments, (15,), np.int64)
    count = a[5]
    begin, stop = _share(count, CHUNK)
    sizes, adcs = _integers(a[12], 0, 6), _integers(a[10], 0, 10)
    clipped = convert(
        _floats(a[0], begin, stop),
        _floats(a[1], begin, stop),
        _floats(a[2], begin, stop),
        _floats(a[3], begin, stop),
        _bytes(a[4], begin, stop),
        a[6] + begin,
        begin,
        _floats(a[7], 0, 3),
        carray(_pointer(a[8]), (4,), np.uint64),
        a[9],
        _floats(adcs[0], 0, adcs[1]),
        _floats(adcs[2], 0, adcs[3]),
        _floats(adcs[4], 0, adcs[5]),
        _floats(adcs[6], 0, adcs[7]),
        _words_at(adcs[8], adcs[9]),
        _floats(a[11], 0, 8),
        sizes,
        a[13] != 0,
    )
    if a[14]:
        _integers(a[14], 0, 8 * (thread_number() + 1))[8 * thread_number()] = clipped


@njit(**_options)
def smooth(white, apart, state, rho, innovation, amplitude):
    """Filter columns in place (`reference.smooth`): as many as `state` holds, from each row's first, `apart` apart."""
    columns = state.shape[0]
    for begin in range(0, white.shape[0], apart):
        w = white[begin : begin + columns]
        for i in range(columns):
            fresh = np.float64(w[i])
            state[i] = fresh if begin == 0 else rho * state[i] + innovation * fresh
            w[i] = _F(state[i]) * amplitude


@compiled
def smooth_kernel(arguments):
    """White (times, columns), times, columns; ρ, √(1 - ρ²) (2, float64), amplitude (1)."""
    a = carray(arguments, (5,), np.int64)
    times, columns = a[1], a[2]
    first, last = _share(columns, 16)
    if first < last and times:
        law = carray(_pointer(a[3]), (2,), np.float64)
        state = np.empty(last - first, np.float64)
        # As far as this thread's columns of the last row.
        white = _floats(a[0], first, (times - 1) * columns + last)
        smooth(white, columns, state, law[0], law[1], _floats(a[4], 0, 1)[0])


@njit(**_options)
def noise(x, out, sigma, multiplicative, per_sample, offset, key):
    """Out = x·(1 + σ_m·n₁) + σ·n₂; each σ holds one value, or one a sample of `per_sample` elements.

    Numbers of a noise that is 0 everywhere are not drawn, and not read: what memory holds may be NaN.
    """
    words = np.empty(_WORDS, np.uint32)
    one = np.empty(CHUNK, np.float32)
    two = np.empty(CHUNK, np.float32)
    relative = np.any(multiplicative != 0)
    additive = np.any(sigma != 0)
    n = x.shape[0]
    start = 0
    while start < n:
        lead = (offset + start) % PANEL
        stop = start + min(CHUNK - lead, n - start)
        if additive:
            _draw(two, words, offset + start - lead, lead + stop - start, key, np.uint64(0))
        if relative:
            _draw(one, words, offset + start - lead, lead + stop - start, key, np.uint64(1))
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
            elif additive:
                for i in range(m):
                    o[i] = v[i] + sg * n2[i]
            else:
                o[:] = v
            start += m
            lead += m


@compiled
def noise_kernel(arguments):
    """Arrays x, out; σ, how many, σ_m, how many, elements a sample, count, key (4)."""
    a = carray(arguments, (9,), np.int64)
    start, stop = _share(a[7], PANEL)
    x, out = _floats(a[0], start, stop), _floats(a[1], start, stop)
    key = carray(_pointer(a[8]), (4,), np.uint64)
    noise(x, out, _floats(a[2], 0, a[3]), _floats(a[4], 0, a[5]), a[6], start, key)


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


@njit(**_reordering)
def _square_sum(row):
    total = _F(0)
    for i in range(row.shape[0]):
        total += row[i] * row[i]
    return total


@njit(**_inside)
def _product(a, a_stride, transposed, b, b_stride, out, out_stride, n, count, width, turned=False):
    """Multiply b (n, width) by a (width, count), or by a (count, width) `transposed`, into out (n, count).

    `turned`: b lies as (width, n). Rows are their strides apart. BLAS counts columns first, so that a comes first, and
    knows nothing but addresses.
    """
    size = np.empty(6, np.int32)
    size[0], size[1], size[2] = count, n, width
    size[3], size[4], size[5] = a_stride, b_stride, out_stride
    flag = np.empty(2, np.uint8)
    flag[0], flag[1] = 84 if transposed else 78, 84 if turned else 78  # T or N
    factor = np.empty(2, np.float32)
    factor[0], factor[1] = 1, 0
    s, c, f = size.ctypes.data, flag.ctypes.data, factor.ctypes.data
    sgemm(c, c + 1, s, s + 4, s + 8, f, a, s + 12, b, s + 16, f + 4, out, s + 20)


@compiled
def matmul_kernel(arguments):
    """`tiled_matmul` of this thread's rows.

    x, stride, w, stride, out, m, k, n; rows of a tile, most rows of a block, inputs converted together, whether there
    are few outputs, whether inputs are converted; room for each thread's inputs, sums, transposed sums if few, squared
    lengths or 0; scalars of `dac` and `accumulate`, key; clip bits or 0, counts of clips (threads, tiles); length of
    scale and bias or 0, scale, bias; rows of `accumulate`'s scalars: one for all tiles, or each's own.

    The threads never wait for each other, and call BLAS for themselves: one of a team computes alone.
    """
    a = carray(arguments, (26,), np.int64)
    x, x_stride, w, w_stride, out, m, k, n = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    width, most, group, few, converts = a[8], a[9], a[10], a[11] != 0, a[12] != 0
    number = np.int64(thread_number())
    inputs, sums = a[13] + 4 * number * most * group, a[14] + 4 * number * most * n
    columns, squares = a[15] + 4 * number * most * n, a[16] + 4 * number * most * n if a[16] else 0
    dac_scalars, key = _floats(a[17], 0, 4), carray(_pointer(a[19]), (4,), np.uint64)
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
        into = _floats(out, start * n, stop * n)
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
            here, weight, own = ready + 4 * (left - begin), w + 4 * left, min(tile, a[25] - 1)
            adc_scalars = _floats(a[18], 6 * own, 6 * own + 6)
            # The first tile's sums lie where they are converted to, if noise is added on the way: without it one loop
            # would read and write there, and LLVM makes no vectors of that one.
            target = out + 4 * start * n if tile == 0 and _draws(adc_scalars) else sums
            total = _floats(target, 0, rows * n)
            if few:
                _product(here, stride, True, weight, w_stride, columns, rows, n, rows, right - left)
                transpose_few(_floats(columns, 0, rows * n), total, n, rows)
            else:
                _product(weight, w_stride, True, here, stride, target, n, rows, n, right - left)
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


@njit(**_options)
def _digits(x, target, apart, steps, base, scalars, scratch):
    """Convert inputs, and cut their codes into the digits of each step, the lowest first, in [-1, 1]: `apart` apart."""
    gain, low, high = scalars[0], scalars[1], scalars[2]
    top = base - _F(1)
    inverse = _F(1) / base  # a power of two
    for first in range(0, x.shape[0], CHUNK):
        m = min(CHUNK, x.shape[0] - first)
        s, rest = x[first : first + m], scratch[:m]
        for i in range(m):
            v = s[i] * gain
            v = high if v > high else v
            v = low if v < low else v
            rest[i] = np.rint(v)
        for step in range(steps):
            begin = step * apart + first
            t = _floats(target, begin, begin + m)
            for i in range(m):
                code = np.abs(rest[i])
                higher = np.floor(code * inverse)
                digit = (code - higher * base) / top
                t[i] = digit if rest[i] > 0 else -digit
                rest[i] = higher if rest[i] > 0 else -higher


@njit(**_options)
def _convert_rows(x, x_stride, inputs, stride, rows, steps, base, apart, scalars, scratch):
    """Convert `stride` inputs of each row, all bits at once or in steps: (steps, rows, stride), steps `apart` apart."""
    if stride == x_stride:
        rows, stride, x_stride = 1, rows * stride, rows * stride
    for row in range(rows):
        line = _floats(x, row * x_stride, row * x_stride + stride)
        if base > 0:
            _digits(line, inputs + 4 * row * stride, apart, steps, base, scalars, scratch)
        else:
            dac(line, _floats(inputs, row * stride, (row + 1) * stride), scalars)


@njit(**_inside)
def _product_of_rows(here, stride, weight, w_stride, target, columns, rows, n, width):
    """Multiply rows (rows, width) by weights (n, width): target (rows, n); `columns`: room for few outputs, or 0."""
    if columns:
        _product(here, stride, True, weight, w_stride, columns, rows, n, rows, width)
        transpose_few(_floats(columns, 0, rows * n), _floats(target, 0, rows * n), n, rows)
    else:
        _product(weight, w_stride, True, here, stride, target, n, rows, n, width)


@njit(**_options)
def _square_rows(here, stride, rows, width, squares, norms):
    """Write the squares of rows (rows, width), and their sums; either may be 0, for no such room."""
    for row in range(rows):
        h = _floats(here, row * stride, row * stride + width)
        if squares:
            q = _floats(squares, row * width, (row + 1) * width)
            for i in range(width):
                q[i] = h[i] * h[i]
        if norms:
            _floats(norms, 0, rows)[row] = _square_sum(h)


@njit(**_options)
def _add_norms(lengths, norms, rows, n, read, first):
    """Add read²·‖x̂‖² of each row to what is in its n columns, or write it there if `first`."""
    for row in range(rows):
        q, own = _floats(lengths, row * n, (row + 1) * n), read * read * _floats(norms, 0, rows)[row]
        if first:
            for i in range(n):
                q[i] = own
        else:
            for i in range(n):
                q[i] += own


@njit(**_options)
def _saturate(total, low, high, bits, length, planes, start):
    """Keep sums within a register; where they were not, every tile of an output counts as clipped."""
    for i in range(total.shape[0]):
        s = total[i]
        if bits and (s < low or s > high):
            for plane in range(planes):
                _bytes(bits, plane * length, (plane + 1) * length)[start + i] = 255
        s = high if s > high else s
        total[i] = low if s < low else s


@njit(**_options)
def _combine(out, total, factor, first):
    if first:
        for i in range(out.shape[0]):
            out[i] = total[i] * factor
    else:
        for i in range(out.shape[0]):
            out[i] += total[i] * factor


@compiled
def lines_kernel(arguments):
    """`Backend.read_lines` of this thread's rows, a block of rows at a time as in `matmul_kernel`.

    x, stride, out, m, k, n; rows of a tile, most rows of a block, inputs converted together, whether inputs are
    converted; lines, steps, 2^bits of a step or 0; room for each thread's inputs, squared inputs or 0, squared lengths
    or 0, sums, variances or 0, transposed sums or 0, each line's and step's totals or 0; scalars of `dac`; lines'
    weights, strides, variances or 0, strides (lines, 4); noise (lines, 3), keys (lines, steps, 4); ADCs (lines, steps,
    tiles, 10), levels (lines, steps, tiles, 8) and sizes (lines, steps, tiles, 6) as in `convert_kernel`; factors
    (lines, steps); registers' ends (lines, steps, 2) or 0, whether there are any; clip bits or 0, counts of clips
    (threads, tiles); length of scale and bias or 0, scale, bias; σ_r; what is added to sums (lines, steps, tiles, m,
    n) or 0.
    """
    a = carray(arguments, (37,), np.int64)
    x, x_stride, out, m, k, n = a[0], a[1], a[2], a[3], a[4], a[5]
    width, most, group, converts = a[6], a[7], a[8], a[9] != 0
    lines, steps, base = a[10], a[11], _F(a[12])
    number = np.int64(thread_number())
    block, tiles = most * n, (k + width - 1) // width
    inputs = a[13] + 4 * number * steps * most * group
    squares = a[14] + 4 * number * most * width if a[14] else 0
    norms = a[15] + 4 * number * most if a[15] else 0
    sums = a[16] + 4 * number * block
    lengths = a[17] + 4 * number * block if a[17] else 0
    columns = a[18] + 4 * number * block if a[18] else 0
    totals = a[19] + 4 * number * lines * steps * block if a[19] else 0
    scalars = _floats(a[20], 0, 4)
    matrices = carray(_pointer(a[21]), (lines, 4), np.int64)
    noises = carray(_pointer(a[22]), (lines, 3), np.float32)
    keys = carray(_pointer(a[23]), (lines, steps, 4), np.uint64)
    adcs = carray(_pointer(a[24]), (lines, steps, tiles, 10), np.int64)
    levels = carray(_pointer(a[25]), (lines, steps, tiles, 8), np.float32)
    sizes = carray(_pointer(a[26]), (lines, steps, tiles, 6), np.int64)
    factors = carray(_pointer(a[27]), (lines, steps), np.float32)
    registers, saturates, bits, period = _floats(a[28], 0, 2 * lines * steps), a[29] != 0, a[30], a[32]
    counts = _integers(a[31], number * tiles, (number + 1) * tiles)
    scale, bias = _floats(a[33], 0, period), _floats(a[34], 0, period)
    read, slow = _floats(a[35], 0, 1)[0], a[36]
    scratch = np.empty(CHUNK, np.float32)
    first, last = _share(m, 16)
    blocks = (last - first + most - 1) // most
    for part in range(blocks):
        start = first + (last - first) * part // blocks
        stop = first + (last - first) * (part + 1) // blocks
        rows = stop - start
        into = _floats(out, start * n, stop * n)
        ready, stride, apart, begin = x + 4 * start * x_stride, x_stride, 0, 0
        for tile in range(tiles):
            left, right = tile * width, min(k, tile * width + width)
            if converts and left % group == 0:
                ready, stride, apart, begin = inputs, min(group, k - left), most * group, left
                source = x + 4 * (start * x_stride + left)
                _convert_rows(source, x_stride, inputs, stride, rows, steps, base, apart, scalars, scratch)
            for step in range(steps):
                here = ready + 4 * (step * apart + left - begin)
                if squares or norms:
                    _square_rows(here, stride, rows, right - left, squares, norms)
                for line in range(lines):
                    w = matrices[line]
                    _product_of_rows(here, stride, w[0] + 4 * left, w[1], sums, columns, rows, n, right - left)
                    if w[2]:
                        v, wide = w[2] + 4 * left, right - left
                        _product_of_rows(squares, wide, v, w[3], lengths, columns, rows, n, wide)
                    if norms:
                        _add_norms(lengths, norms, rows, n, read, w[2] == 0)
                    marks = _bytes(bits + m * n * (tile // 8) if bits else 0, start * n, stop * n)
                    own, of = adcs[line, step, tile], line * steps + step
                    total = _floats(totals, of * block, of * block + rows * n) if totals else into
                    clipped = convert(
                        total,
                        _floats(sums, 0, rows * n),
                        _floats(lengths, 0, rows * n),
                        _floats(slow + 4 * (of * tiles + tile) * m * n if slow else 0, start * n, stop * n),
                        marks,
                        start * n,
                        start * n,
                        noises[line],
                        keys[line, step],
                        tile,
                        _floats(own[0], 0, own[1]),
                        _floats(own[2], 0, own[3]),
                        _floats(own[4], 0, own[5]),
                        _floats(own[6], 0, own[7]),
                        _words_at(own[8], own[9]),
                        levels[line, step, tile],
                        sizes[line, step, tile],
                        tile == 0,
                    )
                    if bits:
                        counts[tile] += clipped
        if totals:
            for of in range(lines * steps):
                total = _floats(totals, of * block, of * block + rows * n)
                if saturates:
                    low, high = registers[2 * of], registers[2 * of + 1]
                    _saturate(total, low, high, bits, m * n, (tiles + 7) // 8, start * n)
                _combine(into, total, factors[of // steps, of % steps], of == 0)
        if period:
            scale_rows(into, scale, bias)


# Weights as they are programmed: W over the largest magnitude of its row (an output).

_MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits but the sign's
_USUAL = _F(2.0**-64), _F(2.0**64)  # scales by which sums of weights can be divided in place of the weights


@njit(**_inside)
def _largest(address, count):
    """Return the largest magnitude of `count` numbers; NaN where one is (its bits are above those of infinity)."""
    bits = carray(_pointer(address), (count,), np.int32)
    most = np.int32(0)
    for i in range(count):
        magnitude = np.int32(bits[i] & _MAGNITUDE)
        most = magnitude if magnitude > most else most
    return np.int32(most).view(np.float32)


@njit(**_options)
def _programmed(w, out, scale, clips, levels):
    """Out = w / scale (where that is 0: w), clipped to ±1 if `clips`, rounded to `levels` steps if there are any."""
    divisor = _F(1) if scale == 0 else scale
    for i in range(w.shape[0]):
        v = w[i] / divisor
        if clips:
            v = _F(1) if v > _F(1) else v
            v = _F(-1) if v < _F(-1) else v
        if levels > 0:
            v = np.rint(v * levels) / levels
        out[i] = v


@compiled
def program_kernel(arguments):
    """ŵ of W (n, k): arrays W, ŵ, w_max (n); n, k, whether w_max is to be found, levels and whether to clip (floats).

    A row is in the first-level cache when it is read the second time.
    """
    a = carray(arguments, (7,), np.int64)
    n, k, finds = a[3], a[4], a[5] != 0
    scales, options = _floats(a[2], 0, n), _floats(a[6], 0, 2)
    first, last = _share(n, 1)
    for row in range(first, last):
        if finds:
            scales[row] = _largest(a[0] + 4 * row * k, k)
        w, out = _floats(a[0], row * k, (row + 1) * k), _floats(a[1], row * k, (row + 1) * k)
        _programmed(w, out, scales[row], options[1] > 0, options[0])


@njit(**_inside)
def _hashed(words, one, two, found):
    """Add hashes of 64-bit words by two keys to `found`: Σ (low half)·(high half) of each word plus its key.

    The universal hash NH (J. Black et al., *UMAC: fast and secure message authentication*, CRYPTO 1999): for a key
    drawn at random, two arrays that differ have the same hash once in 2^32 times at most.
    """
    first = second = np.uint64(0)
    for i in range(words.shape[0]):
        u, v = words[i] + one[i], words[i] + two[i]
        first += (u & _LOW) * (u >> _HALF)
        second += (v & _LOW) * (v >> _HALF)
    found[0] = (found[0] + first) * np.uint64(0x9E3779B97F4A7C15)
    found[1] = (found[1] + second) * np.uint64(0x9E3779B97F4A7C15)


@compiled
def fingerprint_kernel(arguments):
    """Two hashes of this thread's share of an array: address, bytes (a multiple of 8), keys, hashes (threads, 2)."""
    a = carray(arguments, (4,), np.int64)
    number = np.int64(thread_number())
    first, last = _share(a[1] // 8, BLOCK_KEYS)
    keys = carray(_pointer(a[2]), (2 * BLOCK_KEYS,), np.uint64)
    found = carray(_pointer(a[3] + 16 * number), (2,), np.uint64)
    found[0] = found[1] = 0
    for begin in range(first, last, BLOCK_KEYS):
        count = min(BLOCK_KEYS, last - begin)
        words = carray(_pointer(a[0] + 8 * begin), (count,), np.uint64)
        _hashed(words, keys[:count], keys[BLOCK_KEYS : BLOCK_KEYS + count], found)


# Few rows of inputs: the weights are read once, and everything else is small. Threads share the outputs.


@njit(**_reordering)
def _dot(x, w):
    total = _F(0)
    for i in range(w.shape[0]):
        total += x[i] * w[i]
    return total


@njit(**_reordering)
def _dots(rows, apart, other, target, step):
    """Multiply four rows, `apart` apart, by one other, into numbers `step` apart."""
    n = other.shape[0]
    p, q = rows[:n], rows[apart : apart + n]
    r, s = rows[2 * apart : 2 * apart + n], rows[3 * apart : 3 * apart + n]
    a = b = c = d = _F(0)
    for i in range(n):
        v = other[i]
        a += p[i] * v
        b += q[i] * v
        c += r[i] * v
        d += s[i] * v
    target[0], target[step], target[2 * step], target[3 * step] = a, b, c, d


@njit(**_reordering)
def _dots_and_largest(rows, apart, other, target, found):
    """Multiply four rows by one other, and raise `found` to their largest magnitudes: memory is read only once."""
    n = other.shape[0]
    p, q = rows[:n], rows[apart : apart + n]
    r, s = rows[2 * apart : 2 * apart + n], rows[3 * apart : 3 * apart + n]
    a = b = c = d = _F(0)
    e, f = np.float32(found[0]).view(np.int32), np.float32(found[1]).view(np.int32)
    g, h = np.float32(found[2]).view(np.int32), np.float32(found[3]).view(np.int32)
    for i in range(n):
        v = other[i]
        a += p[i] * v
        b += q[i] * v
        c += r[i] * v
        d += s[i] * v
        top = np.int32(np.float32(p[i]).view(np.int32) & _MAGNITUDE)
        e = top if top > e else e
        top = np.int32(np.float32(q[i]).view(np.int32) & _MAGNITUDE)
        f = top if top > f else f
        top = np.int32(np.float32(r[i]).view(np.int32) & _MAGNITUDE)
        g = top if top > g else g
        top = np.int32(np.float32(s[i]).view(np.int32) & _MAGNITUDE)
        h = top if top > h else h
    target[0], target[1], target[2], target[3] = a, b, c, d
    found[0], found[1] = np.int32(e).view(np.float32), np.int32(f).view(np.float32)
    found[2], found[3] = np.int32(g).view(np.float32), np.int32(h).view(np.float32)


@njit(**_reordering)
def _dots_of_two(x, x_apart, w, w_apart, n, target, apart):
    """Multiply four rows of inputs by two of weights, n numbers each: as many sums as AVX2's registers hold."""
    x0, x1 = x[:n], x[x_apart : x_apart + n]
    x2, x3 = x[2 * x_apart : 2 * x_apart + n], x[3 * x_apart : 3 * x_apart + n]
    w0, w1 = w[:n], w[w_apart : w_apart + n]
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = _F(0)
    for i in range(n):
        v, u = w0[i], w1[i]
        p, q, r, s = x0[i], x1[i], x2[i], x3[i]
        a0 += p * v
        a1 += p * u
        b0 += q * v
        b1 += q * u
        c0 += r * v
        c1 += r * u
        d0 += s * v
        d1 += s * u
    target[0], target[1], target[apart], target[apart + 1] = a0, a1, b0, b1
    into = target[2 * apart :]
    into[0], into[1], into[apart], into[apart + 1] = c0, c1, d0, d1


@njit(**_inside)
def _own_product(x, x_apart, m, w, w_apart, outputs, n, target, apart):
    """Multiply m rows of inputs by some rows of weights, n numbers each: what BLAS has no fast way for."""
    for output in range(0, outputs - 3, 4):
        weights = w[output * w_apart :]
        for row in range(0, m - 3, 4):
            rows, into = x[row * x_apart :], target[row * apart + output :]
            _dots_of_two(rows, x_apart, weights, w_apart, n, into, apart)
            _dots_of_two(rows, x_apart, weights[2 * w_apart :], w_apart, n, into[2:], apart)
        for row in range(m // 4 * 4, m):
            _dots(weights, w_apart, x[row * x_apart : row * x_apart + n], target[row * apart + output :], 1)
    for output in range(outputs // 4 * 4, outputs):
        weights = w[output * w_apart : output * w_apart + n]
        for row in range(0, m - 3, 4):
            _dots(x[row * x_apart :], x_apart, weights, target[row * apart + output :], apart)
        for row in range(m // 4 * 4, m):
            target[row * apart + output] = _dot(x[row * x_apart : row * x_apart + n], weights)


@njit(**_inside)
def _few_sums(inputs, m, k, w, w_stride, first, last, width, w_max, inverse, sums, apart, block):
    """Write sums of all tiles, (tiles, m, outputs first … last), `apart` between rows, on ŵ; return usual scales.

    Where w_max is an address, w is W: the largest magnitude of each output is written there, and sums are divided by
    it. That is as good as dividing the weights while it is within `_USUAL`, or 0.
    """
    tiles = (k + width - 1) // width
    usual = True
    for begin in range(first, last, block):
        stop = min(last, begin + block)
        count, found = stop - begin, _floats(w_max, begin, stop)
        found[:] = 0
        for tile in range(tiles):
            left, right = tile * width, min(k, tile * width + width)
            here, into = inputs + 4 * left, sums + 4 * (tile * m * apart + begin - first)
            weight = w + 4 * (begin * w_stride + left)
            rows, target = _floats(here, 0, m * k - left), _floats(into, 0, m * apart)
            weights = _floats(weight, 0, (count - 1) * w_stride + right - left)
            if found.shape[0] == 4 and m == 1:
                _dots_and_largest(weights, w_stride, rows[: right - left], target, found)
            else:
                for output in range(found.shape[0]):
                    top = _largest(weight + 4 * output * w_stride, right - left)
                    known = found[output]
                    found[output] = known if top <= known or known != known else top  # NaN stays
                _own_product(rows, k, m, weights, w_stride, count, right - left, target, apart)
        if w_max:
            factors = _floats(inverse, 0, count)
            for i in range(count):
                factors[i] = _F(1) if found[i] == 0 else _F(1) / found[i]
                usual = usual and (found[i] == 0 or _USUAL[0] < found[i] < _USUAL[1])
            for line in range(tiles * m):
                into = _floats(sums, line * apart + begin - first, line * apart + stop - first)
                for i in range(count):
                    into[i] *= factors[i]
    return usual


@compiled
def few_rows_kernel(arguments):
    """`tiled_matmul` of few rows, of this thread's outputs; on ŵ, or on W, which it programs as it reads.

    x, stride, w, stride, out, m, k, n; rows of a tile, outputs whose sums are held together and outputs of a block of
    weights, whether inputs are converted; room for each thread's inputs, sums, factors, squared lengths or 0; scalars
    of `dac` and `accumulate`, key; clip bits or 0, counts of clips (threads, tiles); scale or 0, bias or 0 (n); rows of
    `accumulate`'s scalars; w_max (n) or 0 (then w is ŵ); α, whose product with w_max is the scale; for each thread,
    whether it met unusual scales.
    """
    a = carray(arguments, (27,), np.int64)
    x, x_stride, w, w_stride, out, m, k, n = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    width, most, block, converts = a[8], a[9], a[10], a[11] != 0
    number = np.int64(thread_number())
    tiles = (k + width - 1) // width
    inputs, sums = a[12] + 4 * number * m * k, a[13] + 4 * number * tiles * m * most
    inverse, squares = a[14] + 4 * number * block, a[15] + 4 * number * most if a[15] else 0
    dac_scalars, key = _floats(a[16], 0, 4), carray(_pointer(a[18]), (4,), np.uint64)
    bits, counts = a[19], _integers(a[20], number * tiles, (number + 1) * tiles)
    scale, bias, w_max, alpha = _floats(a[21], 0, n), _floats(a[22], 0, n), a[24], _floats(a[25], 0, 1)
    for row in range(m):
        line, place = _floats(inputs, row * k, (row + 1) * k), row * x_stride
        if converts:
            dac(_floats(x, place, place + k), line, dac_scalars)
        else:
            line[:] = _floats(x, place, place + k)
    first_output, last_output = _share(n, PANEL)
    for first in range(first_output, last_output, most):
        last = min(last_output, first + most)
        usual = _few_sums(inputs, m, k, w, w_stride, first, last, width, w_max, inverse, sums, most, block)
        if not usual:
            _integers(a[26], number, number + 1)[0] = 1
        for row in range(m):
            at = row * n + first
            into = _floats(out, at, at + last - first)
            for tile in range(tiles):
                total = _floats(sums, (tile * m + row) * most, (tile * m + row) * most + last - first)
                norm2 = _floats(squares, 0, last - first)
                if squares:
                    left, right = tile * width, min(k, tile * width + width)
                    norm2[:] = _square_sum(_floats(inputs, row * k + left, row * k + right))
                marks = _bytes(bits + m * n * (tile // 8) if bits else 0, at, at + last - first)
                own = min(tile, a[23] - 1)
                adc_scalars = _floats(a[17], 6 * own, 6 * own + 6)
                clipped = accumulate(into, total, norm2, marks, at, adc_scalars, key, tile, tile == 0)
                if bits:
                    counts[tile] += clipped
            if w_max:
                found = _floats(w_max, first, last)
                for i in range(last - first):
                    into[i] *= alpha[0] * found[i]
            elif a[21]:
                gains = scale[first:last]
                for i in range(last - first):
                    into[i] *= gains[i]
            if a[22]:
                offsets = bias[first:last]
                for i in range(last - first):
                    into[i] += offsets[i]


# Convolutions. Of 16 output positions (of one image, or one position of 16 images) a tile's inputs are unfolded into a
# block that the first-level cache holds, (rows, 16), and multiplied by all outputs' weights, a few outputs at a time,
# whose sums stay in registers. Weights are read where they lie.


def _multiplier(outputs, blocks):
    """Return a function that multiplies blocks (count, 16) by some outputs' weights: `target` (outputs, 16) of each.

    Outputs' weights are `apart`, and of each those that `index` names are taken. Of outputs there are `left` at most;
    the last stands in for those beyond, too. The second block is `other` behind the first, its target `beside` it.
    """

    @intrinsic
    def multiply(typing, weights, apart, left, index, count, block, other, target, beside, step):
        def generate(context, builder, signature, arguments):
            weights, apart, left, index, count, block, other, target, beside, step = arguments
            number, wide, lane = ir.FloatType(), ir.IntType(64), ir.IntType(32)
            row_type, no_row = ir.VectorType(number, LANES), ir.Constant(ir.VectorType(number, LANES), ir.Undefined)
            zeros = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
            pointer, indices = (
                builder.inttoptr(weights, number.as_pointer()),
                builder.inttoptr(index, lane.as_pointer()),
            )
            own, ends = [block, builder.add(block, other)][:blocks], [target, builder.add(target, beside)][:blocks]
            own = [builder.inttoptr(address, row_type.as_pointer()) for address in own]
            starts = []
            for k in range(outputs):
                there = builder.icmp_signed("<", ir.Constant(wide, k), left)
                last = builder.select(there, ir.Constant(wide, k), builder.sub(left, ir.Constant(wide, 1)))
                starts.append(builder.gep(pointer, [builder.mul(apart, last)]))
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(wide)
            sums = [[builder.phi(row_type) for _ in range(blocks)] for _ in range(outputs)]
            rows = [builder.load(builder.gep(address, [k]), align=4) for address in own]
            place = builder.zext(builder.load(builder.gep(indices, [k])), wide)
            following = builder.add(k, ir.Constant(wide, 1))
            k.add_incoming(ir.Constant(wide, 0), before)
            k.add_incoming(following, loop)
            totals = []
            for parts, start in zip(sums, starts, strict=True):
                weight = builder.load(builder.gep(start, [place]))
                weight = builder.insert_element(no_row, weight, ir.Constant(lane, 0))
                weight = builder.shuffle_vector(weight, no_row, zeros)
                products = [builder.fmul(weight, row, flags=("contract",)) for row in rows]
                totals.append([builder.fadd(a, b, flags=("contract",)) for a, b in zip(parts, products, strict=True)])
                for total, following_total in zip(parts, totals[-1], strict=True):
                    total.add_incoming(ir.Constant(row_type, [0.0] * LANES), before)
                    total.add_incoming(following_total, loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            builder.position_at_end(after)
            for which, end in enumerate(ends):
                pointer = builder.inttoptr(end, number.as_pointer())
                for k, parts in enumerate(totals):
                    place = builder.gep(pointer, [builder.mul(step, ir.Constant(wide, k))])
                    builder.store(parts[which], builder.bitcast(place, row_type.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return multiply


LANES = 16  # numbers of a row of a block
WIDE = bool(get_host_cpu_features().get("avx512f"))
# Outputs whose sums of 16 positions fill the processor's registers; the others' number leaves few of them idle. With
# twice as many registers, two blocks at once read each weight once for both.
OUTPUTS = 12 if WIDE else 6
_multiply_many, _multiply_four = _multiplier(OUTPUTS, 1), _multiplier(4, 1)
_multiply_eight_twice, _multiply_four_twice = _multiplier(8, 2), _multiplier(4, 2)


@njit(**_inside)
def _multiply(weights, apart, index, count, block, target, step, n):
    """Multiply a block (count, 16) by n outputs' weights: `target` (n, 16), rows `step` apart.

    Up to OUTPUTS - 1 rows more are written.
    """
    if count == 0:
        for k in range(n):
            _floats(target, k * step, k * step + LANES)[:] = 0
        return
    k = 0
    while k < n:
        left = n - k
        own, into = weights + 4 * k * apart, target + 4 * k * step
        if left < 5 or (left < 9 and (left > 6 or OUTPUTS > 6)):
            _multiply_four(own, apart, left, index, count, block, 0, into, 0, step)
            k += 4
        else:
            _multiply_many(own, apart, left, index, count, block, 0, into, 0, step)
            k += OUTPUTS


@njit(**_inside)
def _multiply_two(weights, apart, index, count, block, target, beside, step, n):
    """Multiply two blocks (count, 16), the one behind the other, by n outputs' weights, as `_multiply`; the second's
    `target` is `beside` bytes behind the first's. For processors that are WIDE.
    """
    if count == 0:
        _multiply(weights, apart, index, count, block, target, step, n)
        _multiply(weights, apart, index, count, block + 4 * LANES * count, target + beside, step, n)
        return
    k, other = 0, 4 * LANES * count
    while k < n:
        left = n - k
        own, into = weights + 4 * k * apart, target + 4 * k * step
        if left < 5:
            _multiply_four_twice(own, apart, left, index, count, block, other, into, beside, step)
            k += 4
        else:
            _multiply_eight_twice(own, apart, left, index, count, block, other, into, beside, step)
            k += 8


@njit(**_options)
def _squared_lengths(block, count, target):
    """Write the squared length of each column of a block (count, 16)."""
    total = _floats(target, 0, LANES)
    total[:] = 0
    for k in range(count):
        row = _floats(block, k * LANES, k * LANES + LANES)
        for i in range(LANES):
            total[i] += row[i] * row[i]


@njit(**_inside)
def _hand_over(sums, squares, out, bits, all_outputs, at, count, scalars, own, key, tile):
    """Convert `count` partial sums of a tile, which follow one another in the output from `at` on, and add them up.

    Return how many clipped.
    """
    row = min(tile, own - 1)
    return accumulate(
        _floats(out, at, at + count),
        _floats(sums, 0, count),
        _floats(squares, 0, count),
        _bytes(bits + all_outputs * (tile // 8) if bits else 0, at, at + count),
        at,
        _floats(scalars, 6 * row, 6 * row + 6),
        key,
        tile,
        tile == 0,
    )


@intrinsic
def _zero16(typing, target):
    """Write 16 zeros at an address."""

    def generate(context, builder, signature, arguments):
        row_type = ir.VectorType(ir.FloatType(), LANES)
        nothing = ir.Constant(row_type, [0.0] * LANES)
        builder.store(nothing, builder.inttoptr(arguments[0], row_type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(int64), generate


@njit(**_inside)
def _zeros(target, count):
    """Write zeros; up to 15 more."""
    for i in range(0, count, LANES):
        _zero16(target + 4 * i)


@njit(**_inside)
def _pad_row(source, target, w, padding, stride, wide):
    """Write a row of w numbers with zeros on both sides: every `stride`-th number after the other.

    `target` (stride, wide) may be written 15 numbers too far.
    """
    if stride == 1:
        _zeros(target, padding)
        for i in range(0, w, LANES):
            _copy16(source + 4 * i, target + 4 * (padding + i))
        _zeros(target + 4 * (padding + w), wide - padding - w)
    else:
        _zeros(target, stride * wide)
        s = _floats(source, 0, w)
        for phase in range(stride):
            begin = (phase - padding) % stride
            t = _floats(target, phase * wide + (begin + padding) // stride, (phase + 1) * wide)
            for i in range(begin, w, stride):
                t[(i - begin) // stride] = s[i]


@njit(**_inside)
def _pad_channels(x, first, stop, z, y, padded, scratch, sizes, window, scalars):
    """Convert channels first … stop (of all images') by the DAC into `padded` (channels, planes, rows, stride · wide).

    It holds the rows of the padded image that a block of output positions meets, those of planes from z and of rows
    from y on; window: planes, rows, wide. Up to 15 numbers behind it are written.
    """
    d, h, w = sizes[3], sizes[4], sizes[5]
    pd, ph, pw, stride = sizes[15], sizes[16], sizes[17], sizes[14]
    planes, rows, wide = window[0], window[1], window[2]
    length = stride * wide
    low, high = max(0, y - ph), min(h, y - ph + rows)
    above = min(rows, low - (y - ph)) if low < high else rows
    for channel in range(first, stop):
        for plane in range(z - pd, z - pd + planes):
            target = padded + 4 * ((channel - first) * planes + plane - (z - pd)) * rows * length
            if plane < 0 or plane >= d or low >= high:
                _zeros(target, rows * length)
                continue
            _zeros(target, above * length)
            source, run = x + 4 * ((channel * d + plane) * h + low) * w, (high - low) * w
            target += 4 * above * length
            if stride == 1 and w == length:  # rows follow one another
                dac(_floats(source, 0, run), _floats(target, 0, run), scalars)
            else:
                dac(_floats(source, 0, run), _floats(scratch, 0, run), scalars)
                for row in range(high - low):
                    _pad_row(scratch + 4 * row * w, target + 4 * row * length, w, pw, stride, wide)
            target += 4 * (high - low) * length
            _zeros(target, (rows - above - (high - low)) * length)


@njit(**_inside)
def _unfold(padded, rows, width, position, count, z, y, block, pieces, sizes, window):
    """Unfold up to 16 output positions into a block (width, 16); 15 numbers behind it may be written.

    `rows`: where in `padded` each row of the weights begins. pieces (32): room.
    """
    high_out, wide_out = sizes[7], sizes[8]
    length = sizes[14] * window[2]
    lane, number = 0, 0
    while lane < count:
        row, column = (position + lane) // wide_out, (position + lane) % wide_out
        line = (row // high_out - z) * sizes[12] * window[1] + (row % high_out - y) * sizes[13]
        pieces[2 * number], pieces[2 * number + 1] = padded + 4 * (line * length + column), 4 * lane
        lane += wide_out - column
        number += 1
    if number == 1:
        begin = pieces[0]
        for k in range(width):
            _copy16(begin + 4 * rows[k], block + 4 * LANES * k)
    else:  # what a piece writes too far, the next one or the next row writes over
        for k in range(width):
            for piece in range(number):
                begin, into = pieces[2 * piece], block + pieces[2 * piece + 1]
                _copy16(begin + 4 * rows[k], into + 4 * LANES * k)


@njit(**_options)
def _scale_outputs(out, scale, bias, first, stop, n, positions, begin, end):
    """Out · scale + bias in place, for positions begin … end of rows first … stop of out (images · n, positions)."""
    gains, offsets = _floats(scale, 0, n), _floats(bias, 0, n)
    for row in range(first, stop):
        o, s, b = _floats(out, row * positions + begin, row * positions + end), gains[row % n], offsets[row % n]
        for i in range(end - begin):
            o[i] = o[i] * s + b


@compiled
def conv_kernel(arguments):
    """`tiled_conv`, a thread's share of output positions: blocks of 16 positions of one image.

    x, w, out; sizes; ends of the tiles' rows (tiles + 1), how many; index (rows), and where in the padded channels of a
    group each row begins; window (see `_pad_channels`); parts that outputs are cut into; positions and outputs whose
    sums are held, a multiple of 128 positions; room for each thread's padded channels, row, block, sums, squared
    lengths or 0, and the length of each; scalars of `dac` and `accumulate`, key; clip bits or 0, counts of clips
    (threads, tiles); scale and bias (outputs) or 0; rows of `accumulate`'s scalars: one for all tiles, or each's own.

    sizes: images, channels, outputs; input extents (3), output extents, kernel, stride, padding, dilation (3 each),
    groups. A convolution of fewer dimensions has extents of 1 in front.
    """
    a = carray(arguments, (29,), np.int64)
    x, w, out, sizes, tiles = a[0], a[1], a[2], _integers(a[3], 0, 22), a[5]
    ends = _integers(a[4], 0, tiles + 1)
    images, channels, n, groups = sizes[0], sizes[1], sizes[2], sizes[21]
    wide_out, high_out = sizes[8], sizes[7]
    positions, taps = sizes[6] * high_out * wide_out, sizes[9] * sizes[10] * sizes[11]
    depth, share = channels // groups, n // groups  # channels and outputs of a group
    height = depth * taps
    index, source, window = a[6], _integers(a[7], 0, height), _integers(a[8], 0, 3)
    volume = window[0] * window[1] * window[2] * sizes[14]
    parts, most, most_outputs = a[9], a[10], a[11]
    number = np.int64(thread_number())
    padded, scratch, block = a[12] + 4 * number * a[17], a[13] + 4 * number * a[18], a[14] + 4 * number * a[19]
    sums, squares = a[15] + 4 * number * a[20], a[16] + 4 * number * a[20] if a[16] else 0
    dac_scalars, key = _floats(a[21], 0, 4), carray(_pointer(a[23]), (4,), np.uint64)
    bits, scale, bias = a[24], a[26], a[27]
    counts = _integers(a[25], number * tiles, (number + 1) * tiles)
    pieces = np.empty(2 * LANES, np.int64)
    panels = (positions + PANEL - 1) // PANEL
    unit, last_unit = _share(parts * images * panels, 1)
    while unit < last_unit:
        part, image = unit // (images * panels), unit // panels % images
        start = unit % panels * PANEL
        stop = min(positions, start + min(most, (last_unit - unit) * PANEL))
        unit += (stop - start + PANEL - 1) // PANEL
        count = stop - start
        lowest, highest = n * part // parts, n * (part + 1) // parts
        # What of the image these positions meet: some rows of one plane, or whole planes.
        z = start // (high_out * wide_out)
        y = start // wide_out % high_out if sizes[6] == 1 else 0
        for tile in range(tiles):
            begin, end = ends[tile], ends[tile + 1]
            first, last = begin // taps, (end + taps - 1) // taps
            rows = source[begin:end]
            for group in range(lowest // share, (highest + share - 1) // share):
                low, high = (image * groups + group) * depth + first, (image * groups + group) * depth + last
                planes, lines = z * sizes[12], y * sizes[13]
                _pad_channels(x, low, high, planes, lines, padded, scratch, sizes, window, dac_scalars)
                bottom, top = max(lowest, group * share), min(highest, (group + 1) * share)
                for output in range(bottom, top, most_outputs):
                    m = min(most_outputs, top - output)
                    matrix, step = w + 4 * (output * height + begin), max(LANES, count)
                    base, width, ready = padded - 4 * first * volume, end - begin, 0
                    while ready < count:
                        two = WIDE and count - ready > LANES
                        for k in range(1 + two):
                            # The last block ends with the positions, so that it writes nothing behind them.
                            place = min(ready + k * LANES, max(0, count - LANES))
                            into, have = block + 4 * k * LANES * width, min(LANES, count)
                            _unfold(base, rows, width, start + place, have, z, y, into, pieces, sizes, window)
                            if squares:
                                _squared_lengths(into, width, squares + 4 * place)
                        if two:
                            beside = 4 * (place - ready)
                            _multiply_two(matrix, height, index, width, block, sums + 4 * ready, beside, step, m)
                        else:
                            _multiply(matrix, height, index, width, block, sums + 4 * place, step, m)
                        ready += LANES + two * LANES
                    if count < LANES:
                        for k in range(1, m):
                            row = _floats(sums, k * LANES, k * LANES + count)
                            into = _floats(sums, k * count, k * count + count)
                            for i in range(count):
                                into[i] = row[i]
                    if squares:
                        for k in range(1, m):
                            _floats(squares, k * count, k * count + count)[:] = _floats(squares, 0, count)
                    # Long runs where one follows the other in the output.
                    run = m * count if count == positions else count
                    for k in range(0, m * count, run):
                        at = (image * n + output + k // count) * positions + start
                        own, norm2 = sums + 4 * k, squares + 4 * k if squares else 0
                        clipped = _hand_over(
                            own, norm2, out, bits, images * n * positions, at, run, a[22], a[28], key, tile
                        )
                        if bits:
                            counts[tile] += clipped
        if scale:
            _scale_outputs(out, scale, bias, image * n + lowest, image * n + highest, n, positions, start, stop)


# Small images: 16 of them innermost, so that every output position is a product of its own, without the rows that meet
# the padding (of a 3×3 kernel on 2×2 images five of nine).


def _transposer(size):
    """Return a function that writes `size` rows of `size` numbers, `stride` apart, as columns, `step` apart.

    A loop takes three times as long. Step d = 1, 2, 4, 8 exchanges bit d of a number's row and column, so that
    all of them transpose.
    """
    steps = [1 << bit for bit in range(size.bit_length() - 1)]

    @intrinsic
    def transpose(typing, source, start, stride, target, into, step):
        def generate(context, builder, signature, arguments):
            row_type, wide = ir.VectorType(ir.FloatType(), size), ir.IntType(64)

            def row(array, kind, first, stride, k):
                data = context.make_array(kind)(context, builder, array).data
                place = builder.gep(data, [builder.add(first, builder.mul(stride, ir.Constant(wide, k)))])
                return builder.bitcast(place, row_type.as_pointer())

            def pick(a, b, lanes):
                return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), size), lanes))

            source, start, stride, target, into, step = arguments
            rows = [builder.load(row(source, signature.args[0], start, stride, k), align=4) for k in range(size)]
            for d in steps:
                low = [size + (lane ^ d) if lane & d else lane for lane in range(size)]
                high = [size + lane if lane & d else lane | d for lane in range(size)]
                for k in range(size):
                    if not k & d:
                        a, b = rows[k], rows[k | d]
                        rows[k], rows[k | d] = pick(a, b, low), pick(a, b, high)
            for k in range(size):
                builder.store(rows[k], row(target, signature.args[3], into, step, k), align=4)
            return context.get_dummy_value()

        return types.void(source, types.int64, types.int64, target, types.int64, types.int64), generate

    return transpose


_transpose4, _transpose16 = _transposer(4), _transposer(16)


@njit(**_inside)
def _transpose(source, source_stride, target, target_stride, rows, columns):
    """Transpose (rows, columns), rows `source_stride` apart, to (columns, rows), rows `target_stride` apart."""
    s, t = _floats(source, 0, rows * source_stride), _floats(target, 0, columns * target_stride)
    if rows == 4:
        n, m = 4, columns // 4 * 4
        for k in range(0, m, 4):
            _transpose4(s, k, source_stride, t, k * target_stride, target_stride)
    else:
        n, m = rows // 16 * 16, columns // 16 * 16
        for i in range(0, n, 16):
            for k in range(0, m, 16):
                _transpose16(s, i * source_stride + k, source_stride, t, k * target_stride + i, target_stride)
    for i in range(rows):
        for k in range(m if i < n else 0, columns):
            t[k * target_stride + i] = s[i * source_stride + k]


@njit(**_inside)
def _images_last(x, inputs, first, stop, begin, m, scratch, sizes, scalars):
    """Convert channels first … stop of m images by the DAC: `inputs` (channels, positions, 16)."""
    channels, volume = sizes[1], sizes[3] * sizes[4] * sizes[5]
    run = (stop - first) * volume
    for image in range(m):
        place = ((begin + image) * channels + first) * volume
        dac(_floats(x, place, place + run), _floats(scratch, image * run, (image + 1) * run), scalars)
    _transpose(scratch, run, inputs, LANES, m, run)


@njit(**_inside)
def _repeat(source, target, first, n, positions):
    """Write numbers first … first + n, each `positions` times."""
    values = _floats(source, first, first + n)
    for k in range(n):
        _floats(target, k * positions, (k + 1) * positions)[:] = values[k]


@njit(**_inside)
def _spread_squares(squares, target, spare, apart, n, positions):
    """Write what `squares` (positions, 16) holds for every one of n outputs: `target` (16, n, positions), `apart`."""
    _transpose(squares, LANES, spare, positions, positions, LANES)
    for image in range(LANES):
        source = _floats(spare, image * positions, (image + 1) * positions)
        for k in range(n):
            begin = image * apart + k * positions
            _floats(target, begin, begin + positions)[:] = source


@compiled
def conv_small_kernel(arguments):
    """`tiled_conv`, a thread's share of 16 images each: blocks of one position of 16 images.

    x, w, out; sizes as in `conv_kernel`; ends of the tiles' rows (tiles + 1), how many; kinds of tiles (tiles); what of
    the kernel each output position meets (positions), and where in an image it begins (positions); where the rows of a
    kind of tile and a part of the kernel begin (kinds · parts + 1), how many parts of the kernel; index and source: for
    each such row, its number in the tile, and where in the images its numbers begin; parts that outputs are cut into;
    groups of 16 images that are converted together, outputs whose sums are held; room for each thread's converted
    images, scratch, block, sums, sums with images first, squared lengths or 0, gains, and the length of each; scalars
    of `dac` and `accumulate`, key; clip bits or 0, counts of clips (threads, tiles); scale and bias (outputs) or 0;
    rows of `accumulate`'s scalars: one for all tiles, or each's own; positions in an order in which those that meet the
    same follow one another.
    """
    a = carray(arguments, (39,), np.int64)
    x, w, out, sizes, tiles = a[0], a[1], a[2], _integers(a[3], 0, 22), a[5]
    ends, kinds = _integers(a[4], 0, tiles + 1), _integers(a[6], 0, tiles)
    images, channels, n, groups = sizes[0], sizes[1], sizes[2], sizes[21]
    positions, taps = sizes[6] * sizes[7] * sizes[8], sizes[9] * sizes[10] * sizes[11]
    depth, share = channels // groups, n // groups  # channels and outputs of a group
    height, volume = depth * taps, sizes[3] * sizes[4] * sizes[5]
    met, bases, places, sets = _integers(a[7], 0, positions), _integers(a[8], 0, positions), a[9], a[10]
    order = _integers(a[38], 0, positions)
    index, source, parts, most, most_outputs = a[11], a[12], a[13], a[14], a[15]
    number = np.int64(thread_number())
    inputs, scratch, block = a[16] + 4 * number * a[23], a[17] + 4 * number * a[24], a[18] + 4 * number * a[25]
    sums, ordered = a[19] + 4 * number * a[26], a[20] + 4 * number * a[27]
    squares = a[21] + 4 * number * a[28] if a[21] else 0
    gains = a[22] + 4 * number * a[29]
    dac_scalars, key = _floats(a[30], 0, 4), carray(_pointer(a[32]), (4,), np.uint64)
    bits, scale, bias = a[33], a[35], a[36]
    counts = _integers(a[34], number * tiles, (number + 1) * tiles)
    stacks = (images + LANES - 1) // LANES
    unit, last_unit = _share(parts * stacks, 1)
    while unit < last_unit:
        part, stack = unit // stacks, unit % stacks
        together = min(most, last_unit - unit, stacks - stack)
        unit += together
        lowest, highest = n * part // parts, n * (part + 1) // parts
        for tile in range(tiles):
            begin, end = ends[tile], ends[tile + 1]
            first, last = begin // taps, (end + taps - 1) // taps
            chosen = _integers(places, kinds[tile] * sets, kinds[tile] * sets + sets + 1)
            for group in range(lowest // share, (highest + share - 1) // share):
                stride = 4 * (last - first) * volume * LANES  # of 16 images
                for k in range(together):
                    m = min(LANES, images - (stack + k) * LANES)
                    low, high, place = group * depth + first, group * depth + last, (stack + k) * LANES
                    _images_last(x, inputs + k * stride, low, high, place, m, scratch, sizes, dac_scalars)
                bottom, top = max(lowest, group * share), min(highest, (group + 1) * share)
                for output in range(bottom, top, most_outputs):
                    m = min(most_outputs, top - output)
                    matrix = w + 4 * (output * height + begin)
                    # Of all outputs those of one image follow those of another; else their distance is no power of two.
                    apart = m * positions if m == n else m * positions + LANES
                    for k in range(together):
                        image = (stack + k) * LANES
                        have = min(LANES, images - image)
                        done, step = 0, positions * LANES
                        while done < positions:
                            position = order[done]
                            start, stop = chosen[met[position]], chosen[met[position] + 1]
                            two = WIDE and done + 1 < positions and met[order[done + 1]] == met[position]
                            rows, width = _integers(source, start, stop), stop - start
                            for number_of in range(1 + two):
                                place = order[done + number_of]
                                base = inputs + k * stride + 4 * LANES * bases[place]
                                into = block + 4 * LANES * width * number_of
                                for i in range(width):
                                    _copy16(base + 4 * LANES * rows[i], into + 4 * LANES * i)
                                if squares:
                                    _squared_lengths(into, width, squares + 4 * LANES * place)
                            own, target = index + 4 * start, sums + 4 * LANES * position
                            if two:
                                beside = 4 * LANES * (place - position)
                                _multiply_two(matrix, height, own, width, block, target, beside, step, m)
                            else:
                                _multiply(matrix, height, own, width, block, target, step, m)
                            done += 1 + two
                        norm2 = 0
                        if squares:
                            norm2, spare = squares + 8 * LANES * positions, squares + 4 * LANES * positions
                            _spread_squares(squares, norm2, spare, apart, m, positions)
                        _transpose(sums, LANES, ordered, apart, m * positions, LANES)
                        run = have * m * positions if m == n else m * positions
                        for i in range(0, have * m * positions, run):
                            row = i // (m * positions)
                            at = ((image + row) * n + output) * positions
                            total, lengths = ordered + 4 * row * apart, norm2 + 4 * row * apart if squares else 0
                            clipped = _hand_over(
                                total, lengths, out, bits, images * n * positions, at, run, a[31], a[37], key, tile
                            )
                            if bits:
                                counts[tile] += clipped
        if scale:
            run = (highest - lowest) * positions
            _repeat(scale, gains, lowest, highest - lowest, positions)
            _repeat(bias, gains + 4 * run, lowest, highest - lowest, positions)
            for image in range(stack * LANES, min(images, (stack + together) * LANES)):
                at = (image * n + lowest) * positions
                scale_rows(_floats(out, at, at + run), _floats(gains, 0, run), _floats(gains, run, 2 * run))


# Groups of few outputs: with so little to multiply, positions are read where they lie, 16 in each of several rows.


def _tapper(lines):
    """Return a function that adds up weighted numbers: `target` (lines, 16), rows `apart`.

    The numbers of tap k begin `rows[k]` behind `source`, those of the next line `step` behind. Of lines there are
    `left` at most; the last stands in for those beyond.
    """

    @intrinsic
    def taps(typing, source, step, left, rows, weights, count, target, apart):
        def generate(context, builder, signature, arguments):
            source, step, left, rows, weights, count, target, apart = arguments
            number, wide = ir.FloatType(), ir.IntType(64)
            row_type, no_row = ir.VectorType(number, LANES), ir.Constant(ir.VectorType(number, LANES), ir.Undefined)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            numbers, into = (builder.inttoptr(address, number.as_pointer()) for address in (source, target))
            factors, begins = builder.inttoptr(weights, number.as_pointer()), builder.inttoptr(rows, wide.as_pointer())
            starts, ends = [], []
            for k in range(lines):
                there = builder.icmp_signed("<", ir.Constant(wide, k), left)
                own = builder.select(there, ir.Constant(wide, k), builder.sub(left, ir.Constant(wide, 1)))
                starts.append(builder.gep(numbers, [builder.mul(step, own)]))
                ends.append(builder.gep(into, [builder.mul(apart, own)]))
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(wide)
            sums = [builder.phi(row_type) for _ in range(lines)]
            weight = builder.insert_element(
                no_row, builder.load(builder.gep(factors, [k])), ir.Constant(ir.IntType(32), 0)
            )
            weight = builder.shuffle_vector(weight, no_row, zeros)
            begin = builder.load(builder.gep(begins, [k]))
            following = builder.add(k, ir.Constant(wide, 1))
            k.add_incoming(ir.Constant(wide, 0), before)
            k.add_incoming(following, loop)
            totals = []
            for total, start in zip(sums, starts, strict=True):
                row = builder.load(builder.bitcast(builder.gep(start, [begin]), row_type.as_pointer()), align=4)
                product = builder.fmul(weight, row, flags=("contract",))
                totals.append(builder.fadd(total, product, flags=("contract",)))
                total.add_incoming(ir.Constant(row_type, [0.0] * LANES), before)
                total.add_incoming(totals[-1], loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            builder.position_at_end(after)
            for end, total in zip(ends, totals, strict=True):
                builder.store(total, builder.bitcast(end, row_type.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return taps


_add_taps = _tapper(OUTPUTS)


@njit(**_inside)
def _plane(padded, rows, weights, count, target, sizes, window):
    """Convolve padded channels with one output's weights: `target` (positions); 15 numbers more may be written."""
    high_out, wide_out = sizes[7], sizes[8]
    length = sizes[14] * window[2]
    for z in range(sizes[6]):
        for y in range(0, high_out, OUTPUTS):
            # From the last columns on: what is written too far is the beginning of the next row, which comes later.
            for x in range((wide_out - 1) // LANES * LANES, -1, -LANES):
                source = padded + 4 * ((z * sizes[12] * window[1] + y * sizes[13]) * length + x)
                into = target + 4 * ((z * high_out + y) * wide_out + x)
                _add_taps(source, sizes[13] * length, high_out - y, rows, weights, count, into, wide_out)


@njit(**_options)
def _square(source, target, count):
    s, t = _floats(source, 0, count), _floats(target, 0, count)
    for i in range(count):
        t[i] = s[i] * s[i]


@compiled
def conv_few_kernel(arguments):
    """`tiled_conv` of groups of few outputs, a thread's share of all images' groups.

    x, w, out; sizes as in `conv_kernel`; ends of the tiles' rows (tiles + 1), how many; where in the padded channels of
    a group each row begins; window (see `_pad_channels`); as many ones as a tile has rows; groups whose sums are held;
    room for each thread's padded channels, row, sums, squared channels or 0, squared lengths or 0, and the length of
    each; scalars of `dac` and `accumulate`, key; clip bits or 0, counts of clips (threads, tiles); scale and bias
    (outputs) or 0; rows of `accumulate`'s scalars: one for all tiles, or each's own.
    """
    a = carray(arguments, (28,), np.int64)
    x, w, out, sizes, tiles = a[0], a[1], a[2], _integers(a[3], 0, 22), a[5]
    ends = _integers(a[4], 0, tiles + 1)
    images, channels, n, groups = sizes[0], sizes[1], sizes[2], sizes[21]
    positions, taps = sizes[6] * sizes[7] * sizes[8], sizes[9] * sizes[10] * sizes[11]
    depth, share = channels // groups, n // groups  # channels and outputs of a group
    height, rows, window, ones = depth * taps, a[6], _integers(a[7], 0, 3), a[8]
    volume = window[0] * window[1] * window[2] * sizes[14]
    most, number = a[9], np.int64(thread_number())
    padded, scratch, sums = a[10] + 4 * number * a[15], a[11] + 4 * number * a[16], a[12] + 4 * number * a[17]
    squared = a[13] + 4 * number * a[18] if a[13] else 0
    squares = a[14] + 4 * number * a[19] if a[14] else 0
    dac_scalars, key = _floats(a[20], 0, 4), carray(_pointer(a[22]), (4,), np.uint64)
    bits, scale, bias = a[23], a[25], a[26]
    counts = _integers(a[24], number * tiles, (number + 1) * tiles)
    unit, last_unit = _share(images * groups, 1)
    while unit < last_unit:
        image, first_group = unit // groups, unit % groups
        together = min(most, last_unit - unit, groups - first_group)
        run, at = together * share * positions, unit * share * positions
        for tile in range(tiles):
            begin, end = ends[tile], ends[tile + 1]
            first, last = begin // taps, (end + taps - 1) // taps
            own, before = rows + 8 * begin, 4 * first * volume
            for k in range(together):
                low, high = (unit + k) * depth + first, (unit + k) * depth + last
                _pad_channels(x, low, high, 0, 0, padded, scratch, sizes, window, dac_scalars)
                if squares:
                    _square(padded, squared, (last - first) * volume)
                for output in range(share):
                    weights = w + 4 * (((first_group + k) * share + output) * height + begin)
                    place = 4 * (k * share + output) * positions
                    _plane(padded - before, own, weights, end - begin, sums + place, sizes, window)
                    if squares:
                        _plane(squared - before, own, ones, end - begin, squares + place, sizes, window)
            clipped = _hand_over(sums, squares, out, bits, images * n * positions, at, run, a[21], a[27], key, tile)
            if bits:
                counts[tile] += clipped
        if scale:
            row = image * n + first_group * share
            _scale_outputs(out, scale, bias, row, row + together * share, n, positions, 0, positions)
        unit += together


# Transposed convolutions: what patches of neighbouring positions add up to.


@intrinsic
def _add16(typing, source, target):
    """Add 16 float32 numbers to those at another address."""

    def generate(context, builder, signature, arguments):
        pointer = ir.VectorType(ir.FloatType(), LANES).as_pointer()
        source, target = (builder.inttoptr(address, pointer) for address in arguments)
        total = builder.fadd(builder.load(target, align=4), builder.load(source, align=4))
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@njit(**_inside)
def _take_patches(products, wide, behind, taps, m, turned):
    """Turn m rows of `taps` numbers, `wide` apart: `turned` (taps, 16), with zeros from number m of each row on.

    `behind`: how many numbers may be read from the first one on.
    """
    groups = (taps + LANES - 1) // LANES
    if m == LANES and behind >= (LANES - 1) * wide + groups * LANES:
        s, t = _floats(products, 0, LANES * wide), _floats(turned, 0, groups * LANES * LANES)
        for group in range(groups):
            _transpose16(s, group * LANES, wide, t, group * LANES * LANES, LANES)
    else:
        for k in range(taps):
            _zero16(turned + 4 * LANES * k)
        _transpose(products, wide, turned, LANES, m, taps)


@njit(**_inside)
def _put_channel(total, out, bias, sizes):
    """Write one channel of the output, of the numbers added up for it."""
    wide_out, stride, pad = sizes[7], sizes[13], sizes[16]
    high, wide = sizes[21], sizes[22]
    for z in range(sizes[5]):
        for y in range(sizes[6]):
            line = ((z + sizes[14]) * high + y + sizes[15]) * stride * wide
            row = _floats(out, (z * sizes[6] + y) * wide_out, (z * sizes[6] + y + 1) * wide_out)
            for phase in range(stride):
                begin = (phase - pad) % stride
                count = (wide_out - begin + stride - 1) // stride
                first = line + phase * wide + (begin + pad) // stride
                source = _floats(total, first, first + count)
                for i in range(count):
                    row[begin + i * stride] = source[i] + bias


@njit(**_inside)
def _tap_shifts(sizes, shifts):
    """Write how far behind a patch's first number each of its taps is added up, in bytes; sizes as `overlap_kernel`."""
    for tap in range(shifts.shape[0]):
        z, y, x = tap // (sizes[9] * sizes[10]), tap // sizes[10] % sizes[9], tap % sizes[10] * sizes[19]
        line = (z * sizes[17] * sizes[21] + y * sizes[18]) * sizes[13] + x % sizes[13]
        shifts[tap] = 4 * (line * sizes[22] + x // sizes[13])


@njit(**_inside)
def _add_line(products, apart, behind, row, total, turned, shifts, sizes):
    """Add the patches of an input's row (all its planes' rows counted), `apart` from one another, to a channel's sums.

    `behind`: how many numbers may be read from the first one on.
    """
    high, wide, stride, taps = sizes[3], sizes[4], sizes[13], shifts.shape[0]
    line = (row // high * sizes[11] * sizes[21] + row % high * sizes[12]) * stride * sizes[22]
    for x in range(0, wide, LANES):
        own, m = products + 4 * x * apart, min(LANES, wide - x)
        _take_patches(own, apart, behind - x * apart, taps, m, turned)
        into = total + 4 * (line + x)
        for tap in range(taps):
            _add16(turned + 4 * LANES * tap, into + shifts[tap])


@compiled
def overlap_kernel(arguments):
    """`add_patches` of this thread's share of all images' channels.

    products, out; sizes; bias or 0; room for each thread's sums of a channel and turned patches, and the length of
    each.

    sizes: images, outputs; input extents (3), output extents, kernel, stride, padding, dilation (3 each); planes, rows
    and columns of the sums, those columns that are a multiple of the stride apart one after the other.
    """
    a = carray(arguments, (8,), np.int64)
    products, out, sizes, number = a[0], a[1], _integers(a[2], 0, 23), np.int64(thread_number())
    total, turned = a[4] + 4 * number * a[6], a[5] + 4 * number * a[7]
    images, n, rows, wide = sizes[0], sizes[1], sizes[2] * sizes[3], sizes[4]
    shifts = np.empty(sizes[8] * sizes[9] * sizes[10], np.int64)
    _tap_shifts(sizes, shifts)
    taps, volume = shifts.shape[0], sizes[5] * sizes[6] * sizes[7]
    offsets = _floats(a[3], 0, n)
    first, last = _share(images * n, 1)
    for unit in range(first, last):
        image, output = unit // n, unit % n
        _zeros(total, a[6])
        for row in range(rows):
            place = ((image * rows + row) * wide * n + output) * taps
            behind = images * rows * wide * n * taps - place
            _add_line(products + 4 * place, n * taps, behind, row, total, turned, shifts, sizes)
        _put_channel(total, out + 4 * unit * volume, offsets[output] if a[3] else _F(0), sizes)


@compiled
def transposed_kernel(arguments):
    """`Backend.convolve_transposed` of this thread's share of images: some rows of an image at a time are multiplied,
    converted and added up while a cache holds the products.

    x (images, k, positions), w (columns, k), stride, out; sizes as in `overlap_kernel`; k, rows of a tile, rows of an
    image that are taken together; room for each thread's converted inputs, products, sums, channels' sums and turned
    patches, and the length of each; scalars of `dac` and `accumulate`, key; rows of `accumulate`'s scalars; length of
    scale and offset or 0, scale, offset (columns); bias (outputs) or 0.
    """
    a = carray(arguments, (26,), np.int64)
    x, w, w_stride, out, sizes, k, width, most = a[0], a[1], a[2], a[3], _integers(a[4], 0, 23), a[5], a[6], a[7]
    number = np.int64(thread_number())
    inputs, products, sums = a[8] + 4 * number * a[13], a[9] + 4 * number * a[14], a[10] + 4 * number * a[15]
    totals, turned = a[11] + 4 * number * a[16], a[12] + 4 * number * a[17]
    dac_scalars, key, period = _floats(a[18], 0, 4), carray(_pointer(a[20]), (4,), np.uint64), a[22]
    scale, offset = _floats(a[23], 0, period), _floats(a[24], 0, period)
    images, n, rows, wide = sizes[0], sizes[1], sizes[2] * sizes[3], sizes[4]
    shifts = np.empty(sizes[8] * sizes[9] * sizes[10], np.int64)
    _tap_shifts(sizes, shifts)
    taps, volume, tiles = shifts.shape[0], sizes[5] * sizes[6] * sizes[7], (k + width - 1) // width
    positions, columns, held = rows * wide, n * taps, a[16] // n
    offsets, nothing = _floats(a[25], 0, n), _floats(0, 0, 0)
    first, last = _share(images, 1)
    for image in range(first, last):
        _zeros(totals, a[16])
        for begin in range(0, rows, most):
            stop = min(rows, begin + most)
            start, count = begin * wide, (stop - begin) * wide
            for channel in range(k):
                place = (image * k + channel) * positions + start
                converted = _floats(inputs, channel * count, (channel + 1) * count)
                dac(_floats(x, place, place + count), converted, dac_scalars)
            at, into = (image * positions + start) * columns, _floats(products, 0, count * columns)
            for tile in range(tiles):
                left, right, own = tile * width, min(k, tile * width + width), min(tile, a[21] - 1)
                scalars = _floats(a[19], 6 * own, 6 * own + 6)
                target = products if tile == 0 and _draws(scalars) else sums  # as in `matmul_kernel`
                here, weight = inputs + 4 * left * count, w + 4 * left
                _product(weight, w_stride, True, here, count, target, columns, count, columns, right - left, True)
                total, none = _floats(target, 0, count * columns), _bytes(0, 0, 0)
                accumulate(into, total, nothing, none, at, scalars, key, tile, tile == 0)
            if period:
                scale_rows(into, scale, offset)
            for output in range(n):
                for row in range(begin, stop):
                    place = ((row - begin) * wide * n + output) * taps
                    total = totals + 4 * output * held
                    _add_line(products + 4 * place, columns, a[14] - place, row, total, turned, shifts, sizes)
        for output in range(n):
            into = out + 4 * (image * n + output) * volume
            _put_channel(totals + 4 * output * held, into, offsets[output] if a[25] else _F(0), sizes)
