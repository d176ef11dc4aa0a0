// A stage: relu, depthwise convolution, pointwise convolution, batch statistics.
// `in` are the statistics of the stage before, null for the first, whose input is not normalised.

#pragma once

#include <cstring>
#include <omp.h>

#include "depthwise.h"
#include "lanes.h"
#include "product.h"
#include "scratch.h"
#include "shape.h"
#include "statistics.h"

namespace {

template <class T, int V, int K>
void conv_forward(Shape g, const T* x, const double* in, const T* dw, const T* pw, T* z, double eps,
                  double* stat) {
  long C = g.C, pad = g.d * (K - 1) / 2, wide = g.W + 2 * pad, pixels = g.h * g.w;
  T *taps = scratch<T>(0, K * K * C), *matrix = scratch<T>(1, C * C);
  T* affine = scratch<T>(2, 3 * C);
  transpose_taps(dw, taps, C, K * K, false);
  for (long i = 0; i < C; i++)
    for (long j = 0; j < C; j++) matrix[j * C + i] = pw[i * C + j];
  if (in) narrow(in, affine, 2 * C);
  double *means = scratch<double>(3, 2 * g.N * C), *squares = means + g.N * C;
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    T *padded = scratch<T>(4, (g.H + 2 * pad) * wide * C), *u = scratch<T>(5, pixels * C);
    pad_relu<T, V>(x + n * g.H * g.W * C, in ? affine : nullptr, affine + C, padded, g.H, g.W, C,
                   pad);
    depthwise<T, V, K>(padded, wide, C, taps, u, g.h, g.w, g.s, g.d);
    T* out = z + n * pixels * C;
    product<T, V>(u, C, 1, matrix, C, out, C, pixels, C, C, false);
    if (stat) image_moments<T, V>(out, pixels, C, means + n * C, squares + n * C);
  }
  if (stat) merge_moments(means, squares, g.N, pixels, C, eps, stat);
}

// dx += masked gradient (in == null), or dx = masked gradient with its sums.
template <class T, int V, int K>
void conv_backward(Shape g, const T* x, const double* in, const T* dw, const T* pw, const T* z,
                   const double* stat, const T* dy, const double* sums, double weight, T* dx,
                   double* in_sums, T* ddw, T* dpw) {
  long C = g.C, pad = g.d * (K - 1) / 2, wide = g.W + 2 * pad, pixels = g.h * g.w;
  long border = g.s == 1 ? pad : 0, du_wide = g.w + 2 * border;
  T *taps = scratch<T>(0, 2 * K * K * C), *flipped = taps + K * K * C;
  T *affine = scratch<T>(2, 6 * C), *mean = affine + 2 * C;
  T *c1 = mean + C, *c2 = c1 + C, *c3 = c2 + C;
  transpose_taps(dw, taps, C, K * K, false);
  transpose_taps(dw, flipped, C, K * K, true);
  if (in) narrow(in, affine, 2 * C);
  narrow(stat, mean, C);
  normal_gradient(stat, sums, weight, double(g.N) * pixels, C, c1, c2, c3);
  long part = K * K * C + C * C;
  T* partial = scratch<T>(1, g.threads * part);
  double* image_sums = scratch<double>(3, 2 * g.N * C);
  if (ddw) std::memset(partial, 0, sizeof(T) * g.threads * part);
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    T* dz = scratch<T>(5, pixels * C);
    T* du = scratch<T>(6, (g.h + 2 * border) * du_wide * C);
    T* padded = scratch<T>(4, (g.H + 2 * pad) * wide * C);
    const T *zn = z + n * pixels * C, *dyn = dy + n * pixels * C, *xn = x + n * g.H * g.W * C;
    normal_backward<T, V>(dyn, zn, mean, c1, c2, c3, dz, pixels, C);
    T* inner = du + (border * du_wide + border) * C;
    if (border) std::memset(du, 0, sizeof(T) * (g.h + 2 * border) * du_wide * C);
    for (long i = 0; i < g.h; i++)
      product<T, V>(dz + i * g.w * C, C, 1, pw, C, inner + i * du_wide * C, C, g.w, C, C, false);
    if (ddw) {
      T *my = partial + omp_get_thread_num() * part, *u = scratch<T>(7, g.H * g.W * C);
      pad_relu<T, V>(xn, in ? affine : nullptr, affine + C, padded, g.H, g.W, C, pad);
      depthwise<T, V, K>(padded, wide, C, taps, u, g.h, g.w, g.s, g.d);
      product<T, V>(dz, 1, C, u, C, my + K * K * C, C, C, C, pixels, true);
      tap_gradient<T, V, K>(padded, wide, inner, du_wide, my, C, g.h, g.w, g.s, g.d);
    }
    T* dr = scratch<T>(7, g.H * g.W * C);
    long dr_wide = g.W;
    if (g.s == 1) {
      depthwise<T, V, K>(du, du_wide, C, flipped, dr, g.H, g.W, 1, g.d);
    } else {
      std::memset(padded, 0, sizeof(T) * (g.H + 2 * pad) * wide * C);
      scatter<T, V, K>(du, taps, padded, wide, C, g.h, g.w, g.s, g.d);
      dr = padded + (pad * wide + pad) * C, dr_wide = wide;
    }
    T* out = dx + n * g.H * g.W * C;
    for (long c = 0; c < C; c += V) {
      if (in) {
        Vec<T, V> m = load<T, V>(affine + c), sum{}, dot{};
        for (long i = 0; i < g.H; i++) {
          Vec<T, V> row_sum{}, row_dot{};
          for (long j = 0; j < g.W; j++) {
            long p = (i * g.W + j) * C + c;
            Vec<T, V> e = load<T, V>(xn + p) - m, v = load<T, V>(dr + (i * dr_wide + j) * C + c);
            v = relu_gradient<T, V>(e, v);
            store<T, V>(out + p, v);
            row_sum += v, row_dot += v * e;
          }
          sum += row_sum, dot += row_dot;
        }
        T a[V], b[V];
        store<T, V>(a, sum), store<T, V>(b, dot);
        for (int v = 0; v < V; v++) {
          image_sums[2 * n * C + c + v] = a[v];
          image_sums[(2 * n + 1) * C + c + v] = b[v];
        }
      } else {
        for (long i = 0; i < g.H; i++)
          for (long j = 0; j < g.W; j++) {
            long p = (i * g.W + j) * C + c;
            Vec<T, V> v = load<T, V>(dr + (i * dr_wide + j) * C + c);
            v = relu_gradient<T, V>(load<T, V>(xn + p), v);
            store<T, V>(out + p, load<T, V>(out + p) + v);
          }
      }
    }
  }
  if (in)
    for (long c = 0; c < 2 * C; c++) {
      in_sums[c] = 0;
      for (long n = 0; n < g.N; n++) in_sums[c] += image_sums[2 * n * C + c];
    }
  if (ddw) {
    for (int t = 1; t < g.threads; t++)
      for (long i = 0; i < part; i++) partial[i] += partial[t * part + i];
    for (long c = 0; c < C; c++)
      for (int t = 0; t < K * K; t++) ddw[c * K * K + t] = partial[t * C + c];
    std::memcpy(dpw, partial + K * K * C, sizeof(T) * C * C);
  }
}

}  // namespace
