"""Processes that share the lanes of a training step.

A recurrent layer is many small operations one after the other, which threads inside an operation
hardly speed up, and not at all where another program takes a core from them for a moment. So the
lanes are split instead: each process computes the gradient of its own lanes on one thread, with
the same weights, and the sum over the processes is the gradient of the whole batch.

Weights, carried state and gradients lie in memory that the processes share. A member is a fork of
the trainer: it knows what the trainer knew when training began, and is told only which batch is
next. It ends with the trainer, however that ends.
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
from typing import Any

import torch
from torch import Tensor, nn

from charrnn import errors
from charrnn.nn.state import State, leaves, map_state
from charrnn.training.objective import Batch, Loss, Objective

ORDER = struct.Struct("<QQQ")  # seed, epoch, batch
ANSWER = struct.Struct("<dqq")  # nats, characters scored, bytes of an error's text that follow
ALIGNMENT = 64  # bytes; kernels choose their path by it
SEEDS = 1 << 56  # between the seeds of two members
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG in sys/prctl.h

Compute = Callable[[Objective[Any], Any, State | None, int], Loss]
"""Objective, batch, carried state and seed to a loss, with its gradient left in the parameters."""


def available() -> bool:
    """Whether this system can fork a process that uses torch, and end it with its parent."""
    return sys.platform == "linux"


class LaneProcesses:
    """The other members, of whom each computes one of `shares`; the trainer computes the first.

    `carry` is what the whole batch carries, lane by lane in the order of the shares. From here on
    it is updated in place by all members.
    """

    def __init__(
        self, compute: Compute, shares: Sequence[Objective[Batch]], model: nn.Module, carry: State
    ) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        sizes = [p.shape for p in self._parameters]
        dtype = self._parameters[0].dtype
        for parameter, place in zip(self._parameters, _shared(sizes, dtype), strict=True):
            parameter.data = place.copy_(parameter.data)
        places = iter(_shared([leaf.shape for leaf in leaves(carry)], dtype))
        self.carry = map_state(lambda leaf: next(places).copy_(leaf), carry)
        self._rows: list[slice] = []
        stop = 0
        for share in shares:
            start, stop = stop, stop + next((len(x) for x in leaves(share.empty_carry(model))), 0)
            self._rows.append(slice(start, stop))
        self._compute = compute
        self._gradients = [_shared(sizes, dtype) for _ in shares[1:]]
        self._members: list[tuple[int, socket.socket]] = []
        for rank, share in enumerate(shares[1:], 1):
            self._members.append(self._fork(rank, share))

    def step(self, share: Objective[Batch], batch: Batch, order: tuple[int, int, int]) -> Loss:
        """The loss of the whole batch, its gradient in the parameters, the carry in place.

        `order` is seed, epoch and batch number; `batch` is the trainer's own share of it. Raises
        what a member raised, and CharrnnError where one is gone.
        """
        for _, link in self._members:
            self._talk(link.sendall, ORDER.pack(*order))
        loss = self._own(share, batch, 0, order[0])
        answers = [(float(loss.total.detach()), loss.scored), *map(self._answer, self._members)]
        scored = max(1, sum(count for _, count in answers))
        # Each gradient is of a mean over its own characters.
        mine = [_gradient(p) for p in self._parameters]
        torch._foreach_mul_(mine, answers[0][1] / scored)
        for (_, count), theirs in zip(answers[1:], self._gradients, strict=True):
            torch._foreach_add_(mine, theirs, alpha=count / scored)
        total = torch.tensor(sum(nats for nats, _ in answers), dtype=torch.float64)
        return Loss(total, sum(count for _, count in answers), self.carry, loss.rate)

    def close(self) -> None:
        """Let the others go, and the model's weights be its own again."""
        members, self._members = self._members, []
        for _, link in members:
            link.close()
        for pid, _ in members:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
        self.carry = map_state(lambda leaf: leaf.clone(), self.carry)

    def _own(self, share: Objective[Batch], batch: Batch, rank: int, seed: int) -> Loss:
        carry = map_state(lambda leaf: leaf[self._rows[rank]], self.carry)
        loss = self._compute(share, batch, carry, seed + rank * SEEDS)
        if loss.carry is not None:
            map_state(lambda place, leaf: place.copy_(leaf), carry, loss.carry)
        return loss

    def _fork(self, rank: int, share: Objective[Batch]) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            # Python warns of locks that other threads hold. Those here are torch's, which rest
            # between operations; a member uses one thread, as DataLoader's processes do.
            warnings.simplefilter("ignore", DeprecationWarning)
            parent, pid = os.getpid(), os.fork()
        if pid:
            theirs.close()
            return pid, ours
        code = 1
        try:
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
            # What ends the trainer in an orderly way must let it finish its step.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            ours.close()
            for _, link in self._members:
                link.close()
            torch.set_num_threads(1)
            if os.getppid() == parent:
                self._serve(rank, share, theirs)
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
                loss = self._own(share, next(batches), rank, seed)
                for place, parameter in zip(
                    self._gradients[rank - 1], self._parameters, strict=True
                ):
                    place.copy_(_gradient(parameter))
                link.sendall(ANSWER.pack(float(loss.total.detach()), loss.scored, 0))
            except Exception as error:
                text = f"{type(error).__name__}\n{error}\n{traceback.format_exc()}".encode()
                link.sendall(ANSWER.pack(0.0, 0, len(text)) + text)

    def _answer(self, member: tuple[int, socket.socket]) -> tuple[float, int]:
        _, link = member
        nats, scored, length = ANSWER.unpack(self._talk(_receive, link, ANSWER.size))
        if length:
            name, text, trace = self._talk(_receive, link, length).decode().split("\n", 2)
            known = getattr(errors, name, {"MemoryError": MemoryError}.get(name, RuntimeError))
            raise known(text if issubclass(known, errors.CharrnnError) else f"{text}\n{trace}")
        return nats, scored

    def _talk(self, action: Callable[..., Any], *arguments: object) -> Any:
        try:
            if (result := action(*arguments)) != b"":
                return result
        except OSError:
            pass
        raise errors.CharrnnError(
            "a process that computes a part of the lanes was ended from outside; charrnn resume "
            "goes on from the last checkpoint, with --set processes=1 on a machine short of memory"
        )


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:  # It had no part in the loss.
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _shared(shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    """Zero tensors in memory that a fork shares. Not in /dev/shm, which may be small."""
    item = dtype.itemsize
    sizes = [-(-shape.numel() * item // ALIGNMENT) * ALIGNMENT for shape in shapes]
    memory = torch.frombuffer(mmap.mmap(-1, max(sum(sizes), ALIGNMENT)), dtype=dtype)
    pieces = torch.split(memory[: sum(sizes) // item], [size // item for size in sizes])
    return [piece[: shape.numel()].view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _receive(link: socket.socket, size: int) -> bytes:
    """So many bytes, or none where the other side is gone."""
    content = b""
    while len(content) < size:
        if not (piece := link.recv(size - len(content))):
            return b""
        content += piece
    return content
