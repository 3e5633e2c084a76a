"""The note's five future opportunities, each against the plain form."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from claimbench.case import Case, Counted, Lossy, Tolerance, Workload
from claimbench.cases.dredge.problem import Requests, default_device, default_settings, not_timed
from claimbench.errors import CaseError
from claimbench.record import Params
from claimbench.turns import in_turns, interval_of, ratio_of, seconds, share_saved
from dredge.insights.ids import insight_id
from dredge.insights.store import Store
from dredge.quasimoto.baselines import Siren
from dredge.quasimoto.data import generate_data
from dredge.quasimoto.fitting import fit
from dredge.reference.original import InterferenceAfter
from dredge.server import create_app

__all__ = ["CASES"]

TEXTS, ROUNDS = 50, 6
SEEDS = 5


# --- several texts at once --------------------------------------------------------------------------------------------


def _batches(_params: Params) -> Iterable[Counted]:
    """New texts, one request each and all in one request, both kept; answers are held against the texts' own ids."""
    numbers = count()
    with tempfile.TemporaryDirectory(prefix="claimbench-dredge-") as folder, Store.open(Path(folder) / "a.db") as store:
        ask = Requests(create_app(default_settings(log={"level": "ERROR"}), store))

        def lifted(lift: Callable[[list[str]], list[str]]) -> float:
            texts = [f"insight number {next(numbers)} of many that come together" for _ in range(TEXTS)]
            found: list[str] = []
            taken = seconds(lambda: found.extend(lift(texts)))
            if found != [insight_id(text) for text in texts]:
                raise CaseError("an answer has the id of its text; one has not; mend the service before it is timed")
            return taken

        def singly(texts: list[str]) -> list[str]:
            bodies = [json.dumps({"insight_text": text}).encode() for text in texts]
            return [json.loads(ask("POST", "/lift", body))["id"] for body in bodies]

        def together(texts: list[str]) -> list[str]:
            answer = json.loads(ask("POST", "/lift/batch", json.dumps({"insight_texts": texts}).encode()))
            return [result["id"] for result in answer["results"]]

        found = in_turns({"before": lambda: lifted(singly), "after": lambda: lifted(together)}, ROUNDS)
    words = f"{TEXTS} new texts, kept; medians " + ", ".join(
        f"{name} {1e6 * np.median(taken) / TEXTS:.3g} µs a text" for name, taken in found.items()
    )
    share, ends = share_saved(found["before"], found["after"])
    yield Counted("less_time", share, "after", "%", words, ends)


# --- 8 bits -----------------------------------------------------------------------------------------------------------


def _root_error(found: Any, exact: Any) -> float:
    difference = found["values"] - exact["values"]
    return float(np.sqrt((difference**2).mean() / (exact["values"] ** 2).mean()))


