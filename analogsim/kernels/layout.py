"""Moving between channels-first and channels-last blocks, and the digital gain: flat arrays only, compiled by Numba.

oneDNN convolves channels-last inputs with any number of channels at full speed, where it pads channels-first ones to
multiples of 16 (28 channels of a 3×3 tile of 256 rows: to 32) and reorders them; but noise counts channels first.
"""

from llvmlite import ir
from numba import float32, int64, njit, types, void
from numba.extending import intrinsic

_f, _i = float32[::1], int64[::1]
_options = {"nogil": True, "cache": True}


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


@njit(void(_f, _f, int64, int64, int64), **_options)
def channels_first(source, target, images, positions, channels):
    """(images, positions, channels) → (images, channels, positions)."""
    n, m = channels // 16 * 16, positions // 16 * 16
    for image in range(images):
        first = image * positions * channels
        for c in range(0, n, 16):
            for p in range(0, m, 16):
                a, b = first + p * channels + c, first + c * positions + p
                _transpose16(source, a, channels, target, b, positions)
        for c in range(channels):
            for p in range(m if c < n else 0, positions):
                target[first + c * positions + p] = source[first + p * channels + c]


@njit(void(_f, _f, int64, int64, _i, _i), **_options)
def split_channels_last(source, target, images, positions, order, cuts):
    """Cut (images, channels, positions) into a block (images, positions, channels of a tile) for each tile.

    `order` names the channels of one tile after the other (one may come twice), `cuts` where each tile's begin.
    """
    channels = source.shape[0] // (images * positions)
    for tile in range(len(cuts) - 1):
        width = cuts[tile + 1] - cuts[tile]
        for image in range(images):
            block = target[(cuts[tile] * images + image * width) * positions :]
            for start in range(0, positions, 64):  # so that what is written stays in the first-level cache
                m = min(64, positions - start)
                for k in range(width):
                    first = (image * channels + order[cuts[tile] + k]) * positions + start
                    row = source[first : first + m]
                    column = block[start * width + k :]
                    for p in range(m):
                        column[p * width] = row[p]


@njit(void(_f, _f, _f, int64), **_options)
def scale_channels(out, scale, bias, positions):
    """Out · scale + bias in place, one value a channel; out is (images, channels, positions)."""
    for row in range(len(out) // positions if positions else 0):
        o = out[row * positions : (row + 1) * positions]
        s, b = scale[row % len(scale)], bias[row % len(bias)]
        for i in range(positions):
            o[i] = o[i] * s + b
