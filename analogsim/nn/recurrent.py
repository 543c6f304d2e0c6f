"""Recurrent layers on crossbars: the matrices of nn.RNN, nn.LSTM, nn.GRU and their cells; gates and states digital."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import ShapeError
from ..kernels import Cell, uncompiled
from ..kernels.memory import refuse_unreal
from .crossbar import AnalogComposite, Reads

# A cell's digital part: what the crossbars gave for the input and for the hidden state, and the state (h or h, c).
Digital = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]


def lstm_cell(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Hochreiter and Schmidhuber's cell with torch's gate order: input, forget, cell, output."""
    i, f, g, o = (from_input + from_hidden).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return [o.sigmoid() * c.tanh(), c]


def gru_cell(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Cho et al.'s cell in torch's (cuDNN's) form: reset, update, new; the reset gate acts after the matrix."""
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return [n + z * (state[0] - n)]


def tanh_cell(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Elman's cell."""
    return [(from_input + from_hidden).tanh()]


def relu_cell(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Elman's cell with ReLU."""
    return [(from_input + from_hidden).relu()]


CELLS: dict[str, Digital] = {"LSTM": lstm_cell, "GRU": gru_cell, "RNN_TANH": tanh_cell, "RNN_RELU": relu_cell}


class _AnalogRNN(AnalogComposite):
    """What AnalogLSTM, AnalogGRU and AnalogRNN share."""

    mode: Cell
    _all_weights: list[list[str]]

    def matrices(self) -> list[str]:
        """Return `ih_l0`, `hh_l0`, `ih_l0_reverse` …, and `hr_l0` … where hidden states are projected."""
        names = [name for names in self._all_weights for name in names]
        return [name.removeprefix("weight_") for name in names if name.startswith("weight_")]

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:  # torch's name
        """Run over the sequence, as the digital twin's forward.

        Raises
        ------
        ShapeError
            The sequence or the initial state does not fit the layer.
        """
        if self.transparent:
            return super().forward(input, hx)
        return self._on_crossbars(input, hx)

    @uncompiled
    def _on_crossbars(self, sequence: Tensor | PackedSequence, hx: Any) -> Any:
        rnn: Any = self
        refuse_unreal(sequence.data if isinstance(sequence, PackedSequence) else sequence)
        if isinstance(sequence, PackedSequence):
            data, sizes = sequence.data, sequence.batch_sizes.tolist()
            batched = True
        else:
            if sequence.ndim not in (2, 3):
                raise ShapeError(f"{self._what()}: 2 or 3 dimensions needed, got shape {tuple(sequence.shape)}")
            batched = sequence.ndim == 3
            steps = sequence if batched else sequence.unsqueeze(0 if rnn.batch_first else 1)
            steps = steps.transpose(0, 1) if rnn.batch_first else steps
            data, sizes = steps.flatten(0, 1), [steps.shape[1]] * len(steps)
        if not sizes or data.shape[-1] != rnn.input_size:
            raise ShapeError(
                f"{self._what()}: at least one step of {rnn.input_size} features needed, got {tuple(data.shape)}"
            )
        state = self._initial_state(hx, data, sizes[0], batched)
        if isinstance(sequence, PackedSequence):
            state = _permuted(state, sequence.sorted_indices)
        data, state = self._layers(data, sizes, state)
        if isinstance(sequence, PackedSequence):
            out = PackedSequence(data, *sequence[1:])
            return out, self._as_hx(_permuted(state, sequence.unsorted_indices))
        out = data.unflatten(0, (len(sizes), sizes[0]))
        out = out.transpose(0, 1) if rnn.batch_first else out
        if not batched:
            out, state = out.squeeze(0 if rnn.batch_first else 1), [part.squeeze(1) for part in state]
        return out, self._as_hx(state)

    def _layers(self, data: Tensor, sizes: list[int], state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run every layer and direction over packed steps; `state` is (layers·directions, B, H) for each part."""
        rnn: Any = self
        suffixes = ("", "_reverse") if rnn.bidirectional else ("",)
        finals: list[list[Tensor]] = []
        for layer in range(rnn.num_layers):
            outputs = []
            for suffix in suffixes:
                first = [part[len(finals)] for part in state]
                out, final = self._direction(data, sizes, first, f"l{layer}{suffix}")
                outputs.append(out)
                finals.append(final)
            data = torch.cat(outputs, -1)
            if self.training and rnn.dropout and layer < rnn.num_layers - 1:
                data = F.dropout(data, rnn.dropout)
        return data, [torch.stack(parts) for parts in zip(*finals, strict=True)]

    def _direction(
        self, data: Tensor, sizes: list[int], state: list[Tensor], which: str
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one layer in one direction. Step t is the next sizes[t] rows of `data`: the sequences still running,
        longest first, so that those which ended (or, backwards, have not begun) keep their state at the end.
        """
        rnn: Any = self
        cell = CELLS[self.mode]
        hidden = self._matrix(f"hh_{which}")
        project = self._matrix(f"hr_{which}") if rnn.proj_size else None
        products = self._matrix(f"ih_{which}")(data)  # one read of all steps
        backwards = which.endswith("_reverse")
        if project is None:
            at_once = hidden.recur(self.mode, products, sizes, backwards, state)
            if at_once is not None:
                return at_once
        from_input = products.split(sizes)
        outputs: list[Tensor] = [data] * len(sizes)
        order: Iterable[int] = range(len(sizes))
        for t in reversed(range(len(sizes))) if backwards else order:
            running = [part[: sizes[t]] for part in state]
            new = cell(from_input[t], hidden(running[0]), running)
            if project is not None:
                new = [project(new[0]), *new[1:]]
            outputs[t] = new[0]
            rest = [part[sizes[t] :] for part in state]
            state = [torch.cat([a, b]) if len(b) else a for a, b in zip(new, rest, strict=True)]
        return torch.cat(outputs), state

    def _matrix(self, name: str) -> Reads:
        return self._crossbar(name).matrix(getattr(self, f"weight_{name}"), getattr(self, f"bias_{name}", None))

    def _initial_state(self, hx: Any, data: Tensor, batch: int, batched: bool) -> list[Tensor]:
        rnn: Any = self
        count = rnn.num_layers * (2 if rnn.bidirectional else 1)
        shapes = [(count, batch, rnn.proj_size or rnn.hidden_size)]
        if self.mode == "LSTM":
            shapes.append((count, batch, rnn.hidden_size))
        if hx is None:
            return [data.new_zeros(shape) for shape in shapes]
        state = _parts(hx) if self.mode == "LSTM" else [hx]
        if not batched:
            state = [part.unsqueeze(1) if part.ndim == 2 else part for part in state]
        if [tuple(part.shape) for part in state] != shapes:
            raise ShapeError(
                f"{self._what()}: initial state of {' and '.join(map(str, shapes))} needed, "
                f"got {' and '.join(str(tuple(part.shape)) for part in state)}"
            )
        return state

    def _as_hx(self, state: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
        return tuple(state) if self.mode == "LSTM" else state[0]

    def _what(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class AnalogLSTM(_AnalogRNN, nn.LSTM):
    """nn.LSTM on simulated crossbars: its constructor arguments, and `profile=`.

    Every matrix `weight_ih_l0`, `weight_hh_l0` … (and `weight_hr_l0` … with `proj_size`) has crossbars of its own,
    children named `crossbar_ih_l0` …; gates, cell states, biases and dropout are digital. The inputs of all steps are
    read in one call, in the order (step, sequence); hidden states step by step. Packed sequences are supported.

    Notes
    -----
    In evaluation, where nobody asks for gradients, the CPU backend makes all steps in one pass. Random numbers are
    those of steps read one at a time, but sums and gates round otherwise (2.5e-7), and where that decides a converter's
    code, what follows may be a step of it off.

    Examples
    --------
    >>> layer = AnalogLSTM(4, 6, num_layers=2, bidirectional=True)
    >>> layer(torch.zeros(7, 3, 4))[0].shape
    torch.Size([7, 3, 12])
    """

    digital = nn.LSTM


class AnalogGRU(_AnalogRNN, nn.GRU):
    """nn.GRU on simulated crossbars: its constructor arguments, and `profile=`. See `AnalogLSTM`.

    Input (steps, batch, features), or (batch, steps, features) with `batch_first`.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogGRU(4, 6, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(7, 3, 4))[0].shape
    torch.Size([7, 3, 6])
    """

    digital = nn.GRU


class AnalogRNN(_AnalogRNN, nn.RNN):
    """nn.RNN on simulated crossbars: its constructor arguments, and `profile=`. See `AnalogLSTM`.

    Input (steps, batch, features), or (batch, steps, features) with `batch_first`.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogRNN(4, 6, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(7, 3, 4))[0].shape
    torch.Size([7, 3, 6])
    """

    digital = nn.RNN


class _AnalogCell(AnalogComposite):
    """What the three cells share."""

    cell = ""  # of RNN its nonlinearity decides

    def matrices(self) -> list[str]:
        """Return the names of the two matrices."""
        return ["ih", "hh"]

    def mode(self) -> str:
        """Return the cell's key in `CELLS`."""
        cell: Any = self
        return self.cell or f"RNN_{cell.nonlinearity.upper()}"

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # torch's name
        """Make one step, as the digital twin's forward.

        Raises
        ------
        ShapeError
            The input or the state does not fit the cell.
        """
        if self.transparent:
            return super().forward(input, hx)
        return self._on_crossbars(input, hx)

    @uncompiled
    def _on_crossbars(self, x: Tensor, hx: Any) -> Any:
        cell: Any = self
        refuse_unreal(x)
        parts = 2 if self.mode() == "LSTM" else 1
        rows = x if x.ndim == 2 else x[None]
        state = [rows.new_zeros(len(rows), cell.hidden_size)] * parts
        if hx is not None:
            state = [h if h.ndim == 2 or x.ndim == 2 else h[None] for h in (_parts(hx) if parts == 2 else [hx])]
        wrong = [h for h in state if tuple(h.shape) != (len(rows), cell.hidden_size)]
        if x.ndim not in (1, 2) or rows.shape[1] != cell.input_size or wrong or len(state) != parts:
            raise ShapeError(
                f"{type(self).__name__}: input (B, {cell.input_size}) or ({cell.input_size},) and {parts} state(s) of "
                f"(B, {cell.hidden_size}) needed, got {tuple(x.shape)} and {[tuple(h.shape) for h in state]}"
            )
        from_input = self._crossbar("ih").product(rows, cell.weight_ih, cell.bias_ih)
        from_hidden = self._crossbar("hh").product(state[0], cell.weight_hh, cell.bias_hh)
        new = [h if x.ndim == 2 else h[0] for h in CELLS[self.mode()](from_input, from_hidden, state)]
        return tuple(new) if parts == 2 else new[0]


class AnalogLSTMCell(_AnalogCell, nn.LSTMCell):
    """nn.LSTMCell on simulated crossbars: its constructor arguments, and `profile=`; `crossbar_ih`, `crossbar_hh`.

    Input (B, features) or (features,), of one step.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogLSTMCell(4, 6, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(3, 4))[0].shape
    torch.Size([3, 6])
    """

    digital = nn.LSTMCell
    cell = "LSTM"


class AnalogGRUCell(_AnalogCell, nn.GRUCell):
    """nn.GRUCell on simulated crossbars: its constructor arguments, and `profile=`; `crossbar_ih`, `crossbar_hh`.

    Input (B, features) or (features,), of one step.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogGRUCell(4, 6, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(3, 4)).shape
    torch.Size([3, 6])
    """

    digital = nn.GRUCell
    cell = "GRU"


class AnalogRNNCell(_AnalogCell, nn.RNNCell):
    """nn.RNNCell on simulated crossbars: its constructor arguments, and `profile=`; `crossbar_ih`, `crossbar_hh`.

    Input (B, features) or (features,), of one step.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogRNNCell(4, 6, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(3, 4)).shape
    torch.Size([3, 6])
    """

    digital = nn.RNNCell


def _parts(hx: Any) -> list[Tensor]:
    """Return an LSTM's state as a list of its two parts."""
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        raise ShapeError(f"an LSTM's state is a pair of tensors (h, c), got {type(hx).__name__}")
    return list(hx)


def _permuted(state: list[Tensor], order: Tensor | None) -> list[Tensor]:
    return state if order is None else [part.index_select(1, order) for part in state]
