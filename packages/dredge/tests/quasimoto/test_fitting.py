"""The training loop does what it says: counts, averages, stops, and is the same in one process and in two."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dredge.errors import DivergenceError, ModelError
from dredge.quasimoto import fitting
from dredge.quasimoto.fitting import fit, mixed_precision
from dredge.quasimoto.packets import WavePackets
from dredge.quasimoto.processes import Processes

pytestmark = pytest.mark.needs_extra("torch")


def line(points: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, points)[:, None]
    return x, 2 * x + 1


def linear() -> nn.Linear:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(0.0)
    return model


class Spoilt(nn.Module):
    """A line whose value is not finite at some calls."""

    def __init__(self, at: Any) -> None:
        super().__init__()
        self.inner, self.at, self.calls = linear(), at, 0

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        if self.training and torch.is_grad_enabled() and len(x) > 1:
            self.calls += 1
            if self.at(self.calls):
                return found * math.inf
        return found


def test_a_line_is_fitted_and_the_first_loss_is_that_of_the_start() -> None:
    x, y = line()
    result = fit(linear(), x, y, epochs=400, lr=0.1)
    by_hand = ((0.5 * x - y) ** 2).mean().item()
    assert result.history[0].loss == pytest.approx(by_hand, rel=1e-6)
    assert result.history[-1].loss < 1e-6
    assert (result.steps, result.steps_skipped, result.stopped) == (400, 0, "epochs")
    assert result.precision is None
    assert result.peak_memory is None


def test_adam_steps_are_those_of_torch() -> None:
    x, y = line()
    model, other = linear(), linear()
    fit(model, x, y, epochs=5, lr=0.1, schedule="constant")
    optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(other(x), y).backward()
        optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    x, y = line()
    models = [linear() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, x, y, epochs=3, batch_size=10, val_fraction=0.2, seed=seed)
    assert torch.equal(models[0].weight, models[1].weight)
    assert not torch.equal(models[0].weight, models[2].weight)


def test_batches_cover_every_sample_once_an_epoch() -> None:
    x, y = line(23)
    seen: list[Tensor] = []

    class Watching(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            if torch.is_grad_enabled() and len(given) > 1:
                seen.append(given)
            return super().forward(given)

    result = fit(Watching(1, 1), x, y, epochs=2, batch_size=7)
    assert result.steps == 8
    for epoch in (seen[:4], seen[4:]):
        assert torch.equal(torch.cat(epoch).sort(dim=0).values, x)


def test_steps_that_are_not_finite_are_left_out_and_counted() -> None:
    x, y = line()
    model = Spoilt(lambda call: call in (3, 7))
    result = fit(model, x, y, epochs=300, lr=0.1, grad_clip=1.0)
    assert (result.steps, result.steps_skipped) == (298, 2)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert result.history[-1].loss < 1e-3


def test_many_in_a_row_end_it() -> None:
    x, y = line()
    with pytest.raises(DivergenceError, match="50 in a row"):
        fit(Spoilt(lambda call: call > 5), x, y, epochs=300)


def test_a_clipped_gradient_has_the_length_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = line()
    lengths: list[float] = []
    plain = torch.optim.AdamW.step

    def watched(self: Any, *given: Any, **named: Any) -> Any:
        lengths.append(math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"])))
        return plain(self, *given, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fit(linear(), x, 100 * y, epochs=3, grad_clip=0.5)
    assert lengths == pytest.approx([0.5] * 3, rel=1e-4)


def test_ema_is_the_exponential_average() -> None:
    x, y = line()
    model = linear()
    fit(model, x, y, epochs=4, lr=0.1, schedule="constant", ema=0.6)
    path, average = linear(), None
    for _ in range(4):
        if average is None:
            optimizer = torch.optim.Adam(path.parameters(), lr=0.1)
        optimizer.zero_grad()
        nn.functional.mse_loss(path(x), y).backward()
        optimizer.step()
        now = path.weight.detach().clone()
        average = now if average is None else 0.6 * average + 0.4 * now
    assert average is not None
    assert torch.allclose(model.weight, average, rtol=1e-5)


def test_swa_is_the_mean_of_the_last_quarter() -> None:
    x, y = line()
    model, path = linear(), linear()
    fit(model, x, y, epochs=8, lr=0.1, schedule="constant", swa=True)
    optimizer = torch.optim.Adam(path.parameters(), lr=0.1)
    weights = []
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.mse_loss(path(x), y).backward()
        optimizer.step()
        weights.append(path.weight.item())
    assert model.weight.item() == pytest.approx(sum(weights[6:]) / 2, rel=1e-5)


def test_patience_waits_for_what_is_averaged() -> None:
    x, y = line()
    model = linear()
    result = fit(model, x, y, epochs=40, lr=0.05, swa=True, val_fraction=0.2, patience=5)
    # Until there is an average, the weights themselves are judged: they get better at every step.
    scores = [row.validation for row in result.history]
    assert len(scores) > 30
    assert scores[:25] == sorted(scores[:25], reverse=True)
    held = fitting._split(64, 0.2, torch.Generator().manual_seed(0))[1]
    assert (model(x[held]) - y[held]).square().mean().item() == pytest.approx(result.best, rel=1e-5)


def test_double_precision_stays_double() -> None:
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    model = nn.Linear(1, 1).double()
    exact = model(x).detach()
    # In single precision 1e-9 more is no more at all.
    assert fit(model, x, exact + 1e-9, epochs=1).history[0].loss == pytest.approx(1e-18, rel=1e-6, abs=0)


def test_the_cosine_ends_at_a_hundredth() -> None:
    assert fitting._rate("cosine", 0.0, swa=False) == 1
    assert fitting._rate("cosine", 0.5, swa=False) == pytest.approx(0.505)
    assert fitting._rate("cosine", 1.0, swa=False) == pytest.approx(0.01)
    assert fitting._rate("cosine", 0.75, swa=True) == fitting._rate("cosine", 1.0, swa=True) == pytest.approx(0.505)


def test_the_best_validation_is_kept_and_patience_ends_it() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 40)[:, None]
    y = torch.randn(40, 1)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    result = fit(model, x, y, epochs=400, val_fraction=0.25, patience=20)
    assert result.stopped == "patience"
    assert len(result.history) == result.best_epoch + 20
    assert result.best == min(row.validation for row in result.history if row.validation is not None)
    held = fitting._split(40, 0.25, torch.Generator().manual_seed(0))[1]
    assert (model(x[held]) - y[held]).square().mean().item() == pytest.approx(result.best, rel=1e-5)


def test_seconds_end_it_and_at_least_one_step_is_done() -> None:
    x, y = line()
    for clock in ("wall", "cpu"):
        result = fit(linear(), x, y, seconds=1e-9, clock=clock)
        assert (result.stopped, result.steps) == ("seconds", 1)
        assert len(result.history) == 1


def test_mixed_precision_computes_in_bfloat16_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    class Watching(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            found = super().forward(given)
            seen.append(found.dtype)
            return found

    x, y = line()
    monkeypatch.setattr(fitting, "_bf16_instructions", lambda: True)
    result = fit(Watching(1, 1), x, y, epochs=2, use_amp=True)
    assert result.precision == "bfloat16"
    assert seen[-1] is torch.bfloat16
    assert all(math.isfinite(row.loss) for row in result.history)
    with caplog.at_level(logging.WARNING, logger="dredge.quasimoto.fitting"):
        assert mixed_precision(nn.Linear(1, 1).double(), torch.device("cpu")) is None
        monkeypatch.setattr(fitting, "_bf16_instructions", lambda: False)
        assert fit(linear(), x, y, epochs=1, use_amp=True).precision is None
    assert "not all float32" in caplog.text
    assert "no instructions for bfloat16" in caplog.text


def test_packets_under_mixed_precision_keep_their_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_bf16_instructions", lambda: True)
    x = torch.linspace(-3, 3, 200)[:, None]
    y = torch.exp(-0.5 * x**2) * torch.cos(100 * x)
    model = WavePackets(1, 1)
    with torch.no_grad():
        model.frequency.fill_(100.0)
        model.head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    # A phase of 300 in 8 bits would be off by half a radian, and the loss would be that of another wave.
    assert fit(model, x, y, epochs=1, use_amp=True).history[0].loss < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got neither"),
        ({"epochs": 0}, "at least one epoch"),
        ({"seconds": 0}, "more than 0 seconds"),
        ({"epochs": 1, "clock": "sun"}, "'sun'"),
        ({"epochs": 1, "batch_size": 0}, "at least one sample"),
        ({"epochs": 1, "lr": -1.0}, "learning rate"),
        ({"epochs": 1, "schedule": "steps"}, "'steps'"),
        ({"epochs": 1, "grad_clip": 0}, "grad_clip"),
        ({"epochs": 1, "weight_decay": -1}, "weight_decay"),
        ({"epochs": 1, "ema": 1.5}, "between 0 and 1"),
        ({"epochs": 1, "ema": 0.9, "swa": True}, "got both"),
        ({"epochs": 1, "val_fraction": 1.0}, "val_fraction"),
        ({"epochs": 1, "patience": 3}, "validation"),
        ({"epochs": 1, "device": "nowhere"}, "nowhere"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    x, y = line()
    with pytest.raises(ModelError, match=message):
        fit(linear(), x, y, **options)


def test_samples_and_models_that_do_not_go_together_are_refused() -> None:
    x, y = line()
    with pytest.raises(ModelError, match="at least 2 samples"):
        fit(linear(), x[:1], y[:1], epochs=1)
    with pytest.raises(ModelError, match="finite"):
        fit(linear(), x, y * math.nan, epochs=1)
    with pytest.raises(ModelError, match="a row of 1"):
        fit(nn.Linear(1, 2), x, y, epochs=1)
    with pytest.raises(ModelError, match="Unfreeze"):
        fit(linear().requires_grad_(False), x, y, epochs=1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("points", "values"), [((9, 1), (8, 1)), ((8, 1), (9, 1)), ((9,), (9, 1)), ((9, 1), (9,))])
def test_shapes_that_do_not_go_together_are_refused(points: tuple[int, ...], values: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="as many of one as of the other"):
        fit(linear(), torch.ones(points), torch.ones(values), epochs=1)


@pytest.mark.slow
def test_a_compiled_model_is_the_same_model() -> None:
    x, y = line()
    one, other = linear(), linear()
    fit(one, x, y, epochs=3)
    fit(other, x, y, epochs=3, compile=True)
    assert torch.allclose(one.weight, other.weight, rtol=1e-5)


SCRIPT = """
import os, sys, torch
from dredge.quasimoto.fitting import fit
from dredge.quasimoto.packets import WavePackets

