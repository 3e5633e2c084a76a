"""A table of bits as an expression of ~, &, | and ^, which C and Verilog write alike.

By Shannon's expansion (C. E. Shannon, *The Synthesis of Two-Terminal Switching Circuits*, 1949): a function f of x and
others is `~x & f(x = 0) | x & f(x = 1)`, and simpler where the two cofactors are constant, equal or opposite. The
variable that splits off first is the one that leaves the fewest others behind.
"""

from collections.abc import Sequence

__all__ = ["expression"]

_Table = tuple[int, ...]


def expression(table: Sequence[int], names: Sequence[str], zero: str, one: str) -> str:
    """Writes a table as an expression, with parentheses around every two-sided operation within another.

    Args:
        table: 2^names bits, entry 0 first; the first name is the lowest bit of the address.
        names: of the inputs.
        zero: the constant 0.
        one: the constant 1.

    Returns:
        The expression.

    >>> expression([0, 1, 1, 0], ["a", "b"], "0", "1")
    'a ^ b'
    >>> expression([0, 1, 0, 0, 0, 1, 1, 1], ["a", "b", "c"], "0", "1")
    '(b & c) | (~b & a)'
    >>> expression([1, 1], ["a"], "0", "1")
    '1'
    """
    return _Writer(list(names), zero, one).write(tuple(table), tuple(range(len(names))))


class _Writer:
    """The inputs' names, and expressions that are written already: cofactors are often the same."""

    def __init__(self, names: list[str], zero: str, one: str) -> None:
        self._names, self._constants = names, (zero, one)
        self._known: dict[tuple[_Table, tuple[int, ...]], str] = {}

    def write(self, table: _Table, inputs: tuple[int, ...]) -> str:
        table, inputs = _support(table, inputs)
        if (table, inputs) not in self._known:
            self._known[table, inputs] = self._split(table, inputs) if inputs else self._constants[table[0]]
        return self._known[table, inputs]

    def _split(self, table: _Table, inputs: tuple[int, ...]) -> str:
        j = min(range(len(inputs)), key=lambda place: _left_over(table, inputs, place))
        low, high = _cofactors(table, j)
        rest = inputs[:j] + inputs[j + 1 :]
        x = self._names[inputs[j]]
        if all(a != b for a, b in zip(low, high, strict=True)):
            return self._opposite(x, low, rest)
        parts = [
            x if all(cofactor) else f"{x} & {_bracketed(self.write(cofactor, rest))}"
            for x, cofactor in ((x, high), (f"~{x}", low))
            if any(cofactor)
        ]
        if len(parts) == 2:
            # Where one half is all ones, x | (~x & f) is x | f.
            if all(high):
                parts[1] = self.write(low, rest)
            elif all(low):
                parts[0] = self.write(high, rest)
        return " | ".join(_bracketed(part) for part in parts) if len(parts) > 1 else parts[0]

    def _opposite(self, x: str, low: _Table, rest: tuple[int, ...]) -> str:
        """`x ^ f`, or x and its complement where f is constant."""
        if not any(low):
            return x
        if all(low):
            return f"~{x}"
        return f"{x} ^ {_bracketed(self.write(low, rest))}"


def _bracketed(text: str) -> str:
    return f"({text})" if " " in text else text


def _cofactors(table: _Table, j: int) -> tuple[_Table, _Table]:
    return tuple(table[m] for m in range(len(table)) if not m >> j & 1), tuple(
        table[m] for m in range(len(table)) if m >> j & 1
    )


def _support(table: _Table, inputs: tuple[int, ...]) -> tuple[_Table, tuple[int, ...]]:
    """Without the inputs that nothing depends on."""
    for j in reversed(range(len(inputs))):
        low, high = _cofactors(table, j)
        if low == high:
            table, inputs = low, inputs[:j] + inputs[j + 1 :]
    return table, inputs


def _left_over(table: _Table, inputs: tuple[int, ...], j: int) -> int:
    """Inputs on which the two cofactors depend, once where they are opposite and share an expression."""
    low, high = _cofactors(table, j)
    rest = inputs[:j] + inputs[j + 1 :]
    sizes = [len(_support(cofactor, rest)[1]) for cofactor in (low, high)]
    return sizes[0] if all(a != b for a, b in zip(low, high, strict=True)) else sum(sizes)
