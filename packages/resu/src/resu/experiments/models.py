"""The two networks of the accuracy table, small enough for a processor core.

Weights start normal with variance 2 / fan-in (He et al., 2015, arXiv:1502.01852), biases at zero. What a sparse layer
needs on top of that is the business of the method that makes it sparse, see `resu.baselines.method.sparse_start`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from resu.experiments.data import CONTEXT, Part, TaskData

__all__ = ["CharacterModel", "build_model", "mlp", "score"]

_EMBEDDING = 16
_CHUNK = 8192


def mlp(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        sizes: inputs, hidden units of each layer, outputs.
        generator: of the weights.

    Returns:
        The network.

    >>> [tuple(p.shape) for p in mlp((4, 3, 2), torch.Generator().manual_seed(0)).parameters()]
    [(3, 4), (3,), (2, 3), (2,)]
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        linear = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            linear.weight.normal_(0.0, math.sqrt(2 / n_in), generator=generator)
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class CharacterModel(nn.Module):
    """The next character from the twelve before: a fixed random embedding and an MLP 192-384-384-V.

    Args:
        alphabet: V, characters of the alphabet.
        generator: of embedding and weights.

    >>> model = CharacterModel(5, torch.Generator().manual_seed(0))
    >>> model(torch.zeros(2, 12, dtype=torch.int64)).shape
    torch.Size([2, 5])
    """

    embedding: Tensor

    def __init__(self, alphabet: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("embedding", torch.randn(alphabet, _EMBEDDING, generator=generator))
        self.layers = mlp((CONTEXT * _EMBEDDING, 384, 384, alphabet), generator)

    def forward(self, codes: Int[Tensor, "batch context"]) -> Float[Tensor, "batch alphabet"]:
        """Logits of the next character."""
        return self.layers(self.embedding[codes].flatten(1))


def build_model(data: TaskData, seed: int) -> nn.Module:
    """The network of a task: MLP 64-300-100-10 for digits, `CharacterModel` for characters.

    Args:
        data: the task.
        seed: of all weights.

    Returns:
        The network.
    """
    generator = torch.Generator().manual_seed(seed)
    if data.name == "digits":
        return mlp((64, 300, 100, data.classes), generator)
    return CharacterModel(data.classes, generator)


@torch.inference_mode()
def score(model: nn.Module, data: TaskData, part: Part) -> float:
    """How good a network is.

    Args:
        model: the network.
        data: the task.
        part: what to score on.

    Returns:
        Accuracy in per cent for digits (larger is better), bits per character for characters (smaller is better).
    """
    right, nats = 0, 0.0
    for start in range(0, len(part), _CHUNK):
        targets = part.targets[start : start + _CHUNK]
        logits = model(part.inputs[start : start + _CHUNK])
        right += int((logits.argmax(1) == targets).sum())
        nats += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return 100 * right / len(part) if data.name == "digits" else nats / len(part) / math.log(2)
