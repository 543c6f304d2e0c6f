"""The device model in naive float64 loops, written from the design page alone; the noise is given as an array."""

import math

import numpy as np


def crossbar(x, w, *, rows, alpha, dac_bits, signed, full_scale, adc_bits, noise, output, read, multiplicative):
    """Return Σ_t ADC(s_t), each tile's unrounded sums, and where each tile's ADC clipped.

    x (M, K), w (N, K), noise (T, M, N): one standard normal a partial sum; full_scale is a number, or one a tile.
    """
    m, k = x.shape
    n = len(w)
    tiles = math.ceil(k / rows)
    out, sums, clipped = np.zeros((m, n)), np.zeros((tiles, m, n)), np.zeros((tiles, m, n), bool)
    for i in range(m):
        code = [quantize(float(v) / alpha, dac_bits, signed) for v in x[i]]
        for t in range(tiles):
            top = float(np.broadcast_to(full_scale, tiles)[t])
            part = range(t * rows, min(k, (t + 1) * rows))
            length2 = sum(code[r] ** 2 for r in part)
            for j in range(n):
                s = sum(code[r] * float(w[j, r]) for r in part)
                std = math.sqrt(output**2 + read**2 * length2 + multiplicative**2 * s**2)
                s += std * noise[t, i, j]
                sums[t, i, j], clipped[t, i, j] = s, abs(s) > top
                out[i, j] += top * quantize(s / top, adc_bits, True)
    return out, sums, clipped


def quantize(v, bits, signed):
    """Clip to full scale 1 and round to the levels."""
    levels = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    return round(min(1.0, max(-1.0 if signed else 0.0, v)) * levels) / levels
