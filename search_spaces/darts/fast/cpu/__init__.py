"""Cells as compiled C++ kernels."""
