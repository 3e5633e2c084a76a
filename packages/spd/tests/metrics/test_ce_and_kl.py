"""Cross-entropy and divergence of a two-layer language model against NumPy in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spd.config.evals import CEandKLLosses, StochasticReconSubsetCEAndKL
from spd.config.losses import StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import ConfigError
from spd.metrics.ce_and_kl import MASK_KINDS, CEAndKL, SubsetCEAndKL
from spd.metrics.measure import Found, Measure, Subject
from spd.models.masks import FOLDED
from spd.sampling import InjectedSampler, SourceSampler
from spd.training import build_model

VOCABULARY, WIDTH, C, ROWS, SEQ = 7, 4, 5, 3, 6


def _subject(sampler: SourceSampler, *, folded: bool = True, **changes: Any) -> Subject:
    torch.manual_seed(4)
    target = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)).double()
    settings: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=C) for name in "01"),
        "ci": MLPConfig(hidden_dims=(4,)), "output_loss_type": "kl", "loss_metrics": (StochasticReconLoss(coeff=1.0),),
        "lr_schedule": LrSchedule(start_val=1e-3), "steps": 1, "batch_size": ROWS,
        "perf": PerfConfig(site_backend="inline", reuse_prefix=True),
    }  # fmt: skip
    config = Config(**(settings | changes))
    model = build_model(target, config).double()
    generator = torch.Generator().manual_seed(8)
    tokens = torch.randint(VOCABULARY, (ROWS, SEQ), generator=generator)
    return Subject(model, config, tokens, sampler, FOLDED if folded else model.calc_weight_deltas())


def _measured(measure: Measure, subject: Subject, batches: list[torch.Tensor]) -> Found:
    with torch.no_grad():
        measure.begin(subject)
        for batch in batches:
            measure.update(subject.see(batch))
    return measure.finish(measure.sums)


class _ByHand:
    """The model in NumPy."""

    def __init__(self, subject: Subject, tokens: torch.Tensor) -> None:
        model = subject.model
        self.tokens = tokens.numpy()
        self.w = [model.target_weight(site).numpy() for site in "01"]
        self.b = model.components["1"].bias.numpy()  # type: ignore[union-attr]
        self.v = [model.components[site].V.detach().numpy() for site in "01"]
        self.u = [model.components[site].U.detach().numpy() for site in "01"]
        ci = subject.see(tokens).g
        self.g = [ci[site].numpy() for site in "01"]

    def logits(self, masks: Any = None, deltas: Any = (None, None)) -> Any:
        """Masks by site, None for the target's own layer; and masks of Δ."""
        masks = (None, None) if masks is None else masks
        x = self.w[0][self.tokens]
        if masks[0] is not None:
            x = (self.v[0][self.tokens] * masks[0]) @ self.u[0]
            if deltas[0] is not None:
                x = x + deltas[0][..., None] * (self.w[0] - self.v[0] @ self.u[0])[self.tokens]
        if masks[1] is None:
            return x @ self.w[1].T + self.b
        out = ((x @ self.v[1]) * masks[1]) @ self.u[1] + self.b
        if deltas[1] is not None:
            out = out + deltas[1][..., None] * (x @ (self.w[1] - (self.v[1] @ self.u[1]).T).T)
        return out

    @staticmethod
    def log_softmax(logits: Any) -> Any:
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def ce(self, logits: Any) -> float:
        """Over the batch laid out flat, the first position of each row being no label."""
        flat = self.log_softmax(logits).reshape(-1, VOCABULARY)
        terms = [-flat[i][self.tokens.reshape(-1)[i + 1]] for i in range(ROWS * SEQ - 1) if (i + 1) % SEQ]
        assert len(terms) == ROWS * (SEQ - 1)
        return float(np.mean(terms))

    def kl(self, logits: Any) -> float:
        p, q = self.log_softmax(self.logits()), self.log_softmax(logits)
        return float((np.exp(p) * (p - q)).sum(-1).mean())


def _draws(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.rand(shape, generator=generator).double() for shape in shapes]


