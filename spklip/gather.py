"""Tensors of all processes as one, with gradients. Without distributed training, as they are.

Shapes: B rows of one process, N rows of all processes, in order of rank; ``x`` is anything.
"""

from typing import Any

import torch
from torch import Tensor


def process_count() -> int:
    """Processes that train together; 1 without distributed training."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def gather_with_gradients(local_bx: Tensor) -> Tensor:
    """The same tensor of every process, in order of rank, as one that carries gradients.

    Each process then computes the loss of the whole batch. Backward sums over processes what they
    ask of a local embedding; averaging the parameters' gradients over processes, which distributed
    training does, undoes that sum, so the result is the gradient of one big batch.

    Args:
        local_bx: tensor (B, ...), B the same on every process.

    Returns:
        tensor (N, ...); ``local_bx`` itself without distributed training.
    """
    if process_count() == 1:
        return local_bx
    return torch.cat(_AllGather.apply(local_bx.contiguous()))  # type: ignore[no-untyped-call]


def own_rows(gathered_nx: Tensor) -> Tensor:
    """The rows (B, ...) of this process among those that :func:`gather_with_gradients` gave."""
    if process_count() == 1:
        return gathered_nx
    return gathered_nx.chunk(process_count())[torch.distributed.get_rank()]


class _AllGather(torch.autograd.Function):
    """All-gather whose backward is a sum over processes.

    torch.distributed.nn.functional has one, but it needs all-to-all for the backward, which gloo
    lacks on some builds; all-reduce is everywhere.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> tuple[Tensor, ...]:
        """Tensors of all ranks."""
        parts = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, local)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        """Sum over processes of the gradient of this rank's part."""
        total = torch.stack(grad)
        torch.distributed.all_reduce(total)
        return total[torch.distributed.get_rank()]
