"""Masks over several ranks.

Data parallel (DDP): every rank holds every weight. Gradients are averaged over the ranks before a step and all
selections are deterministic, so masks that begin equal stay equal bit for bit. `broadcast_masks` makes them equal,
`verify_masks` proves it.

Fully sharded (`torch.distributed.fsdp.fully_shard`): a parameter is a DTensor of which each rank holds some rows. A
mask is packed by rows, so each rank holds the mask of its rows and steps them by itself; what is global is the
threshold of a selection, which `resu.core.select` takes over the group that `shard_group` finds. Build the `Sparsifier`
after `fully_shard`, with that group. `consolidate_masks` brings the rows of a mask together for saving, `local_mask`
cuts them apart again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Int, Shaped
from torch import Tensor

from resu.core.mask import SparseMask, row_shape
from resu.core.phases import SparseParameter, local
from resu.errors import MaskError

__all__ = [
    "any_rank",
    "broadcast_masks",
    "consolidate_masks",
    "local_mask",
    "mask_checksum",
    "reduce_over_shards",
    "shard_group",
    "shard_rows",
    "verify_masks",
]

_MIX = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""The constants of splitmix64 (Steele, Lea, Flood, 2014) as signed integers."""


# --- where rows live --------------------------------------------------------------------------------------------------


def _mesh_of(tensor: Tensor) -> Any:
    """The device mesh of a DTensor, None for a plain tensor."""
    return getattr(tensor, "device_mesh", None) if hasattr(tensor, "to_local") else None


def _divided_dims(tensor: Tensor) -> list[int]:
    """The dimensions of the mesh over which a DTensor is divided in any way."""
    return [dim for dim, placement in enumerate(cast(Any, tensor).placements) if not placement.is_replicate()]


def _row_dims(tensor: Tensor, name: str = "the parameter") -> list[int]:
    """The dimensions of the mesh over which rows are divided: none or one."""
    from torch.distributed.tensor import Shard

    dims = _divided_dims(tensor)
    placements = [cast(Any, tensor).placements[dim] for dim in dims]
    # By exact type: a strided shard, which tensor parallelism makes, has its rows in another order than its ranks.
    if len(dims) > 1 or any(type(p) is not Shard or p.dim != 0 for p in placements) or (dims and tensor.dim() < 2):
        raise MaskError(
            "a mask is sharded with its weight, by rows, over one dimension of the mesh; "
            f"{name} has {tensor.dim()} dimension(s) and placements {placements}. Shard it as fully_shard does on a "
            "mesh with one sharding dimension, or leave it out of the sparsifier."
        )
    return dims


def shard_group(
    parameters: Mapping[str, Shaped[Tensor, "..."]] | Iterable[Shaped[Tensor, "..."]],
) -> dist.ProcessGroup | None:
    """The ranks that hold the other rows of these weights: the group for a global selection.

    Args:
        parameters: weights that are selected from together, perhaps by name.

    Returns:
        The group, whose ranks are in the order of the rows; None where every rank holds all rows.

    Raises:
        MaskError: on every rank alike: a weight that is not sharded by rows, one with too few rows for a rank to hold
            some, or weights that are sharded in different ways.

    >>> shard_group([torch.zeros(2, 2)]) is None
    True
    """
    if not isinstance(parameters, Mapping):
        parameters = {f"parameter {index}": parameter for index, parameter in enumerate(parameters)}
    groups: list[dist.ProcessGroup | None] = []
    for name, parameter in parameters.items():
        mesh = _mesh_of(parameter)
        dims = [] if mesh is None else _row_dims(parameter, name)
        groups.append(mesh.get_group(dims[0]) if dims else None)
        if dims and _share(parameter.shape[0], ranks := mesh.size(dims[0])) * (ranks - 1) >= parameter.shape[0]:
            raise MaskError(
                f"every rank holds at least one row of a sparse weight; {name} has {parameter.shape[0]} rows for "
                f"{ranks} ranks. Leave it out of the sparsifier, or shard it over fewer ranks."
            )
    if any(group is not groups[0] for group in groups):
        raise MaskError(
            "weights that are selected from together are all sharded over the same ranks, or none is; these are "
            "mixed. Shard all of them with one mesh, or sparsify them apart."
        )
    return groups[0] if groups else None