class Watched(WavePackets):
    seen = []
    def forward(self, coords, t=None):
        if torch.is_grad_enabled() and len(coords) > 1:
            self.seen.append(coords[:, 0].tolist())
        return super().forward(coords, t)

x = torch.linspace(-2, 2, 101)[:, None]
model = Watched(1, 3)
rank = int(os.environ["RANK"])
with torch.no_grad():
    model.head.weight.add_(rank)  # all begin as the first process does
result = fit(model, x, torch.cos(3 * x), epochs=6, batch_size=25, val_fraction=0.1, grad_clip=1.0, ema=0.9)
torch.save([model.state_dict(), result.history[-1].loss, result.steps, model.seen], f"{sys.argv[1]}/{rank}")
"""


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    torchrun = [
        "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), str(tmp_path)], env=environment, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    x = torch.linspace(-2, 2, 101)[:, None]
    model = WavePackets(1, 3)
    alone = fit(model, x, torch.cos(3 * x), epochs=6, batch_size=25, val_fraction=0.1, grad_clip=1.0, ema=0.9)
    first, second = (torch.load(tmp_path / rank, weights_only=True) for rank in "01")
    for state, loss, steps, _ in (first, second):
        assert steps == alone.steps
        assert loss == pytest.approx(alone.history[-1].loss, rel=1e-4)
        for name, value in model.state_dict().items():
            assert torch.allclose(state[name], value, atol=1e-5)
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    # Each saw its half of every batch, and together they saw all samples once an epoch.
    kept = sorted(x[fitting._split(101, 0.1, torch.Generator().manual_seed(0))[0], 0].tolist())
    assert [len(batch) for batch in first[3]] == [13, 13, 13, 8] * 6
    assert [len(batch) for batch in second[3]] == [12, 12, 12, 8] * 6
    for epoch in range(6):
        own = slice(4 * epoch, 4 * epoch + 4)
        assert sorted(place for batch in (*first[3][own], *second[3][own]) for place in batch) == kept


@pytest.mark.parametrize(("cuda", "backend"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_processes_meet_by_what_their_devices_speak(monkeypatch: pytest.MonkeyPatch, cuda: bool, backend: str) -> None:
    asked = []

    def meet(name: str, **_: Any) -> None:
        asked.append(name)
        raise RuntimeError("nobody is there")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: cuda)
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    with pytest.raises(ModelError, match=r"they did not: nobody is there\. Start them by torchrun"):
        Processes()
    assert asked == [backend]


def test_alone_there_is_one_process() -> None:
    processes = Processes()
    assert (processes.rank, processes.count) == (0, 1)
    assert processes.share(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert processes.agreed(True, torch.device("cpu"))
