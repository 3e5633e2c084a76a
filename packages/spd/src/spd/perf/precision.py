"""The precision of products.

With automatic mixed precision, products run in 16 bits and parameters stay in 32. What subtracts nearly equal numbers
does not: faithfulness is computed outside of it, from products in float32, and divergences take logarithms of float32
logits. bfloat16 has float32's range; float16 has not, so that losses are multiplied before the backward pass and
gradients divided after it (Micikevicius et al., *Mixed Precision Training*, 2018, arXiv:1710.03740).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from spd.errors import ConfigError

__all__ = ["Amp", "Precision"]

Amp = Literal["off", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """What a step does about precision.

    Args:
        amp: off, bf16 or fp16.
        device: where it runs.

    Attributes:
        scaler: for fp16.

    Raises:
        ConfigError: fp16 where there is no CUDA.

    >>> precision = Precision("bf16", "cpu")
    >>> a = torch.ones(2, 2)
    >>> with precision.reduced():
    ...     print((a @ a).dtype)
    ...     with precision.full():
    ...         print((a @ a).dtype)
    torch.bfloat16
    torch.float32
    """

    def __init__(self, amp: Amp, device: torch.device | str) -> None:
        self.amp: Amp = amp
        self._device_type = torch.device(device).type
        if amp == "fp16" and self._device_type != "cuda":
            raise ConfigError(
                f"amp='fp16' scales gradients on a CUDA device; this one is {self._device_type}. Use 'bf16', or 'off'."
            )
        self.scaler = torch.amp.GradScaler("cuda") if amp == "fp16" else None

    def reduced(self) -> AbstractContextManager[object]:
        """Within it, products run in 16 bits where the settings say so."""
        if self.amp == "off":
            return nullcontext()
        return torch.autocast(self._device_type, dtype=_DTYPES[self.amp])

    def full(self) -> AbstractContextManager[object]:
        """Within it, nothing runs in 16 bits."""
        return nullcontext() if self.amp == "off" else torch.autocast(self._device_type, enabled=False)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Adds a loss's gradients to the parameters', scaled for fp16.

        Args:
            loss: from a pass under `reduced`.
        """
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients as they are without a scale, so that they can be clipped.

        Args:
            optimizer: of all parameters.
        """
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of the optimizer, left out where a scaled gradient was not finite.

        Args:
            optimizer: of all parameters.
        """
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