def _share(rows: int, ranks: int) -> int:
    """Rows of each rank but the last ones, as torch.chunk divides: equal shares, rounded up, as far as the rows go."""
    return -(-rows // ranks)


def shard_rows(parameter: Shaped[Tensor, "..."]) -> slice:
    """Which rows of the whole weight this rank holds.

    Args:
        parameter: a weight, perhaps a DTensor sharded by rows.

    Returns:
        The rows; all of them where the weight is not sharded.

    Raises:
        MaskError: a weight that is not sharded by rows.

    >>> shard_rows(torch.zeros(4, 2))
    slice(0, 4, None)
    """
    mesh, total = _mesh_of(parameter), parameter.shape[0]
    dims = [] if mesh is None else _row_dims(parameter)
    if not dims:
        return slice(0, total)
    share = _share(total, mesh.size(dims[0]))
    start = min(share * mesh.get_local_rank(dims[0]), total)
    return slice(start, min(start + share, total))


# --- agreement --------------------------------------------------------------------------------------------------------


def _meshes(tensors: Iterable[Tensor]) -> list[Any]:
    found: list[Any] = []
    for tensor in tensors:
        mesh = _mesh_of(tensor)
        if mesh is not None and mesh not in found:
            found.append(mesh)
    return found


def any_rank(flag: bool, tensors: Iterable[Shaped[Tensor, "..."]]) -> bool:
    """Whether the flag is up on any rank that holds a shard of these tensors.

    Every rank sees a part of a sharded gradient only, so that NaN in one shard must be told to the others. Plain
    tensors need no telling: DDP has averaged the NaN into every rank.

    Args:
        flag: this rank's answer.
        tensors: parameters; where none is a DTensor, nothing is sent.

    Returns:
        The common answer.

    >>> any_rank(True, [torch.zeros(2)])
    True
    """
    for mesh in _meshes(tensors):
        answer = torch.tensor([int(flag)], device=mesh.device_type)
        for dim in range(mesh.ndim):
            dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=mesh.get_group(dim))
        flag = bool(answer.item())
    return flag


def reduce_over_shards(value: Shaped[Tensor, ""], like: Shaped[Tensor, "..."], op: str = "sum") -> Shaped[Tensor, ""]:
    """Joins a number that each rank computed from its rows of a tensor.

    Args:
        value: this rank's number.
        like: the tensor; ranks that hold the same rows are counted once.
        op: "sum" or "max".

    Returns:
        The number for the whole tensor; `value` itself where the tensor is not sharded.

    >>> reduce_over_shards(torch.tensor(2.0), torch.zeros(3))
    tensor(2.)
    """
    mesh = _mesh_of(like)
    if mesh is None:
        return value
    total = value.clone()
    for dim in _divided_dims(like):
        dist.all_reduce(total, op=dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM, group=mesh.get_group(dim))
    return total


def mask_checksum(mask: SparseMask) -> int:
    """A 64-bit fingerprint of a mask and its shape: the sum of its words, each hashed with its place by splitmix64.

    Args:
        mask: any mask.

    Returns:
        A signed 64-bit integer, the same on every device.

    >>> mask_checksum(SparseMask.ones((2, 3))) == mask_checksum(SparseMask.ones((3, 2)))
    False
    """
    bits = mask.bits
    first, second, third = _MIX
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in mask.chunks():
        words: Int[Tensor, "part words"] = bits[part].to(torch.int64) & 0xFFFFFFFF
        start = part.start * bits.shape[1] + 1
        place = torch.arange(start, start + words.numel(), device=bits.device).view(words.shape)
        words = (words << 1) ^ (place * first)
        words = (words ^ ((words >> 30) & 0x3FFFFFFFF)) * second
        words = (words ^ ((words >> 27) & 0x1FFFFFFFFF)) * third
        total += (words ^ ((words >> 31) & 0x1FFFFFFFF)).sum()
    result = int(total)
    for size in mask.shape:
        result = result * 1099511628211 + size
    return (result + (1 << 63)) % (1 << 64) - (1 << 63)


def _replicas(parameter: Tensor, group: dist.ProcessGroup | None) -> list[dist.ProcessGroup | None]:
    """The groups within which the mask of a parameter is the same."""
    mesh = _mesh_of(parameter)
    if mesh is None:
        return [group]
    sharded = _row_dims(parameter)
    return [mesh.get_group(dim) for dim in range(mesh.ndim) if dim not in sharded]


def _communication_device(tensor: Tensor, group: dist.ProcessGroup | None) -> torch.device:
    """NCCL reads device memory only, gloo the host's."""
    if dist.get_backend(group) != "nccl":
        return torch.device("cpu")
    return tensor.device if tensor.device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())


