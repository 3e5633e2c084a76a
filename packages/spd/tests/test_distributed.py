"""Two ranks on this machine train what one process trains; what they draw for themselves differs; none waits for ever.

Starting ranks is what takes time: two processes run all scenarios of `distributed_rank.py`, one after the other, while
this one runs them alone. Each test then compares a part of what they left.
"""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from spd.config.perf import PerfConfig
from spd.distributed import Distributed, shard, share, whole
from spd.errors import ConfigError, RankError, SPDError
from spd.sampling import SourceSampler


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


program = _loaded(Path(__file__).with_name("distributed_rank.py"))

SECONDS = 240  # on a machine that others use as well
# Sums over rows in another order, mostly of float64; the penalty and divergences are computed in float32.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
EQUAL = [name for name in program.SCENARIOS if name.startswith(("replicas", "shards"))]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Runs:
    """What both ranks found, and the only process."""

    def __init__(self, folder: Path, codes: list[int]) -> None:
        self._folder, self.codes = folder, codes
        self._alone: dict[str, dict[str, Any]] = {}

    def of(self, name: str) -> list[dict[str, Any]]:
        number = list(program.SCENARIOS).index(name)
        return [torch.load(self._folder / f"{number}_{rank}.pt") for rank in range(program.WORLD)]

    def alone(self, name: str) -> dict[str, Any]:
        if name not in self._alone:
            self._alone[name] = program.SCENARIOS[name](Distributed())
        return self._alone[name]

    @property
    def last_words(self) -> str:
        return (self._folder / "lost.txt").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(program.WORLD), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    ranks, logs = [], []
    try:
        for rank in range(program.WORLD):
            log = (folder / f"{rank}.log").open("w+")
            logs.append(log)
            ranks.append(
                subprocess.Popen(
                    [sys.executable, program.__file__, str(folder)],
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log,
                )
            )  # fmt: skip
        codes = [process.wait(SECONDS) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
        for log in logs:
            log.close()
    if codes != [1, 3]:  # how they end on purpose, see the last test
        pytest.fail("\n".join((folder / f"{rank}.log").read_text() for rank in range(program.WORLD)))
    return Runs(folder, codes)


# --- two are as one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_with_half_a_batch_each_train_what_one_process_trains(runs: Runs, name: str) -> None:
    one, (main, other) = runs.alone(name), runs.of(name)
    assert other["state"] == {}
    assert main["state"].keys() == one["state"].keys()
    for key, value in one["state"].items():
        torch.testing.assert_close(main["state"][key], value, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")
    torch.testing.assert_close(main["importances"], one["importances"], **TOLERANCE)
    torch.testing.assert_close(main["deltas"], one["deltas"], **TOLERANCE)
    # Weights moved by far more than they may differ: AdamW's first steps are as long as the learning rate.
    started = program.trainer_of(name.startswith("shards") and "no blocks" not in name, Distributed(), SourceSampler(0))
    moved = max(
        (main["state"][f"model/{key}"] - p).abs().max().item()
        for key, p in started.model.named_parameters()
        if f"model/{key}" in main["state"]
    )
    assert moved > 1e-2


@pytest.mark.parametrize("name", EQUAL)
def test_means_over_ranks_are_losses_of_the_whole_batch(runs: Runs, name: str) -> None:
    one, ranks = runs.alone(name)["losses"], runs.of(name)
    assert len(one) > 1
    for rank in ranks:
        torch.testing.assert_close(rank["losses"], one, **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in EQUAL if name.startswith("shards")])
def test_a_rank_holds_its_share_of_what_is_sharded(runs: Runs, name: str) -> None:
    one = runs.alone(name)["bytes"]
    for rank in runs.of(name):
        for part, numbers in one.items():
            assert 0.4 * numbers < rank["bytes"][part] < 0.6 * numbers, part
    assert sum(rank["bytes"]["target"] for rank in runs.of(name)) == one["target"]


# --- each for itself --------------------------------------------------------------------------------------------------


def test_ranks_draw_for_themselves_and_stay_equal_bit_for_bit(runs: Runs) -> None:
    main, other = runs.of("apart")
    assert not torch.isclose(main["draw"], other["draw"]).any()
    assert main["parameters"].keys() == other["parameters"].keys()
    for name, value in main["parameters"].items():
        assert torch.equal(value, other["parameters"][name]), name


def test_sources_are_shared_over_ranks_where_they_are_shared_over_a_batch(runs: Runs) -> None:
    main, other = runs.of("begun")
    torch.testing.assert_close(main["losses"], other["losses"], rtol=0, atol=0)
    main, other = runs.of("apart")
    for name, value in main["kept"]["single"].items():
        assert torch.equal(value, other["kept"]["single"][name]), name
    for name, value in main["kept"]["unique_per_datapoint"].items():
        assert not torch.equal(value, other["kept"]["unique_per_datapoint"][name]), name


def test_what_all_ranks_agree_on(runs: Runs) -> None:
    main, other = runs.of("agreed")
    assert main["own"].tolist() != other["own"].tolist()
    for found in (main, other):
        assert found["sum"].tolist() == [4.0, 4.0]
        assert {name: value.tolist() for name, value in found["mean"].items()} == {"a": [2.0, 2.0], "b": 4.0}
        assert {name: value.tolist() for name, value in found["min"].items()} == {"a": [1.0, -1.0], "n": [1, -1]}
        assert found["min"]["n"].dtype == torch.int64
        assert {name: value.tolist() for name, value in found["broadcast"].items()} == {"a": [1.0, 5.0], "b": 6.0}
        assert [value.tolist() for value in found["gather"]] == [[1.0, 5.0], [3.0, -1.0]]
        assert found["nothing"] == {}


def test_a_rank_whose_fellow_ended_says_so_and_ends(runs: Runs) -> None:
    assert runs.codes == [1, 3]  # of an error, and the one that the other left with
    assert "all 2 ranks take part in every step; rank 0 lost another one" in runs.last_words


# --- alone, and refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(**values: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_the_only_process_needs_no_group(environment: Callable[..., None]) -> None:
    for values in ({}, {**WHOLE, "WORLD_SIZE": "1"}):
        environment(**values)
        with Distributed.start(device="cpu") as alone:
            assert (alone.rank, alone.world_size, alone.is_main, alone.backend) == (0, 1, True, None)
            alone.barrier()
            x = torch.tensor([1.0, 2.0], requires_grad=True)
            for found in (alone.sum(x), alone.mean(x), alone.min(x), alone.broadcast(x), *alone.gather(x)):
                assert found.tolist() == [1.0, 2.0]
                assert not found.requires_grad
                assert found.data_ptr() != x.data_ptr()
            trainer = program.trainer_of(False, alone, alone.sampler(0))
            for how in (share, shard):
                how(trainer, alone)
                assert trainer.losses is trainer.own_losses
    assert not torch.distributed.is_initialized()
    x = torch.ones(2)
    assert whole(x) is x


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not there"),
        ({**WHOLE, "RANK": "first"}, "RANK in the environment is a whole number; got 'first'"),
        ({**WHOLE, "RANK": "2"}, "got RANK 2 of 2"),
    ],
)
def test_an_environment_that_cannot_be_meant_is_refused(
    environment: Callable[..., None], values: dict[str, str], message: str
) -> None:
    environment(**values)
    with pytest.raises(ConfigError, match=message):
        Distributed.start()


