"""Sparse training of any model, with no module swapped: masks, phases, commits.

A `Sparsifier` puts a mask on each weight that it is given (`resu.core.phases`), tells a masked or attached optimizer
who may be written, and moves coordinates between the active and the pruned set. θ, what pruned weights are resurrected
from, lives in their slots of W; so the model's forward pass is a dense one in every phase.

Everything that changes a mask walks over the weight by slices of rows and writes as it goes: no transition needs a
second mask, an index vector or a copy of the weight.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from resu.core.amnesty import places
from resu.core.mask import SparseMask, check_sparsity
from resu.core.phases import Phase, SparseParameter, local, release, sparsify
from resu.core.ranks import Number as _Number
from resu.core.ranks import sum_over_ranks
from resu.core.reports import CommitReport, LayerReport, SparsityOptimizer
from resu.core.scores import named_score
from resu.core.select import Candidate, Score, Selection, plan_top
from resu.core.starting import random_score, start_theta
from resu.core.targets import check_optimizer, choose_parameters
from resu.distributed import shard_group
from resu.distribution import Distribution, active_counts, proportional_counts, total_active
from resu.errors import CheckpointError, ConfigError, MaskError, PhaseError
from resu.mask_changes import Flags, change_masks, either, rows_of

__all__ = ["ScoreName", "Sparsifier"]

ScoreName = Literal["magnitude", "momentum", "consistency", "gradient", "movement", "random"]
ScoreMaker = Callable[[str, SparseParameter], Score]


class Sparsifier:
    """Masks over a model's weights, and the phases of their training.

    Weights of linear, convolution and embedding layers take part, and any parameter that `include` names. Parameters
    that several modules share take part once. Everything is active until `prune` is called.

    Args:
        model: the model; its modules and parameters stay the same objects.
        sparsity: share of pruned weights over all that take part, in [0, 1).
        distribution: how the sparsity is spread over layers: "erk" (Erdős–Rényi kernel: Evci et al., *Rigging the
            Lottery*, 2020, arXiv:1911.11134), "uniform", or "global" (one tournament over all layers).
        include: patterns of parameter names to add, such as "*.in_proj_weight".
        exclude: patterns of parameter names to leave out, such as "head.*".
        optimizer: a `MaskedAdamW`, a `MaskedSGD`, or what `attach` returned; None where moments play no part.
        seed: of random masks, random subsets and noise.
        group: ranks that hold the other rows of sharded weights; None finds them.

    Raises:
        MaskError: a sparsity outside [0, 1), or a weight that has a mask already.
        ConfigError: no weight takes part.
        OptimizerError: an optimizer of another kind, or one that does not hold every weight.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> sparsifier = Sparsifier(model, 0.75, distribution="uniform")
    >>> sparsifier.prune().n_active, sparsifier.sparsity
    (48, 0.75)
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float = 0.9,
        *,
        distribution: Distribution = "erk",
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        optimizer: SparsityOptimizer | torch.optim.Optimizer | None = None,
        seed: int = 0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        check_sparsity(sparsity)
        chosen = choose_parameters(model, tuple(include), tuple(exclude))
        self.target, self.distribution, self.seed = sparsity, distribution, seed
        self.group = shard_group(chosen) if group is None else group
        self._entries = self._draws = 0  # make each phase's and each regrowth's random numbers its own
        self.optimizer = check_optimizer(optimizer, chosen)
        self.parameters: dict[str, SparseParameter] = {}
        try:
            for name, parameter in chosen.items():
                weight = local(parameter.detach())
                self.parameters[name] = sparsify(parameter, SparseMask.ones(weight.shape, weight.device), name)
        except MaskError:
            self.detach()
            raise

    # --- what is there ------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Who may be written; the same for all weights."""
        return next(iter(self.parameters.values())).phase

    @property
    def sparsity(self) -> float:
        """Share of pruned coordinates over all weights that take part."""
        numel = sum(sparse.parameter.numel() for sparse in self.parameters.values())
        return 1 - self._sum(sum(sparse.mask.n_active for sparse in self.parameters.values())) / numel

    def counts(self, sparsity: float | None = None) -> dict[str, int]:
        """How many coordinates of each layer are active under the distribution.

        Args:
            sparsity: over all layers; None = the target.

        Returns:
            Counts by name; together exactly the active share of all. Under "global" each layer's present share of them.

        Raises:
            MaskError: a sparsity outside [0, 1).
        """
        shapes = {name: tuple(sparse.parameter.shape) for name, sparse in self.parameters.items()}
        target = self.target if sparsity is None else sparsity
        if self.distribution != "global":
            return active_counts(shapes, target, self.distribution)
        now = {name: float(self._sum(sparse.mask.n_active)) for name, sparse in self.parameters.items()}
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        return proportional_counts(now, sizes, total_active(shapes, target))

    def report(self) -> list[LayerReport]:
        """Each layer with its counts, of this rank's rows."""
        return [
            LayerReport(
                name, tuple(sparse.parameter.shape), sparse.mask.n_active, sparse.mask.n_pruned, sparse.mask.sparsity,
                sparse.phase,
            )
            for name, sparse in self.parameters.items()
        ]  # fmt: skip

    # --- masks --------------------------------------------------------------------------------------------------------

    def prune(
        self, method: Literal["magnitude", "random"] | ScoreMaker = "magnitude", sparsity: float | None = None
    ) -> CommitReport:
        """Keeps the best-scored weights, in exact number, and makes the others 0.

        Args:
            method: the score: |w|, random, or a function of name and parameter that returns one.
            sparsity: over all layers; None = the target.

        Returns:
            What changed.

        Raises:
            MaskError: a sparsity outside [0, 1).
            PhaseError: in RESU or JOINT, where pruned slots hold θ: commit first.
        """
        self._refuse_theta("prune")
        if sparsity is not None:
            check_sparsity(sparsity)
        scores = {name: self._score(method, name, sparse) for name, sparse in self.parameters.items()}
        counts = self.counts(sparsity)
        if self.distribution == "global":
            candidates = [self._candidate(sparse, scores[name]) for name, sparse in self.parameters.items()]
            selection = plan_top(candidates, sum(counts.values()), group=self.group)
            return self._change({name: selection.rows(i) for i, name in enumerate(self.parameters)})
        return self._change(
            {name: self._top(sparse, scores[name], counts[name]).rows(0) for name, sparse in self.parameters.items()}
        )

    def set_masks(self, masks: Mapping[str, SparseMask]) -> CommitReport:
        """Takes masks from elsewhere, and makes pruned weights 0.

        Args:
            masks: by name; layers that are not named keep theirs.

        Returns:
            What changed.

        Raises:
            MaskError: an unknown name, or a mask of another shape.
            PhaseError: in RESU or JOINT: commit first.
        """
        self._refuse_theta("set_masks")
        unknown = sorted(set(masks) - set(self.parameters))
        if unknown:
            raise MaskError(
                f"masks are given by the name of a weight; {unknown[0]!r} is none. The weights are "
                f"{', '.join(self.parameters)}."
            )
        for name, mask in masks.items():
            mask.check_shape(self.parameters[name].mask.shape, f"weight {name}")
        return self._change({name: rows_of(mask) for name, mask in masks.items()})

    def apply_masks(self) -> None:
        """Makes pruned weights 0 again, for an optimizer that knows nothing of masks.

        Raises:
            PhaseError: in RESU or JOINT, where pruned slots hold θ.
        """
        self._refuse_theta("apply_masks")
        for sparse in self.parameters.values():
            sparse.mask.apply_(local(sparse.parameter.detach()))

    # --- phases -------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Active weights train, pruned ones are 0.

        Raises:
            PhaseError: in RESU or JOINT, where θ would be lost: commit first.
        """
        self._refuse_theta("train")
        self._enter(Phase.TRAIN)

    def enter_resu(
        self,
        init: Literal["zero", "normal", "uniform"] = "zero",
        epsilon: float = 0.1,
        subset: float | None = None,
        lr_scale: float = 1.0,
    ) -> None:
        """Pruned weights train, from their slots of W; active ones keep every bit.

        Args:
            init: θ starts at 0, at N(0, (ε σ)²), or at ε σ U(−1, 1), σ the standard deviation of the layer's active
                weights.
            epsilon: ε.
            subset: only this share of the pruned weights, drawn anew each time, trains; None = all.
            lr_scale: θ's learning rate over the group's.

        Raises:
            PhaseError: nothing is pruned, or RESU and JOINT are on already.
            ConfigError: numbers out of range, or an unknown init.
        """
        self._refuse_theta("enter_resu")
        if init not in ("zero", "normal", "uniform"):
            raise ConfigError(f"θ starts at zero, normal or uniform; got {init!r}. Choose one of them.")
        if not epsilon >= 0 or not lr_scale > 0 or not (subset is None or 0 < subset <= 1):
            raise ConfigError(
                f"epsilon is at least 0, lr_scale above 0 and subset a share above 0 and at most 1; got {epsilon}, "
                f"{lr_scale} and {subset}. Leave them out for the defaults."
            )
        if not self._sum(sum(sparse.mask.n_pruned for sparse in self.parameters.values())):
            raise PhaseError("RESU trains pruned weights; nothing is pruned. Call prune() first.")
        self._entries += 1
        self._enter(Phase.RESU)
        for name, sparse in self.parameters.items():
            sparse.pruned_lr_scale = lr_scale
            if subset is not None and (pruned := self._sum(sparse.mask.n_pruned)):
                draw = self._random(f"{name}/subset/{self._entries}", sparse)
                candidate = self._candidate(sparse, draw, among=sparse.mask, pruned=True)
                size = max(1, int(subset * pruned))
                chosen = plan_top([candidate], size, group=self.group)
                sparse.subset = SparseMask.zeros(sparse.mask.shape, sparse.mask.device)
                for part, flags in chosen.rows(0):
                    sparse.subset.set_rows(part, flags)
            if init != "zero" and epsilon:
                start_theta(sparse, init, epsilon, self.seed, f"{name}/theta/{self._entries}", self.group)

    def joint(self) -> None:
        """Active and pruned weights train together.

        Raises:
            PhaseError: nothing is pruned.
        """
        if not self._sum(sum(sparse.mask.n_pruned for sparse in self.parameters.values())):
            raise PhaseError("JOINT trains pruned weights beside active ones; nothing is pruned. Call prune() first.")
        self._enter(Phase.JOINT)

    def shadow(self, beta: float = 0.98) -> None:
        """Active weights train; the free moments of pruned ones gather m = EMA of g and v = EMA of |g|.

        What to grow is then decided from some 1 / (1 − β) steps rather than one batch, in the manner of momentum growth
        (Dettmers & Zettlemoyer, *Sparse Networks from Scratch*, 2019, arXiv:1907.04840), at no cost in memory.

        Args:
            beta: decay of the statistics.

        Raises:
            PhaseError: in RESU or JOINT: commit first.
            ConfigError: beta outside [0, 1).
            OptimizerError: the compact layout, which has no free moments.
        """
        self._refuse_theta("shadow")
        if not 0 <= beta < 1:
            raise ConfigError(f"beta is at least 0 and below 1; got {beta}. 0.98 averages about fifty steps.")
        self._enter(Phase.SHADOW)
        for sparse in self.parameters.values():
            sparse.beta = beta

    def _enter(self, phase: Phase) -> None:
        for sparse in self.parameters.values():
            if self.optimizer is not None:
                self.optimizer.before_phase(sparse, phase)
            sparse.phase, sparse.subset, sparse.pruned_lr_scale = phase, None, 1.0

    def _refuse_theta(self, what: str) -> None:
        if self.phase in (Phase.RESU, Phase.JOINT):
            raise PhaseError(
                f"{what}() would lose what pruned weights have learnt: the phase is {self.phase}. Call commit() first, "
                "or commit('none') to give it up."
            )

    # --- commits ------------------------------------------------------------------------------------------------------

    def commit(
        self,
        strategy: Literal["amnesty", "open", "merge", "none"] = "amnesty",
        budget: float = 0.1,
        score: ScoreName | str | ScoreMaker = "magnitude",
        sparsity: float | None = None,
    ) -> CommitReport:
        """Ends RESU or JOINT: decides who is active from now on, and goes on with TRAIN.

        Args:
            strategy: "amnesty": two tournaments, without competition between them: a share `budget` of the places goes
                to the best pruned weights, the others to the best active ones; "open": one tournament for all places
                by |w|; "merge": everything becomes active; "none": nothing is resurrected.
            budget: share r of the places, in [0, 1].
            score: of pruned weights. Active ones are scored by |w|, unless the score is a function or "movement",
                which then scores both.
            sparsity: over all layers from now on; None = each layer keeps its number of active weights.

        Returns:
            What changed.

        Raises:
            PhaseError: outside RESU and JOINT.
            ConfigError: an unknown strategy, or a budget outside [0, 1].
            MaskError: a sparsity outside [0, 1).
        """
        if self.phase not in (Phase.RESU, Phase.JOINT):
            raise PhaseError(
                f"a commit ends RESU or JOINT; the phase is {self.phase}. Call enter_resu() first, or regrow() to move "
                "places without training pruned weights."
            )
        if strategy not in ("amnesty", "open", "merge", "none") or not 0 <= budget <= 1:
            raise ConfigError(
                "a commit has strategy amnesty, open, merge or none and a budget from 0 to 1; got "
                f"{strategy!r} and {budget}. Choose among these."
            )
        if sparsity is not None:
            check_sparsity(sparsity)
        counts = None if sparsity is None else self.counts(sparsity)
        flags: dict[str, Flags] = {}
        for name, sparse in self.parameters.items():
            keep = self._sum(sparse.mask.n_active)
            if counts is not None:
                keep = counts[name]
            flags[name] = self._committed(name, sparse, strategy, keep, budget, score)
        report = self._change(flags)
        self._enter(Phase.TRAIN)
        return report

    def regrow(
        self,
        fraction: float,
        score: ScoreName | str | ScoreMaker = "gradient",
        drop: ScoreName | str | ScoreMaker = "magnitude",
    ) -> CommitReport:
        """Moves a share of each layer's places: the worst active weights leave, the best pruned ones come, at 0.

        Args:
            fraction: share of active weights that leave, in [0, 1].
            score: of pruned weights: "gradient" is RigL's (arXiv:1911.11134), "random" SET's (arXiv:1707.04780),
                "momentum" that of Sparse Networks from Scratch, "consistency" |m| · |m| / (v + δ) after SHADOW.
            drop: of active weights; the lowest leave.

        Returns:
            What changed.

        Raises:
            PhaseError: in RESU or JOINT: commit does that there.
            ConfigError: a fraction outside [0, 1].
            MaskError: a score that needs gradients or moments which are not there.
        """
        self._refuse_theta("regrow")
        if not 0 <= fraction <= 1:
            raise ConfigError(f"a fraction is a share from 0 to 1; got {fraction}. 0.3 is usual.")
        self._draws += 1
        flags: dict[str, Flags] = {}
        for name, sparse in self.parameters.items():
            active, pruned = (self._sum(n) for n in (sparse.mask.n_active, sparse.mask.n_pruned))
            moved = min(int(fraction * active), pruned)
            stay = self._top(sparse, self._score(drop, name, sparse), active - moved, among=sparse.mask)
            come = self._top(sparse, self._score(score, name, sparse), moved, among=sparse.mask, pruned=True)
            flags[name] = either(stay.rows(0), come.rows(0))
        return self._change(flags)

    def _committed(
        self,
        name: str,
        sparse: SparseParameter,
        strategy: str,
        keep: int,
        budget: float,
        score: ScoreName | str | ScoreMaker,
    ) -> Flags:
        mask = sparse.mask
        if strategy == "merge":
            return ((part, torch.ones_like(mask.row_bool(part))) for part in mask.chunks())
        if strategy == "none":
            return rows_of(mask)
        if strategy == "open":
            return self._top(sparse, self._score("magnitude", name, sparse), keep).rows(0)
        both = callable(score) or score == "movement"
        n_active, n_pruned = places(keep, self._sum(mask.n_active), self._sum(mask.n_pruned), budget)
        stay = self._top(sparse, self._score(score if both else "magnitude", name, sparse), n_active, among=mask)
        come = self._top(sparse, self._score(score, name, sparse), n_pruned, among=mask, pruned=True)
        return either(stay.rows(0), come.rows(0))

    def _change(self, flags: Mapping[str, Flags]) -> CommitReport:
        return change_masks(self.parameters, flags, self.optimizer, self.group)

    # --- scores -------------------------------------------------------------------------------------------------------

    def _candidate(
        self, sparse: SparseParameter, score: Score, among: SparseMask | None = None, pruned: bool = False
    ) -> Candidate:
        return Candidate(score, sparse.mask.shape, sparse.mask.device, among, pruned)

    def _top(
        self, sparse: SparseParameter, score: Score, k: int, among: SparseMask | None = None, pruned: bool = False
    ) -> Selection:
        return plan_top([self._candidate(sparse, score, among, pruned)], k, group=self.group)

    def _score(self, score: ScoreName | str | ScoreMaker, name: str, sparse: SparseParameter) -> Score:
        if callable(score):
            return score(name, sparse)
        if score == "random":
            return self._random(f"{name}/{self._draws}", sparse)
        return named_score(score, sparse, self.optimizer)

    def _random(self, label: str, sparse: SparseParameter) -> Score:
        return random_score(sparse, self.seed, label, self.group)

    def _sum(self, value: _Number) -> _Number:
        return sum_over_ranks(value, self.group)

    # --- keeping ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Masks (packed), phase and settings; the weights are the model's, the moments the optimizer's."""
        return {
            "phase": str(self.phase),
            "target": self.target,
            "seed": self.seed,
            "entries": self._entries,
            "draws": self._draws,
            "layers": {
                name: {
                    "mask": sparse.mask.state_dict(),
                    "subset": None if sparse.subset is None else sparse.subset.state_dict(),
                    "beta": sparse.beta,
                    "pruned_lr_scale": sparse.pruned_lr_scale,
                }
                for name, sparse in self.parameters.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes masks and phase as they were saved; weights and moments are not touched.

        Args:
            state: from `state_dict`.

        Raises:
            CheckpointError: other layers, or masks of other shapes.
        """
        layers = state["layers"]
        odd = sorted(set(layers) ^ set(self.parameters))
        if odd:
            raise CheckpointError(
                f"a saved state belongs to the model that it was saved from; {odd[0]!r} is only on one side. Build the "
                "Sparsifier with the same model, include and exclude."
            )
        masks = {name: SparseMask.from_state_dict(layer["mask"]) for name, layer in layers.items()}
        for name, mask in masks.items():
            if mask.shape != self.parameters[name].mask.shape:
                raise CheckpointError(
                    f"the saved mask of {name} has shape {mask.shape}, the weight {self.parameters[name].mask.shape}. "
                    "Load it into the model that it was saved from."
                )
        self.target, self.seed = state["target"], state["seed"]
        self._entries, self._draws = state["entries"], state["draws"]
        for name, sparse in self.parameters.items():
            layer = layers[name]
            sparse.mask.update_inplace(masks[name])
            sparse.phase = Phase(state["phase"])
            sparse.beta, sparse.pruned_lr_scale = layer["beta"], layer["pruned_lr_scale"]
            subset = layer["subset"]
            sparse.subset = None if subset is None else SparseMask.from_state_dict(subset).to(sparse.mask.device)

    def detach(self) -> None:
        """Takes the masks off: the weights are ordinary ones again, at the values that they have."""
        for sparse in self.parameters.values():
            release(sparse.parameter)
