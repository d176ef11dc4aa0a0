// The sizes of a call; `Shape` of native.py, field by field.

#pragma once

namespace {

struct Shape {
  long N, H, W, C, h, w;  // input [N,H,W,C], output [N,h,w,C]
  int K, s, d, threads;
};

}  // namespace
