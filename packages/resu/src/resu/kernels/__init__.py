"""Updates of single coordinates: which back end runs them, and the Triton kernels of the one for GPUs.

`backend` chooses, `embedding` moves the resurrection parameters in and out of a weight, and the modules `triton_*` are
imported only where they are used: nothing else here needs Triton or a GPU.
"""
