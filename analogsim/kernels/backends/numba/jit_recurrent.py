"""Machine code for the steps of recurrent layers, in float32, as that of `jit.py`; `kernels/recurrence.py` states it.

Sequences never meet, so that each thread takes some of them through all steps, and waits for nobody.
"""

import numpy as np
from numba import carray, njit

from .compiled import compiled
from .jit import (
    _F,
    LANES,
    OUTPUTS,
    WIDE,
    _bytes,
    _floats,
    _inside,
    _multiply,
    _multiply_two,
    _options,
    _pointer,
    _share,
    _square_sum,
    _transpose,
    accumulate,
    dac,
)
from .openmp import thread_number

LSTM, GRU, TANH, RELU = range(4)


@njit(**_options)
def _grown(v):
    """Return 2^n, and e^v / 2^n - 1, with n the whole number next to v / ln 2; |v| < 88. Relative error below 1e-7.

    The polynomial is Cephes' expf; adding 1.5·2^23 rounds, and leaves n in the lowest bits.
    """
    shifted = v * _F(1.44269504088896341) + _F(12582912.0)
    n = shifted - _F(12582912.0)
    r = v - n * _F(0.693359375)
    r = r - n * _F(-2.12194440e-4)
    p = _F(1.9875691500e-4)
    p = p * r + _F(1.3981999507e-3)
    p = p * r + _F(8.3334519073e-3)
    p = p * r + _F(4.1665795894e-2)
    p = p * r + _F(1.6666665459e-1)
    p = p * r + _F(5.0000001201e-1)
    power = np.int32((np.float32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return power, p * r * r + r


@njit(**_options)
def _sigmoid(v):
    """Return 1/(1 + e^-v); NaN stays."""
    v = -v
    v = _F(87) if v > _F(87) else v
    v = _F(-87) if v < _F(-87) else v
    power, rest = _grown(v)
    return _F(1) / (_F(1) + (power + power * rest))


@njit(**_options)
def _tanh(v):
    """Return tanh v = (e^2v - 1)/(e^2v + 1), without cancellation at 0; NaN stays."""
    v = v + v
    v = _F(20) if v > _F(20) else v
    v = _F(-20) if v < _F(-20) else v
    power, rest = _grown(v)
    grown = (power - _F(1)) + power * rest
    return grown / (grown + _F(2))


@njit(**_options)
def _lstm(x, s, gain, shift, h, c):
    """One sequence's step of `lstm_cell`: x (4, H) are what crossbars gave for inputs, s·gain + shift for h."""
    n = h.shape[0]
    xi, xf, xg, xo = x[:n], x[n : 2 * n], x[2 * n : 3 * n], x[3 * n :]
    si, sf, sg, so = s[:n], s[n : 2 * n], s[2 * n : 3 * n], s[3 * n :]
    ai, af, ag, ao = gain[:n], gain[n : 2 * n], gain[2 * n : 3 * n], gain[3 * n :]
    bi, bf, bg, bo = shift[:n], shift[n : 2 * n], shift[2 * n : 3 * n], shift[3 * n :]
    for i in range(n):
        kept = _sigmoid(xf[i] + (sf[i] * af[i] + bf[i])) * c[i]
        c[i] = kept + _sigmoid(xi[i] + (si[i] * ai[i] + bi[i])) * _tanh(xg[i] + (sg[i] * ag[i] + bg[i]))
    for i in range(n):
        h[i] = _sigmoid(xo[i] + (so[i] * ao[i] + bo[i])) * _tanh(c[i])


@njit(**_options)
def _gru(x, s, gain, shift, h):
    """One sequence's step of `gru_cell`: x (3, H) are what crossbars gave for inputs, s·gain + shift for h."""
    n = h.shape[0]
    xr, xz, xn = x[:n], x[n : 2 * n], x[2 * n :]
    sr, sz, sn = s[:n], s[n : 2 * n], s[2 * n :]
    ar, az, an = gain[:n], gain[n : 2 * n], gain[2 * n :]
    br, bz, bn = shift[:n], shift[n : 2 * n], shift[2 * n :]
    for i in range(n):
        reset = _sigmoid(xr[i] + (sr[i] * ar[i] + br[i]))
        update = _sigmoid(xz[i] + (sz[i] * az[i] + bz[i]))
        new = _tanh(xn[i] + reset * (sn[i] * an[i] + bn[i]))
        h[i] = new + update * (h[i] - new)


@njit(**_options)
def _elman(x, s, gain, shift, h, relu):
    """One sequence's step of `relu_cell` or `tanh_cell`."""
    for i in range(h.shape[0]):
        h[i] = x[i] + (s[i] * gain[i] + shift[i])
    if relu:
        for i in range(h.shape[0]):
            h[i] = _F(0) if h[i] < 0 else h[i]  # NaN stays
    else:
        for i in range(h.shape[0]):
            h[i] = _tanh(h[i])


@njit(**_inside)
def _pack(source, stride, target, outputs, count):
    """Transpose (outputs, count), `stride` apart, to (count, 16); what is beyond the outputs is 0."""
    if outputs == LANES:
        _transpose(source, stride, target, LANES, LANES, count)
        return
    into = _floats(target, 0, LANES * count)
    into[:] = 0
    for output in range(outputs):
        row = _floats(source, output * stride, output * stride + count)
        for i in range(count):
            into[i * LANES + output] = row[i]


@compiled
def pack_kernel(arguments):
    """Weights as `_products` reads them, those of each tile in blocks of 16 outputs, (rows of the tile, 16).

    w, stride, packed; n, k; rows of a tile.
    """
    a = carray(arguments, (6,), np.int64)
    w, stride, packed, n, k, width = a[0], a[1], a[2], a[3], a[4], a[5]
    blocks = (n + LANES - 1) // LANES
    first, last = _share(blocks, 1)
    for left in range(0, k, width):
        count = min(width, k - left)
        for block in range(first, last):
            source, into = w + 4 * (block * LANES * stride + left), packed + 4 * LANES * (blocks * left + block * count)
            _pack(source, stride, into, min(LANES, n - block * LANES), count)


@njit(**_inside)
def _products(inputs, apart, index, packed, sums, rows, n, width):
    """Multiply rows (rows, width), `apart` apart, by the packed weights of n outputs: sums (rows, n).

    The last block of outputs comes first, and by itself where it is not full: it reaches into the next row.
    """
    block, full = (n + LANES - 1) // LANES, n % LANES == 0
    while block > 0:
        two = WIDE and full and block > 1
        block, full = block - 2 if two else block - 1, True
        weights, target = packed + 4 * LANES * block * width, sums + 4 * LANES * block
        if two:
            _multiply_two(inputs, apart, index, width, weights, target, 4 * LANES, n, rows)
        else:
            _multiply(inputs, apart, index, width, weights, target, n, rows)


@compiled
def recurrent_kernel(arguments):
    """`Backend.recur` of this thread's sequences.

    x (rows, n), out (rows, k), packed weights, index (width), states (batch, k), cells (batch, k) or 0; batch, n, k;
    which cell; steps, of each its first row of x and how many there are (steps, 2), keys (steps, 4); rows of a tile,
    most rows of a block, how far rows of converted states are apart; room for each thread's converted states, sums,
    totals, squared lengths or 0; scalars of `dac` and `accumulate`, rows of these; scale, bias (n).
    """
    a = carray(arguments, (25,), np.int64)
    x, out, packed, index, states, cells = a[0], a[1], a[2], a[3], a[4], a[5]
    batch, n, k, cell, steps = a[6], a[7], a[8], a[9], a[10]
    places, keys = carray(_pointer(a[11]), (steps, 2), np.int64), carray(_pointer(a[12]), (steps, 4), np.uint64)
    width, most, apart = a[13], a[14], a[15]
    number = np.int64(thread_number())
    inputs, sums = a[16] + 4 * number * most * apart, a[17] + 4 * number * ((most + OUTPUTS) * n + LANES)
    totals, squares = a[18] + 4 * number * most * n, a[19] + 4 * number * most * n if a[19] else 0
    dac_scalars, scale, bias = _floats(a[20], 0, 4), _floats(a[23], 0, n), _floats(a[24], 0, n)
    blocks = (n + LANES - 1) // LANES
    first, last = _share(batch, 1)
    for begin in range(first, last, most):
        for step in range(steps):
            rows = min(last, begin + most, places[step, 1]) - begin
            if rows <= 0:
                continue
            for row in range(rows):
                place = (begin + row) * k
                dac(_floats(states, place, place + k), _floats(inputs, row * apart, row * apart + k), dac_scalars)
            total = _floats(totals, 0, rows * n)
            for tile in range((k + width - 1) // width):
                left, right = tile * width, min(k, tile * width + width)
                here = inputs + 4 * left
                _products(here, apart, index, packed + 4 * LANES * blocks * left, sums, rows, n, right - left)
                if squares:
                    for row in range(rows):
                        square = _square_sum(_floats(here, row * apart, row * apart + right - left))
                        _floats(squares, row * n, (row + 1) * n)[:] = square
                own = 6 * min(tile, a[22] - 1)
                accumulate(
                    total,
                    _floats(sums, 0, rows * n),
                    _floats(squares, 0, rows * n),
                    _bytes(0, 0, 0),
                    begin * n,
                    _floats(a[21], own, own + 6),
                    keys[step],
                    tile,
                    tile == 0,
                )
            for row in range(rows):
                place, line = (begin + row) * k, places[step, 0] + begin + row
                h, s = _floats(states, place, place + k), _floats(totals, row * n, (row + 1) * n)
                own = _floats(x, line * n, (line + 1) * n)
                if cell == LSTM:
                    _lstm(own, s, scale, bias, h, _floats(cells, place, place + k))
                elif cell == GRU:
                    _gru(own, s, scale, bias, h)
                else:
                    _elman(own, s, scale, bias, h, cell == RELU)
                _floats(out, line * k, (line + 1) * k)[:] = h
