"""How the published code did it, before and after each change that it announced, its defects included.

What of this the package still offers under the same names is `dredge.quasimoto_extended_benchmark`; here stand the
forms that only a comparison needs.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

__all__ = [
    "InterferenceAfter", "InterferenceBefore", "chained_4d", "chained_6d", "hash_after", "hash_before", "in_place_4d",
    "in_place_6d", "train_as_coded", "zero_to_none", "zero_to_zeros",
]  # fmt: skip


# --- ids of texts -----------------------------------------------------------------------------------------------------


def hash_before(insight_text: str) -> str:
    """The id of a text, found anew each time.

    Args:
        insight_text: the text.

    Returns:
        SHA-256 in hexadecimal.
    """
    return hashlib.sha256(insight_text.encode()).hexdigest()


@lru_cache(maxsize=1024)
def hash_after(insight_text: str) -> str:
    """The id of a text, remembered for the last 1024 texts, which are kept whole whatever their length.

    Args:
        insight_text: the text.

    Returns:
        SHA-256 in hexadecimal.
    """
    return hashlib.sha256(insight_text.encode()).hexdigest()


# --- the window of interfering fields ---------------------------------------------------------------------------------


class InterferenceBefore(nn.Module):
    """The basis with its window divided by ∏ (σ_i √(2π)).

    Args:
        dim: D.
        num_fields: n.
        out_features: outputs.
    """

    def __init__(self, dim: int, num_fields: int, out_features: int) -> None:
        super().__init__()
        self.dim = dim
        self.log_sigma, self.v = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.randn(dim))
        self.A = nn.Parameter(torch.ones(num_fields))
        self.k, self.omega = nn.Parameter(torch.randn(num_fields, dim)), nn.Parameter(torch.randn(num_fields))
        self.phi = nn.Parameter(torch.zeros(num_fields))
        self.epsilon = nn.Parameter(torch.full((num_fields,), 0.1))
        self.lmbda = nn.Parameter(torch.randn(num_fields, dim))
        self.head = nn.Linear(2 * num_fields, out_features, bias=False)

    def norm(self, sigma: Tensor) -> Tensor:
        """What the window is divided by.

        Args:
            sigma: widths.

        Returns:
            One number.
        """
        return torch.prod(sigma * math.sqrt(2 * math.pi))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Outputs at N places and one time, or N.

        Args:
            x: places.
            t: times.

        Returns:
            N × outputs.
        """
        if x.dim() == 1:
            x = x.unsqueeze(-1)
        t = t.reshape(-1, 1) if t.dim() else t.reshape(1, 1)
        sigma = torch.exp(self.log_sigma).clamp(min=1e-3)
        z = (x - self.v * t) / sigma
        envelope = torch.exp(-0.5 * (z**2).sum(dim=-1, keepdim=True)) / self.norm(sigma)
        phase = x @ self.k.T - self.omega * t
        modulation = torch.sin(self.phi + self.epsilon * torch.cos(x @ self.lmbda.T))
        psi = self.A * envelope * modulation * torch.exp(1j * phase)
        found: Tensor = self.head(torch.cat([psi.real, psi.imag], dim=-1))
        return found


class InterferenceAfter(InterferenceBefore):
    """The basis with its window divided by (∏ σ_i) (2π)^(D/2)."""

    def norm(self, sigma: Tensor) -> Tensor:
        """What the window is divided by.

        Args:
            sigma: widths.

        Returns:
            One number.
        """
        return torch.prod(sigma) * ((2 * math.pi) ** (self.dim / 2))


# --- data -------------------------------------------------------------------------------------------------------------


def _grid(limit: int, grid_size: int, dims: int) -> list[Tensor]:
    axis = torch.linspace(-limit, limit, grid_size)
    return [grid.flatten() for grid in torch.meshgrid(*[axis] * dims, indexing="ij")]


def chained_4d(grid_size: int) -> Tensor:
    """The 4D target as one chain of products, before.

    Args:
        grid_size: points of an axis.

    Returns:
        A column of values.
    """
    x, y, z = _grid(5, grid_size, 3)
    signal = torch.exp(-0.5 * (x**2 + y**2 + z**2)) * torch.sin(2 * x) * torch.cos(2 * y) * torch.sin(2 * z)
    return signal.unsqueeze(-1)


def in_place_4d(grid_size: int) -> Tensor:
    """The 4D target multiplied in place, after.

    Args:
        grid_size: points of an axis.

    Returns:
        A column of values.
    """
    x, y, z = _grid(5, grid_size, 3)
    signal = torch.exp(-0.5 * (x**2 + y**2 + z**2))
    signal.mul_(torch.sin(2 * x))
    signal.mul_(torch.cos(2 * y))
    signal.mul_(torch.sin(2 * z))
    return signal.unsqueeze(-1)


def chained_6d(grid_size: int) -> Tensor:
    """The 6D target as one chain of products, before.

    Args:
        grid_size: points of an axis.

    Returns:
        A column of values.
    """
    a, b, c, d, e = _grid(3, grid_size, 5)
    # One expression: a name would keep the first factor alive to the end.
    return (
        torch.exp(-(a**2 + b**2 + c**2 + d**2 + e**2) / 10)
        * torch.sin(a + b) * torch.cos(c) * torch.sin(d - e) * torch.cos(b * d)
    ).unsqueeze(-1)  # fmt: skip


def in_place_6d(grid_size: int) -> Tensor:
    """The 6D target multiplied in place, after.

    Args:
        grid_size: points of an axis.

    Returns:
        A column of values.
    """
    a, b, c, d, e = _grid(3, grid_size, 5)
    signal = torch.exp(-(a**2 + b**2 + c**2 + d**2 + e**2) / 10)
    signal.mul_(torch.sin(a + b))
    signal.mul_(torch.cos(c))
    signal.mul_(torch.sin(d - e))
    signal.mul_(torch.cos(b * d))
    return signal.unsqueeze(-1)


# --- training ---------------------------------------------------------------------------------------------------------


def zero_to_zeros(optimizer: torch.optim.Optimizer) -> None:
    """Clears gradients to zeros, before.

    Args:
        optimizer: whose gradients.
    """
    optimizer.zero_grad(set_to_none=False)


def zero_to_none(optimizer: torch.optim.Optimizer) -> None:
    """Clears gradients to None, after: what torch does by itself since 2.0.

    Args:
        optimizer: whose gradients.
    """
    optimizer.zero_grad(set_to_none=True)


def train_as_coded(
    model: nn.Module,
    inputs: Sequence[Tensor],
    target: Tensor,
    epochs: int,
    *,
    clear: Callable[[torch.optim.Optimizer], None] = zero_to_none,
    use_amp: bool = False,
    grad_clip: float | int | None = None,
) -> list[float]:
    """The training loop as it was coded.

    `use_amp` makes a gradient scaler and never computes under autocast, so that all arithmetic stays in single
    precision; a gradient that is not finite is clipped to NaN and stepped with.

    Args:
        model: the model.
        inputs: what it is called with.
        target: values.
        epochs: steps.
        clear: clears gradients.
        use_amp: make the scaler; off on a CPU.
        grad_clip: largest norm of the gradient.

    Returns:
        The loss before each step.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.MSELoss()
    scaler = torch.amp.GradScaler("cuda") if use_amp and torch.cuda.is_available() else None
    losses = []
    for _ in range(epochs):
        clear(optimizer)
        loss = criterion(model(*inputs), target)
        if scaler is None:
            loss.backward()
            if grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            if grad_clip is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            scaler.step(optimizer)
            scaler.update()
        losses.append(loss.item())
    return losses
