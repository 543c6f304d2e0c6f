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


# --- one chip's cells; every standard normal that is drawn is given --------------------------------------------------


def cell(target, *, polynomial, n_program, nu, nu_sigma, n_drift, t0, seconds, g_min, stuck_off, stuck_on, u, negative):
    """Return the conductance of one cell: programmed, aged, stuck; nu and nu_sigma are functions of the target."""
    if u < stuck_off:
        return g_min
    if u >= 1 - stuck_on:
        return 1.0
    sigma = max(0.0, sum(c * target**i for i, c in enumerate(polynomial)))
    g = target + sigma * n_program
    if not negative:
        g = max(g, 0.0)
    exponent = abs(nu(target) + nu_sigma(target) * n_drift)
    return g * ((t0 + seconds) / t0) ** (-exponent)


def log_law(constant, slope, low, high):
    """Return the function clip(constant + slope·ln(g), low, high)."""
    return lambda g: min(high, max(low, constant + slope * math.log(max(g, 1e-7))))


def flicker(now, programmed, *, amplitude, exponent, maximum, read_time, time):
    """Return the standard deviation of one cell's 1/f noise."""
    q = min(maximum, amplitude * max(programmed, 1e-7) ** -exponent)
    return now * q * math.sqrt(math.log((time + read_time) / (2 * read_time)))


def digits(value, count, each):
    """Return the base-2^each digits of a non-negative integer, the lowest first."""
    out = []
    for _ in range(count):
        out.append(value % 2**each)
        value //= 2**each
    return out


def sliced(x, w, *, rows, alpha, dac_bits, step_bits, weight_bits, cell_bits, digital, full_scale, adc_bits):
    """Return Σ over weight slices, input steps (and signs, where subtraction is digital) of what ADCs convert.

    x (M, K) signed, w (N, K) in [-1, 1]; full_scale is one number, or of each slice those of each step.
    """
    m, k = x.shape
    n = len(w)
    x_levels, w_levels = 2 ** (dac_bits - 1) - 1, 2 ** (weight_bits - 1) - 1
    x_each, w_each = 2**step_bits - 1, 2**cell_bits - 1
    steps, cells = math.ceil((dac_bits - 1) / step_bits), math.ceil((weight_bits - 1) / cell_bits)
    out = np.zeros((m, n))
    for i in range(m):
        codes = [round(quantize(float(v) / alpha, dac_bits, True) * x_levels) for v in x[i]]
        for j in range(n):
            weights = [round(float(v) * w_levels) for v in w[j]]
            for first in range(0, k, rows):
                part = range(first, min(k, first + rows))
                for s in range(steps):
                    for c in range(cells):
                        terms = []
                        for r in part:
                            xs = math.copysign(digits(abs(codes[r]), steps, step_bits)[s], codes[r]) / x_each
                            ws = math.copysign(digits(abs(weights[r]), cells, cell_bits)[c], weights[r]) / w_each
                            terms.append((xs, ws))
                        if digital:
                            plus = sum(xs * max(ws, 0) for xs, ws in terms)
                            minus = sum(xs * max(-ws, 0) for xs, ws in terms)
                            sums = [(1, plus), (-1, minus)]
                        else:
                            sums = [(1, sum(xs * ws for xs, ws in terms))]
                        for sign, total in sums:
                            scale = full_scale if isinstance(full_scale, float) else full_scale[c][s]
                            converted = scale * quantize(total / scale, adc_bits, True)
                            weight = 2 ** (step_bits * s) * x_each / x_levels * 2 ** (cell_bits * c) * w_each / w_levels
                            out[i, j] += sign * weight * converted
    return out


# --- converters ------------------------------------------------------------------------------------------------------


def capacitive_level(code, bits, signed, mismatch, normals):
    """Return the voltage, in LSB, of a code: its magnitude's binary capacitors against the largest."""
    count = bits - 1 if signed else bits
    capacitors = [2**i + mismatch * math.sqrt(2**i) * normals[i] for i in range(count + 1)]
    magnitude = abs(code)
    used = sum(capacitors[i] for i in range(count + 1) if magnitude >> i & 1)
    return math.copysign(2**count * used / capacitors[count], code)


def sar(value, level, bits, signed):
    """Return the code that a binary search for `value` (LSB) ends at."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    code = 0
    for b in reversed(range(bits)):
        if value >= level(code + 2**b + lowest) - 0.5:
            code += 2**b
    return code + lowest


def ramp(value, level, bits, signed):
    """Return the code whose level is nearest to `value` (LSB), that with the higher level of two."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    return min(range(lowest, lowest + 2**bits), key=lambda code: (abs(level(code) - value), -level(code)))


