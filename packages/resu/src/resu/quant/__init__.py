"""QRESU: active weights frozen in 4 or 8 bits, θ in float32 beside them."""

__all__: list[str] = []
