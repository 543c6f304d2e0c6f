"""The CPU backend's machine code: flat arrays and scalars only, compiled by Numba and cached.

All of it stands in this one file, because Numba's cache notices a change of the file of the function that it loads, but
not of a helper's file. Everything is float32: a Python float or an int64 in a loop would widen it, so constants are
wrapped. Slices are taken before each inner loop: indexing with an offset keeps LLVM from vectorising (8 times slower).

`philox.py` states readably what the first two functions compute.
"""

import numpy as np
from numba import njit

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
_options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


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
def dac(x, out, first, stride, width, scalars):
    """Convert a block of a matrix into rows of `width`: out = step · round(clip(x · gain)); x · gain where step is 0.

    x is flat; the block begins at element `first`, its rows are `stride` apart. scalars: gain, lowest and highest code,
    step.
    """
    gain, low, high, step = scalars[0], scalars[1], scalars[2], scalars[3]
    for row in range(out.shape[0] // width if width else 0):
        start = first + row * stride
        p = x[start : start + width]
        o = out[row * width : (row + 1) * width]
        if step == 0:
            for i in range(p.shape[0]):
                o[i] = p[i] * gain
        else:
            for i in range(p.shape[0]):
                v = p[i] * gain
                v = high if v > high else v
                v = low if v < low else v
                o[i] = np.rint(v) * step


@njit(**_options)
def accumulate(out, partial, norm2, bits, offset, scalars, key, tile, first):
    """Add a tile's converted partial sums to `out`; return how many clipped.

    scalars: σ_out, σ_r, σ_m, full scale (inf: none), gain = levels / full scale, step (0: no rounding).
    key: the four words of seed and stream. (Arrays, because a tuple costs 10 µs a call.) `norm2` (σ_r > 0) and `bits` (to be marked with 1 << tile % 8) may be empty.
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


@njit(**_options)
def finish(out, scale, bias):
    """Out = out · scale + bias, both repeating along `out`."""
    period = scale.shape[0]
    for start in range(0, out.shape[0], period):
        m = min(period, out.shape[0] - start)
        o = out[start : start + m]
        for i in range(m):
            o[i] = o[i] * scale[i] + bias[i]
