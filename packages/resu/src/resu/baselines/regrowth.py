"""Drop and grow: SET, RigL and SHADOW, which differ in what they grow by.

Every ΔT steps each layer drops the share f of its active weights with the smallest |w| and grows as many pruned ones,
which start at zero. The number of active weights of each layer never changes.
"""

from typing import Annotated, Literal

from pydantic import Field

from resu.baselines.method import Clock, Method, Share, sparse_start

__all__ = ["SET", "RigL", "RigLConfig", "SETConfig", "Shadow", "ShadowConfig"]


class SETConfig(Clock):
    """Settings of `SET`.

    Args:
        interval: ΔT, steps from one change to the next.
        end: share of the training after which masks stay.
        fraction: ζ, the share of a layer's active weights that is replaced.
        cosine: let ζ fall to 0 along half a cosine, as RigL does, instead of keeping it.
    """

    name: Literal["set"] = "set"
    fraction: Share = 0.3
    cosine: bool = False


class SET(Method[SETConfig]):
    """Sparse evolutionary training (Mocanu et al., 2018, arXiv:1707.04780).

    Drops the weights next to zero and grows at random, by the sparsifier's seed.
    """

    def _start(self) -> None:
        sparse_start(self.sparsifier)

    def after_step(self, step: int) -> None:
        """Drops and grows when it is time."""
        config = self.config
        if config.due(step, self.steps):
            fraction = config.annealed(config.fraction, step, self.steps) if config.cosine else config.fraction
            self.sparsifier.regrow(fraction, "random")


class RigLConfig(Clock):
    """Settings of `RigL`.

    Args:
        interval: ΔT, steps from one change to the next.
        end: T_end, the share of the training after which masks stay.
        fraction: α, the share of a layer's active weights that is replaced at first; it falls to 0 at T_end.
    """

    name: Literal["rigl"] = "rigl"
    fraction: Share = 0.3


class RigL(Method[RigLConfig]):
    """RigL (Evci, Gale, Menick, Castro, Elsen, *Rigging the Lottery*, 2020, arXiv:1911.11134).

    Drops α/2 (1 + cos(π t / T_end)) of the active weights and grows by |g|, the gradient of the batch at hand, in place
    of a weight step, as in the paper's algorithm 1.
    """

    def _start(self) -> None:
        sparse_start(self.sparsifier)

    def after_backward(self, step: int) -> bool:
        """Drops and grows when it is time; the optimizer then takes no step."""
        if not self.config.due(step, self.steps):
            return True
        self.sparsifier.regrow(self.config.annealed(self.config.fraction, step, self.steps), "gradient")
        return False


class ShadowConfig(Clock):
    """Settings of `Shadow`.

    Args:
        interval: ΔT, steps from one change to the next.
        end: T_end, the share of the training after which masks stay.
        fraction: α, the share of a layer's active weights that is replaced at first; it falls to 0 at T_end.
        beta: β, decay of the gradient's statistics.
        score: "consistency" is |m| C = m² / EMA |g|; "momentum" is |m| alone.
    """

    name: Literal["shadow"] = "shadow"
    fraction: Share = 0.3
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.98
    score: Literal["consistency", "momentum"] = "consistency"


class Shadow(Method[ShadowConfig]):
    """RigL's clock, growth by gradient statistics gathered between two changes instead of one batch's gradient.

    While weights train, the optimizer's moments of pruned coordinates are free. They hold m = EMA(g) and EMA(|g|), at
    no cost in memory, and growth takes the largest |m| C = m² / EMA(|g|): gradients that are large and keep their sign.
    Growth by the mean gradient is sparse momentum's (Dettmers & Zettlemoyer, 2019, arXiv:1907.04840); the consistency C
    is RESU-Selective's.
    """

    def _start(self) -> None:
        sparse_start(self.sparsifier)
        self.sparsifier.shadow(beta=self.config.beta)

    def after_step(self, step: int) -> None:
        """Drops and grows when it is time."""
        config = self.config
        if config.due(step, self.steps):
            self.sparsifier.regrow(config.annealed(config.fraction, step, self.steps), config.score)
