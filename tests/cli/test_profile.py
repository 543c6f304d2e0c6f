"""`analogsim profile`: what is written is what was meant."""

import csv
import json

import yaml

from analogsim.profile import HardwareProfile
from analogsim.profile.hardware import text_of
from tests.support.shell import call, done


def refused(*args, code=1):
    result = call(*args)
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.replace("│", " ").split())


def test_new_writes_what_loads_and_nothing_over_what_is_there(tmp_path):
    file = tmp_path / "mine.yaml"
    said = done("profile", "new", file, "--from", "pcm").stderr
    assert HardwareProfile.load(file) == HardwareProfile.load("pcm")
    assert "profile.schema.json" in said
    assert "is there already" in refused("profile", "new", file, code=2)
    assert "must end in .yaml" in refused("profile", "new", tmp_path / "mine.json", code=2)
    assert "did you mean 'pcm'" in refused("profile", "new", tmp_path / "b.yaml", "--from", "pmc")
    assert HardwareProfile.loads(done("profile", "new").stdout) == HardwareProfile()
    done("profile", "schema", "--out", tmp_path / "profile.schema.json")
    schema = json.loads((tmp_path / "profile.schema.json").read_text())
    assert schema == json.loads(done("profile", "schema").stdout)
    assert not done("profile", "new", tmp_path / "again.yaml").stderr


def test_show_keeps_the_comments(tmp_path):
    assert done("profile", "show", "isaac").stdout.rstrip() == text_of("isaac").rstrip()
    full = yaml.safe_load(done("profile", "show", "isaac", "--full").stdout)
    assert set(full) == set(HardwareProfile.model_fields)
    file = tmp_path / "mine.yaml"
    file.write_text("dac: {bits: 8} # of the data sheet\n")
    assert "data sheet" in done("profile", "show", file).stdout
    assert "dac.bits" in refused("profile", "show", bad(tmp_path))


def test_show_prints_a_profile_that_is_this_one_whatever_its_text_holds(tmp_path):
    """JSON may hold what a terminal would obey: it is written as escapes."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"name": "a\x9b31mb"}, ensure_ascii=False), encoding="utf-8")
    text = done("profile", "show", file).stdout
    assert "\x9b" not in text
    assert HardwareProfile.loads(text) == HardwareProfile.load(file)


def bad(folder):
    path = folder / "bad.yaml"
    path.write_text("dac: {bits: 99}\n")
    return path


def test_compare_in_each_format():
    names = ["8bit", "noisy"]
    table = done("profile", "compare", *names).stdout
    assert "noise.output" in table
    assert "normalised units" in table
    assert "drift.nu" not in table
    assert "drift.nu" in done("profile", "compare", *names, "--all").stdout
    found = json.loads(done("profile", "compare", *names, "--format", "json").stdout)
    values = {row["field"]: row["values"] for row in found}
    assert values["adc.full_scale"] == {"8bit": "calibrated", "noisy": 12.0}
    rows = list(csv.reader(done("profile", "compare", *names, "--format", "csv").stdout.splitlines()))
    assert [row[0] for row in rows[1:]] == list(values)
    markdown = done("profile", "compare", *names, "--format", "markdown").stdout
    assert "| noise.output | normalised units | 0.0 | 0.06 |" in markdown
    assert "at least two" in refused("profile", "compare", "8bit", code=2)


def test_import_writes_a_profile_and_says_what_is_not_in_it(tmp_path):
    config = {"core": {"rows_max": 64, "complex_matrix": True}, "xbar": {"device": {"cell_bits": 4}}}
    file, out = tmp_path / "theirs.json", tmp_path / "mine.yaml"
    file.write_text(json.dumps(config))
    said = done("profile", "import", file, "--out", out).stderr
    assert "not carried over: core.complex_matrix = True: no counterpart" in said
    profile = HardwareProfile.load(out)
    assert (profile.name, profile.tile.rows, profile.weight.bits) == ("theirs", 64, 5)
    assert "# " in out.read_text()
    assert "complex_matrix = True" in out.read_text()
    assert HardwareProfile.loads(done("profile", "import", file).stdout) == profile
    assert "no JSON file" in refused("profile", "import", tmp_path / "config.pkl")
    assert "must end in .yaml" in refused("profile", "import", file, "--out", tmp_path / "a.json", code=2)


CONFIG = """
from types import SimpleNamespace as S
forward = S(is_perfect=False, mv_type="OnePass", inp_bound=1.0, inp_res=1/126, out_bound=12.0, out_res=1/510,
            out_noise=0.06, w_noise=0.0, w_noise_type="None", noise_management="None", bound_management="Shift",
            nm_thres=0.0, ir_drop=0.0, inp_sto_round=False, out_sto_round=False)
mapping = S(max_input_size=512, max_output_size=512, weight_scaling_omega=1.0, weight_scaling_columnwise=True)
made = S(forward=forward, mapping=mapping, pre_post=S(input_range=S(enable=True)))
def make():
    return made
"""


def test_import_takes_a_configuration_from_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_rpu.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    for name in ("made", "make"):
        result = done("profile", "import", f"my_rpu:{name}")
        assert HardwareProfile.loads(result.stdout).adc.bits == 9
        assert "bound_management = 'Shift'" in result.stderr
    assert "no module 'nosuch'" in refused("profile", "import", "nosuch:config")
