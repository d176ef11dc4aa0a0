"""Triton kernels of the depthwise stage: forward, input gradient, weight gradient.

A program owns pixels x channels of one convolution (of all that share the input, in its gradient).
Kernel size and dilation come from a device table, so that a new set of live operations needs no
compilation; the program branches once to a loop whose rows of taps are unrolled. A loop bounded at
run time would wait for every load in turn, and a compiled kernel per kind would be a launch each.

* A thread keeps ROWS output pixels, as far apart as the taps: each value that it loads, converts
  and rectifies serves up to ROWS taps, each weight serves ROWS pixels. The helpers load as if they
  did not; the compiler merges equal loads.
* Channels are the fastest axis: a warp reads whole sectors. The taps of neighbouring pixels come
  from L1, the halo of a tile from L2.
* Sums have a fixed order (no atomics). Pixel offsets are 64-bit; a pixel's number is 32-bit.
"""