# --- wires -----------------------------------------------------------------------------------------------------------


def network(g, x, row, column):
    """Return the column currents of a resistive crossbar, by solving Kirchhoff's equations exactly.

    g (R, C) conductances and x (R,) driver voltages; a segment of a row (column) has the resistance `row` (`column`).
    Row r's driver stands one segment before column 0; column c ends, one segment after row R - 1, at 0 V.
    """
    from scipy.sparse import lil_matrix
    from scipy.sparse.linalg import spsolve

    rows, columns = g.shape
    matrix, current = lil_matrix((2 * rows * columns, 2 * rows * columns)), np.zeros(2 * rows * columns)

    def word(r, c):
        return r * columns + c

    def bit(r, c):
        return rows * columns + r * columns + c

    def resistor(a, b, conductance):
        for p, q in ((a, b), (b, a)):
            matrix[p, p] += conductance
            matrix[p, q] -= conductance

    for r in range(rows):
        for c in range(columns):
            resistor(word(r, c), bit(r, c), g[r, c])
            if c:
                resistor(word(r, c - 1), word(r, c), 1 / row)
            if r:
                resistor(bit(r - 1, c), bit(r, c), 1 / column)
        matrix[word(r, 0), word(r, 0)] += 1 / row
        current[word(r, 0)] += x[r] / row
    for c in range(columns):
        matrix[bit(rows - 1, c), bit(rows - 1, c)] += 1 / column
    voltage = spsolve(matrix.tocsr(), current)
    return np.array([voltage[bit(rows - 1, c)] / column for c in range(columns)])


def circuit(
    sides,
    x,
    row=0.0,
    column=0.0,
    row_terminal=0.0,
    column_terminal=0.0,
    source=None,
    source_terminal=0.0,
    gated=False,
):
    """Return the column currents of an array with any wires, by nodal analysis; as `network`, but for any resistance.

    `sides` are one or two matrices (R, C): of two, the second ones' cells are driven by -x and share the columns.
    Where `source` is a number, cells hang on a wire beside their column, fed before row 0, and inputs only switch.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    rows, columns = sides[0].shape
    joined, resistors, fixed = {}, [], {}

    def root(node):
        while node in joined:
            node = joined[node]
        return node

    def connect(a, b, resistance=None, conductance=None):
        if resistance == 0:
            a, b = root(a), root(b)
            if a != b:
                joined[a] = b
        elif conductance is None or conductance > 0:
            resistors.append((a, b, 1 / resistance if conductance is None else conductance))

    for c in range(columns):
        fixed["adc", c] = 0.0
        for r in range(rows):
            last = r == rows - 1
            connect(("bit", r, c), ("adc", c) if last else ("bit", r + 1, c), column + column_terminal * last)
    for side, g in enumerate(sides):
        sign = (1, -1)[side]
        for r in range(rows):
            for c in range(columns):
                on = not gated or x[r] != 0
                at = "word", side, r, c
                if source is None:
                    before = ("word", side, r, c - 1) if c else ("driver", side, r)
                    connect(at, before, row + row_terminal * (c == 0))
                    fixed["driver", side, r] = sign * x[r]
                else:
                    before = ("word", side, r - 1, c) if r else ("driver", side, c)
                    connect(at, before, source + source_terminal * (r == 0))
                    fixed["driver", side, c] = sign * 1.0
                if on:
                    connect(at, ("bit", r, c), conductance=g[r, c])
    known = {root(node): volts for node, volts in fixed.items()}
    number = {}
    for a, b, _ in resistors:
        for node in (root(a), root(b)):
            if node not in known:
                number.setdefault(node, len(number))
    entries, current = [], np.zeros(len(number))
    for a, b, g in resistors:
        for p, q in ((root(a), root(b)), (root(b), root(a))):
            if p in known:
                continue
            entries.append((number[p], number[p], g))
            if q in known:
                current[number[p]] += g * known[q]
            else:
                entries.append((number[p], number[q], -g))
    volts = np.zeros(0)
    if number:
        i, j, values = zip(*entries, strict=True)
        volts = np.atleast_1d(spsolve(coo_matrix((values, (i, j)), shape=(len(number),) * 2).tocsr(), current))
    out = np.zeros(columns)

    def voltage(node):
        return known[node] if node in known else volts[number[node]]

    grounds = {root(("adc", c)): c for c in range(columns)}
    for a, b, g in resistors:
        for ground, other in ((root(a), root(b)), (root(b), root(a))):
            if ground in grounds:
                out[grounds[ground]] += g * voltage(other)
    return out
