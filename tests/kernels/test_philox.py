"""The random numbers: published known answers, and the normals' distribution with mutants that must be rejected."""

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.errors import BackendError, ShapeError
from analogsim.kernels import add_noise, philox
from analogsim.kernels.backends.numba import jit
from tests.support.machine_code import from_python

ONES = 0xFFFFFFFF
# Random123's kat_vectors for philox4x32-10: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
N = 2**20
ALPHA = 1e-4  # of each test below; a false alarm would show once, because seeds are fixed


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    assert [int(v) for v in philox.philox4x32(tuple(torch.tensor(c) for c in counter), key)] == list(words)
    out = np.empty(64, np.uint32)
    c0, c1, c2, c3 = (np.uint64(c) for c in counter)
    from_python(jit.philox_words)(out, c0, np.uint64(key[0]), np.uint64(key[1]), c2, c3, c1)
    assert [int(v) for v in out[::16]] == list(words)


def test_machine_code_makes_the_stated_normals_of_every_kind_of_word():
    """Of the least and the largest words, those next to powers of two, and many others."""
    edges = [(2**bit + near) & ONES for bit in range(33) for near in (-2, -1, 0, 1)]
    words = np.array(edges + list(np.random.default_rng(1).integers(0, 2**32, 2**14 - len(edges))), np.uint32)
    got = np.empty(2 * len(words), np.float32)
    from_python(jit.box_muller)(words, got)
    want = torch.stack(philox.box_muller(torch.from_numpy(words.astype(np.int64))), 1)  # (word, cosine or sine)
    got = torch.from_numpy(got).view(-1, 2, 16).transpose(1, 2).reshape(-1, 2)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)


def draw(stream=0, seed=11):
    return add_noise(torch.zeros(N), 1.0, 0.0, seed, stream).double().numpy()


def rejected(n):
    """Which of five tests at level ALPHA reject that n holds N independent standard normals.

    With N = 2^20 they catch a mean off by 0.005, a σ off by 0.4 %, and a tail probability off by 10 % beyond 3.
    """
    z = stats.norm.isf(ALPHA / 2)
    tail = 2 * stats.norm.sf(3)
    return {
        "mean": abs(n.mean()) * N**0.5 > z,
        "variance": abs(n.var() - 1) * (N / 2) ** 0.5 > z,
        "kurtosis": abs((n**4).mean() - 3) * (N / 96) ** 0.5 > z,
        "tail": abs((abs(n) > 3).mean() - tail) * (N / tail) ** 0.5 > z,
        "ks": stats.kstest(n, "norm").pvalue < ALPHA,
    }


def test_the_normals_are_standard_normal():
    assert not any(rejected(draw()).values())


@pytest.mark.parametrize(
    ("mutant", "test"),
    [(lambda n: n * 1.05, "variance"), (lambda n: n + 0.01, "mean"), (lambda n: n.clip(-3.2, 3.2), "kurtosis")],
)
def test_a_wrong_distribution_is_rejected(mutant, test):
    assert rejected(mutant(draw()))[test]


def correlated(a, b):
    return abs((a * b).mean()) * len(a) ** 0.5 > stats.norm.isf(ALPHA / 2)


def test_neighbours_pairs_and_streams_are_independent():
    n = draw()
    panels = n.reshape(-1, 8, 16)
    pairs = [(panels[:, i].ravel(), panels[:, j].ravel()) for i in range(8) for j in range(i)]
    lags = [(n[lag:], n[:-lag]) for lag in (1, 2, 16, 128, 1024)]
    streams = [(n, draw(stream=s)) for s in (1, 2**32)] + [(n, draw(seed=s)) for s in (12, 2**40)]
    for a, b in (*pairs, *lags, *streams):
        assert not correlated(a, b)
        assert not correlated(a**2 - 1, (b**2 - 1) / 2)


def test_a_reused_stream_is_rejected():
    assert correlated(draw(stream=3), draw(stream=3))


def test_an_element_depends_on_its_index_alone():
    whole = philox.normals((1000,), 1, 2, 3)
    assert torch.equal(philox.normals((100,), 1, 2, 3, offset=333), whole[333:433])


def test_too_many_elements_are_refused():
    with pytest.raises(ShapeError, match="smaller batches"):
        philox.check_extent(2**35 + 1)


def test_noise_is_not_captured_in_a_cuda_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for given in (None, 3):
        with pytest.raises(BackendError, match="replays would repeat it"):
            philox.seed_of_call(given, torch.device("cuda"))
    assert philox.seed_of_call(3, torch.device("cpu")) == 3
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert philox.seed_of_call(3, torch.device("cuda")) == 3
