"""What a training sees in an epoch: decided by its seed and the epoch alone, and the same in a group."""

import pytest
import torch

from analogsim.training.augment import Augmentation
from analogsim.training.data import DataSet
from analogsim.training.epoch import EpochOrder
from analogsim.training.spec import TrainSpec

SPEC = TrainSpec(sigma=1, batch_size=8, variance={"mean": 1, "spread": 1}, augment=Augmentation(crop=2))
COUNT = 20


def blank(count):
    """Return so many black images, for what looks at their number only."""
    x, y = torch.zeros(count, 1, 4, 4, dtype=torch.uint8), torch.arange(count) % 2
    return DataSet("blank", x, y, x[:2], y[:2], (0.0,), (1.0,), ("a", "b"))


def parts(order):
    return order.images, order.crops.rows, order.crops.columns, order.crops.mirrored, order.z


def same(one, other):
    return [torch.equal(a, b) for a, b in zip(parts(one), parts(other), strict=True)]


def test_seed_and_epoch_decide_everything():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    data = blank(COUNT)
    order = EpochOrder.draw(SPEC, 3, data)
    torch.manual_seed(1)
    assert all(same(order, EpochOrder.draw(SPEC, 3, data)))
    # 20 draws of few values: two are equal by chance with p < 1e-6.
    assert not any(same(order, EpochOrder.draw(SPEC, 4, data)))
    assert not any(same(order, EpochOrder.draw(SPEC.varied(seed=1), 3, data)))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_image_comes_once():
    order = EpochOrder.draw(SPEC, 0, blank(COUNT))
    assert order.images.sort().values.tolist() == list(range(COUNT))
    assert all(part.shape == (COUNT,) for part in parts(order))
    rows = torch.cat([EpochOrder.draw(SPEC, epoch, blank(COUNT)).crops.rows for epoch in range(20)])
    assert set(rows.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("per", "different"), [("image", COUNT), ("batch", 3)])
def test_a_sigma_for_each_image_or_batch(per, different):
    z = EpochOrder.draw(SPEC.varied(variance={"mean": 1, "spread": 1, "per": per}), 0, blank(COUNT)).z
    assert (z > 0).all()
    assert len(set(z.tolist())) == different
    assert len(z) == COUNT
    if per == "batch":
        assert [len(set(batch.tolist())) for batch in z.split(8)] == [1, 1, 1]


def test_without_variance_and_augmentation():
    order = EpochOrder.draw(SPEC.varied(variance=None, augment=Augmentation(crop=0, flip=False)), 0, blank(COUNT))
    for part in parts(order)[1:]:
        assert not part.any()


def test_a_group_s_is_that_of_its_trainings():
    data = blank(COUNT)
    singly = [EpochOrder.draw(SPEC.varied(seed=seed), 1, data) for seed in (5, 2**63, 7)]
    together = EpochOrder.together(singly).to(torch.device("cpu"))
    step = together.part(8, 16)
    for number, order in enumerate(singly):
        for ours, theirs, now in zip(parts(order), parts(together), parts(step)):
            assert theirs.shape == (COUNT, 3)
            assert torch.equal(ours, theirs[:, number])
            assert torch.equal(ours[8:16], now[:, number])
