"""One switch for each way to run faster or smaller."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from spd.config.base import Frozen

__all__ = ["PRESETS", "PerfConfig", "PgdSchedule"]


class PgdSchedule(Frozen):
    """Fewer or larger steps of the adversary while training has just begun.

    A switch of method: the losses change, and so may what is learned.

    Args:
        n_steps_start: steps of ascent at the first step of training; they rise linearly to the loss's own `n_steps`.
        ramp_frac: share of training after which they have.
        step_size_factor: over the loss's own step size while fewer steps are taken.
    """

    n_steps_start: PositiveInt = 1
    ramp_frac: Annotated[float, Field(gt=0, le=1)] = 0.5
    step_size_factor: PositiveFloat = 1.0


class PerfConfig(Frozen):
    """One switch for each way to run faster or smaller. All off runs as the original did.

    Switches of execution change no result beyond rounding. Those of method (`amp`, `pgd_schedule`,
    `pgd_batch_fraction`) do, and are judged by the quality of what is learned.

    Args:
        pin_memory: page-locked batches, where CUDA is.
        num_workers: processes that load data; 0 loads in the training process.
        non_blocking: copies to the device that are not waited for.
        device_prefetch: the next batch is on its way while this one is computed.
        compile_ci_fns: the causal-importance functions through `torch.compile`.
        compile_components: the components through `torch.compile`.
        compile_target: the target through `torch.compile`; breaks at every site but with the inline back end.
        compile_losses: faithfulness and importance minimality through `torch.compile`.
        compile_step: all losses of a step, and with them everything above, as one graph.
        compile_mode: "reduce-overhead" replays CUDA graphs, on a GPU.
        amp: the precision of products: float32, or bfloat16, or float16 with scaled gradients. Faithfulness and
            divergences stay in float32. Refused where outputs are compared by squares, which end below the rounding.
        site_backend: see `spd.models.sites`.
        cache_target_weights: the frozen weights are looked up once.
        fused_unmasked: an unmasked product in the cheaper order.
        ordered_sites: a pass finds a site's instruction by its number in a list, not by its name in a mapping.
        pgd_schedule: fewer steps of the adversary at the beginning; a switch of method.
        pgd_batch_fraction: share of a batch that the adversary searches on; a switch of method.
        pgd_detach: no gradient of the parameters while the adversary searches.
        async_checkpoint: checkpoints are written by a thread.
        async_logging: figures are written by a thread.
        skip_range_checks: does not look whether importances are within their range, as the original does at each step.
        lazy_metrics: nothing is read from the device on steps that do not log.
        gc_policy: when memory is collected and given back: at every evaluation, as the original does, every so many
            steps, after running out of memory only, or never.
        gc_every_n: steps, for "every_n".
        grad_checkpointing: masked passes are run again in the backward pass instead of kept.
        free_intermediates: what a loss no longer needs is let go before the next one.
        delta_mode: Δ as a matrix, or folded into the target layer's own output, masks and all in one function.
        ci_kernel: how the network of a component is computed; all but "einsum" also take both sigmoids and the
            penalty's power in few passes over memory.
        reuse_prefix: what precedes a masked site is taken from the target's pass, and so are the logarithms of its
            probabilities.
        reuse_inner_acts: inner activations of a site whose input did not change are computed once.
        row_dedup: rows of zeros are evaluated once, where all sites read them as zeros; tokens that come again have
            the importances of an embedding computed once; positions that are not routed to a site are left out of its
            products.
        optimizer: which form of AdamW.
        cuda_graph: losses, gradients and the optimizer's step are recorded once and replayed, on a GPU.
    """

    pin_memory: bool = False
    num_workers: NonNegativeInt = 0
    non_blocking: bool = False
    device_prefetch: bool = False
    compile_ci_fns: bool = False
    compile_components: bool = False
    compile_target: bool = False
    compile_losses: bool = False
    compile_step: bool = False
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    amp: Literal["off", "bf16", "fp16"] = "off"
    site_backend: Literal["ephemeral_hooks", "persistent_hooks", "inline"] = "ephemeral_hooks"
    cache_target_weights: bool = False
    fused_unmasked: bool = False
    ordered_sites: bool = False
    pgd_schedule: PgdSchedule | None = None
    pgd_batch_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    pgd_detach: bool = False
    async_checkpoint: bool = False
    async_logging: bool = False
    skip_range_checks: bool = False
    lazy_metrics: bool = False
    gc_policy: Literal["every_eval", "every_n", "on_oom", "never"] = "every_eval"
    gc_every_n: PositiveInt = 100
    grad_checkpointing: bool = False
    free_intermediates: bool = False
    delta_mode: Literal["materialised", "folded"] = "materialised"
    ci_kernel: Literal["einsum", "broadcast", "recompute", "triton"] = "einsum"
    reuse_prefix: bool = False
    reuse_inner_acts: bool = False
    row_dedup: bool = False
    optimizer: Literal["loop", "foreach", "fused"] = "loop"
    cuda_graph: bool = False


PRESETS: dict[str, PerfConfig] = {
    "none": PerfConfig(),
    "quick-start": PerfConfig(
        pin_memory=True,
        num_workers=4,
        non_blocking=True,
        compile_ci_fns=True,
        compile_target=True,
        compile_mode="reduce-overhead",
    ),
    "all": PerfConfig(
        pin_memory=True,
        non_blocking=True,
        device_prefetch=True,
        site_backend="inline",
        cache_target_weights=True,
        fused_unmasked=True,
        ordered_sites=True,
        pgd_detach=True,
        async_checkpoint=True,
        async_logging=True,
        skip_range_checks=True,
        lazy_metrics=True,
        gc_policy="on_oom",
        free_intermediates=True,
        delta_mode="folded",
        ci_kernel="recompute",
        reuse_prefix=True,
        reuse_inner_acts=True,
        row_dedup=True,
        optimizer="fused",
    ),
}
"""Combinations by name: nothing; the four lines that *Performance Optimization Opportunities* begins with; all that is
exact and pays."""
