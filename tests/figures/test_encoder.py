"""The encoder's benchmark: its measure is what it says, and its page what it measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from benchmarks import encoder
from benchmarks.tables import MARKER

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "encoder.md"


def agreement(found, wanted, sizes):
    metric = encoder.RankAgreement()
    metric.reset()
    for x, y in zip(found.split(sizes), wanted.split(sizes)):
        metric.update(x, y)
    return metric.compute()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [[20], [1, 7, 12]], ids=["one batch", "three batches"])
def test_agreement_is_spearman_s_of_all_pairs(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(20, 6, generator=generator)
    found = (wanted + seed * torch.randn(20, 6, generator=generator)) * torch.rand(20, 1, generator=generator)
    similarities = [1 - pdist(each.double().numpy(), "cosine") for each in (found, wanted)]
    assert agreement(found, wanted, sizes) == pytest.approx(spearmanr(*similarities).statistic)
    assert agreement(wanted, wanted, sizes) == pytest.approx(1)
    assert agreement(3 * wanted, wanted, sizes) == pytest.approx(1)


def test_embeddings_that_are_all_alike_rank_nothing():
    wanted = torch.eye(4)
    assert np.isnan(agreement(torch.ones(4, 3), wanted, [4]))
    assert np.isnan(agreement(torch.full((4, 3), torch.inf), wanted, [4]))


def test_sentences_are_sentences_and_the_same_again():
    found = encoder.sentences(50)
    assert found == encoder.sentences(50)
    assert len(set(found)) == 50
    assert all(40 <= len(each) <= 200 and each.endswith(".") for each in found)


def test_the_page_is_as_generated():
    text = PAGE.read_text(encoding="utf-8")
    assert {name for _, name, _ in MARKER.findall(text)} == set(encoder.TABLES)
    for name, made in encoder.TABLES.items():
        assert f"<!-- table: {name} -->\n\n{made()}\n<!-- end -->" in text, "python -m benchmarks.tables"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(encoder.PACKAGE) is None, reason=f"{encoder.PACKAGE} is not installed")
def test_the_script_runs_and_goes_on(tmp_path):
    pytest.importorskip("transformers")
    out = tmp_path / "encoder.json"
    command = [sys.executable, "-m", "benchmarks.encoder", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert not done.returncode, done.stderr[-3000:]
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {path.name for path in tmp_path.glob("*.png")} == {"encoder.png", "encoder-layers.png"}
    dropped = report["parts"].pop("preset 8bit")
    out.write_text(json.dumps(report), encoding="utf-8")
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert not again.returncode, again.stderr[-3000:]
    assert [line.split(":")[0] for line in again.stdout.splitlines()] == ["preset 8bit"]
    assert json.loads(out.read_text(encoding="utf-8"))["parts"]["preset 8bit"]["found"] == dropped["found"]
