"""Getting weights out: for sparse inference on a CPU (CSR) or a GPU (2:4), and as safetensors."""

__all__: list[str] = []
