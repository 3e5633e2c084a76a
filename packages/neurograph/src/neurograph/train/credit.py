"""Which gradient moves a node.

============  ======================================================================================================
rule          a node's gradient
============  ======================================================================================================
exact         of the classification loss, back through all levels
contrastive   of a loss of its own level alone: the level's read-out against a code per class, softmax, cross-entropy
cosine        the original's: of −cos(u, v), u the node's signal and v the true class's vector; no other class counts
============  ======================================================================================================

The two local rules send nothing back along edges: messages count as given. Inputs alone, which have no level of their
own, learn their phases from the nodes that listen to them. The cosine rule lacks the contrast with the
other classes: what makes u like v for one class makes it like v for all samples, unless the sum over a batch happens to
cancel. It is here to be compared with.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurograph.config import TrainConfig
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology
from neurograph.core.node_store import Leaves
from neurograph.encodings import hadamard_codes
from neurograph.errors import ConfigError
from neurograph.losses import NORM_FLOOR, classification_loss, cosine_logits
from neurograph.model import Model

__all__ = ["Credit", "Gradients", "Group", "LocalCredit", "credit_named", "exact_credit", "local_groups", "severed"]


class Gradients(NamedTuple):
    """A loss, and gradients per step of an index.

    Args:
        loss: the mean over the batch.
        phase: of phases.
        mag: of magnitudes.
    """

    loss: Float[Tensor, ""]
    phase: Float[Tensor, "N D"]
    mag: Float[Tensor, "N D"]


Credit = Callable[[Model, Float[Tensor, "B I"], Int[Tensor, " B"], TrainConfig], Gradients]
"""How gradients are found."""


def exact_credit(model: Model, x: Float[Tensor, "B I"], y: Int[Tensor, " B"], config: TrainConfig) -> Gradients:
    """The gradient of the classification loss through the whole network.

    Args:
        model: the network.
        x: samples.
        y: labels.
        config: for its label smoothing.

    Returns:
        Loss and gradients.
    """
    leaves = model.store.leaves()
    loss = classification_loss(model.logits(x, leaves), y, label_smoothing=config.label_smoothing)
    phase, mag = torch.autograd.grad(loss, leaves)
    return Gradients(loss.detach(), phase, mag)


@dataclass(frozen=True)
class Group:
    """Nodes that answer together in a local rule.

    Args:
        rows: their rows in the topology.
        codes: ±1, for each class and node.
    """

    rows: Int[Tensor, " n"]
    codes: Float[Tensor, "C n D"]


def local_groups(topology: Topology, codes: Float[Tensor, "C L"], seed: int = 0) -> list[Group]:
    """The nodes of each level above the inputs, with codes of their own, and the outputs with the network's.

    Args:
        topology: the graph.
        codes: of the classes for the read-out of all outputs.
        seed: of the levels' codes.

    Returns:
        One group a level, the outputs last.
    """
    dim = codes.shape[1] // len(topology.outputs)
    answered = torch.zeros(topology.n_nodes, dtype=torch.bool, device=topology.device)
    answered[topology.outputs] = True
    answered[topology.inputs] = True
    groups = []
    for number, rows in enumerate(topology.levels):
        own = rows[~answered[rows]]
        if number and len(own):
            drawn = hadamard_codes(len(codes), len(own) * dim, seed + number).to(codes)
            groups.append(Group(own, drawn.view(len(codes), len(own), dim)))
    return [*groups, Group(topology.outputs, codes.view(len(codes), -1, dim))]


def severed(engine: ForwardEngine) -> ForwardEngine:
    """The same engine, but each level takes its messages as given: no gradient flows through them, except to inputs.

    Args:
        engine: any.

    Returns:
        A copy that shares its parts.
    """
    local = copy.copy(engine)

    def cut(sum_of: Any) -> Any:
        # The first level is that of the inputs.
        return None if sum_of is None else lambda states: sum_of([states[0], *(state.detach() for state in states[1:])])

    local._sums = [cut(sum_of) for sum_of in engine._sums]
    radiation = engine.radiation
    if radiation is not None:

        def radiate(level: int, states: Tensor, done: Tensor, leaves: Leaves, inbox: Tensor) -> Tensor:
            given = Leaves(leaves.phase.detach(), leaves.mag.detach())
            return radiation(level, states.detach(), done, given, inbox)

        local.radiation = radiate
    return local


@dataclass
class LocalCredit:
    """A rule by which every node learns from its own level alone, and an input from its listeners' levels.

    With u a node's real parts, v_k its codes, B samples, for each group g of nodes::

        contrastive, by level   L_g = mean_b CE(softmax_k(s · cos(u_g, v_k,g)), y),  u_g all nodes side by side
        contrastive, by node    L_g = Σ_n mean_b CE(softmax_k(s · cos(u_n, v_k,n)), y)
        cosine                  L_g = −Σ_n mean_b cos(u_n, v_y,n)

    Args:
        rule: contrastive or cosine.
        scope: level or node: whose vector is compared, for the contrastive rule.
        outputs: the outputs' rule: "same", or "loss", the classification loss, which the original meant for them.
        seed: of the levels' codes.

    Raises:
        ConfigError: a rule or scope that does not exist.

    >>> from neurograph.config import Config
    >>> model = Model.build(Config(), seed=0)
    >>> x, y = torch.rand(5, 64), torch.arange(5)
    >>> LocalCredit("contrastive")(model, x, y, TrainConfig()).phase.shape
    torch.Size([586, 8])
    """

    rule: str = "contrastive"
    scope: str = "level"
    outputs: str = "same"
    seed: int = 0
    _prepared: tuple[Topology, Tensor, list[Group]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for value, known in (
            (self.rule, ("contrastive", "cosine")),
            (self.scope, ("level", "node")),
            (self.outputs, ("same", "loss")),
        ):
            if value not in known:
                raise ConfigError(f"a local rule's parts are {', '.join(known)}; got {value!r}. Choose one of them.")

    def groups(self, model: Model) -> list[Group]:
        """The groups of a network's nodes and their codes; made once for a graph.

        Args:
            model: the network.

        Returns:
            See :func:`local_groups`.
        """
        known = self._prepared
        if known is None or known[0] is not model.topology or known[1] is not model.codes:
            known = (model.topology, model.codes, local_groups(model.topology, model.codes, self.seed))
            self._prepared = known
        return known[2]

    def __call__(self, model: Model, x: Float[Tensor, "B I"], y: Int[Tensor, " B"], config: TrainConfig) -> Gradients:
        """Gradients of a batch.

        Args:
            model: the network.
            x: samples.
            y: labels.
            config: for its label smoothing.

        Returns:
            The classification loss of the outputs, and the rule's gradients per step of an index.
        """
        leaves = model.store.leaves()
        state = severed(model.engine)(x, leaves)
        groups = self.groups(model)
        total = torch.zeros((), dtype=state.planar.dtype, device=x.device)
        for group in groups:
            signals = state.planar[group.rows, :, 0]
            codes = group.codes.to(signals)
            if group is groups[-1] and self.outputs == "loss":
                total = total + self._contrast(signals, codes, y, model.scale, config, "level")
            elif self.rule == "cosine":
                total = total - _alignment(signals, codes, y)
            else:
                total = total + self._contrast(signals, codes, y, model.scale, config, self.scope)
        phase, mag = torch.autograd.grad(total, leaves)
        with torch.no_grad():
            logits = cosine_logits(state.readout, model.codes, model.scale)
            loss = classification_loss(logits, y, label_smoothing=config.label_smoothing)
        return Gradients(loss, phase, mag)

    def _contrast(
        self, signals: Tensor, codes: Tensor, y: Tensor, scale: float, config: TrainConfig, scope: str
    ) -> Tensor:
        if scope == "level":
            logits = cosine_logits(signals.transpose(0, 1).flatten(1), codes.flatten(1), scale)
            return classification_loss(logits, y, label_smoothing=config.label_smoothing)
        logits = scale * torch.einsum("nbd,cnd->bnc", _unit(signals), _unit(codes))
        n = len(signals)
        loss = classification_loss(logits.flatten(0, 1), y.repeat_interleave(n), label_smoothing=config.label_smoothing)
        return loss * n


def _alignment(signals: Tensor, codes: Tensor, y: Tensor) -> Tensor:
    """Σ_n mean_b cos(u_n, v_y,n)."""
    towards = _unit(codes)[y].transpose(0, 1)
    return (_unit(signals) * towards).sum(-1).mean(1).sum()


def _unit(vectors: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * torch.where(norms > NORM_FLOOR, 1 / norms.clamp_min(NORM_FLOOR), 0)


def credit_named(name: str, seed: int = 0) -> Credit:
    """The rule that settings name.

    Args:
        name: `TrainConfig.credit`.
        seed: of the levels' codes.

    Returns:
        For a trainer.

    Raises:
        ConfigError: a rule that does not exist.
    """
    if name == "exact":
        return exact_credit
    if name not in ("contrastive", "cosine"):
        raise ConfigError(f"credit is exact, contrastive or cosine; got {name!r}. Choose one of them.")
    return LocalCredit(name, seed=seed)
