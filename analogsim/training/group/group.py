"""Many trainings at once: networks that differ in seed and noise alone, as one packed network."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ...errors import ConversionError
from ...seeds import Key, derive, forked, seed_generators
from ..data import DataSet
from ..epoch import EpochOrder
from ..history import has_ended, record
from ..spec import TrainSpec
from ..step import adam, differentiate, divergence, losses_and_hits, set_rate, take_batch
from .noise import PackedNoise, site_sigmas
from .packed import Convolve, check_pack, join, pack, split

# Images of all networks together in one step of the evaluation, but at least LEAST of each.
EVALUATED, EVALUATED_ON_CPU = 2**14, 500
LEAST = 50


@dataclass
class Member:
    """One training of a group.

    Attributes
    ----------
    name : str
    network : nn.Module
        As it is before training; it stays so.
    spec : TrainSpec
        Those of a group differ in seed, sigma, multiplicative, layers, ramp_epochs and variance at most.
    state : dict
        After its last whole epoch, as `train` keeps it in a checkpoint: model, optimiser, epoch, history, calls. Empty
        before the first.
    diverged : str
        Why it was stopped; "": it was not.
    """

    name: str
    network: nn.Module
    spec: TrainSpec
    state: dict[str, Any] = field(default_factory=dict)
    diverged: str = ""

    @property
    def history(self) -> list[dict[str, float]]:
        """One entry an epoch, as `TrainResult.history`."""
        return self.state.get("history", [])


class Group:
    """Trainings at the same epoch, in one packed network.

    Parameters
    ----------
    members : list of Member
    data : DataSet
    device : torch.device
    how : {"grouped", "separate", "unfolded"}, optional
        Convolutions, see `pack`; default: separate on the CPU, else what `quickest` finds on the device.
    fused : bool, optional
        Noise by `kernels.add_noise`; default: on the CPU.
    compile : bool
        Forward and backward by torch.compile(mode="reduce-overhead"), which is CUDA graphs there.

    Raises
    ------
    ConversionError
        The networks cannot be packed, or there is a training whose noise has no place in them, or that clips weights.

    Notes
    -----
    Order of the images, crops and variance-aware σ are each training's own, to the bit those of training it singly;
    dropout and noise are drawn for all at once from a seed made of all seeds and the epoch. So a training in a group is
    another sample of the same training (without noise and dropout, the same up to rounding), and a group that is run
    again gives the same to the bit (on the CPU, with as many threads).
    """

    def __init__(
        self,
        members: list[Member],
        data: DataSet,
        device: torch.device,
        *,
        how: Convolve | None = None,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        if any(member.spec.clip_weights is not None for member in members):
            raise ConversionError("clip_weights: a group of networks does not clip; train them singly")
        cuda = device.type == "cuda"
        self.fused = not cuda if fused is None else fused
        self.data, self.device, self.compile = data, device, compile
        if how is None and device.type != "cpu":
            size = min(len(data.train_x), members[0].spec.batch_size)
            how = quickest([member.network for member in members], data.normalise(data.train_x[:size]), device)
        self.how: Convolve = how or "separate"
        self.sigmas = {member.name: site_sigmas(member.network, member.spec) for member in members}
        check_pack([member.network for member in members], self.how, data.normalise(data.train_x[:4]), device)
        self.images, self.labels = data.train_x.to(device), data.train_y.to(device)
        size = max(LEAST, (EVALUATED_ON_CPU if device.type == "cpu" else EVALUATED) // len(members))
        self.tests = list(data.test_batches(size, device))
        self.members = members
        self._gather()

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.members[0].history)

    def run_epoch(self, tell: Callable[[float], None] = lambda done: None) -> list[Member]:
        """Train one epoch and test; return, and leave out from now on, the trainings that diverged or have ended.

        Parameters
        ----------
        tell : callable
            Called after every step with the share of the epoch that is done.
        """
        started, members, spec, data = time.perf_counter(), self.members, self.members[0].spec, self.data
        epoch, count, n = self.epoch, len(self.labels), len(self.members)
        set_rate(self.optimiser, spec, epoch)
        loss_sum, right = torch.zeros(2, n, device=self.device, dtype=torch.float64)
        order = EpochOrder.together([EpochOrder.draw(member.spec, epoch, data) for member in members]).to(self.device)
        with self._seeded(epoch):
            self.packed.train()
            self.noise.begin(epoch)
            for start in range(0, count, spec.batch_size):
                stop = min(start + spec.batch_size, count)
                step = order.part(start, stop)
                self.noise.draw(step.z)
                losses, hits = self._differentiated(*take_batch(data, self.images, self.labels, step))
                self.optimiser.step()
                loss_sum += losses * (stop - start)
                right += hits
                tell(stop / count)
            finite = (loss_sum.isfinite() & self._finite()).tolist()
            accuracies = (self._right() / len(data.test_y)).tolist()
        # Each one's share, so that sums over trainings mean something.
        seconds = (time.perf_counter() - started) / n
        results = zip((loss_sum / count).tolist(), (right / count).tolist(), accuracies)
        states = self._scatter()
        for member, good, result, state in zip(members, finite, results, states):
            if good:
                history = [*member.history, record(member.spec, epoch, *result, seconds)]
                member.state = state | {"epoch": epoch + 1, "history": history, "calls": []}
            else:
                member.diverged = str(divergence(member.spec, epoch))
        left = [m for m in members if m.diverged or has_ended(m.spec, m.history, data)]
        if left:
            self.members = [member for member in members if member not in left]
            self._gather()
        return left

    def _differentiated(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute losses and hits, and set the gradients; compiled where that is asked for and possible."""
        compute = self.compute
        # What is compiled is for whole batches.
        if self.compiled is not None and len(labels) == self.members[0].spec.batch_size:
            compute = self.compiled
        try:
            return differentiate(compute, self.optimiser, images, labels)
        except Exception as error:
            if self.compiled is None or compute is not self.compiled:
                raise
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"the step cannot be compiled, and is not: {line}", flush=True)
            self.compiled = None
            return self._differentiated(images, labels)

    @torch.no_grad()
    def _right(self) -> Tensor:
        """Return how many test images each network names right, in evaluation mode."""
        self.packed.eval()
        right = torch.zeros(len(self.members), device=self.device, dtype=torch.float64)
        for x, y in self.tests:
            logits = self.packed(x.repeat(1, len(self.members), *[1] * (x.ndim - 2)))
            right += (logits.view(len(y), len(self.members), -1).argmax(2) == y[:, None]).sum(0)
        return right

    def _finite(self) -> Tensor:
        """Say of each network whether its weights are finite."""
        n = len(self.members)
        parts = [p.detach().view(n, -1).isfinite().all(1) for p in self.packed.parameters()]
        return torch.stack(parts).all(0)

    @contextlib.contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Start torch's generators from all seeds and the epoch; give them back as they were."""
        first, *others = (member.spec.seed for member in self.members)
        noise = derive(first, Key.GROUP, len(self.members), *others, epoch)
        with forked(self.device):
            seed_generators(noise, self.device)
            yield

    def _gather(self) -> None:
        """Pack the members, as they are after their last epoch."""
        members = self.members
        if not members:
            return
        spec = members[0].spec
        self.packed = pack([member.network for member in members], self.how).to(self.device)
        parameters = list(self.packed.parameters())
        self.compute = partial(losses_and_hits, self.packed)
        self.optimiser = adam([{"params": parameters}], spec)
        if states := [member.state for member in members if member.state]:
            self.packed.load_state_dict(join([state["model"] for state in states]))
            slots = [state["optimiser"]["state"] for state in states]
            whole = {index: join([slot[index] for slot in slots]) for index in range(len(parameters))}
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": whole})
        sigmas = [self.sigmas[member.name] for member in members]
        self.noise = PackedNoise(self.packed, [m.spec for m in members], sigmas, self.device, self.fused)
        self.compiled = torch.compile(self.compute, mode="reduce-overhead") if self.compile else None

    def _scatter(self) -> list[dict[str, Any]]:
        """Return each network's weights and its optimiser's state, as if it had been trained singly."""
        n = len(self.members)
        models = split(self.packed.state_dict(), n)
        whole = self.optimiser.state_dict()
        slots = {index: split(slot, n) for index, slot in whole["state"].items()}
        return [
            {
                "model": model,
                "optimiser": {
                    "state": {index: parts[number] for index, parts in slots.items()},
                    "param_groups": whole["param_groups"],
                },
            }
            for number, model in enumerate(models)
        ]


def quickest(networks: Sequence[nn.Module], images: Tensor, device: torch.device) -> Convolve:
    """Return how the convolutions of networks are computed in the least time, as a few steps of each way show.

    Parameters
    ----------
    networks : sequence of nn.Module
        As `pack` takes them.
    images : Tensor (B, C, H, W)
        A batch of one network.
    device : torch.device
    """
    x = images.to(device).repeat(1, len(networks), *[1] * (images.ndim - 2))

    def seconds(how: Convolve) -> float:
        packed = pack(networks, how).to(device).train()
        weights = [p for p in packed.parameters() if p.requires_grad]
        times = []
        for _ in range(4):
            started = time.perf_counter()
            grads = torch.autograd.grad(packed(x).sum(), weights, allow_unused=True)
            float(next(g for g in grads if g is not None).sum())  # waits for the device
            times.append(time.perf_counter() - started)
        return min(times[1:])

    ways: tuple[Convolve, ...] = get_args(Convolve)
    found: dict[Convolve, float] = {}
    for how in ways:
        # Unfolded images may not fit the device's memory.
        with contextlib.suppress(torch.OutOfMemoryError), forked(device):
            found[how] = seconds(how)
    return min(ways, key=lambda how: found.get(how, math.inf))