def _short(params: Params) -> Workload:
    """Inference of a network of sines; 8 bits as torch does it on a CPU, with inputs quantised as they come."""
    from torch.ao.quantization import quantize_dynamic

    model = Siren(1, hidden=int(params["width"]), layers=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to move this elsewhere
        coded = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    def variant(some: nn.Module) -> Callable[[Any], Any]:
        def call(given: Any) -> Any:
            with torch.no_grad():
                return {"values": some(given["x"])}

        return call

    def inputs(seed: int) -> Any:
        return {"x": 2 * torch.rand(2048, 1, generator=torch.Generator().manual_seed(seed)) - 1}

    lossy = {"after": Lossy(_root_error, 0.1, "root of the mean squared change of the values, over that of the values")}
    return Workload(inputs=inputs, variants={"before": variant(model), "after": variant(coded)}, lossy=lossy)


# --- compiled ---------------------------------------------------------------------------------------------------------


class _RealBasis(InterferenceAfter):
    """The published basis in real numbers: torch.jit.script has no backward pass for its complex ones."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Outputs at N places and times.

        Args:
            x: Places.
            t: Times.
        """
        t = t.reshape(-1, 1)
        sigma = torch.exp(self.log_sigma).clamp(min=1e-3)
        z = (x - self.v * t) / sigma
        envelope = torch.exp(-0.5 * (z * z).sum(dim=-1, keepdim=True)) / self.norm(sigma)
        phase = x @ self.k.t() - self.omega * t
        fields = self.A * envelope * torch.sin(self.phi + self.epsilon * torch.cos(x @ self.lmbda.t()))
        found: torch.Tensor = self.head(torch.cat([fields * torch.cos(phase), fields * torch.sin(phase)], dim=-1))
        return found


def _scripted(params: Params) -> Workload:
    """The published basis, forward and backward, eager and through torch.jit.script as the note proposes."""
    torch.manual_seed(0)
    dims = int(params["dims"])
    published = InterferenceAfter(dims, 8, 1).to(default_device())
    eager = _RealBasis(dims, 8, 1).to(default_device())
    eager.load_state_dict(published.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has given it up for torch.compile
        script = torch.jit.script(eager)

    def variant(model: nn.Module) -> Callable[[Any], Any]:
        def call(given: Any) -> Any:
            eager.zero_grad()  # both have the same parameters
            found = model(given["x"], given["t"])
            found.square().mean().backward()
            return {"found": found.detach(), "gradients": {name: p.grad for name, p in eager.named_parameters()}}

        return call

    def inputs(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(1000, dims, generator=generator), torch.randn(1000, generator=generator)
        return dict(zip(("x", "t"), (tensor.to(default_device()) for tensor in drawn), strict=True))

    variants = {"before": variant(eager), "after": variant(script)}
    for _ in range(4):  # it optimises in its first calls
        variants["after"](inputs(0))
    close = Tolerance(relative=1e-4, absolute=1e-6, reason="float32: compiled sums may be taken in another order")

    def oracle(given: Any) -> Any:
        published.zero_grad()
        found = published(given["x"], given["t"])
        found.square().mean().backward()
        return {"found": found.detach(), "gradients": {name: p.grad for name, p in published.named_parameters()}}

    return Workload(inputs=inputs, variants=variants, oracle=oracle, tolerance=close)


# --- several devices --------------------------------------------------------------------------------------------------

_TRAINING = """
import json, os, time, torch
torch.set_num_threads(1)
from dredge.quasimoto.baselines import Siren
from dredge.quasimoto.fitting import fit
x = torch.linspace(-1, 1, {points})[:, None]
y = torch.sin(50 * x**2)
taken = []
for turn in range({turns} + 1):
    model = Siren(1, hidden=256, layers=3)
    began = time.perf_counter()
    result = fit(model, x, y, epochs={epochs}, lr=1e-4)
    taken.append(time.perf_counter() - began)
if int(os.environ.get("RANK", "0")) == 0:
    print(json.dumps([taken[1:], result.history[-1].loss]), flush=True)
"""


def _trained(processes: int) -> tuple[np.ndarray, float]:
    turns, epochs = 4, 2
    points = 1 << 20 if torch.cuda.is_available() else 1 << 13
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory(prefix="claimbench-dredge-") as folder:
        path = Path(folder) / "training.py"
        path.write_text(_TRAINING.format(points=points, turns=turns, epochs=epochs), encoding="utf-8")
        command = [sys.executable, *(start if processes > 1 else []), str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        raise CaseError(f"{processes} processes train; they ended with {done.returncode}: {done.stderr[-300:]}")
    taken, loss = json.loads(done.stdout.strip().splitlines()[-1])
    return np.array(taken) / epochs, float(loss)


def _distributed(_params: Params) -> Iterable[Counted]:
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        return  # one GPU has nothing to share out
    (one, loss), (two, same) = _trained(1), _trained(2)
    if not math.isclose(loss, same, rel_tol=1e-3):
        raise CaseError(f"two processes come to the loss of one; got {same} and {loss}; mend the training")
    where = "GPUs" if torch.cuda.is_available() else "cores, by gloo"
    gain, ends = ratio_of(one, two)
    words = f"two {where}; an epoch takes {np.median(one):.3g} s with one, {np.median(two):.3g} s with two"
    yield Counted("speedup", gain, "after", "×", words, ends)


# --- averaged weights -------------------------------------------------------------------------------------------------


def _averaged(_params: Params) -> Iterable[Counted]:
    """Error on the points in between, of fits to noisy points with and without averaged weights, over starts."""
    x, _, y = generate_data()
    x = x / 10
    gains = []
    for seed in range(SEEDS):
        noise = 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        errors = {}
        for swa in (False, True):
            model = Siren(1, hidden=32, layers=2, seed=seed)
            fit(model, x[::2], (y + noise)[::2], epochs=100, batch_size=125, lr=2e-3, swa=swa, seed=seed, device="cpu")
            with torch.no_grad():
                errors[swa] = float((model(x[1::2]) - y[1::2]).square().mean())
        gains.append(10 * np.log10(errors[False] / errors[True]))
    mean, ends = interval_of(gains)
    words = "less error on unseen points, by start: " + ", ".join(f"{gain:.2f}" for gain in gains)
    yield Counted("gain", mean, "after", "dB", words, ends)


CASES = (
    Case(
        "dredge.batch",
        "texts lifted one by one and together",
        "torch",
        not_timed,
        values=_batches,
        values_grid=({"texts": TEXTS},),
        original=(Store.put, Store.put_many),
    ),
    Case(
        "dredge.int8",
        "inference of a network of sines in float32 and in 8 bits",
        "torch",
        _short,
        grid=({"width": 64}, {"width": 256}),
        variants=("before", "after"),
        original=(Siren,),
        budget=2.0,
        precision=0.01,
        processes=3,
    ),
    Case(
        "dredge.script",
        "the published basis, eager and through torch.jit.script",
        "torch",
        _scripted,
        grid=({"dims": 3},),
        variants=("before", "after"),
        original=(_RealBasis,),
        budget=1.5,
        precision=0.01,
        processes=3,
    ),
    Case(
        "dredge.distributed",
        "a training by one process and by two",
        "torch",
        not_timed,
        values=_distributed,
        values_grid=({"processes": 2},),
        original=(fit,),
        budget=100.0,
    ),
    Case(
        "dredge.swa",
        "averaged weights against the last ones",
        "torch",
        not_timed,
        values=_averaged,
        values_grid=({"noise": 0.05},),
        original=(fit,),
        budget=5.0,
    ),
)
