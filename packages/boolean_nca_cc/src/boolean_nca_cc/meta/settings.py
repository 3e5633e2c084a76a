"""Settings of a rule and of its training: frozen, and refused when they are built rather than when they are used."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

__all__ = ["DamageConfig", "MetaConfig", "PoolConfig", "RuleConfig"]

_Fraction = Annotated[float, Field(ge=0, le=1)]
_TwoOrMore = Annotated[int, Field(ge=2)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleConfig(_Settings):
    """Which rule, and its sizes.

    Args:
        kind: "attention" or "gnn".
        hidden: channels that a gate remembers, at least two: they are normalised together, which leaves nothing of one.
        width: channels of a node's representation, at least two for the same reason.
        heads: attention heads; they divide the width.
        depth: blocks of attention or rounds of messages in a step, one hop along the wires each.
        aggregate: how the messages of a "gnn" are put together.

    Raises:
        ValidationError: a number out of range, or heads that do not divide the width.

    >>> RuleConfig(kind="gnn").width
    64
    """

    kind: Literal["attention", "gnn"] = "attention"
    hidden: _TwoOrMore = 16
    width: _TwoOrMore = 64
    heads: PositiveInt = 4
    depth: PositiveInt = 1
    aggregate: Literal["sum", "attention"] = "sum"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "RuleConfig":
        if self.kind == "attention" and self.width % self.heads:
            raise ValueError(
                f"heads must divide the width; there are {self.heads} heads for a width of {self.width}. "
                f"Use a width of {self.width + self.heads - self.width % self.heads}."
            )
        return self


class PoolConfig(_Settings):
    """The circuits that a rule is trained on.

    Args:
        size: circuits in the pool.
        wiring: "fixed" is one wiring for all, "random" one each.
        reset: fraction of the pool that is replaced every epoch by fresh circuits.
        reset_by: who is replaced: anybody ("uniform"), or with a probability that grows with the steps since the last
            replacement ("steps"), with the loss ("loss"), or with half of each ("mixed").
        genetic: wires of a fresh circuit are those of a random member with this many pairs swapped in each layer; 0
            draws them anew. Only with random wiring.

    Raises:
        ValidationError: a number out of range, or swapped wires where there is one wiring for all.

    >>> PoolConfig().reset_by
    'uniform'
    """

    size: PositiveInt = 64
    wiring: Literal["fixed", "random"] = "fixed"
    reset: _Fraction = 0.03
    reset_by: Literal["uniform", "steps", "loss", "mixed"] = "uniform"
    genetic: NonNegativeInt = 0

    @model_validator(mode="after")
    def _only_own_wires_change(self) -> "PoolConfig":
        if self.genetic and self.wiring == "fixed":
            raise ValueError(
                f"wires can be swapped where each circuit has its own; genetic is {self.genetic} and wiring is 'fixed'."
                " Use wiring='random', or genetic=0."
            )
        return self


class DamageConfig(_Settings):
    """What happens to the circuits of the pool.

    Args:
        dead: gates that an event kills; 0 turns damage off.
        fraction: of the pool that is struck every epoch, the better a circuit works the more likely.
        kind: "permanent" kills the gates: they say 0 and cannot change. "reversible" sets all entries of their tables
            to 0 (logits of -10), and "seu" flips one entry of each; these gates stay alive, and the rule may mend them.
        vocabulary: patterns to draw from; 0 draws each anew.

    Raises:
        ValidationError: a number out of range.

    >>> DamageConfig(dead=8).kind
    'permanent'
    """

    dead: NonNegativeInt = 0
    fraction: _Fraction = 0.03
    kind: Literal["permanent", "reversible", "seu"] = "permanent"
    vocabulary: NonNegativeInt = 0


class MetaConfig(_Settings):
    """How a rule is trained.

    Args:
        rule: the rule.
        pool: the circuits.
        damage: what happens to them.
        epochs: updates of the rule's weights.
        batch: circuits of the pool that take part in an update.
        steps: steps of the rule between two updates; the gradient runs through all.
        loss: "l4" or "bce", a mean over cases and output bits.
        loss_step: after which step the loss is taken: the "last", a "random" one of the second half, or "beta": drawn
            from Beta(a, b) over all but the first, with a growing from 0.1 to 10 and b falling from 10 to 0.1, early
            ones at first and late ones in the end.
        learning_rate: highest; a fiftieth of the epochs to warm up, then a cosine down to a tenth.
        weight_decay: of AdamW.
        evaluate_every: epochs between two evaluations, and between two checkpoints.
        target: hard accuracy, after configuration and after repair, that is enough.
        patience: evaluations in a row that must reach it; training ends then.
        seed: of everything random.

    Raises:
        ValidationError: a number out of range, or a batch beyond the pool.

    >>> MetaConfig(batch=4).steps
    5
    """

    rule: RuleConfig = RuleConfig()
    pool: PoolConfig = PoolConfig()
    damage: DamageConfig = DamageConfig()
    epochs: PositiveInt = 1024
    batch: PositiveInt = 8
    steps: PositiveInt = 5
    loss: Literal["l4", "bce"] = "bce"
    loss_step: Literal["last", "random", "beta"] = "random"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    evaluate_every: PositiveInt = 128
    target: _Fraction = 0.995
    patience: PositiveInt = 3
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _a_batch_fits_the_pool(self) -> "MetaConfig":
        if self.batch > self.pool.size:
            raise ValueError(
                f"a batch is drawn from the pool without replacement; it has {self.batch} circuits and the pool "
                f"{self.pool.size}. Use a larger pool or a smaller batch."
            )
        return self