@pytest.mark.parametrize("folded", [True, False])
def test_all_kinds_of_masks_by_hand(folded: bool) -> None:
    many, few = (ROWS, SEQ, C), (ROWS, SEQ)
    draws = _draws([many, few, many, few, many, many])
    subject = _subject(InjectedSampler(draws), folded=folded)
    threshold = 0.3
    found = _measured(CEAndKL("X", CEandKLLosses(rounding_threshold=threshold)), subject, [subject.example]).numbers

    hand = _ByHand(subject, subject.example)
    r0, d0, r1, d1, u0, u1 = (draw.numpy() for draw in draws)
    g = hand.g
    assert 0 < np.mean(g[0] > threshold) < 1
    logits = {
        "ci": hand.logits(g),
        "unmasked": hand.logits((np.ones(C), np.ones(C))),
        "stochastic": hand.logits((g[0] + (1 - g[0]) * r0, g[1] + (1 - g[1]) * r1), (d0, d1)),
        "random": hand.logits((u0, u1)),
        "rounded": hand.logits((g[0] > threshold, g[1] > threshold)),
        "zero": hand.logits((np.zeros(C), np.zeros(C))),
    }
    target, zero = hand.ce(hand.logits()), hand.ce(logits["zero"])
    assert set(logits) == set(MASK_KINDS)
    assert found["X/ce_target"] == pytest.approx(target, rel=1e-5)
    for kind, at in logits.items():
        assert found[f"X/kl_{kind}"] == pytest.approx(hand.kl(at), rel=1e-5, abs=1e-7), kind
        difference = hand.ce(at) - target
        assert found[f"X/ce_difference_{kind}"] == pytest.approx(difference, rel=1e-4, abs=1e-6), kind
        assert found[f"X/ce_unrecovered_{kind}"] == pytest.approx(difference / (zero - target), rel=1e-4), kind
    assert len(found) == 1 + 3 * 6


def test_sums_of_several_batches_meet_before_they_are_divided() -> None:
    subject = _subject(SourceSampler(0))
    batches = [subject.example, subject.example.flip(0, 1)]
    found = _measured(CEAndKL("X", CEandKLLosses()), subject, batches).numbers
    hands = [_ByHand(subject, batch) for batch in batches]
    ce = [np.mean([hand.ce(hand.logits(masks(hand))) for hand in hands]) for masks in (
        lambda hand: None, lambda hand: hand.g, lambda hand: (np.zeros(C), np.zeros(C)),
    )]  # fmt: skip
    assert found["X/ce_unrecovered_ci"] == pytest.approx((ce[1] - ce[0]) / (ce[2] - ce[0]), rel=1e-4)


def test_subsets_by_hand() -> None:
    many, few = (ROWS, SEQ, C), (ROWS, SEQ)
    draws = _draws([many, few] * 4)
    subject = _subject(InjectedSampler(draws))
    config = StochasticReconSubsetCEAndKL(
        include_patterns={"embedding": ("0",)}, exclude_patterns={"not it": ("0",)}, n_mask_samples=2
    )
    found = _measured(SubsetCEAndKL("S", config), subject, [subject.example])
    hand = _ByHand(subject, subject.example)
    g, parts = hand.g, [draw.numpy() for draw in draws]
    passes: dict[str, list[Any]] = {"embedding": [], "not it": []}
    for sample in range(2):
        r, d = parts[2 * sample : 2 * sample + 2]
        passes["embedding"].append(hand.logits((g[0] + (1 - g[0]) * r, None), (d, None)))
        r, d = parts[4 + 2 * sample : 6 + 2 * sample]
        passes["not it"].append(hand.logits((None, g[1] + (1 - g[1]) * r), (None, d)))
    target, zero = hand.ce(hand.logits()), hand.ce(hand.logits((np.zeros(C), np.zeros(C))))
    want: dict[str, dict[str, float]] = {}
    for subset, all_logits in passes.items():
        difference = float(np.mean([hand.ce(logits) for logits in all_logits])) - target
        want[subset] = {
            "kl": float(np.mean([hand.kl(logits) for logits in all_logits])),
            "ce_difference": difference,
            "ce_unrecovered": difference / (zero - target),
        }
        for what, value in want[subset].items():
            assert found.numbers[f"S/{subset}/{what}"] == pytest.approx(value, rel=1e-4), (subset, what)
    for what in ("kl", "ce_difference", "ce_unrecovered"):
        worst = max(want, key=lambda subset: want[subset][what])
        assert found.labels[f"S/worst/{what}"] == worst
        assert found.numbers[f"S/worst/{what}"] == found.numbers[f"S/{worst}/{what}"]


def test_what_is_refused() -> None:
    subject = _subject(SourceSampler(0))
    with pytest.raises(ConfigError, match="got none"):
        SubsetCEAndKL("S", StochasticReconSubsetCEAndKL())
    with pytest.raises(ConfigError, match="got 'a' twice"):
        SubsetCEAndKL("S", StochasticReconSubsetCEAndKL(include_patterns={"a": ("0",)}, exclude_patterns={"a": ("1",)}))
    with pytest.raises(ConfigError, match="'a' has none of 0, 1"):
        SubsetCEAndKL("S", StochasticReconSubsetCEAndKL(exclude_patterns={"a": ("*",)})).begin(subject)
    squares = _subject(SourceSampler(0), output_loss_type="mse")
    with pytest.raises(ConfigError, match="output_loss_type is 'mse'"):
        CEAndKL("X", CEandKLLosses()).begin(squares)
    subject.example = torch.rand(2, 3)
    with pytest.raises(ConfigError, match=r"torch\.float32 of shape \(2, 3\)"):
        CEAndKL("X", CEandKLLosses()).begin(subject)
