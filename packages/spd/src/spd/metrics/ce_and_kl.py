"""How well a decomposed language model still predicts: cross-entropy and divergence under masks of several kinds.

The cross-entropy is that of the next token; the first token of a row has nothing before it and is nobody's label. With
CE of the target and CE_zero where every component is ablated,

    ce_difference = CE − CE_target,    ce_unrecovered = (CE − CE_target) / (CE_zero − CE_target),

so that 0 is as good as the target and 1 as bad as nothing at all.
"""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from spd.config.evals import CEandKLLosses, StochasticReconSubsetCEAndKL
from spd.errors import ConfigError
from spd.metrics.measure import Found, Measure, Seen, Subject, mean_of
from spd.metrics.output_loss import SumAndCount, output_loss
from spd.models.masks import ComponentsMaskInfo, make_mask_infos, stochastic_mask_infos

__all__ = ["MASK_KINDS", "CEAndKL", "SubsetCEAndKL", "mask_infos_by_kind", "next_token_ce"]

MASK_KINDS = ("ci", "unmasked", "stochastic", "random", "rounded", "zero")
"""Kinds of masks: g; 1; g + (1 − g) r with Δ; U(0, 1); 1 where g is above a threshold and else 0; 0."""


def next_token_ce(logits: Float[Tensor, "rows seq vocabulary"], tokens: Int64[Tensor, "rows seq"]) -> SumAndCount:
    """Σ −log softmax(logits)[next token], over all positions but the last of each row.

    In the batch laid out flat the label of a row's last position would be the next row's first token, which is left
    out.

    Args:
        logits: a model's output.
        tokens: its input.

    Returns:
        The sum, and the number of labels.

    >>> next_token_ce(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64)).mean.exp().item()
    8.0
    """
    labels = tokens[:, 1:].flatten()
    total = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels, reduction="sum")
    return SumAndCount(total, labels.numel())


def mask_infos_by_kind(
    seen: Seen, rounding_threshold: float | int
) -> dict[str, Callable[[], dict[str, ComponentsMaskInfo]]]:
    """Masks of each of `MASK_KINDS`, made when they are asked for. Δ takes part in the stochastic ones only.

    Args:
        seen: a batch.
        rounding_threshold: of "rounded", strict.

    Returns:
        By kind.
    """
    g, subject = seen.g, seen.subject

    def of(each: Callable[[Tensor], Tensor]) -> Callable[[], dict[str, ComponentsMaskInfo]]:
        return lambda: make_mask_infos({name: each(importance) for name, importance in g.items()})

    return {
        "ci": lambda: make_mask_infos(g),
        "unmasked": lambda: make_mask_infos(dict.fromkeys(g)),
        "stochastic": lambda: stochastic_mask_infos(g, subject.sampler, subject.config.sampling, subject.deltas),
        "random": of(lambda importance: subject.sampler.uniform(importance.shape).to(importance.dtype)),
        "rounded": of(lambda importance: (importance > rounding_threshold).to(importance.dtype)),
        "zero": of(torch.zeros_like),
    }


class _NextToken(Measure):
    """What reads logits over tokens."""

    def begin(self, subject: Subject) -> None:
        if subject.config.output_loss_type != "kl":
            raise ConfigError(
                f"{self.name} reads logits, which a network compared by 'kl' gives; output_loss_type is "
                f"{subject.config.output_loss_type!r}. Leave it out of eval_metrics."
            )
        if subject.example.is_floating_point() or subject.example.dim() != 2:
            raise ConfigError(
                f"{self.name} predicts the next token of a row; a batch here is {subject.example.dtype} of shape "
                f"{tuple(subject.example.shape)}. Give rows of tokens, or leave it out of eval_metrics."
            )

    def add_pass(self, key: str, seen: Seen, output: Float[Tensor, "..."]) -> None:
        """Adds the cross-entropy and the divergence of one pass."""
        self.add_mean(f"ce {key}", next_token_ce(output, seen.run.batch))
        self.add_mean(f"kl {key}", output_loss(output, seen.run.output, "kl"))

    def add_target(self, seen: Seen) -> None:
        """Adds the target's cross-entropy."""
        self.add_mean("ce target", next_token_ce(seen.run.output, seen.run.batch))

    @staticmethod
    def judged(sums: Mapping[str, Tensor], key: str) -> Iterator[tuple[str, float]]:
        """The three figures of one kind of pass."""
        target, zero, ce = (mean_of(sums, f"ce {which}") for which in ("target", "zero", key))
        yield "kl", mean_of(sums, f"kl {key}")
        yield "ce_difference", ce - target
        yield "ce_unrecovered", (ce - target) / (zero - target) if zero != target else float("nan")