def test_ranks_that_do_not_come_are_not_waited_for_for_ever(environment: Callable[..., None]) -> None:
    environment(**{**WHOLE, "MASTER_PORT": str(free_port())})
    with pytest.raises(RankError, match=r"2 ranks meet at 127\.0\.0\.1:.* within 1 s; rank 0 could not"):
        Distributed.start("gloo", device="cpu", timeout=1)
    assert issubclass(RankError, SPDError)


@pytest.mark.parametrize(
    ("how", "perf", "message"),
    [
        (share, {"cuda_graph": True}, "a CUDA graph is recorded of one process alone"),
        (share, {"compile_step": True}, "compiled as a whole does not stop for other processes"),
        (shard, {"cache_target_weights": True}, "would keep them whole on every rank"),
        (shard, {"compile_ci_fns": True}, "perf.compile_ci_fns is on"),
    ],
)
def test_switches_that_several_cannot_use_are_refused(
    how: Callable[[Any, Distributed], None], perf: dict[str, Any], message: str
) -> None:
    trainer = program.trainer_of(False, Distributed(), SourceSampler(0))
    trainer.config = trainer.config.model_copy(update={"perf": PerfConfig(**perf)})
    with pytest.raises(ConfigError, match=message):
        how(trainer, Distributed(rank=0, world_size=2))


def test_a_trainer_is_shared_once() -> None:
    trainer = program.trainer_of(False, Distributed(), SourceSampler(0))
    trainer.losses = torch.nn.Identity()
    with pytest.raises(ConfigError, match="a Identity stands in for them"):
        share(trainer, Distributed(rank=0, world_size=2))
