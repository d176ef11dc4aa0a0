"""Structured compression of ordinary networks: train, prune, shrink, compare.

`run(settings, data, seed, device)` trains one network three times on the same budget (dense, pruned
by sparse Bayesian priors on its weights, pruned by magnitude to the same sparsity) and returns what
is left of each.
"""

from nasbench.compress.loop import run
from nasbench.compress.settings import CompressSettings

__all__ = ["CompressSettings", "run"]
