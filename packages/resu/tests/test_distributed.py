"""Two ranks train what one process trains: masks bit for bit, weights to rounding.

The file is also the program of a rank: `python test_distributed.py RANK FOLDER`. Both ranks run all scenarios in one
process each, since starting them is what takes time; each test reads its part of what they wrote.
"""

import copy
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.core.phases import SparseParameter, local, sparsify
from resu.distributed import (
    any_rank,
    broadcast_masks,
    consolidate_masks,
    local_mask,
    mask_checksum,
    reduce_over_shards,
    shard_group,
    shard_rows,
    verify_masks,
)
from resu.errors import MaskError
from resu.optim.clip import clip_grad_norm_
from resu.optim.masked import MaskedAdamW
from resu.optim.stock import attach

RANKS = 2
SECONDS = 150
CYCLES = 3
KINDS = ("masked", "attached")
PLACEMENTS = ("ddp", "fsdp")


# --- what a rank does -------------------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    """Row counts that two ranks cannot share evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 31), nn.Tanh(), nn.Linear(31, 17), nn.Tanh(), nn.Linear(17, 3)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    return x, x[:, :3].sin() + x[:, 3:6] * x[:, 6:9]


def whole(x: Tensor) -> Tensor:
    """All rows of a DTensor."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x.detach()


def shard(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(placement: str, kind: str, rank: int = 0) -> dict[str, Any]:
    """Three cycles of prune, RESU, commit; with a placement each rank sees its half of every batch."""
    from resu.sparsifier import Sparsifier

    model: nn.Module = mlp()
    net = model
    if placement == "fsdp":
        net = shard(model)
    elif placement == "ddp":
        net = nn.parallel.DistributedDataParallel(model)
    if kind == "masked":
        optimizer = held = MaskedAdamW(net.parameters(), lr=0.01, weight_decay=0.1, backend="eager")
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
        held = attach(net, optimizer)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    sparsifier = Sparsifier(model, 0.7, distribution="global", optimizer=held, seed=5, group=shard_group(weights))
    done = 0

    def steps(count: int) -> None:
        nonlocal done
        for _ in range(count):
            x, y = batch(done)
            if placement != "one":
                x, y = x.chunk(RANKS)[rank], y.chunk(RANKS)[rank]
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            clip_grad_norm_(sparsifier, 0.5)
            optimizer.step()
            done += 1

    masks = []
    for cycle in range(CYCLES):
        steps(4)
        sparsifier.prune(sparsity=0.5 + 0.1 * cycle)
        steps(3)
        sparsifier.enter_resu(init="normal", lr_scale=0.5)
        steps(5)
        report = sparsifier.commit("amnesty", budget=0.3, score="momentum")
        steps(2)
        verify_masks(sparsifier.parameters)
        found = consolidate_masks(sparsifier.parameters)
        masks.append(None if found is None else {name: m.state_dict() for name, m in found.items()})
    return {
        "weights": {name: whole(p).clone() for name, p in model.named_parameters()},
        "masks": masks,
        "sparsity": sparsifier.sparsity,
        "resurrected": report.resurrected,
        "skipped": held.skipped_steps,
    }


def masks_differ(rank: int) -> dict[str, Any]:
    """A bit that differs on one rank is found everywhere, and a broadcast mends it."""
    layer = nn.Linear(5, 4)
    mask = SparseMask.random((4, 5), 0.5)
    parameters = {"weight": sparsify(layer.weight, mask, "weight")}
    verify_masks(parameters)
    if rank == 1:
        mask.bits[2, 0] ^= 1
    try:
        verify_masks(parameters)
        message = "nothing was found"
    except MaskError as error:
        message = str(error)
    broadcast_masks(parameters)
    verify_masks(parameters)
    return {"message": message, "mended": mask == SparseMask.random((4, 5), 0.5)}


def replicas_of_shards() -> dict[str, Any]:
    """With a mesh of two dimensions shards are compared with their replicas, not with each other."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layer = nn.Linear(5, 4, bias=False)
    mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicate", "shard"))
    fully_shard(layer, mesh=mesh)
    mask = SparseMask.random((4, 5), 0.5, seed=dist.get_rank())
    parameters = {"weight": sparsify(layer.weight, mask, "weight")}
    try:
        verify_masks(parameters)
        message = "nothing was found"
    except MaskError as error:
        message = str(error)
    broadcast_masks(parameters)
    verify_masks(parameters)
    total = reduce_over_shards(torch.tensor(1.0), layer.weight)
    return {"message": message, "checksum": mask_checksum(mask), "total": float(total)}


