"""One switch for each way to run faster or smaller."""

from typing import Literal

from pydantic import NonNegativeInt

from spd.config.base import Frozen

__all__ = ["PerfConfig"]


class PerfConfig(Frozen):
    """One switch for each way to run faster or smaller. All off runs as the original did.

    These are switches of execution: they change no result beyond rounding.

    Args:
        pin_memory: page-locked batches, where CUDA is.
        num_workers: processes that load data; 0 loads in the training process.
        non_blocking: copies to the device that are not waited for.
        device_prefetch: the next batch is on its way while this one is computed.
        site_backend: see `spd.models.sites`.
        cache_target_weights: the frozen weights are looked up once.
        fused_unmasked: an unmasked product in the cheaper order.
        pgd_detach: no gradient of the parameters while the adversary searches.
        delta_mode: Δ as a matrix, or folded into the target layer's own output.
        ci_kernel: how the scalar network of a component is computed.
        reuse_prefix: what precedes a masked site is taken from the target's pass.
        reuse_inner_acts: inner activations of a site whose input did not change are computed once.
        row_dedup: rows of zeros are evaluated once, where all sites read them as zeros.
        optimizer: which form of AdamW.
    """

    pin_memory: bool = False
    num_workers: NonNegativeInt = 0
    non_blocking: bool = False
    device_prefetch: bool = False
    site_backend: Literal["ephemeral_hooks", "persistent_hooks", "inline"] = "ephemeral_hooks"
    cache_target_weights: bool = False
    fused_unmasked: bool = False
    pgd_detach: bool = False
    delta_mode: Literal["materialised", "folded"] = "materialised"
    ci_kernel: Literal["einsum", "broadcast", "recompute"] = "einsum"
    reuse_prefix: bool = False
    reuse_inner_acts: bool = False
    row_dedup: bool = False
    optimizer: Literal["loop", "foreach", "fused"] = "loop"
