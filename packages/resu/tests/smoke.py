"""Run by itself, from any directory, against the installed wheel: trains, prunes, resurrects, commits, saves."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from resu.export.weights import read_weights, save_weights
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4))
x = torch.randn(256, 32)
y = x[:, :4].argmax(1)
optimizer = MaskedAdamW(model.parameters(), lr=1e-2, backend="eager")
sparsifier = Sparsifier(model, 0.9, optimizer=optimizer)


def train(steps: int) -> float:
    """Some steps; the loss of the last."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def check(holds: bool, words: str) -> None:
    """Stops where something does not hold."""
    if not holds:
        raise SystemExit(f"resu: {words}")


first = train(50)
sparsifier.prune("magnitude")
weight, mask = model[0].weight.detach(), sparsifier.parameters["0.weight"].mask
total = sum(sparse.mask.numel for sparse in sparsifier.parameters.values())
kept = sum(sparse.mask.n_active for sparse in sparsifier.parameters.values())
check(kept == total - round(0.9 * total), f"a tenth of {total} weights should be active; {kept} are")
before = train(100)
frozen = weight[mask.to_bool()].clone()
sparsifier.enter_resu()
train(20)
check(torch.equal(weight[mask.to_bool()], frozen), "active weights moved in RESU")
moved = int((weight[~mask.to_bool()] != 0).sum())
check(moved >= 0.99 * mask.n_pruned, f"θ should train; {moved} of {mask.n_pruned} pruned weights moved")
report = sparsifier.commit("amnesty", budget=0.2)
check(report.resurrected > 0, "nothing came back")
check(report.n_active == kept, f"{kept} weights were active and {report.n_active} are")
after = train(100)
check(after < before, f"the loss should fall; it was {before:.4f} and is {after:.4f}")
with tempfile.TemporaryDirectory() as folder:
    saved = read_weights(save_weights(Path(folder) / "weights.safetensors", model))
check(saved.masks["0.weight"] == mask, "the saved mask is another one")
print(f"resu: {kept} of {total} weights active, {report.resurrected} came back, loss {before:.3f} → {after:.3f}")
