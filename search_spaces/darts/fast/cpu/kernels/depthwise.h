// Depthwise convolution of one image and its two gradients, K x K taps.
// Weights are [K*K][C] here (`transpose_taps`); x is padded (`pad_relu`), `wide` pixels per row.

#pragma once

#include <cstring>

#include "lanes.h"

namespace {

// [C][taps] -> [taps][C], the taps in reverse order with `flip`
template <class T> void transpose_taps(const T* w, T* out, long C, int taps, bool flip) {
  for (long c = 0; c < C; c++)
    for (int t = 0; t < taps; t++) out[(flip ? taps - 1 - t : t) * C + c] = w[c * taps + t];
}

// padded = relu(x) or relu((x - mean) * scale), zeros around
template <class T, int V>
void pad_relu(const T* x, const T* mean, const T* scale, T* out, long H, long W, long C, long pad) {
  long wide = W + 2 * pad;
  std::memset(out, 0, sizeof(T) * wide * pad * C);
  std::memset(out + (H + pad) * wide * C, 0, sizeof(T) * wide * pad * C);
  for (long i = 0; i < H; i++) {
    T* row = out + (i + pad) * wide * C;
    std::memset(row, 0, sizeof(T) * pad * C);
    std::memset(row + (W + pad) * C, 0, sizeof(T) * pad * C);
    row += pad * C;
    const T* from = x + i * W * C;
    for (long c = 0; c < C; c += V) {
      Vec<T, V> m = mean ? load<T, V>(mean + c) : Vec<T, V>{};
      Vec<T, V> a = mean ? load<T, V>(scale + c) : all<T, V>(1);
      for (long j = 0; j < W; j++) {
        Vec<T, V> y = (load<T, V>(from + j * C + c) - m) * a;
        store<T, V>(row + j * C + c, relu<T, V>(y));
      }
    }
  }
}

// The taps' weights stay in registers.
template <class T, int V, int K>
void depthwise(const T* x, long wide, long C, const T* w, T* u, long rows, long columns, int s,
               int d) {
  for (long c = 0; c < C; c += V) {
    Vec<T, V> tap[K * K];
    for (int t = 0; t < K * K; t++) tap[t] = load<T, V>(w + t * C + c);
    for (long i = 0; i < rows; i++)
      for (long j = 0; j < columns; j++) {
        const T* p = x + (i * s * wide + j * s) * C + c;
        Vec<T, V> sum{};
#pragma GCC unroll 49
        for (int t = 0; t < K * K; t++)
          sum += tap[t] * load<T, V>(p + (t / K * wide + t % K) * d * C);
        store<T, V>(u + (i * columns + j) * C + c, sum);
      }
  }
}

// dx[padded] += the transposed convolution of du; only for strides above one.
template <class T, int V, int K>
void scatter(const T* du, const T* w, T* dx, long wide, long C, long rows, long columns, int s,
             int d) {
  for (long c = 0; c < C; c += V)
    for (long i = 0; i < rows; i++)
      for (long j = 0; j < columns; j++) {
        Vec<T, V> g = load<T, V>(du + (i * columns + j) * C + c);
        T* p = dx + (i * s * wide + j * s) * C + c;
        for (int t = 0; t < K * K; t++) {
          T* q = p + (t / K * wide + t % K) * d * C;
          store<T, V>(q, load<T, V>(q) + load<T, V>(w + t * C + c) * g);
        }
      }
}

// dw[K*K][C] += sum over pixels of du * shifted x; du has `du_wide` pixels per row.
template <class T, int V, int K>
void tap_gradient(const T* x, long wide, const T* du, long du_wide, T* dw, long C, long rows,
                  long columns, int s, int d) {
  for (long c = 0; c < C; c += V) {
    Vec<T, V> sum[K * K] = {};
    for (long i = 0; i < rows; i++)
      for (long j = 0; j < columns; j++) {
        const T* p = x + (i * s * wide + j * s) * C + c;
        Vec<T, V> g = load<T, V>(du + (i * du_wide + j) * C + c);
#pragma GCC unroll 49
        for (int t = 0; t < K * K; t++)
          sum[t] += g * load<T, V>(p + (t / K * wide + t % K) * d * C);
      }
    for (int t = 0; t < K * K; t++)
      store<T, V>(dw + t * C + c, load<T, V>(dw + t * C + c) + sum[t]);
  }
}

}  // namespace
