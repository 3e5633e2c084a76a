"""AC/DC: sparse and dense phases by turns, so that every weight trains."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from resu.baselines.method import Method, MethodConfig, Share
from resu.core.phases import Phase

__all__ = ["ACDC", "ACDCConfig"]

_Part = Annotated[float, Field(ge=0, lt=1)]


class ACDCConfig(MethodConfig):
    """Settings of `ACDC`.

    Args:
        warmup: share of the training that is dense at the start.
        phase: share of the training that one sparse or one dense phase lasts.
        final: share of the training that is sparse at the end; also the least that it is.

    Raises:
        pydantic.ValidationError: a value out of range, an unknown field, or parts that exceed the training.
    """

    name: Literal["acdc"] = "acdc"
    warmup: _Part = 0.1
    phase: Share = 0.05
    final: Share = 0.25

    @model_validator(mode="after")
    def _fit_into_the_training(self) -> "ACDCConfig":
        if self.warmup + self.final > 1:
            raise ValueError(
                f"warm-up and final phase fit into the training; {self.warmup} and {self.final} add up to more than 1. "
                "Shorten one of them."
            )
        return self


class ACDC(Method[ACDCConfig]):
    """Alternating compressed/decompressed training (Peste, Iofinova, Vladu, Alistarh, 2021, arXiv:2106.12379).

    After a dense warm-up, compressed phases (the largest |w| of each layer, found at their start, train; the others are
    zero) and decompressed ones (all weights train, the pruned ones from zero) take turns; the training ends compressed.
    """

    def _start(self) -> None:
        config = self.config
        self._warm = round(config.warmup * self.steps)
        self._last = min(self.steps - round(config.final * self.steps), self.steps - 1)
        self._length = max(1, round(config.phase * self.steps))
        self._compressed = False

    def compressed_at(self, step: int) -> bool:
        """Whether a step belongs to a compressed phase."""
        if step < self._warm:
            return False
        return step >= self._last or (step - self._warm) // self._length % 2 == 0

    def before_step(self, step: int) -> None:
        """Compresses or decompresses where a phase begins."""
        wanted = self.compressed_at(step)
        if wanted and not self._compressed:
            if self.sparsifier.phase is Phase.JOINT:
                self.sparsifier.commit("open", sparsity=self.sparsifier.target)
            else:
                self.sparsifier.prune("magnitude")
        elif self._compressed and not wanted:
            self.sparsifier.joint()
        self._compressed = wanted

    def state_dict(self) -> dict[str, Any]:
        """Whether weights are compressed."""
        return {"compressed": self._compressed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a state.

        Args:
            state: from `state_dict`.

        Raises:
            CheckpointError: a state of another method.
        """
        super().load_state_dict(state)
        self._compressed = state["compressed"]