def shards(rank: int) -> dict[str, Any]:
    """Rows, masks and norms of a sharded model, against the whole one."""
    plain = mlp()
    model = shard(copy.deepcopy(plain))
    found: dict[str, Any] = {"rows": {}, "back": {}, "local": {}}
    parameters: dict[str, SparseParameter] = {}
    for name, p in model.named_parameters():
        if p.dim() < 2:
            continue
        rows = shard_rows(p)
        original = plain.get_parameter(name)
        found["rows"][name] = bool(torch.equal(local(p.detach()), original.detach()[rows]))
        mask = SparseMask.random(tuple(p.shape), 0.5, seed=7)
        sparsify(original, mask, name)
        parameters[name] = sparsify(p, local_mask(mask, p), name)
        found["local"][name] = bool(torch.equal(parameters[name].mask.to_bool(), mask.to_bool()[rows]))
    back = consolidate_masks(parameters)
    if rank == 0:
        assert back is not None
        found["back"] = {n: m == SparseMask.random(m.shape, 0.5, seed=7) for n, m in back.items()}
    else:
        found["back"] = back
    x, y = batch(0)
    (plain(x) - y).square().sum().backward()
    (model(x) - y).square().sum().backward()
    for p in (1.0, 2.0, float("inf")):
        found[f"norm {p}"] = [float(clip_grad_norm_(net.parameters(), 100.0, p)) for net in (plain, model)]
    return found


def nan_in_one_shard(rank: int, kind: str) -> dict[str, Any]:
    """A gradient that is not finite in the rows of one rank skips the step on both."""
    model = shard(mlp())
    weight = model[0].weight
    sparsify(weight, SparseMask.random(tuple(local(weight).shape), 0.5), "0.weight")
    if kind == "masked":
        optimizer = held = MaskedAdamW(model.parameters(), lr=0.1, backend="eager")
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        held = attach(model, optimizer)
    before = [whole(p).clone() for p in model.parameters()]
    x, _ = batch(0)
    model(x).sum().backward()
    if rank == 1:
        local(weight.grad)[0, 0] = float("nan")
    optimizer.step()
    same = all(torch.equal(whole(p), old) for p, old in zip(model.parameters(), before, strict=True))
    return {"skipped": held.skipped_steps, "unchanged": same}


def wrongly_sharded() -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    by_columns = distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)])
    by_rows = distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])
    vector = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
    row = distribute_tensor(torch.ones(1, 4), mesh, [Shard(0)])
    copies = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    messages: list[str] = []
    for tensors in ([by_columns], [vector], [by_rows, torch.ones(2, 2)], {"head.weight": row}):
        try:
            shard_group(tensors)
        except MaskError as error:
            messages.append(str(error))
    return {"messages": messages, "copies": shard_group([copies]) is None, "rows": shard_rows(copies)}


