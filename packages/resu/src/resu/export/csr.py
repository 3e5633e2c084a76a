"""Sparse inference on a CPU: linear layers whose weight is stored as compressed sparse rows with 32-bit indices.

With 32-bit indices the product needs no conversion, which makes it faster than with the 64-bit ones that PyTorch picks
by itself. Below about 85 % sparsity a dense product is as fast or faster, so a dense layer stays dense there. What is
stored is what is not zero: the exported layer computes what the layer computed at the moment of the export, whatever
its phase was.
"""

import copy
import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from resu.core.mask import chunk_rows
from resu.errors import ConfigError, MaskError

__all__ = ["DENSE_BELOW", "CSRLinear", "csr_linear", "csr_model", "effective_linears", "effective_weight", "to_csr"]

DENSE_BELOW = 0.85
"""Sparsity below which a dense product is as fast."""

_INT32_MAX = 2**31 - 1


def to_csr(weight: Float[Tensor, "..."]) -> Shaped[Tensor, "rows cols"]:
    """The nonzero values of a matrix as compressed sparse rows with int32 indices, gathered by slices of rows.

    Args:
        weight: the matrix.

    Returns:
        A sparse CSR tensor.

    Raises:
        MaskError: not a matrix, or more nonzero values than 32 bits can count.

    >>> csr = to_csr(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    >>> csr.crow_indices().tolist(), csr.col_indices().tolist(), csr.values().tolist()
    ([0, 1, 1], [1], [2.0])
    """
    if weight.dim() != 2:
        raise MaskError(
            f"compressed sparse rows hold a matrix; got a tensor of shape {tuple(weight.shape)}. Export linear layers "
            "only."
        )
    weight = weight.detach()
    rows, cols = weight.shape
    counts = torch.zeros(rows + 1, dtype=torch.int64, device=weight.device)
    for part in chunk_rows(rows, cols):
        counts[part.start + 1 : part.stop + 1] = weight[part].count_nonzero(dim=1)
    crow = counts.cumsum_(0)
    total = int(crow[-1])
    if total > _INT32_MAX:
        raise MaskError(
            f"32-bit indices count up to {_INT32_MAX} values; this weight has {total} that are not zero. Split the "
            "layer."
        )
    columns = torch.empty(total, dtype=torch.int32, device=weight.device)
    values = torch.empty(total, dtype=weight.dtype, device=weight.device)
    start = 0
    for part in chunk_rows(rows, cols):
        taken = weight[part]
        nonzero = taken != 0
        found = nonzero.nonzero(as_tuple=True)[1]
        columns[start : start + found.numel()] = found.to(torch.int32)
        values[start : start + found.numel()] = taken[nonzero]
        start += found.numel()
    return _assembled(crow.to(torch.int32), columns, values, (rows, cols))


class CSRLinear(nn.Module):
    """y = W x + b with W in compressed sparse rows; for inference, so W takes no gradient.

    Args:
        weight: the matrix, dense.
        bias: the bias, or None.

    Raises:
        MaskError: not a matrix, or more nonzero values than 32 bits can count.

    >>> layer = CSRLinear(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, 3.0]))
    >>> layer(torch.tensor([[5.0, 7.0]])).tolist(), layer.sparsity
    ([[15.0, 3.0]], 0.75)
    """

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Float[Tensor, "..."], bias: Float[Tensor, " rows"] | None = None) -> None:
        super().__init__()
        csr = to_csr(weight)
        self.out_features, self.in_features = csr.shape
        self.register_buffer("crow_indices", csr.crow_indices())
        self.register_buffer("col_indices", csr.col_indices())
        self.register_buffer("values", csr.values())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.values.numel() / (self.out_features * self.in_features)

    def forward(self, x: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch rows"]:
        """The layer's output.

        Args:
            x: inputs, of the values' dtype.

        Returns:
            Outputs.
        """
        shape = (self.out_features, self.in_features)
        weight = _assembled(self.crow_indices, self.col_indices, self.values, shape)
        y = (weight @ x.reshape(-1, self.in_features).T).T
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes, as `print(module)` shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, sparsity={self.sparsity:.4f}"


def csr_linear(linear: nn.Linear, *, dense_below: float = DENSE_BELOW) -> nn.Linear | CSRLinear:
    """The faster of both forms: sparse from a sparsity on, dense below it.

    Args:
        linear: the layer; not changed.
        dense_below: sparsity below which the layer itself comes back.

    Returns:
        The layer itself, or its sparse form.

    Raises:
        ConfigError: a bound outside [0, 1].

    >>> linear = nn.Linear(10, 10)
    >>> csr_linear(linear) is linear, type(csr_linear(linear, dense_below=0.0)).__name__
    (True, 'CSRLinear')
    """
    if not 0 <= dense_below <= 1:
        raise ConfigError(
            f"dense_below is a sparsity, from 0 to 1; got {dense_below}. The usual value is {DENSE_BELOW}."
        )
    weight = effective_weight(linear)
    zeros = weight.numel() - int(weight.count_nonzero())
    return linear if zeros < dense_below * weight.numel() else CSRLinear(weight, linear.bias)


def csr_model(model: nn.Module, *, dense_below: float = DENSE_BELOW) -> nn.Module:
    """A copy of a model for inference, its sparse linear layers in compressed sparse rows.

    Dense weights of replaced layers are not copied on the way.

    Args:
        model: any model; not changed.
        dense_below: sparsity below which a layer stays as it is.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ConfigError: a bound outside [0, 1].

    >>> model = nn.Sequential(nn.Linear(10, 10), nn.ReLU())
    >>> _ = model[0].weight.data.mul_(torch.arange(100).view(10, 10) % 10 == 0)
    >>> type(csr_model(model)[0]).__name__
    'CSRLinear'
    """
    # What the copy is told of beforehand, it takes for already copied.
    replaced: dict[int, nn.Module] = {}
    for linear in effective_linears(model):
        converted = csr_linear(linear, dense_below=dense_below)
        if converted is not linear:
            replaced[id(linear)] = converted
    return copy.deepcopy(model, dict(replaced)).eval()


def effective_linears(model: nn.Module) -> Iterator[nn.Linear]:
    """Linear layers whose output is their effective weight times their input.

    Other subclasses of nn.Linear are left alone: their owners may read the weight itself, as attention does.

    Args:
        model: any model.

    Yields:
        The layers.
    """
    for module in model.modules():
        if type(module) is nn.Linear or (isinstance(module, nn.Linear) and hasattr(module, "effective_weight")):
            yield module


def effective_weight(linear: nn.Linear) -> Float[Tensor, "rows cols"]:
    """What multiplies the input: θ included where it lives outside the weight.

    Args:
        linear: the layer.

    Returns:
        The weight, without gradient.
    """
    effective = getattr(linear, "effective_weight", None)
    return (linear.weight if effective is None else effective()).detach()


def _assembled(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # Said once a process, of every CSR tensor: that this part of PyTorch may still change.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(crow, columns, values, size=shape, check_invariants=False)
