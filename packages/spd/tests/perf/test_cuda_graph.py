"""A recorded step: what it is refused with, and on a GPU, that it does what the step does."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spd.config.perf import PerfConfig
from spd.errors import ConfigError
from spd.perf.cuda_graph import refuse_what_cannot_be_recorded

FIT = {"cuda_graph": True, "skip_range_checks": True, "optimizer": "fused", "lazy_metrics": True}
NOTHING: dict[str, Any] = {"accumulates": False, "changes": False, "keeps_sources": False, "ranks": 1}


def test_there_is_none_on_a_cpu(small: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="got a device 'cpu'; use CUDA"):
        small.trainer_of("tms", PerfConfig(**FIT))


@pytest.mark.parametrize(
    ("perf", "facts", "message"),
    [
        ({"row_dedup": True}, {}, "row_dedup"),
        ({"skip_range_checks": False}, {}, "set skip_range_checks"),
        ({"optimizer": "foreach"}, {}, "use 'fused'"),
        ({"amp": "fp16"}, {}, "use 'bf16'"),
        ({"compile_mode": "reduce-overhead"}, {}, "use 'default'"),
        ({}, {"accumulates": True}, "gradient_accumulation_steps"),
        ({}, {"changes": True}, "p_anneal_final_p"),
        ({}, {"keeps_sources": True}, "PersistentPGDReconLoss"),
        ({}, {"ranks": 2}, "2 processes"),
    ],
)
def test_what_a_recording_cannot_follow_is_refused(perf: Any, facts: Any, message: str) -> None:
    refuse_what_cannot_be_recorded(PerfConfig(**FIT), "cuda", **NOTHING)
    with pytest.raises(ConfigError, match=message):
        refuse_what_cannot_be_recorded(PerfConfig(**(FIT | perf)), "cuda", **(NOTHING | facts))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_replayed_step_is_the_step(small: SimpleNamespace, compiled: bool) -> None:
    from spd.sampling import SourceSampler
    from spd.training import Trainer, build_model

    trainers = []
    for graph in (False, True):
        perf = PerfConfig(**(FIT | {"cuda_graph": graph, "site_backend": "inline", "compile_step": compiled}))
        config = small.config_of("tms", perf)
        torch.manual_seed(5)
        trainers.append(Trainer(build_model(small.TASKS["tms"][0]().cuda(), config), config, SourceSampler(3, "cuda")))
    for index in range(8):
        batch = small.batch_of("tms", index).cuda()
        one, two = (trainer.step(iter([batch])) for trainer in trainers)
        for name, value in one.losses.items():
            assert two.losses[name].item() == pytest.approx(value.item(), rel=1e-4), (index, name)
    assert trainers[1]._recorded[1].recorded
    for a, b in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