class CEAndKL(_NextToken):
    """Both under masks of every kind; see the module.

    Args:
        name: what its numbers begin with.
        config: the threshold of rounding.
    """

    def __init__(self, name: str, config: CEandKLLosses) -> None:
        super().__init__(name)
        self.config = config

    def update(self, seen: Seen) -> None:
        """Adds a batch."""
        self.add_target(seen)
        for kind, infos in mask_infos_by_kind(seen, self.config.rounding_threshold).items():
            self.add_pass(kind, seen, seen.masked_output(infos()))

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Figures by kind."""
        numbers = {f"{self.name}/ce_target": mean_of(sums, "ce target")}
        for kind in MASK_KINDS:
            for what, value in self.judged(sums, kind):
                numbers[f"{self.name}/{what}_{kind}"] = value
        return Found(numbers)


class SubsetCEAndKL(_NextToken):
    """Both with stochastic masks at some sites and all others as in the target, and the worst of these subsets.

    Args:
        name: what its numbers begin with.
        config: the subsets.

    Raises:
        ConfigError: no subset, or two of one name.
    """

    def __init__(self, name: str, config: StochasticReconSubsetCEAndKL) -> None:
        super().__init__(name)
        both = sorted(set(config.include_patterns) & set(config.exclude_patterns))
        if both or not (config.include_patterns or config.exclude_patterns):
            raise ConfigError(
                f"{name} has subsets, each with a name of its own; got "
                f"{f'{both[0]!r} twice' if both else 'none'}. Name each in include_patterns or in exclude_patterns."
            )
        self.config = config
        self._subsets: dict[str, list[str]] = {}

    def begin(self, subject: Subject) -> None:
        """Finds the subsets' sites."""
        super().begin(subject)
        paths = subject.model.target_module_paths
        for patterns, wanted in ((self.config.include_patterns, True), (self.config.exclude_patterns, False)):
            for subset, globs in patterns.items():
                sites = [path for path in paths if any(fnmatchcase(path, glob) for glob in globs) == wanted]
                if not sites:
                    raise ConfigError(
                        f"a subset of {self.name} has at least one site; {subset!r} has none of {', '.join(paths)}. "
                        "Correct its patterns."
                    )
                self._subsets[subset] = sites

    def update(self, seen: Seen) -> None:
        """Adds a batch."""
        self.add_target(seen)
        subject = seen.subject
        zeros = make_mask_infos({name: torch.zeros_like(g) for name, g in seen.g.items()})
        self.add_mean("ce zero", next_token_ce(seen.masked_output(zeros), seen.run.batch))
        for subset, sites in self._subsets.items():
            some = {site: seen.g[site] for site in sites}
            for _ in range(self.config.n_mask_samples):
                infos = stochastic_mask_infos(some, subject.sampler, subject.config.sampling, subject.deltas)
                self.add_pass(f"of {subset}", seen, seen.masked_output(infos))

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Figures by subset, and the worst of each."""
        numbers: dict[str, float] = {}
        worst: dict[str, tuple[float, str]] = {}
        for subset in self._subsets:
            for what, value in self.judged(sums, f"of {subset}"):
                numbers[f"{self.name}/{subset}/{what}"] = value
                if what not in worst or value > worst[what][0]:
                    worst[what] = (value, subset)
        labels = {}
        for what, (value, subset) in worst.items():
            numbers[f"{self.name}/worst/{what}"] = value
            labels[f"{self.name}/worst/{what}"] = subset
        return Found(numbers, labels=labels)
