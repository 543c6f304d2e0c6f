"""Hardware as an axis of a study: every trained network on every combination of its fields."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import analogsim as an
from analogsim.errors import StudyError
from analogsim.study import load_hardware, pack_study, run_study, write_report
from analogsim.study.grid import Study
from analogsim.study.job import job_network
from analogsim.study.store import Store
from analogsim.training.data import load_data
from analogsim.training.train import train

from .test_study import TINY

HARDWARE = {"profile": "pcm", "vary": {"adc.bits": [3, 8], "age": [0, "1y"]}, "chips": 2, "calibration": 64}


def study(**changes):
    methods = [{"name": "float"}, {"name": "constant", "qat": {"bits": 8, "s": 0.5}}]
    return Study(**(TINY | {"methods": methods, "hardware": HARDWARE, "seeds": 2, "sweep": {"repeats": 1}} | changes))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hardware") / "out"
    run_study(study(), folder, workers=2, device="cpu", progress=False)
    return folder


def test_each_training_is_measured_as_hardware_sweep_does(out):
    frame = load_hardware(out)
    assert len(frame) == 2 * 2 * 4 * 2  # methods, seeds, combinations, chips
    assert list(frame)[-4:] == ["adc.bits", "age", "chip", "accuracy"]
    assert set(frame["age"]) == {0, "1y"}
    kept = pd.read_csv(out / "hardware.csv")
    assert kept["accuracy"].to_numpy() == pytest.approx(frame["accuracy"].to_numpy(), rel=1e-5)
    assert kept["age"].astype(str).tolist() == frame["age"].astype(str).tolist()
    _, jobs = study().expand()
    data = load_data("digits").subset(256, 120)
    for quantized in (False, True):
        job = next(job for job in jobs.values() if (job.qat is not None) == quantized and job.train.seed == 1)
        network = train(job_network(job, data), data, job.train, progress=False).model
        wanted = an.hardware_sweep(
            an.freeze_quantization(network) if quantized else network,
            list(data.test_batches()),
            HARDWARE["vary"],
            profile=an.HardwareProfile.load("pcm"),
            calibration=data.train_sample(64),
            chips=2,
            seed=1,
            progress=False,
        )
        own = frame[frame["job"] == job.id]
        # The job's own training ran in another process, on as many threads as there was room for.
        assert own["accuracy"].to_numpy() == pytest.approx(wanted.to_frame()["value"].to_numpy(), abs=0.02)
        eight = own[own["adc.bits"] == 8]["accuracy"].mean()
        assert eight > own[own["adc.bits"] == 3]["accuracy"].mean()


def test_the_report_shows_it(out):
    written = write_report(out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "On hardware" in page
    frame = load_hardware(out)
    own = frame[(frame["method"] == "constant") & (frame["adc.bits"] == 8) & (frame["age"] == "1y")]["accuracy"]
    assert len(own) == 4
    assert f"{own.mean():.3f} ± {np.std(own, ddof=1):.3f}" in page
    assert "adc.bits 8, age 1y" in page
    picture = next(path for path in written if path.match("hardware-*.png"))
    with Image.open(picture) as image:
        assert image.size[0] > 800


def test_it_is_packed_and_run_once(out):
    before = load_hardware(out)
    pack_study(out)
    assert not list((out / "jobs").glob("*/result.json"))
    pd.testing.assert_frame_equal(load_hardware(out), before)
    done = (out / "jobs.jsonl").read_bytes()
    run_study(study(), out, device="cpu", progress=False)
    assert (out / "jobs.jsonl").read_bytes() == done


def test_hardware_is_a_part_of_what_a_job_is_and_none_leaves_it_as_it_was():
    plain = set(study(hardware=None).expand()[1])
    assert all("hardware" not in job.identity for job in study(hardware=None).expand()[1].values())
    assert len({*plain, *study().expand()[1], *study(hardware=HARDWARE | {"chips": 3}).expand()[1]}) == 3 * len(plain)


def test_a_profile_s_fields_decide_and_not_its_name(tmp_path):
    an.HardwareProfile.load("pcm").save(tmp_path / "mine.yaml")
    same = study(hardware=HARDWARE | {"profile": str(tmp_path / "mine.yaml")})
    assert set(same.expand()[1]) == set(study().expand()[1])


def test_a_result_without_its_hardware_is_damaged(out):
    from analogsim.study.records import Result

    store = Store(out)
    result = store.result(store.plan()[0].job)
    values = result.model_dump()
    assert Result(**values) == result
    with pytest.raises(ValueError, match="hardware: 4 points are needed"):
        Result(**values | {"hardware": result.hardware[:3]})
    with pytest.raises(ValueError, match="hardware: 4 points are needed"):
        Result(**values | {"hardware": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "pcn"}, "hardware: .*pcn"),
        ({"vary": {"bits": [4]}}, "hardware: 'bits' is no field of a profile; did you mean 'dac.bits'"),
        ({"vary": {"adc.bits": [4, 99]}}, "hardware: adc.bits"),
        ({"vary": {"age": ["soon"]}}, "hardware: age: 'soon'"),
        ({"vary": {"calibration": ["best"]}}, "hardware: calibration: 'best'"),
        ({"method": "best"}, "hardware: calibration: 'best'"),
        ({"vary": {}}, "at least one field"),
        ({"vary": {"adc.bits": []}}, "hardware.vary.adc.bits"),
        ({"chips": 0}, "hardware.chips"),
    ],
)
def test_impossible_hardware_is_named_before_anything_is_trained(change, message):
    with pytest.raises(StudyError, match=message):
        study(hardware=HARDWARE | change).expand()
