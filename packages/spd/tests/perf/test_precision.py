"""Mixed precision: what runs in 16 bits, what does not, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from spd.config.perf import PRESETS, PerfConfig
from spd.errors import ConfigError
from spd.perf.precision import Precision


def test_half_precision_needs_cuda(small: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="amp='fp16' scales gradients on a CUDA device; this one is cpu"):
        small.trainer_of("lm", PerfConfig(amp="fp16"))


def test_squared_errors_are_refused(small: SimpleNamespace) -> None:
    with pytest.raises(ValidationError, match="squared errors"):
        small.config_of("tms", PerfConfig(amp="bf16"))


@pytest.mark.parametrize("preset", ["none", "all"])
def test_faithfulness_stays_exact_and_divergences_nearly_so(small: SimpleNamespace, preset: str) -> None:
    found = []
    for amp in ("off", "bf16"):
        trainer = small.trainer_of("lm", PRESETS[preset].model_copy(update={"amp": amp}))
        result = trainer.step(iter([small.batch_of("lm")]))
        found.append(result.losses)
        assert all(value.dtype == torch.float32 for value in result.losses.values())
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    full, reduced = found
    assert reduced["FaithfulnessLoss"].item() == pytest.approx(full["FaithfulnessLoss"].item(), rel=1e-6)
    for name, value in full.items():
        assert reduced[name].item() == pytest.approx(value.item(), rel=5e-2), name
    assert reduced["CIMaskedReconLoss"].item() != full["CIMaskedReconLoss"].item()


def test_nothing_changes_where_it_is_off() -> None:
    precision = Precision("off", "cpu")
    with precision.reduced(), precision.full():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert precision.scaler is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="gradients are scaled on a CUDA device only")
def test_scaled_gradients_are_clipped_as_they_are(small: SimpleNamespace) -> None:
    from spd.sampling import SourceSampler
    from spd.training import Trainer, build_model

    config = small.config_of("lm", PerfConfig(amp="fp16", optimizer="fused"), grad_clip_norm_components=1e-3)
    torch.manual_seed(5)
    trainer = Trainer(build_model(small.TASKS["lm"][0]().cuda(), config), config, SourceSampler(3, "cuda"))
    trainer.step(iter([small.batch_of("lm").cuda()]))
    gradients = [p.grad for p in trainer.model._components.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-3, rel=1e-2)
