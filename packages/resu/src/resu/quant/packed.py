"""QRESU: a linear layer whose active weights are frozen in 4 or 8 bits and whose pruned weights train as θ.

Active weights are quantised asymmetrically between the least and the largest of their row (or of the whole tensor):
with L = 2^b − 1 levels, scale = (max − min) / L, code = round((w − min) / scale), w ≈ scale · code + min, which is
scale · (code − z) with the float zero point z = −min / scale. Only active weights have codes, in ascending flat order,
and two 4-bit codes share a byte. The original kept one byte a code, and the float weight beside it.

Live bytes of a layer of o × i weights, a of them active and p pruned, without its bias: ⌈a b / 8⌉ for codes, 8 o (or 8)
for scale and min, 4 o ⌈i / 32⌉ for the mask, 4 p for θ. The weight is unpacked by slices of rows, in the forward and
again in the backward pass; nothing of its size is kept.
"""

from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resu.core.bits import words_per_row
from resu.core.mask import SparseMask, chunk_rows
from resu.core.noise import NOISES
from resu.core.resurrection import Init
from resu.errors import ConfigError, MaskError

__all__ = ["PackedLinear", "Scope", "pack_codes", "packed_bytes", "unpack_codes"]

Scope = Literal["row", "tensor"]

_SLICE = 1 << 18
_SHARE = 64


