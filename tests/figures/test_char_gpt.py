"""The parts of benchmarks/char_gpt.py: what is held out does not leak, clipping bounds, a killed training goes on."""

import pytest
import torch

from benchmarks import char_gpt
from benchmarks.char_gpt import SHARED, Recipe, Variant

TINY = Recipe(layers=1, width=8, heads=2, context=8, batch=4, steps=8, warmup=2, keep=3)
CHARACTERS = 11


def passages(pages, names):
    return {pages[name][i : i + SHARED] for name in names for i in range(len(pages[name]) - SHARED + 1)}


def test_pages_with_a_passage_in_common_stay_together():
    common = "".join(map(chr, range(200, 200 + SHARED)))
    pages = {str(n): chr(1000 + n) * 100 for n in range(20)}
    # 3 and 7 share one, 7 and 11 another: all three belong together.
    pages["3"] += common
    pages["7"] += common + common[::-1]
    pages["11"] += common[::-1]
    for seed in range(30):
        seen, held = char_gpt.split(pages, 0.3, seed)
        assert sorted(seen + held) == sorted(pages)
        assert len({name in held for name in ("3", "7", "11")}) == 1
        assert not passages(pages, seen) & passages(pages, held)


def test_nothing_of_the_held_out_help_pages_is_seen():
    pages = char_gpt.topics()
    seen, held = char_gpt.split(pages)
    assert not passages(pages, seen) & passages(pages, held)
    characters = [sum(len(pages[name]) for name in names) for names in (seen, held)]
    assert 0.05 < characters[1] / sum(characters) <= 0.1


def test_clipping_keeps_weights_within_their_columns_bound():
    torch.manual_seed(0)
    model = char_gpt.network(CHARACTERS, TINY)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    bounds = [1.5 * weight.std(axis, keepdim=True) for weight, axis in char_gpt.matrices(model)]
    # Four Conv1D, which keep their weights transposed, and the head: every column has one bound.
    assert [bound.shape for bound in bounds] == [(1, 24), (1, 8), (1, 32), (1, 8), (CHARACTERS, 1)]
    char_gpt.clip_weights(model, 1.5)
    for (weight, _), bound in zip(char_gpt.matrices(model), bounds):
        assert (weight.abs() <= bound).all()
        assert (weight.abs() == bound).any()
    matrices = [weight for weight, _ in char_gpt.matrices(model)]
    others = {n: p for n, p in model.named_parameters() if not any(p is weight for weight in matrices)}
    assert all(torch.equal(parameter, before[name]) for name, parameter in others.items())


def test_a_killed_training_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    text = torch.randint(CHARACTERS, (200,), generator=torch.Generator().manual_seed(0))
    arguments = text, CHARACTERS, Variant("activations", 0.3, 2.0), TINY, 1
    whole, losses = char_gpt.train(*arguments, tmp_path / "whole")
    assert len(losses) == TINY.steps
    clip, calls = char_gpt.clip_weights, []

    def killing(model, alpha):
        calls.append(alpha)
        if len(calls) == 5:
            raise KeyboardInterrupt
        clip(model, alpha)

    monkeypatch.setattr(char_gpt, "clip_weights", killing)
    with pytest.raises(KeyboardInterrupt):
        char_gpt.train(*arguments, tmp_path / "killed")
    resumed, again = char_gpt.train(*arguments, tmp_path / "killed")
    assert len(calls) == 5 + TINY.steps - TINY.keep  # it went on from its last checkpoint
    assert again == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))
