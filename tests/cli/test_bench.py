"""The measuring core, with costs that are known instead of timed, and the command."""

import pytest
import torch

from analogsim.bench import Report, compare, kernel_jobs, machine, naive, threads
from analogsim.errors import DataError
from analogsim.kernels import MatmulSpec, tiled_matmul
from tests.support.shell import call, done


def costs(*values):
    """Return a candidate whose calls cost these, in turn (its own return value is the measurement)."""
    return iter(values).__next__


def run(call):
    return call()


def test_ratio_is_the_median_of_ratios_within_a_round():
    # Round 2 is far slower for both: the ratio of medians would be 4 / 3, the median of ratios is 2.
    case = compare(
        {"base": costs(9.0, 9.0, 1.0, 30.0, 3.0), "ours": costs(99.0, 9.0, 2.0, 60.0, 4.0)},
        "base",
        3,
        measure=run,
        goals={"ours": 2.0},
    )
    ours = case.result("ours")
    assert ours.first == 99
    assert ours.value.median == 4
    assert ours.ratio is not None
    assert ours.ratio.median == 2
    assert (ours.ratio.low, ours.ratio.high) == pytest.approx((5 / 3, 2))
    assert ours.met is True
    assert case.result("base").met is None


def test_rounds_interleave_and_begin_with_another_candidate():
    calls = []
    compare(
        {name: lambda name=name: calls.append(name) for name in "abc"}, None, 3, warmup=2, measure=lambda f: f() or 1
    )
    assert "".join(calls) == "abc" + "abcabc" + "abc" + "bca" + "cab"


def test_without_a_baseline_the_goal_is_of_the_value():
    result = compare({"a": costs(0, 0, 3.0)}, None, 1, measure=run, goals={"a": 2.0}).results[0]
    assert result.ratio is None
    assert result.met is False


@pytest.mark.parametrize(("names", "baseline", "rounds"), [("", None, 1), ("a", "b", 1), ("a", "a", 0)])
def test_refuses_what_cannot_be_compared(names, baseline, rounds):
    with pytest.raises(DataError, match="compare"):
        compare({name: int for name in names}, baseline, rounds)


def test_threads_are_put_back_also_after_an_error():
    before = torch.get_num_threads()

    def fails():
        with threads(before + 1):
            raise ZeroDivisionError(torch.get_num_threads())

    with pytest.raises(ZeroDivisionError, match=str(before + 1)):
        fails()
    assert torch.get_num_threads() == before


def test_the_naive_loop_computes_what_the_kernel_computes():
    x, w = torch.randn(40, 70), torch.rand(5, 70) * 2 - 1
    spec = MatmulSpec(32, 3.0, 8, True, 8.0, 8)
    ours, _ = tiled_matmul(x, w, spec, backend="reference")
    # Two orders of rounding in float32: an ADC level may flip, hence one step a tile at most; most agree.
    difference = (naive(x, w, spec) - ours).abs()
    assert difference.max() <= 3 * 8.0 / 127 + 1e-5
    assert (difference < 1e-5).float().mean() > 0.95


def test_report_survives_its_file_and_others_are_refused(tmp_path):
    report = Report(title="T", machine=machine(), cases=(compare({"a": costs(1, 1, 1)}, "a", 1, measure=run),))
    report.save(tmp_path / "new" / "t.json")
    assert Report.load(tmp_path / "new" / "t.json") == report
    (tmp_path / "other.json").write_text('{"title": 1}')
    with pytest.raises(DataError, match="title"):
        Report.load(tmp_path / "other.json")


@pytest.mark.slow
def test_command_measures_every_shape_and_writes_the_report(tmp_path):
    file = tmp_path / "k.json"
    done("bench", "--quick", "--threads", 1, "--out", file)
    report = Report.load(file)
    assert len(report.cases) == len(kernel_jobs([1])) == 12
    assert {case.threads for case in report.cases} == {1}
    assert report.machine["versions"]["torch"] == torch.__version__
    assert all(entry.value.median > 0 for case in report.cases for entry in case.results)


def test_command_refuses_a_number_of_threads_that_is_none():
    assert call("bench", "--threads", 0).exit_code == 2
