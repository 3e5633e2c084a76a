"""The toy targets: their forms against NumPy, their data, and that they learn."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn

from spd.errors import ConfigError, DataError
from spd.experiments.ih.model import InductionBatches, InductionTransformer
from spd.experiments.ih.train_ih import IHTrainConfig, train_ih
from spd.experiments.lm.model import SimpleLM
from spd.experiments.lm.text import ALPHABET, VOCAB_SIZE, Split, TextBatches, decoded, encoded, python_text
from spd.experiments.lm.train_text import TextTrainConfig, train_text
from spd.experiments.resid_mlp.model import ResidMLP, random_directions
from spd.experiments.resid_mlp.train_resid_mlp import (
    ResidMLPTrainConfig,
    folded_output,
    resid_mlp_loss,
    train_resid_mlp,
)
from spd.experiments.tms.model import TMSModel
from spd.experiments.tms.train_tms import TMSTrainConfig, train_tms

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("training", [False, True])
def test_superposition_is_the_formula_and_tied(layers: int, training: bool) -> None:
    model = TMSModel(5, 2, n_hidden_layers=layers, generator=torch.Generator().manual_seed(0)).train(training)
    x = torch.rand(7, 5)
    w, b = model.linear1.weight.detach().double().numpy(), model.linear2.bias.detach().double().numpy()
    expected = np.maximum(x.double().numpy() @ w.T @ w + b, 0)
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.linear1.weight.mul_(2)
    assert torch.equal(model.linear2.weight, model.linear1.weight.T)


def test_gradients_of_both_uses_reach_the_one_weight() -> None:
    model = TMSModel(5, 2, generator=torch.Generator().manual_seed(0)).train()
    w = model.linear1.weight.detach().clone().requires_grad_()
    x = torch.rand(7, 5)
    model(x).square().sum().backward()
    torch.relu(x @ w.T @ w + model.linear2.bias.detach()).square().sum().backward()
    torch.testing.assert_close(model.linear1.weight.grad, w.grad)


def test_five_features_in_two_dimensions_make_a_pentagon() -> None:
    model, error = train_tms(TMSTrainConfig(zero_bias=True, steps=2500))
    assert error < 0.002
    w = model.linear1.weight.detach()
    np.testing.assert_allclose(w.norm(dim=0).numpy(), 1.13, atol=0.03)
    angles = torch.rad2deg(torch.atan2(w[1], w[0])).sort().values
    np.testing.assert_allclose(angles.diff().numpy(), 72, atol=2)


def test_the_residual_network_is_the_formula() -> None:
    model = ResidMLP(6, 9, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(5, 6).double()
    e = model.W_E.numpy()
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1, rtol=1e-6)
    stream = x.numpy() @ e
    for layer in model.layers:
        w_in, w_out = layer.mlp_in.weight.detach().numpy(), layer.mlp_out.weight.detach().numpy()
        stream = stream + np.maximum(stream @ w_in.T, 0) @ w_out.T
    np.testing.assert_allclose(model(x).detach().numpy(), stream @ e.T, rtol=1e-9)
    np.testing.assert_allclose(folded_output(model, x).detach().numpy(), stream @ e.T, rtol=1e-9)
    assert ResidMLP.label(torch.tensor([-1.0, 2.0])).tolist() == [-1.0, 4.0]


def test_sizes_are_positive() -> None:
    with pytest.raises(ConfigError, match="got 0, 2 and 0"):
        TMSModel(0, 2)
    with pytest.raises(ConfigError, match="0 layers"):
        ResidMLP(3, 4, 5, 0)


def test_directions_are_the_ones_of_integers() -> None:
    bits = np.random.PCG64(7).random_raw(2 * 30 * 3).reshape(2, 30, 3).tolist()
    for row, found in zip(bits, random_directions(2, 30, 7).tolist(), strict=True):
        sums = [sum((word >> shift) % 65_536 for word in words for shift in (0, 16, 32, 48)) for words in row]
        centred = [2 * number - 12 * 65_535 for number in sums]
        length = math.sqrt(sum(number**2 for number in centred))
        assert found == [float(np.float32(number / length)) for number in centred]
    many = random_directions(200, 500, 0).double() * 500**0.5
    # Normal up to the fourth moment, which is 3 − 6 / (5 · 12) of a sum of twelve uniform numbers.
    assert abs(many.mean().item()) < 0.01
    assert (many**4).mean().item() == pytest.approx(2.9, abs=0.1)


def _causal(q: Array, k: Array, v: Array) -> Array:
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def _heads(x: Array, n: int) -> Array:
    return x.reshape(*x.shape[:2], n, -1).swapaxes(1, 2)


def _state(model: torch.nn.Module) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("last_only", [False, True])
def test_the_attention_layers_are_the_formula(last_only: bool) -> None:
    model = InductionTransformer(7, 8, 2, seq_len=6, last_only=last_only, generator=torch.Generator().manual_seed(0))
    w, tokens = _state(model), torch.randint(9, (3, 5))
    places = np.array(
        [[f(t / 10_000 ** (2 * i / 8)) for i in range(4) for f in (math.sin, math.cos)] for t in range(5)]
    )
    x = w["embed.weight"][tokens.numpy()]
    for i in range(2):
        q, k = ((x + places) @ w[f"layers.{i}.{name}_proj.weight"].T for name in "qk")
        mixed = _causal(*(_heads(part, 2) for part in (q, k, x @ w[f"layers.{i}.v_proj.weight"].T)))
        x = x + mixed.swapaxes(1, 2).reshape(3, 5, 8) @ w[f"layers.{i}.o_proj.weight"].T
    expected = (x[:, -1] if last_only else x) @ w["unembed.weight"].T
    np.testing.assert_allclose(model(tokens).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_language_model_is_the_formula() -> None:
    model = SimpleLM(11, 8, 2, 12, 2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    w, tokens = _state(model), torch.randint(11, (3, 5))

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

    def turned(x: Array) -> Array:
        pairs = x[..., :2] + 1j * x[..., 2:]
        angles = np.arange(5)[:, None] * np.array([1.0, 10_000**-0.5])
        spun = pairs * np.exp(1j * angles)
        return np.concatenate((spun.real, spun.imag), -1)

    x = w["wte.weight"][tokens.numpy()]
    for i in range(2):
        a = norm(x, f"h.{i}.rms_1")
        q, k, v = (_heads(a @ w[f"h.{i}.attn.{name}_proj.weight"].T, 2) for name in "qkv")
        x = x + _causal(turned(q), turned(k), v).swapaxes(1, 2).reshape(3, 5, 8) @ w[f"h.{i}.attn.o_proj.weight"].T
        m = norm(x, f"h.{i}.rms_2") @ w[f"h.{i}.mlp.c_fc.weight"].T
        x = x + m * (1 + scipy.special.erf(m / np.sqrt(2))) / 2 @ w[f"h.{i}.mlp.down_proj.weight"].T
    expected = norm(x, "rms_f") @ w["lm_head.weight"].T
    np.testing.assert_allclose(model(tokens).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_larger_language_model_can_be_made_for_measurements() -> None:
    model = SimpleLM(VOCAB_SIZE, 128, 4, 512, 2, generator=torch.Generator().manual_seed(0))
    assert model(TextBatches(1, 512).batch(0)).shape == (1, 512, VOCAB_SIZE)
    sites = [name for name, module in model.named_modules() if name.startswith("h.") and isinstance(module, nn.Linear)]
    assert len(sites) == 12
    assert sites[:6] == [f"h.0.{name}" for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj",
                                                    "mlp.c_fc", "mlp.down_proj")]  # fmt: skip


def test_characters_have_the_same_codes_everywhere() -> None:
    text = "".join(map(chr, range(32, 127))) + "\n"
    assert encoded(text).tolist() == [*range(1, 96), 0]
    assert encoded("é\t\u2026").tolist() == [96, 96, 96]
    assert decoded(encoded(text)) == text
    assert (ALPHABET[0], VOCAB_SIZE) == ("\n", 97)


def test_text_is_split_by_position_and_cut_anywhere() -> None:
    train, held_out = python_text("train"), python_text("held_out")
    assert len(train) == pytest.approx(9 * len(held_out), abs=9)
    ours: tuple[Split, Split] = ("train", "held_out")
    for split in ours:
        whole = decoded(python_text(split))
        places = [whole.find(decoded(row)) for row in TextBatches(6, 40, split=split, seed=1).batch(3)]
        assert min(places) >= 0
        assert len(set(places)) == 6
    with pytest.raises(DataError, match=r"got seq_len 10000000\."):
        TextBatches(1, 10_000_000)


def test_training_begins_to_learn() -> None:
    model, figures = train_ih(IHTrainConfig(vocab_size=4, d_model=8, seq_len=6, batch_size=128, steps=300, lr=1e-2))
    assert figures["accuracy"] > 0.5
    assert not model.training
    _, figures = train_text(TextTrainConfig(d_model=16, d_mlp=16, n_heads=2, n_layers=1, seq_len=32, steps=40, lr=1e-2))
    assert figures["bits_per_character"] < figures["unigram_bits"]
    config = ResidMLPTrainConfig(n_features=8, d_embed=32, d_mlp=8, feature_probability=0.1, batch_size=256, steps=200)
    network, figures = train_resid_mlp(config)
    started = ResidMLP(8, 32, 8, 1, embedding_seed=0, generator=torch.Generator().manual_seed(0))
    assert figures["loss"] < 0.3 * resid_mlp_loss(started, config)
    assert all(torch.equal(p, p.half().float()) for p in network.parameters())


def test_training_stops_when_it_answers() -> None:
    config = IHTrainConfig(vocab_size=4, d_model=8, seq_len=6, batch_size=64, steps=50, check_every=10, stop_at=0.0)
    assert train_ih(config)[1]["steps"] == 10


def test_networks_and_examples_are_big_enough() -> None:
    for sizes in ({"d_model": 7}, {"n_heads": 3}, {"vocab_size": 0}):
        with pytest.raises(ConfigError, match="d_model"):
            InductionTransformer(**sizes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_heads 3"):
        SimpleLM(5, 8, 3)
    with pytest.raises(DataError, match="at most 6 tokens; got 7"):
        InductionTransformer(4, 2, seq_len=6)(torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(DataError, match="prefix_window 0"):
        InductionBatches(prefix_window=0)
    with pytest.raises(DataError, match="seq_len 3"):
        InductionBatches(seq_len=3)
