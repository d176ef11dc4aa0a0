"""Cells with their edges batched, for GPUs; the same code runs, slowly, on a CPU."""
