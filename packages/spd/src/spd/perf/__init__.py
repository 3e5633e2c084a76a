"""Ways to run faster or smaller that know nothing of losses: compilation, precision, memory, CUDA graphs, counting."""
