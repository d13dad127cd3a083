r"""Recurrent cells: one time step each, `output, next_state = cell(input, state)`.

A cell stores nothing between calls. Shapes use N for the batch, D for the input width, H for the
hidden width. Parameters of the standard cells have the names, shapes and gate order of
`torch.nn.RNN/LSTM/GRU` (`weight_ih` (gates x H, D), `weight_hh` (gates x H, H), `bias_ih` and
`bias_hh` (gates x H)), so weights move between the two unchanged and torch's fused kernels run on
the very same tensors. Other cells take those of these names that they have a use for.

The equations below are the truth; the fast paths in `layers` are held to them by tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.state import State

Activation = Literal["tanh", "relu"]


class Cell(Protocol):
    """The contract: whatever has these members can be unrolled, stacked, trained and sampled."""

    output_size: int

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: `inputs` (N, D) and a state give an output (N, output_size) and a state."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes, on the cell's device and in its dtype."""
        ...


class TorchLayoutCell(nn.Module):
    """The parameters the three standard cells share, in torch's layout.

    Input weights start Glorot-uniform (Glorot and Bengio 2010), each gate's recurrent weights
    orthogonal (Saxe et al. 2014), biases zero.
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        self.bias_hh = nn.Parameter(torch.zeros(rows))
        for weight_ih, weight_hh in zip(
            self.weight_ih.chunk(self.gates), self.weight_hh.chunk(self.gates), strict=True
        ):
            nn.init.xavier_uniform_(weight_ih)
            nn.init.orthogonal_(weight_hh)

    @property
    def weights(self) -> list[Tensor]:
        """The four parameters in the order torch's fused kernels take them."""
        return [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]

    def zeros(self, batch_size: int) -> Tensor:
        """A zero tensor (N, H) on the parameters' device and in their dtype."""
        return self.weight_hh.new_zeros(batch_size, self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class VanillaCell(TorchLayoutCell):
    r"""The simple recurrent network (Elman 1990), with tanh or relu.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    The output is the new hidden state, (N, H), which is also the whole state. With relu the
    recurrent weights start as the identity (Le, Jaitly and Hinton 2015).
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, activation: Activation = "tanh") -> None:
        super().__init__(input_size, hidden_size)
        self.activation: Activation = activation
        if activation == "relu":
            nn.init.eye_(self.weight_hh)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = functional.linear(inputs, self.weight_ih, self.bias_ih) + functional.linear(
            state, self.weight_hh, self.bias_hh
        )
        hidden = torch.tanh(total) if self.activation == "tanh" else torch.relu(total)
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.zeros(batch_size)


class LSTMState(NamedTuple):
    """What an LSTM carries: its hidden state and its cell state, each (N, H)."""

    hidden: Tensor
    cell: Tensor


class LSTMCell(TorchLayoutCell):
    r"""Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

    .. math::
        i &= \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
        f &= \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
        g &= \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        o &= \sigma(W_{io} x_t + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    Gate order in the rows of the weights: input, forget, cell, output. `forget_bias` is the
    starting value of the forget gate's bias (1 after Jozefowicz, Zaremba and Sutskever 2015).
    """

    gates = 4

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.bias_ih[hidden_size : 2 * hidden_size] = forget_bias

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        gates = functional.linear(inputs, self.weight_ih, self.bias_ih) + functional.linear(
            state.hidden, self.weight_hh, self.bias_hh
        )
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * state.cell + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        hidden = torch.sigmoid(output_gate) * torch.tanh(cell)
        return hidden, LSTMState(hidden, cell)

    def initial_state(self, batch_size: int) -> LSTMState:
        """Zeros of shape (N, H) for both the hidden state and the cell state."""
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))


class GRUCell(TorchLayoutCell):
    r"""Gated recurrent unit (Cho et al. 2014), the reset gate applied after the product.

    .. math::
        r &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n &= \tanh(W_{in} x_t + b_{in} + r \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    Gate order in the rows of the weights: reset, update, candidate. This is the variant of cuDNN
    and torch; the paper's is `ResetFirstGRUCell`.
    """

    gates = 3

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        from_input = functional.linear(inputs, self.weight_ih, self.bias_ih).chunk(3, dim=1)
        from_state = functional.linear(state, self.weight_hh, self.bias_hh).chunk(3, dim=1)
        reset = torch.sigmoid(from_input[0] + from_state[0])
        update = torch.sigmoid(from_input[1] + from_state[1])
        candidate = torch.tanh(from_input[2] + reset * from_state[2])
        hidden = (1 - update) * candidate + update * state
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.zeros(batch_size)


class ResetFirstGRUCell(GRUCell):
    r"""Gated recurrent unit as its paper has it (Cho et al. 2014), which is Keras' with
    `reset_after=False`: the reset gate falls on the state before the product.

    As `GRUCell`, with

    .. math:: n = \tanh(W_{in} x_t + b_{in} + W_{hn} (r \odot h_{t-1}) + b_{hn})

    The product has to wait for the gate, so there is no fused kernel for it.
    """

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        width = 2 * self.hidden_size
        from_input = functional.linear(inputs, self.weight_ih, self.bias_ih)
        gates = torch.sigmoid(
            from_input[:, :width]
            + functional.linear(state, self.weight_hh[:width], self.bias_hh[:width])
        )
        reset, update = gates.chunk(2, dim=1)
        candidate = torch.tanh(
            from_input[:, width:]
            + functional.linear(reset * state, self.weight_hh[width:], self.bias_hh[width:])
        )
        hidden = (1 - update) * candidate + update * state
        return hidden, hidden


class MultiplicativeLSTMCell(LSTMCell):
    r"""Multiplicative LSTM (Krause et al. 2016): every input symbol has a transition of its own.

    An `LSTMCell` that reads m in the place of its hidden state:

    .. math:: m_t = (W_{mx} x_t) \odot (W_{mh} h_{t-1})

    so that the gates come from x and m; `weight_hh` and `bias_hh` act on m. `weight_mx` is (H, D)
    and starts Glorot-uniform, `weight_mh` is (H, H) and starts orthogonal. As in most later work
    (Radford et al. 2017) the squashing is that of the LSTM above; the authors' own has the output
    gate inside the last tanh.
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias)
        self.weight_mx = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_mh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        nn.init.xavier_uniform_(self.weight_mx)
        nn.init.orthogonal_(self.weight_mh)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        between = functional.linear(inputs, self.weight_mx) * functional.linear(
            state.hidden, self.weight_mh
        )
        return super().forward(inputs, LSTMState(between, state.cell))


class RHNCell(nn.Module):
    r"""Recurrent highway network (Zilly et al. 2016) with coupled gates: L highway layers a step.

    With s_0 = h_{t-1}, for l from 1 to L, and h_t = s_L:

    .. math::
        c_l &= \tanh([l = 1] W_{ic} x_t + W_{hc,l} s_{l-1} + b_{c,l}) \\
        g_l &= \sigma([l = 1] W_{ig} x_t + W_{hg,l} s_{l-1} + b_{g,l}) \\
        s_l &= c_l \odot g_l + s_{l-1} \odot (1 - g_l)

    The output is the new hidden state, (N, H), which is also the whole state. `weight_ih` is
    (2H, D), candidate then transform gate; `weight_hh` (2LH, H) and `bias_hh` (2LH) have those two
    for each layer, from the first on. Each block starts as in the standard cells. `transform_bias`
    is where the transform gates' biases start: -2, the authors' for words, lets most of the state
    through; for characters they took -4, with 10 layers and days of training.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        recurrence_depth: int = 5,
        transform_bias: float = -2.0,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size
        self.recurrence_depth = recurrence_depth
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(2 * recurrence_depth * hidden_size, hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(2 * recurrence_depth * hidden_size))
        for block in self.weight_ih.chunk(2):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hh.chunk(2 * recurrence_depth):
            nn.init.orthogonal_(block)
        with torch.no_grad():
            self.bias_hh.view(recurrence_depth, 2, hidden_size)[:, 1] = transform_bias

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = functional.linear(inputs, self.weight_ih)
        depth = self.recurrence_depth
        for layer, (weight, bias) in enumerate(
            zip(self.weight_hh.chunk(depth), self.bias_hh.chunk(depth), strict=True)
        ):
            from_state = functional.linear(state, weight, bias)
            total = total + from_state if layer == 0 else from_state
            candidate, gate = total.chunk(2, dim=1)
            gate = torch.sigmoid(gate)
            state = torch.tanh(candidate) * gate + state * (1 - gate)
        return state, state

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.weight_hh.new_zeros(batch_size, self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, recurrence_depth={self.recurrence_depth}"


class LinearCell(nn.Module):
    r"""A cell that is linear in its state, with gates of the input alone:

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    so that all steps can be computed at once (`scan`). A kind of cell is its `coefficients`. The
    output is the new hidden state, (N, H), which is also the whole state. `weight_ih` is
    (gates x H, D), each gate Glorot-uniform at first, `bias_ih` (gates x H).
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.zeros(self.gates * hidden_size))
        for block in self.weight_ih.chunk(self.gates):
            nn.init.xavier_uniform_(block)

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, each (..., H), of inputs (..., D)."""
        raise NotImplementedError

    def from_input(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The totals of the gates, each (..., H), in the precision of the state."""
        totals = functional.linear(inputs, self.weight_ih, self.bias_ih)
        return totals.to(self.bias_ih.dtype).chunk(self.gates, dim=-1)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        kept, added = self.coefficients(inputs)
        hidden = kept * state + added
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.weight_ih.new_zeros(batch_size, self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


def positive(x: Tensor) -> Tensor:
    """g of Feng et al. (2024), appendix B: x + 1/2 from 0 on, below it the logistic function."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


class MinGRUCell(LinearCell):
    r"""minGRU (Feng et al. 2024, "Were RNNs All We Needed?", appendix B).

    .. math::
        z &= \sigma(W_z x_t + b_z) \\
        h_t &= (1 - z) \odot h_{t-1} + z \odot g(W_n x_t + b_n)

    g is `positive`, so that h stays so. Gate order in the rows: update, candidate.
    """

    gates = 2

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        update, candidate = self.from_input(inputs)
        return torch.sigmoid(-update), torch.sigmoid(update) * positive(candidate)


class MinLSTMCell(LinearCell):
    r"""minLSTM (Feng et al. 2024, "Were RNNs All We Needed?", appendix B), its gates scaled to one.

    .. math::
        f &= \sigma(W_f x_t + b_f), \quad i = \sigma(W_i x_t + b_i) \\
        h_t &= \frac{f}{f + i} \odot h_{t-1} + \frac{i}{f + i} \odot g(W_n x_t + b_n)

    g is `positive`. Gate order in the rows: forget, input, candidate. `forget_bias` is the
    starting value of the forget gate's bias, which the paper finds to help. f / (f + i) is
    computed as the logistic function of ln f - ln i, which no two small gates can divide by zero.
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.bias_ih[:hidden_size] = forget_bias

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        forget, enter, candidate = self.from_input(inputs)
        odds = functional.logsigmoid(forget) - functional.logsigmoid(enter)
        return torch.sigmoid(odds), torch.sigmoid(-odds) * positive(candidate)


class StackedCell(nn.Module):
    """Cells on top of each other as one cell: the output of each is the input of the next.

    TensorFlow's MultiRNNCell, Keras' StackedRNNCells. All cells take a step before any takes the
    next one; a `layers.Stack` of layers computes the same a layer at a time, by the fused kernels.
    The output is the last cell's, the state has one entry a cell, from the bottom up. Raises
    ValueError where there are no cells.
    """

    def __init__(self, cells: Iterable[nn.Module]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        if len(self.cells) == 0:
            raise ValueError("a stacked cell needs at least one cell")
        self.output_size = int(self.cells[-1].output_size)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        states = []
        for cell, before in zip(self.cells, state, strict=True):
            inputs, after = cell(inputs, before)
            states.append(after)
        return inputs, tuple(states)

    def initial_state(self, batch_size: int) -> State:
        """The zero states of the cells, from the bottom up."""
        return tuple(cell.initial_state(batch_size) for cell in self.cells)  # type: ignore[operator]


class LayerNormVanillaCell(VanillaCell):
    r"""The simple recurrent network with layer normalisation (Ba et al. 2016, equation 4).

    .. math:: h_t = \tanh(LN(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}))

    LN takes the mean from a vector, divides by its standard deviation, and has a gain and a bias
    for each unit.
    """

    def __init__(self, input_size: int, hidden_size: int, activation: Activation = "tanh") -> None:
        super().__init__(input_size, hidden_size, activation)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = self.norm(
            functional.linear(inputs, self.weight_ih, self.bias_ih)
            + functional.linear(state, self.weight_hh, self.bias_hh)
        )
        hidden = torch.tanh(total) if self.activation == "tanh" else torch.relu(total)
        return hidden, hidden


class LayerNormLSTMCell(LSTMCell):
    r"""Long short-term memory with layer normalisation (Ba et al. 2016, appendix).

    .. math::
        (i, f, g, o) &= LN(W_{hh} h_{t-1}) + LN(W_{ih} x_t) + b_{ih} + b_{hh} \\
        c_t &= \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g) \\
        h_t &= \sigma(o) \odot \tanh(LN(c_t))
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias)
        # The equation has one bias, which is ours: these two norms have none.
        self.norm_ih = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_hh = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_cell = nn.LayerNorm(hidden_size)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        gates = (
            self.norm_hh(functional.linear(state.hidden, self.weight_hh))
            + self.norm_ih(functional.linear(inputs, self.weight_ih))
            + self.bias_ih
            + self.bias_hh
        )
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * state.cell + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        hidden = torch.sigmoid(output_gate) * torch.tanh(self.norm_cell(cell))
        return hidden, LSTMState(hidden, cell)


class LayerNormGRUCell(GRUCell):
    r"""Gated recurrent unit with layer normalisation (Ba et al. 2016, appendix).

    As `GRUCell`, with LN over the products of the two gates together and of the candidate alone:

    .. math::
        (r, z) &= \sigma(LN(W_{h,rz} h_{t-1}) + LN(W_{i,rz} x_t) + b_{i,rz} + b_{h,rz}) \\
        n &= \tanh(LN(W_{in} x_t) + b_{in} + r \odot (LN(W_{hn} h_{t-1}) + b_{hn}))
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm_ih = nn.LayerNorm(2 * hidden_size, bias=False)
        self.norm_hh = nn.LayerNorm(2 * hidden_size, bias=False)
        self.norm_in = nn.LayerNorm(hidden_size, bias=False)
        self.norm_hn = nn.LayerNorm(hidden_size, bias=False)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        width = 2 * self.hidden_size
        from_input = functional.linear(inputs, self.weight_ih)
        from_state = functional.linear(state, self.weight_hh)
        gates = torch.sigmoid(
            self.norm_ih(from_input[:, :width])
            + self.bias_ih[:width]
            + self.norm_hh(from_state[:, :width])
            + self.bias_hh[:width]
        )
        reset, update = gates.chunk(2, dim=1)
        candidate = torch.tanh(
            self.norm_in(from_input[:, width:])
            + self.bias_ih[width:]
            + reset * (self.norm_hn(from_state[:, width:]) + self.bias_hh[width:])
        )
        hidden = (1 - update) * candidate + update * state
        return hidden, hidden