def scenarios(rank: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for kind in KINDS:
        for placement in PLACEMENTS:
            yield f"{placement} {kind}", lambda placement=placement, kind=kind: train(placement, kind, rank)
        yield f"nan {kind}", lambda kind=kind: nan_in_one_shard(rank, kind)
    yield "differ", lambda: masks_differ(rank)
    yield "replicas", replicas_of_shards
    yield "shards", lambda: shards(rank)
    yield "wrong", wrongly_sharded


def be_a_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {}
    for name, scenario in scenarios(rank):
        try:
            found[name] = scenario()
        except Exception:  # noqa: BLE001  # whatever it is, the test shows it
            found[name] = {"error": traceback.format_exc()}
            break  # the other rank waits for this one from here on
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


# --- what two ranks did -----------------------------------------------------------------------------------------------

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    logs = [folder / f"rank{rank}.log" for rank in range(RANKS)]
    processes = []
    for rank in range(RANKS):
        with logs[rank].open("w") as log:
            command = [sys.executable, "-W", "ignore", __file__, str(rank), str(folder)]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        for process in processes:
            process.wait(timeout=SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = []
    for rank in range(RANKS):
        path = folder / f"rank{rank}.pt"
        assert path.exists(), logs[rank].read_text()
        found.append(torch.load(path, weights_only=False))
    errors = [part["error"] for part in (x for rank in found for x in rank.values()) if "error" in part]
    assert not errors, "\n".join(errors)
    return found


@pytest.fixture(scope="module", params=KINDS)
def one_process(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, train("one", request.param)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_three_cycles_on_two_ranks_are_those_of_one_process(
    ranks: Found, one_process: tuple[str, dict[str, Any]], placement: str
) -> None:
    kind, one = one_process
    two = [rank[f"{placement} {kind}"] for rank in ranks]
    assert one["resurrected"] > 0
    for rank in two:
        assert rank["sparsity"] == one["sparsity"] == pytest.approx(0.7, abs=1e-3)
        assert rank["resurrected"] == one["resurrected"]
        assert rank["skipped"] == 0
        for name, weight in one["weights"].items():
            assert torch.equal(rank["weights"][name], two[0]["weights"][name]), "the same on both ranks, bit for bit"
            torch.testing.assert_close(rank["weights"][name], weight, rtol=1e-6, atol=1e-6)
    assert len(one["masks"]) == CYCLES
    for cycle, expected in enumerate(one["masks"]):
        masks = [rank["masks"][cycle] for rank in two]
        assert (masks[1] is None) == (placement == "fsdp"), "shards come together on the first rank"
        for found in masks:
            for name, mask in (found or {}).items():
                assert torch.equal(mask["bits"], expected[name]["bits"])
                assert torch.equal(mask["shape"], expected[name]["shape"])
    changed = [any(not torch.equal(a[n]["bits"], b[n]["bits"]) for n in a) for a, b in [one["masks"][:2]]]
    assert changed == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_both(ranks: Found, kind: str) -> None:
    assert [rank[f"nan {kind}"] for rank in ranks] == [{"skipped": 1, "unchanged": True}] * RANKS


def test_masks_that_differ_are_found_on_every_rank_and_mended(ranks: Found) -> None:
    for rank in ranks:
        assert "differ from rank 0: weight (rank 1)" in rank["differ"]["message"]
        assert "call broadcast_masks" in rank["differ"]["message"]
        assert rank["differ"]["mended"]


def test_shards_are_compared_with_their_replicas(ranks: Found) -> None:
    assert all("weight (rank 1)" in rank["replicas"]["message"] for rank in ranks)
    assert ranks[0]["replicas"]["checksum"] == ranks[1]["replicas"]["checksum"]
    assert all(rank["replicas"]["total"] == 1.0 for rank in ranks), "replicas are not added up"


def test_masks_are_cut_and_joined_as_the_weights_are(ranks: Found) -> None:
    for rank in ranks:
        assert all(rank["shards"]["rows"].values())
        assert all(rank["shards"]["local"].values())
        assert len(rank["shards"]["rows"]) == 3
    assert all(ranks[0]["shards"]["back"].values())
    assert ranks[1]["shards"]["back"] is None


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_a_norm_over_shards_is_that_of_the_whole(ranks: Found, p: float) -> None:
    for rank in ranks:
        plain, sharded = rank["shards"][f"norm {p}"]
        assert sharded == pytest.approx(plain, rel=1e-6)


def test_weights_that_are_not_sharded_by_rows_are_refused(ranks: Found) -> None:
    for rank in ranks:
        columns, vector, mixed, few = rank["wrong"]["messages"]
        assert "parameter 0 has 2 dimension(s) and placements [Shard(dim=1)]" in columns
        assert "parameter 0 has 1 dimension(s)" in vector
        assert "these are mixed" in mixed
        assert "head.weight has 1 rows for 2 ranks" in few
        assert rank["wrong"]["copies"]
        assert rank["wrong"]["rows"] == slice(0, 4)


# --- one process ------------------------------------------------------------------------------------------------------


def test_without_ranks_nothing_is_sent_and_everything_is_whole() -> None:
    layer = nn.Linear(5, 4)
    parameters = {"weight": sparsify(layer.weight, SparseMask.random((4, 5), 0.5), "weight")}
    verify_masks(parameters)
    broadcast_masks(parameters)
    assert consolidate_masks(parameters) == {"weight": parameters["weight"].mask}
    assert shard_group([layer.weight]) is None
    assert shard_rows(layer.weight) == slice(0, 4)
    assert not any_rank(False, [layer.weight])
    mask = SparseMask.ones((4, 5))
    assert local_mask(mask, layer.weight) == mask
    with pytest.raises(MaskError, match="the parameter has shape"):
        local_mask(SparseMask.ones((5, 4)), layer.weight)


def test_a_checksum_sees_every_bit_and_its_place() -> None:
    mask = SparseMask.random((40, 70), 0.5)
    seen = {mask_checksum(mask)}
    assert mask_checksum(mask.clone()) in seen
    for row in range(40):
        for word in range(3):
            mask.bits[row, word] ^= 1
            seen.add(mask_checksum(mask))
            mask.bits[row, word] ^= 1
    assert len(seen) == 121
    assert all(-(2**63) <= value < 2**63 for value in seen)
    halves = [SparseMask(torch.tensor([[1, 0]])), SparseMask(torch.tensor([[0, 1]]))]
    assert mask_checksum(halves[0]) != mask_checksum(halves[1])
    big = SparseMask.random((2000, 300), 0.5)
    assert mask_checksum(big) != mask_checksum(~big)


if __name__ == "__main__":
    be_a_rank(int(sys.argv[1]), Path(sys.argv[2]))
