// ReLU, pointwise convolution, batch statistics.
// K parts of `out / K` channels each; part k reads the pixels (i * s + k, j * s + k): one part at
// stride 1 is the preprocessing of a cell, two at stride 2 are the factorized reduction.

#pragma once

#include <cstring>
#include <omp.h>

#include "lanes.h"
#include "product.h"
#include "scratch.h"
#include "shape.h"
#include "statistics.h"

namespace {

template <class T, int V>
void gather_relu(Shape g, const T* x, int part, T* out) {
  for (long i = 0; i < g.h; i++)
    for (long j = 0; j < g.w; j++) {
      const T* from = x + ((i * g.s + part) * g.W + j * g.s + part) * g.C;
      for (long c = 0; c < g.C; c += V)
        store<T, V>(out + (i * g.w + j) * g.C + c, relu<T, V>(load<T, V>(from + c)));
    }
}

template <class T, int V>
void point_forward(Shape g, const T* x, const T* const* weight, long out, T* z, double eps,
                   double* stat) {
  long C = g.C, own = out / g.K, pixels = g.h * g.w;
  T* matrix = scratch<T>(1, C * out);  // per part [C][own]
  for (long k = 0; k < g.K; k++)
    for (long i = 0; i < own; i++)
      for (long c = 0; c < C; c++) matrix[(k * C + c) * own + i] = weight[k][i * C + c];
  double *means = scratch<double>(3, 2 * g.N * out), *squares = means + g.N * out;
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    T *packed = scratch<T>(4, pixels * C), *to = z + n * pixels * out;
    for (int k = 0; k < g.K; k++) {
      gather_relu<T, V>(g, x + n * g.H * g.W * C, k, packed);
      product<T, V>(packed, C, 1, matrix + k * C * own, own, to + k * own, out, pixels, own, C,
                    false);
    }
    if (stat) image_moments<T, V>(to, pixels, out, means + n * out, squares + n * out);
  }
  if (stat) merge_moments(means, squares, g.N, pixels, out, eps, stat);
}

// dx = masked gradient, or with `add` dx += it. Null: not wanted.
template <class T, int V>
void point_backward(Shape g, const T* x, const T* const* weight, long out, const T* z,
                    const double* stat, const T* dy, const double* sums, double scale, T* dx,
                    int add, T* const* dweight) {
  long C = g.C, own = out / g.K, pixels = g.h * g.w;
  T *mean = scratch<T>(2, 4 * out), *c1 = mean + out, *c2 = c1 + out, *c3 = c2 + out;
  narrow(stat, mean, out);
  normal_gradient(stat, sums, scale, double(g.N) * pixels, out, c1, c2, c3);
  T* partial = scratch<T>(1, g.threads * out * C);
  if (dweight) std::memset(partial, 0, sizeof(T) * g.threads * out * C);
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    T *dz = scratch<T>(5, pixels * out), *packed = scratch<T>(4, pixels * C);
    const T *zn = z + n * pixels * out, *dyn = dy + n * pixels * out, *xn = x + n * g.H * g.W * C;
    normal_backward<T, V>(dyn, zn, mean, c1, c2, c3, dz, pixels, out);
    T* to = dx ? dx + n * g.H * g.W * C : nullptr;
    if (dx && !add && g.s > 1) std::memset(to, 0, sizeof(T) * g.H * g.W * C);
    for (int k = 0; k < g.K; k++) {
      if (dweight) {
        gather_relu<T, V>(g, xn, k, packed);
        T* mine = partial + (omp_get_thread_num() * out + k * own) * C;
        product<T, V>(dz + k * own, 1, out, packed, C, mine, C, own, C, pixels, true);
      }
      if (!dx) continue;
      product<T, V>(dz + k * own, out, 1, weight[k], C, packed, C, pixels, C, own, false);
      for (long i = 0; i < g.h; i++)
        for (long j = 0; j < g.w; j++) {
          long at = ((i * g.s + k) * g.W + j * g.s + k) * C;
          for (long c = 0; c < C; c += V) {
            Vec<T, V> v = load<T, V>(packed + (i * g.w + j) * C + c);
            v = relu_gradient<T, V>(load<T, V>(xn + at + c), v);
            store<T, V>(to + at + c, add ? load<T, V>(to + at + c) + v : v);
          }
        }
    }
  }
  if (!dweight) return;
  for (int t = 1; t < g.threads; t++)
    for (long i = 0; i < out * C; i++) partial[i] += partial[t * out * C + i];
  for (long k = 0; k < g.K; k++)
    std::memcpy(dweight[k], partial + k * own * C, sizeof(T) * own * C);
}

}  // namespace
