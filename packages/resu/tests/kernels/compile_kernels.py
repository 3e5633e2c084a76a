"""Compiles every kernel for a Hopper GPU with none at hand: a script for a process that has not met the interpreter."""

from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from resu.kernels import (
    triton_bits,
    triton_embedding,
    triton_masked_adam,
    triton_masked_sgd,
    triton_select,
    triton_statistics,
)

SIZES = ("numel", "cols", "words", "total", "pruned", "seed")
INTEGERS = ("words_ptr", "subset_ptr", "offsets_ptr", "counts_ptr", "found_ptr", "key_ptr", "among_ptr", "ties_ptr")


def kernels() -> Iterator[tuple[Any, dict[str, int], dict[str, str]]]:
    """Each kernel with the constants of its branches, and pointers that differ from the usual."""
    bits, adam, sgd = triton_bits, triton_masked_adam, triton_masked_sgd
    yield bits._pack_kernel, {"WORDS": 32}, {"dense_ptr": "*u8"}
    yield bits._unpack_kernel, {"BLOCK": 1024}, {"dense_ptr": "*u8"}
    yield bits._popcount_kernel, {"BLOCK": 1024}, {}
    yield bits._count_kernel, {"BLOCK": 1024, "COUNTED": 0}, {}
    # A size of 1 reaches a kernel as a constant.
    yield bits._count_kernel, {"BLOCK": 1024, "COUNTED": 1, "cols": 1, "words": 1}, {}
    none = dict.fromkeys(("EVERYTHING", "SHADOW", "SUBSET", "SIGNBIT", "COMPACT", "STOCHASTIC"), False)
    for branches in ({}, {"EVERYTHING"}, {"SHADOW", "SIGNBIT"}, {"SUBSET", "SIGNBIT"}, {"COMPACT"}, {"STOCHASTIC"}):
        flags = {"WRITTEN": int("SUBSET" not in branches), "BLOCK": 1024, **none, **dict.fromkeys(branches, True)}
        half = dict.fromkeys(("w_ptr", "g_ptr"), "*bf16") if "STOCHASTIC" in branches else {}
        yield adam._adam_kernel, flags, half
    for shadow, subset in ((False, False), (True, False), (False, True)):
        flags = {"WRITTEN": 1, "EVERYTHING": False, "SHADOW": shadow, "SUBSET": subset, "MOMENTUM": True}
        yield sgd._sgd_kernel, {**flags, "NESTEROV": shadow, "BLOCK": 1024}, {}
    for flag in (False, True):
        yield triton_statistics._update_kernel, {"SIGNBIT": flag, "PACKED": not flag, "BLOCK": 1024}, {}
        yield triton_statistics._consistency_kernel, {"WEIGHTED": flag, "BLOCK": 1024}, {}
        for shift, width in ((21, 11), (10, 11), (0, 10)):
            digits = {"SHIFT": shift, "WIDTH": width, "FOUND_MASK": (1 << (32 - shift - width)) - 1}
            yield triton_select._histogram_kernel, {**digits, "PACKED": flag, "BINS": 2048, "BLOCK": 4096}, {}
        tile = {"PACKED": flag, "WORDS": 32}
        yield triton_select._ties_kernel, tile, {}
        yield triton_select._choose_kernel, tile, {"wanted_ptr": "*i64", "before_ptr": "*i64", "out_ptr": "*i32"}
        index = {"indices_ptr": "*i64" if flag else "*i32"}
        yield triton_embedding._scatter_kernel, {"BLOCK": 1024}, index
        yield triton_embedding._gather_kernel, {"BLOCK": 1024}, index
        yield triton_embedding._update_kernel, {"MOMENTUM": flag, "IN_PLACE": not flag, "BLOCK": 1024}, index


def signature(kernel: Any, constants: dict[str, int], pointers: dict[str, str]) -> dict[str, str]:
    """The types of a kernel's arguments."""
    types = dict.fromkeys(constants, "constexpr") | pointers
    for name in kernel.arg_names:
        usual = "*i32" if name in INTEGERS else "*fp32" if name.endswith("_ptr") else "i32" if name in SIZES else "fp32"
        types.setdefault(name, usual)
    return types


if __name__ == "__main__":
    for kernel, constants, pointers in kernels():
        types = signature(kernel, constants, pointers)
        source = ASTSource(fn=kernel, signature={name: types[name] for name in kernel.arg_names}, constexprs=constants)
        machine_code = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
        print(kernel.__name__, len(machine_code))
