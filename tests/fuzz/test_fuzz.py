"""A small share of the cases of `make fuzz`, and what it makes of those that end the interpreter or never return."""

import pytest

import analogsim as an
from tests.fuzz import check
from tests.fuzz import run as fuzz
from tests.fuzz.draw import MAKERS, Draw, draw, profile

SHARE = 140  # cases of some 15 seconds


@pytest.mark.parametrize("part", range(4))
def test_random_layers_profiles_and_inputs(part):
    for number in range(part * SHARE // 4, (part + 1) * SHARE // 4):
        result = fuzz.one(2026, number)
        assert "failed" not in result, f"python -m tests.fuzz --seed 2026 --case {number}: {result['failed']}"


def test_a_case_is_a_function_of_its_seed():
    assert [str(draw(1, n)) for n in range(20)] == [str(draw(1, n)) for n in range(20)]
    assert str(draw(1, 0)) != str(draw(2, 0))


def test_every_kind_of_layer_is_drawn():
    kinds = {draw(0, number).kind for number in range(300)}
    convolutions = {f"Conv{way}{dims}d" for way in ("", "Transpose") for dims in (1, 2, 3)}
    rest = {"linear", "MultiheadAttention", "LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"}
    assert kinds == convolutions | rest
    assert len(MAKERS) >= 6


def test_every_field_of_a_profile_is_drawn():
    drawn = set()
    for number in range(1000):
        for part, fields in profile(Draw(3, number), 20).model_dump(exclude_defaults=True).items():
            drawn |= {f"{part}.{field}" for field in fields}
    parts = {part: value for part, value in an.HardwareProfile() if part not in ("name", "description", "cost")}
    every = {f"{part}.{field}" for part, value in parts.items() for field in type(value).model_fields}
    # A unit that changes nothing, and models that programs register.
    assert every - drawn == {"cells.g_max", "cells.model"}


def test_numba_is_compared_with_the_reference(monkeypatch):
    kinds = set()
    compare = check._compare

    def noted(case, *args):
        kinds.add(case.kind.rstrip("123d"))
        return compare(case, *args)

    monkeypatch.setattr(check, "_compare", noted)
    for number in range(14):
        fuzz.one(2026, number)
    assert kinds >= {"linear", "Conv"}


CHILD = """
import json, os, sys, time
first, stop = map(int, sys.argv[-2:])
for number in range(first, stop):
    print(json.dumps({"begins": number}), flush=True)
    if number == 3:
        os.abort()
    if number == 5:
        time.sleep(60)
    failed = {"failed": "wrong by 0.25"} if number in (6, 7) else {"refused": "too large (got 3.5)"}
    print(json.dumps({"case": number, "kind": "linear"} | failed), flush=True)
"""


def test_crashes_and_hangs_are_named():
    summary = fuzz.run(4, 9, program=("-c", CHILD), patience=3)
    assert summary.cases == 9
    assert [number for number, _ in summary.failures] == [3, 5, 6, 7]
    text = str(summary)
    assert "the process ended with -6: Fatal Python error: Aborted" in text
    assert "it did not return in 3 s" in text
    assert "FAILED 2: wrong by 0.25" in text
    assert "python -m tests.fuzz --seed 4 --case 6" in text
    assert "refused      5  too large (got #)" in text


def test_time_is_kept():
    assert fuzz.run(4, 10**6, minutes=0.02, program=("-c", CHILD.replace("3", "-1").replace("5", "-2"))).seconds < 20
