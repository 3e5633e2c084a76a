"""A kernel around the rounding of the optimizer's: imported by its test, once Triton is to be imported."""

from typing import no_type_check

import triton
import triton.language as tl

from resu.kernels.triton_masked_adam import round_stochastically


@triton.jit(do_not_specialize=["seed"])
@no_type_check
def round_kernel(x_ptr, out_ptr, numel, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < numel, other=0.0)
    random = tl.randint(seed, at).to(tl.int32, bitcast=True)
    tl.store(out_ptr + at, round_stochastically(x, random), mask=at < numel)