def verify_masks(parameters: Mapping[str, SparseParameter], *, group: dist.ProcessGroup | None = None) -> None:
    """Proves that ranks which hold the same rows hold the same mask, bit for bit.

    A collective call: every rank makes it. Shards of one weight differ, and are compared with their replicas only.
    Outside of a process group there is nothing to compare.

    Args:
        parameters: by name, as in `Sparsifier.parameters`.
        group: the data-parallel ranks; None = all.

    Raises:
        MaskError: on every rank, names the parameters and the ranks of the group that differ from its first.
    """
    if not dist.is_initialized():
        return
    wrong = []
    for name, sparse in parameters.items():
        for replicas in _replicas(sparse.parameter, group):
            sums = torch.tensor([mask_checksum(sparse.mask)], device=_communication_device(sparse.mask.bits, replicas))
            found = [torch.empty_like(sums) for _ in range(dist.get_world_size(replicas))]
            dist.all_gather(found, sums, group=replicas)
            ranks = [rank for rank, other in enumerate(found) if not torch.equal(other, found[0])]
            if ranks:
                wrong.append(f"{name} (rank {', '.join(map(str, ranks))})")
    if wrong:
        raise MaskError(
            f"ranks that hold the same weights hold the same masks; these differ from rank 0: {'; '.join(wrong)}. Give "
            "every rank the same seed and weights, or call broadcast_masks once after pruning."
        )


def broadcast_masks(parameters: Mapping[str, SparseParameter], *, group: dist.ProcessGroup | None = None) -> None:
    """Gives every rank the masks of the first, in place; replicas of a shard take the first replica's.

    A collective call. Weights are not sent: broadcast them beforehand, as DDP does when it wraps a model.

    Args:
        parameters: by name, as in `Sparsifier.parameters`.
        group: the data-parallel ranks; None = all.
    """
    if not dist.is_initialized():
        return
    for sparse in parameters.values():
        for replicas in _replicas(sparse.parameter, group):
            words = sparse.mask.bits.to(_communication_device(sparse.mask.bits, replicas)).clone()
            dist.broadcast(words, src=_global_rank(replicas, 0), group=replicas)
            sparse.mask.update_inplace(SparseMask.from_bits(words.to(sparse.mask.device), sparse.mask.shape))


def _global_rank(group: dist.ProcessGroup | None, rank: int) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)


# --- saving and loading -----------------------------------------------------------------------------------------------


def consolidate_masks(parameters: Mapping[str, SparseParameter]) -> dict[str, SparseMask] | None:
    """Brings the rows of every mask together on the first rank, on the CPU, for saving.

    A collective call: every rank that holds rows makes it.

    Args:
        parameters: by name, as in `Sparsifier.parameters`.

    Returns:
        The whole masks on the first rank of each group that holds a weight, None on the others; where nothing is
        sharded, the masks on every rank.

    Raises:
        MaskError: a weight that is not sharded by rows.
    """
    whole: dict[str, SparseMask] = {}
    first = True
    for name, sparse in parameters.items():
        group = shard_group({name: sparse.parameter})
        if group is None:
            whole[name] = sparse.mask.clone().to("cpu")
            continue
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        shape = tuple(sparse.parameter.shape)
        mine = torch.zeros(_share(shape[0], ranks), sparse.mask.bits.shape[1], dtype=torch.int32)
        mine[: sparse.mask.rows] = sparse.mask.bits.cpu()
        mine = mine.to(_communication_device(sparse.mask.bits, group))
        parts = [torch.empty_like(mine) for _ in range(ranks)] if rank == 0 else None
        dist.gather(mine, parts, dst=_global_rank(group, 0), group=group)
        if parts is None:
            first = False
            continue
        rows = row_shape(shape)[0]
        whole[name] = SparseMask.from_bits(torch.cat(parts)[:rows].cpu(), shape)
    return whole if first else None


def local_mask(mask: SparseMask, parameter: Shaped[Tensor, "..."]) -> SparseMask:
    """This rank's rows of a whole mask, on the parameter's device.

    Args:
        mask: over the whole weight.
        parameter: the weight, perhaps a DTensor sharded by rows.

    Returns:
        The rows that go with the local shard; the mask itself where the weight is not sharded.

    Raises:
        MaskError: a mask of another shape.

    >>> mask = SparseMask.ones((2, 3))
    >>> local_mask(mask, torch.zeros(2, 3)) == mask
    True
    """
    mask.check_shape(parameter.shape, "parameter")
    rows = local(parameter)
    bits = mask.bits[shard_rows(parameter)].to(rows.device)
    return SparseMask.from_bits(bits.contiguous(), tuple(rows.shape))
