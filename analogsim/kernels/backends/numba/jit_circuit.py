"""Machine code for arrays with gated rows, in float64; `kernels/circuit.py` states what it computes."""

import numpy as np
from numba import carray, int64, njit

from .compiled import compiled
from .jit import _inside, _pointer
from .openmp import team_size, thread_number

# Sums in whatever order is fastest; NaN and infinities as they are.
_options = {"error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}, **_inside}


@njit(**_inside)
def _doubles(address, count):
    return carray(_pointer(address), (count,), np.float64)


@njit(**_options)
def _apply(root, v, image, flow, below, sums, rows, steps, sides, count, columns, along_rows, law):
    """Write v + G^½ (S + B) G^½ v of `count` connected rows into `image`.

    root, v, image, flow: (sides · count · columns); below: (count · columns); sums: (2 · sides + 1, columns)
    rows: where the connected ones are; steps: how many there are in the array.
    """
    supply, supply_terminal, column, column_terminal = law[0], law[1], law[2], law[3]
    down = sums[:columns]
    down[:] = 0.0
    for k in range(count):  # what flows in a column below row k
        for side in range(sides):
            start = (side * count + k) * columns
            g, i = root[start : start + columns], v[start : start + columns]
            for c in range(columns):
                down[c] += g[c] * i[c]
        into = below[k * columns : (k + 1) * columns]
        for c in range(columns):
            into[c] = down[c]
    down[:] = 0.0
    rising = sums[columns:]
    rising[:] = 0.0
    for back in range(count):
        k = count - 1 - back
        gap = column * ((steps if back == 0 else rows[k + 1]) - rows[k]) + (column_terminal if back == 0 else 0.0)
        flowing = below[k * columns : (k + 1) * columns]
        for c in range(columns):
            down[c] += gap * flowing[c]
        for side in range(sides):
            start = (side * count + k) * columns
            g, i, into = root[start : start + columns], v[start : start + columns], image[start : start + columns]
            for c in range(columns):
                into[c] = i[c] + g[c] * down[c]
            own = flow[start : start + columns]
            if along_rows:
                total = 0.0
                for c in range(columns - 1, -1, -1):
                    total += g[c] * i[c]
                    own[c] = total
                drop = supply_terminal * total
                for c in range(columns):
                    drop += supply * own[c]
                    into[c] += g[c] * drop
            else:
                summed = rising[side * columns : (side + 1) * columns]
                for c in range(columns):
                    summed[c] += g[c] * i[c]
                    own[c] = summed[c]
    if along_rows:
        return
    for side in range(sides):
        drops = rising[side * columns : (side + 1) * columns]
        drops[:] = 0.0
        for k in range(count):
            gap = supply * (rows[k] - (rows[k - 1] if k else -1.0)) + (0.0 if k else supply_terminal)
            start = (side * count + k) * columns
            g, own, into = root[start : start + columns], flow[start : start + columns], image[start : start + columns]
            for c in range(columns):
                drops[c] += gap * own[c]
                into[c] += g[c] * drops[c]


@njit(**_options)
def _dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(**_options)
def _solve(cells, x, out, scratch, law, sides, steps, columns, along_rows, most):
    """Write the column currents for one input into `out`; return whether that took too many steps."""
    size = sides * steps * columns
    rows = scratch[7 * size + (2 * sides + 1) * columns :]
    count = 0
    for r in range(steps):
        if x[r] != 0:
            rows[count] = r
            count += 1
    length = sides * count * columns
    root, u, residual, direction, image, flow = (
        scratch[:length],
        scratch[size : size + length],
        scratch[2 * size : 2 * size + length],
        scratch[3 * size : 3 * size + length],
        scratch[4 * size : 4 * size + length],
        scratch[5 * size : 5 * size + length],
    )
    below = scratch[6 * size : 6 * size + count * columns]
    sums = scratch[7 * size : 7 * size + (2 * sides + 1) * columns]
    out[:] = 0.0
    for side in range(sides):
        for k in range(count):
            r = int64(rows[k])
            volts = -x[r] if side else x[r]
            for c in range(columns):
                at = (side * count + k) * columns + c
                root[at] = np.sqrt(cells[(side * steps + r) * columns + c])
                direction[at] = root[at] * volts
    enough = law[4] * law[4] * _dot(direction, direction)
    _apply(root, direction, image, flow, below, sums, rows, steps, sides, count, columns, along_rows, law)
    for i in range(length):  # to first order
        u[i] = 2 * direction[i] - image[i]
    _apply(root, u, image, flow, below, sums, rows, steps, sides, count, columns, along_rows, law)
    for i in range(length):
        residual[i] = direction[i] - image[i]
        direction[i] = residual[i]
    square = _dot(residual, residual)
    step = 0
    while square > enough and step < most:
        _apply(root, direction, image, flow, below, sums, rows, steps, sides, count, columns, along_rows, law)
        length_of_step = square / _dot(direction, image)
        for i in range(length):
            u[i] += length_of_step * direction[i]
            residual[i] -= length_of_step * image[i]
        before, square = square, _dot(residual, residual)
        turn = square / before
        for i in range(length):
            direction[i] = residual[i] + turn * direction[i]
        step += 1
    for line in range(sides * count):
        for c in range(columns):
            out[c] += root[line * columns + c] * u[line * columns + c]
    return square > enough


@compiled
def settle_kernel(arguments):
    """Solve for some of the inputs.

    cells (sides, rows, columns); x (m, rows); out (m, columns); scratch (threads, room); law (5): resistances of supply
    and its terminal, of columns and theirs, tolerance; failed (threads); m, sides, rows, columns, room, whether current
    comes along rows, steps at most
    """
    values = carray(arguments, (13,), np.int64)
    m, sides, rows, columns = values[6], values[7], values[8], values[9]
    room, along_rows, most = values[10], values[11], values[12]
    cells, law = _doubles(values[0], sides * rows * columns), _doubles(values[4], 5)
    x, out = _doubles(values[1], m * rows), _doubles(values[2], m * columns)
    thread, threads = thread_number(), team_size()
    scratch = _doubles(values[3] + 8 * thread * room, room)
    failed = _doubles(values[5] + 8 * thread, 1)
    for number in range(thread, m, threads):
        own, into = x[number * rows : (number + 1) * rows], out[number * columns : (number + 1) * columns]
        if _solve(cells, own, into, scratch, law, sides, rows, columns, along_rows, most):
            failed[0] = 1.0
