"""Run by itself, from any directory, against the installed wheel: a small network learns, and only integers moved."""

import torch

from neurograph.config import load_config
from neurograph.model import Model
from neurograph.train.trainer import Trainer

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
x = torch.rand(256, 6, generator=generator)
y = (x[:, :3].sum(1) > x[:, 3:].sum(1)).long()
config = load_config("digits-small", ["graph.widths=[6, 24, 2]", "graph.cardinality=4", "train.epochs=12"])
model = Model.build(config, seed=0)
Trainer(model, config.train).fit(x, y)
right = (model.predict(x) == y).double().mean().item()
if right < 0.85:
    raise SystemExit(f"a network of integers should have learnt an easy rule; it is right on {right:.0%}")
if model.store.phase.dtype != torch.int16:
    raise SystemExit(f"what is trained is integers; found {model.store.phase.dtype}")
print(f"neurograph: learns an easy rule with {model.store.n_trainable} integers")