def packed_bytes(rows: int, cols: int, n_active: int, bits: int = 4, per: Scope = "row", *, theta: bool = True) -> int:
    """Live bytes of a packed layer, without its bias.

    Args:
        rows: output features.
        cols: input features.
        n_active: active weights.
        bits: of a code, 4 or 8.
        per: what shares a scale.
        theta: count θ too.

    Returns:
        The bytes.

    >>> packed_bytes(4, 32, n_active=65, bits=4, theta=False)
    81
    """
    codes = -(-n_active * bits // 8)
    scales = 8 * (rows if per == "row" else 1)
    return codes + scales + 4 * rows * words_per_row(cols) + (4 * (rows * cols - n_active) if theta else 0)


def pack_codes(codes: UInt8[Tensor, " n"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Puts two 4-bit codes into a byte, the first in the low half; 8-bit codes stay as they are.

    Args:
        codes: each below 2^bits.
        bits: 4 or 8.

    Returns:
        ⌈n · bits / 8⌉ bytes.

    Raises:
        ConfigError: another number of bits.

    >>> pack_codes(torch.tensor([1, 2, 15], dtype=torch.uint8), 4).tolist()
    [33, 15]
    """
    _check_bits(bits)
    if bits == 8:
        return codes
    padded = nn.functional.pad(codes, (0, codes.numel() % 2)).view(-1, 2)
    return padded[:, 0] | (padded[:, 1] << 4)


def unpack_codes(packed: UInt8[Tensor, " bytes"], bits: int, start: int, stop: int) -> UInt8[Tensor, " n"]:
    """Codes `start` to `stop`, the inverse of `pack_codes`.

    Args:
        packed: all codes.
        bits: 4 or 8.
        start: first code.
        stop: the one after the last.

    Returns:
        The codes, one a byte.

    Raises:
        ConfigError: another number of bits.

    >>> unpack_codes(torch.tensor([33, 15], dtype=torch.uint8), 4, 1, 3).tolist()
    [2, 15]
    """
    _check_bits(bits)
    if bits == 8:
        return packed[start:stop]
    first = start // 2
    octets = packed[first : -(-stop // 2)]
    codes = torch.stack((octets & 15, octets >> 4), dim=1).view(-1)
    return codes[start - 2 * first : stop - 2 * first]


class PackedLinear(nn.Module):
    """y = (M ⊙ Ŵ + Φ(θ)) x + b with Ŵ quantised and frozen, and θ a parameter of the pruned coordinates.

    Made with `from_linear`; `to_linear` gives the effective weight back. θ, of shape (p,) in ascending flat order, and
    the bias are the layer's parameters; the rest are buffers, so that `state_dict` holds everything.

    Args:
        mask: which weights are active.
        bits: of a code, 4 or 8.
        per: what shares a scale, "row" or "tensor".
        bias: whether there is one.
        device: where the layer lives.

    Raises:
        MaskError: a mask of a weight that is not a matrix.
        ConfigError: another number of bits, or another scope.

    >>> linear = nn.Linear(6, 4)
    >>> packed = PackedLinear.from_linear(linear, SparseMask.random((4, 6), 0.5), bits=8)
    >>> packed(torch.ones(2, 6)).shape, packed.theta.shape, packed.live_bytes()
    (torch.Size([2, 4]), torch.Size([12]), 124)
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor
    mask_bits: Tensor

    def __init__(
        self,
        mask: SparseMask,
        *,
        bits: int = 4,
        per: Scope = "row",
        bias: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_bits(bits)
        if per not in get_args(Scope):
            raise ConfigError(f"a scale belongs to a row or to the tensor; got per={per!r}. Use 'row' or 'tensor'.")
        if len(mask.shape) != 2:
            raise MaskError(f"a packed linear layer has a matrix; the mask has shape {mask.shape}. Use a 2-D mask.")
        device = mask.device if device is None else torch.device(device)
        self.out_features, self.in_features = mask.shape
        self.bits, self.per, self.n_active = bits, per, mask.n_active
        scales = mask.rows if per == "row" else 1
        self.register_buffer("codes", torch.zeros(-(-mask.n_active * bits // 8), dtype=torch.uint8, device=device))
        self.register_buffer("scale", torch.ones(scales, dtype=torch.float32, device=device))
        self.register_buffer("offset", torch.zeros(scales, dtype=torch.float32, device=device))
        self.register_buffer("mask_bits", mask.bits.to(device, copy=True))
        self.theta = nn.Parameter(torch.zeros(mask.n_pruned, dtype=torch.float32, device=device))
        self.bias = nn.Parameter(torch.zeros(mask.rows, dtype=torch.float32, device=device)) if bias else None

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        mask: SparseMask,
        *,
        bits: int = 4,
        per: Scope = "row",
        init: Init = "zero",
        epsilon: float = 0.1,
        seed: int = 0,
        name: str = "",
    ) -> "PackedLinear":
        """Quantises the active weights of a layer; the layer is not changed, and nothing of it is kept alive.

        Args:
            linear: the layer.
            mask: which of its weights are active.
            bits: of a code, 4 or 8.
            per: what shares a scale.
            init: θ's start: zero, N(0, (ε σ)²) or U(−ε σ, ε σ), with σ the standard deviation of the active weights.
            epsilon: ε.
            seed: of the noise.
            name: the layer's name, from which the noise depends as well.

        Returns:
            The packed layer.

        Raises:
            MaskError: a mask of another shape, or active weights that are not finite.
            ConfigError: another number of bits, another scope, another start.
        """
        if init not in get_args(Init):
            raise ConfigError(f"θ starts at one of {', '.join(get_args(Init))}; got {init!r}. 'zero' is the default.")
        weight = linear.weight.detach()
        mask.check_shape(weight.shape, "weight")
        packed = cls(mask, bits=bits, per=per, bias=linear.bias is not None, device=weight.device)
        packed._quantise(weight)
        if packed.bias is not None:
            packed.bias.data.copy_(linear.bias.detach())
        if init != "zero":
            spread = epsilon * packed._active_spread(weight)
            with torch.no_grad():
                for part, pruned, theta in packed._theta_parts():
                    noise = NOISES[init](seed, name, part, packed.in_features, device=weight.device)
                    theta.copy_(noise[pruned].mul_(spread))
        return packed

    @property
    def mask(self) -> SparseMask:
        """Which weights are active; it shares the layer's bits."""
        return SparseMask.from_bits(self.mask_bits, (self.out_features, self.in_features))

    @property
    def zero_point(self) -> Float[Tensor, " scales"]:
        """The float zero point z = −min / scale, in w ≈ scale · (code − z)."""
        return -self.offset / self.scale

    def live_bytes(self) -> int:
        """Bytes of everything that the layer keeps, its bias included."""
        tensors = [*self.parameters(), *self.buffers()]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def weight_rows(self, part: slice, dtype: torch.dtype = torch.float32) -> Float[Tensor, "part cols"]:
        """Some rows of the effective weight M ⊙ Ŵ + Φ(θ).

        Args:
            part: which rows.
            dtype: of the result.

        Returns:
            The rows, made anew.
        """
        start, stop, _ = part.indices(self.out_features)
        return self._rows(slice(start, stop), self._active_before(start), self.theta.detach(), dtype)

    def forward(self, x: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch rows"]:
        """The layer's output; gradients flow to x, θ and the bias.

        Args:
            x: inputs.

        Returns:
            Outputs in x's dtype.
        """
        flat = x.reshape(-1, self.in_features)
        y = cast(Tensor, _PackedProduct.apply(flat, self.theta, self)).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def to_linear(self) -> nn.Linear:
        """The layer with its effective weight, unpacked into float32.

        Returns:
            A plain linear layer.
        """
        device = self.theta.device
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=device)
        with torch.no_grad():
            for part in self._slices():
                linear.weight[part] = self.weight_rows(part)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def extra_repr(self) -> str:
        """Sizes, as `print(module)` shows them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, per={self.per}, "
            f"active={self.n_active}, pruned={self.theta.numel()}"
        )

    # --- packing ------------------------------------------------------------------------------------------------------

    def _quantise(self, weight: Tensor) -> None:
        mask, levels = self.mask, 2**self.bits - 1
        low = torch.empty(mask.rows, device=weight.device)
        high = torch.empty_like(low)
        for part in self._slices():
            values, active = weight[part].float(), mask.row_bool(part)
            if not bool(torch.isfinite(values[active]).all()):
                raise MaskError(
                    "weights are quantised between their least and their largest; some active ones are not finite. "
                    "Prune them, or train again without them."
                )
            low[part] = values.masked_fill(~active, torch.inf).amin(1)
            high[part] = values.masked_fill(~active, -torch.inf).amax(1)
        if self.per == "tensor":
            low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        # Rows without active weights, and rows of one value, have nothing to scale.
        low = torch.where(torch.isfinite(low), low, torch.zeros_like(low))
        scale = (high - low) / levels
        self.scale.copy_(torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale)))
        self.offset.copy_(low)
        start, odd = 0, torch.empty(0, dtype=torch.uint8, device=weight.device)
        for part in self._slices():
            scale, offset = self._scales(part)
            codes = ((weight[part].float() - offset) / scale).round_().clamp_(0, levels)
            # A code that is left over waits for the next slice, so that bytes are filled in flat order.
            codes = torch.cat((odd, codes[mask.row_bool(part)].to(torch.uint8)))
            whole = codes.numel() if self.bits == 8 else codes.numel() // 2 * 2
            octets = pack_codes(codes[:whole], self.bits)
            self.codes[start : start + octets.numel()] = octets
            start, odd = start + octets.numel(), codes[whole:]
        self.codes[start:] = pack_codes(odd, self.bits)

    def _active_spread(self, weight: Tensor) -> float:
        """Unbiased standard deviation of the active weights; 1 where there are fewer than two."""
        mask, n = self.mask, self.n_active
        if n < 2:
            return 1.0
        total = squares = 0.0
        for part in self._slices():
            total += float(weight[part][mask.row_bool(part)].double().sum())
        for part in self._slices():
            squares += float((weight[part][mask.row_bool(part)].double() - total / n).square().sum())
        return (squares / (n - 1)) ** 0.5

    def _scales(self, part: slice) -> tuple[Tensor, Tensor]:
        if self.per == "row":
            return self.scale[part, None], self.offset[part, None]
        return self.scale, self.offset

    # --- unpacking ----------------------------------------------------------------------------------------------------

    def _active_before(self, row: int) -> int:
        return SparseMask.from_bits(self.mask_bits[:row], (row, self.in_features)).n_active if row else 0

    def _rows(self, part: slice, before: int, theta: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the effective weight; `before` active weights precede them."""
        active = self.mask.row_bool(part)
        n_active = int(active.sum())
        codes = unpack_codes(self.codes, self.bits, before, before + n_active)
        scale, offset = self._scales(part)
        rows = torch.zeros(active.shape, dtype=scale.dtype, device=active.device)
        rows[active] = codes.to(scale.dtype)
        rows.mul_(scale).add_(offset)
        start = part.start * self.in_features - before
        rows = rows.to(dtype)
        rows[~active] = theta[start : start + active.numel() - n_active].to(dtype)
        return rows

    def _slices(self) -> Iterator[slice]:
        """Slices of rows, large enough to multiply well and small beside the weight."""
        elements = max(_SLICE, self.out_features * self.in_features // _SHARE)
        return chunk_rows(self.out_features, self.in_features, elements)

    def _parts(self) -> Iterator[tuple[slice, int]]:
        """Slices of rows, with the number of active weights before each."""
        before = 0
        for part in self._slices():
            yield part, before
            bits = self.mask_bits[part]
            before += SparseMask.from_bits(bits, (bits.shape[0], self.in_features)).n_active

    def _theta_parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of rows, with what is pruned in each and its stretch of θ."""
        mask = self.mask
        for part, before in self._parts():
            pruned, start = ~mask.row_bool(part), part.start * self.in_features - before
            yield part, pruned, self.theta[start : start + int(pruned.sum())]


class _PackedProduct(torch.autograd.Function):
    """x Wᵀ with W unpacked by slices of rows, here and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, layer: PackedLinear) -> Tensor:
        ctx.save_for_backward(x, theta)
        ctx.layer = layer
        y = x.new_empty(x.shape[0], layer.out_features)
        for part, before in layer._parts():
            y[:, part] = x @ layer._rows(part, before, theta, x.dtype).T
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, theta = ctx.saved_tensors
        layer: PackedLinear = ctx.layer
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_theta = torch.empty_like(theta) if ctx.needs_input_grad[1] else None
        mask = layer.mask
        for part, before in layer._parts():
            grad_part = grad[:, part]
            if grad_x is not None:
                grad_x += grad_part @ layer._rows(part, before, theta, x.dtype)
            if grad_theta is not None:
                values = (grad_part.T @ x)[~mask.row_bool(part)]
                start = part.start * layer.in_features - before
                grad_theta[start : start + values.numel()] = values.to(theta.dtype)
        return grad_x, grad_theta, None


def _check_bits(bits: int) -> None:
    if bits not in (4, 8):
        raise ConfigError(f"codes have 4 or 8 bits; got {bits}. Use 4 for memory, 8 for accuracy.")
