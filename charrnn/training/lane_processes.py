"""Processes that share the lanes of a training step on a CPU.

A recurrent layer is many small operations one after the other. Threads inside an operation hardly
speed it up, and slow it down if another program takes one of their cores
(docs/experiments/threads-and-processes.md). So the lanes are split instead: each process computes
the gradient of its own lanes on one thread, with the same weights. With n_p characters in the lanes
of process p and the gradient g_p of their mean loss, the gradient of the whole batch is::

    g = sum n_p g_p / sum n_p

::

    trainer   order ──> lanes 0-7 ────────> g_0 ──> g ──> clip, update
    worker 1    └─────> lanes 8-15 ───────> g_1 ──┘
    worker 2    └─────> lanes 16-23 ──────> g_2 ──┘

Weights, carried state and gradients lie in memory that the processes share. A worker is a fork of
the trainer, so it has the text and the settings already, and an order only names the batch. A
worker ends when the trainer ends, for whatever reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from charrnn import errors
from charrnn.nn.state import State, leaves, map_state
from charrnn.training.objective import Batch, Loss, Objective

ORDER = struct.Struct("<QQQ")  # seed, epoch, batch
ANSWER = struct.Struct("<dqq")  # nats, characters scored, bytes of the error message that follows
ALIGNMENT = 64  # bytes; kernels choose their path by the alignment
SEED_STEP = 1 << 56  # between the seeds of two processes
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG in sys/prctl.h

Compute = Callable[[Objective[Any], Any, State | None, int], Loss]
"""Takes objective, batch, carried state and seed; returns the loss, with its gradient in place."""


class Worker(NamedTuple):
    """Another process, and the socket to it."""

    pid: int
    link: socket.socket


def available() -> bool:
    """Whether this system can fork a process that uses torch, and end it with its parent."""
    return sys.platform == "linux"


class LaneProcesses:
    """The workers, one for each share after the first; the trainer computes the first share itself.

    Args:
        compute: the forward and backward pass
        shares: the objective on the lanes of each process, in order
        model: its weights are moved into shared memory
        carry: the state of all lanes, in the order of the shares

    The attribute `carry` is that state in shared memory, which every step updates in place.
    """

    def __init__(
        self, compute: Compute, shares: Sequence[Objective[Batch]], model: nn.Module, carry: State
    ) -> None:
        self._compute = compute
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        shapes = [p.shape for p in self._parameters]
        dtype = self._parameters[0].dtype
        for parameter, place in zip(self._parameters, _shared(shapes, dtype), strict=True):
            parameter.data = place.copy_(parameter.data)
        places = iter(_shared([leaf.shape for leaf in leaves(carry)], dtype))
        self.carry = map_state(lambda leaf: next(places).copy_(leaf), carry)
        self._lanes = _lanes_of(shares, model)
        self._gradients = [_shared(shapes, dtype) for _ in shares[1:]]  # those of the workers
        self._workers: list[Worker] = []
        for rank, share in enumerate(shares[1:], 1):
            self._workers.append(self._fork(rank, share))

    def step(self, share: Objective[Batch], batch: Batch, order: tuple[int, int, int]) -> Loss:
        """Compute the loss of the whole batch; leave its gradient in the parameters.

        `share` and `batch` are the trainer's own; `order` is (seed, epoch, batch number). The state
        in `carry` is updated. Raises the error that a worker raised, and CharrnnError if one is
        gone.
        """
        for worker in self._workers:
            self._talk(worker.link.sendall, ORDER.pack(*order))
        loss = self._compute_share(share, batch, 0, order[0])
        answers = [(float(loss.total.detach()), loss.scored), *map(self._answer, self._workers)]
        counts = [count for _, count in answers]
        self._add_gradients(counts)
        total = torch.tensor(sum(nats for nats, _ in answers), dtype=torch.float64)
        return Loss(total, sum(counts), self.carry, loss.rate)

    def _add_gradients(self, counts: Sequence[int]) -> None:
        """Average all processes' gradients, weighted by characters, into the parameters."""
        total = max(1, sum(counts))
        own = [_gradient(p) for p in self._parameters]
        torch._foreach_mul_(own, counts[0] / total)
        for count, gradients in zip(counts[1:], self._gradients, strict=True):
            torch._foreach_add_(own, gradients, alpha=count / total)

    def process_ids(self) -> list[int]:
        """The workers' process numbers."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """End the workers, and move weights and state back into memory of this process alone."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.link.close()
        for worker in workers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
        self.carry = map_state(lambda leaf: leaf.clone(), self.carry)

    def _compute_share(self, share: Objective[Batch], batch: Batch, rank: int, seed: int) -> Loss:
        """Compute the loss and gradient of the lanes of process `rank`, and update their state."""
        carry = map_state(lambda leaf: leaf[self._lanes[rank]], self.carry)
        loss = self._compute(share, batch, carry, seed + rank * SEED_STEP)
        if loss.carry is not None:
            map_state(lambda place, leaf: place.copy_(leaf), carry, loss.carry)
        return loss

    # In a worker ---------------------------------------------------------------------------------

    def _fork(self, rank: int, share: Objective[Batch]) -> Worker:
        """Start the worker of a share; only the trainer returns from here."""
        own_end, worker_end = socket.socketpair()
        with warnings.catch_warnings():
            # Python warns about locks that other threads may hold. The other threads are torch's,
            # which are idle between operations. A worker uses one thread, like the processes of
            # DataLoader.
            warnings.simplefilter("ignore", DeprecationWarning)
            parent, pid = os.getpid(), os.fork()
        if pid:
            worker_end.close()
            return Worker(pid, own_end)
        code = 1
        try:
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
            # A signal that asks the trainer to stop must let it finish its step.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            own_end.close()
            for worker in self._workers:
                worker.link.close()
            torch.set_num_threads(1)
            if os.getppid() == parent:
                self._serve(rank, share, worker_end)
            code = 0
        finally:
            os._exit(code)

    def _serve(self, rank: int, share: Objective[Batch], link: socket.socket) -> None:
        """Answer every order until the trainer is gone."""
        batches: Iterator[Batch] = iter(())
        expected: tuple[int, int] | None = None
        while order := _receive(link, ORDER.size):
            seed, epoch, number = ORDER.unpack(order)
            try:
                if expected != (epoch, number):
                    batches = share.batches(epoch, number)
                expected = epoch, number + 1
                loss = self._compute_share(share, next(batches), rank, seed)
                own = self._gradients[rank - 1]
                for place, parameter in zip(own, self._parameters, strict=True):
                    place.copy_(_gradient(parameter))
                link.sendall(ANSWER.pack(float(loss.total.detach()), loss.scored, 0))
            except Exception as error:  # The error is sent to the trainer, which raises it.
                text = f"{type(error).__name__}\n{error}\n{traceback.format_exc()}".encode()
                link.sendall(ANSWER.pack(0.0, 0, len(text)) + text)

    # In the trainer ------------------------------------------------------------------------------

    def _answer(self, worker: Worker) -> tuple[float, int]:
        """Wait for a worker; return its nats and characters. Raises the worker's error."""
        nats, scored, length = ANSWER.unpack(self._talk(_receive, worker.link, ANSWER.size))
        if length:
            name, text, trace = self._talk(_receive, worker.link, length).decode().split("\n", 2)
            known = getattr(errors, name, {"MemoryError": MemoryError}.get(name, RuntimeError))
            raise known(text if issubclass(known, errors.CharrnnError) else f"{text}\n{trace}")
        return nats, scored

    def _talk(self, action: Callable[..., Any], *arguments: object) -> Any:
        """Send to a worker, or receive from it. Raises CharrnnError if the worker is gone."""
        try:
            if (result := action(*arguments)) != b"":
                return result
        except OSError:
            pass
        raise errors.CharrnnError(
            "a process that computes some of the lanes was killed; charrnn resume goes on from the "
            "last checkpoint (set processes to 1 if memory is short)"
        )


def _lanes_of(shares: Sequence[Objective[Batch]], model: nn.Module) -> list[slice]:
    """Return the rows of the carried state that belong to each share."""
    lanes, stop = [], 0
    for share in shares:
        start = stop
        stop += next((len(leaf) for leaf in leaves(share.empty_carry(model))), 0)
        lanes.append(slice(start, stop))
    return lanes


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter: zero if it had no part in the loss."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _shared(shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    """Make zero tensors in memory that forks share. It is not in /dev/shm, which may be small."""
    item = dtype.itemsize
    sizes = [-(-shape.numel() * item // ALIGNMENT) * ALIGNMENT for shape in shapes]
    memory = torch.frombuffer(mmap.mmap(-1, max(sum(sizes), ALIGNMENT)), dtype=dtype)
    pieces = torch.split(memory[: sum(sizes) // item], [size // item for size in sizes])
    return [piece[: shape.numel()].view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _receive(link: socket.socket, size: int) -> bytes:
    """Receive `size` bytes, or none if the other side is gone."""
    content = b""
    while len(content) < size:
        if not (piece := link.recv(size - len(content))):
            return b""
        content += piece
    return content
