// 3x3 pooling, both kinds at once.

#pragma once

#include <limits>

#include "lanes.h"
#include "scratch.h"
#include "shape.h"
#include "statistics.h"

namespace {

// The part of a pooling window that lies within the image; the window itself begins at top, left.
struct Window {
  long top, left, i0, i1, j0, j1;
  long pixels() const { return (i1 - i0) * (j1 - j0); }
};

inline Window window(Shape g, long i, long j) {
  long top = i * g.s - 1, left = j * g.s - 1;
  return {top, left, top < 0 ? 0 : top, top + 3 < g.H ? top + 3 : g.H,
          left < 0 ? 0 : left, left + 3 < g.W ? left + 3 : g.W};
}

template <class T, int V>
void pool_forward(Shape g, const T* x, T* most, T* mean, double eps, double* most_stat,
                  double* mean_stat) {
  long C = g.C, pixels = g.h * g.w;
  double* moments = scratch<double>(3, 4 * g.N * C);
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    const T* from = x + n * g.H * g.W * C;
    for (long i = 0; i < g.h; i++)
      for (long j = 0; j < g.w; j++) {
        Window r = window(g, i, j);
        T share = T(1) / T(r.pixels());
        for (long c = 0; c < C; c += V) {
          Vec<T, V> best = all<T, V>(-std::numeric_limits<T>::infinity()), sum{};
          for (long a = r.i0; a < r.i1; a++)
            for (long b = r.j0; b < r.j1; b++) {
              Vec<T, V> v = load<T, V>(from + (a * g.W + b) * C + c);
              best = v > best ? v : best;  // passes over NaN
              sum += v;
            }
          long p = (n * pixels + i * g.w + j) * C + c;
          if (most) store<T, V>(most + p, sum != sum ? sum : best);
          if (mean) store<T, V>(mean + p, sum * share);
        }
      }
    double* at = moments + n * C;
    long step = g.N * C;
    if (most_stat) image_moments<T, V>(most + n * pixels * C, pixels, C, at, at + step);
    if (mean_stat)
      image_moments<T, V>(mean + n * pixels * C, pixels, C, at + 2 * step, at + 3 * step);
  }
  long step = g.N * C;
  if (most_stat) merge_moments(moments, moments + step, g.N, pixels, C, eps, most_stat);
  if (mean_stat)
    merge_moments(moments + 2 * step, moments + 3 * step, g.N, pixels, C, eps, mean_stat);
}

// Neither NaN nor infinity: x - x is zero for all.
template <class T, int V> bool finite(const T* x, long count) {
  Vec<T, V> sum{};
  for (long i = 0; i < count; i += V) sum += load<T, V>(x + i) - load<T, V>(x + i);
  T a[V];
  store<T, V>(a, sum);
  for (int v = 0; v < V; v++)
    if (a[v] != 0) return false;
  return true;
}

// One image. The maximum is the first in scan order, or as in torch the last NaN (`NaN`: look).
template <class T, int V, bool NaN>
void pool_backward(Shape g, const T* from, const T* most, const T* mean, T* to) {
  long C = g.C;
  for (long i = 0; i < g.h; i++)
    for (long j = 0; j < g.w; j++) {
      Window r = window(g, i, j);
      T share = T(1) / T(r.pixels());
      for (long c = 0; c < C; c += V) {
        long p = (i * g.w + j) * C + c;
        Vec<T, V> zero{}, at = all<T, V>(T((r.i0 - r.top) * 3 + r.j0 - r.left)), peak{};
        Vec<T, V> even = mean ? load<T, V>(mean + p) * share : zero;
        if (most) {
          peak = load<T, V>(most + p);
          Vec<T, V> best = load<T, V>(from + (r.i0 * g.W + r.j0) * C + c);
          for (long a = r.i0; a < r.i1; a++)
            for (long b = r.j0; b < r.j1; b++) {
              Vec<T, V> v = load<T, V>(from + (a * g.W + b) * C + c);
              Vec<T, V> here = all<T, V>(T((a - r.top) * 3 + b - r.left));
              at = v > best ? here : at;
              best = v > best ? v : best;
              if (NaN) at = v != v ? here : at, best = v != v ? v : best;
            }
        }
        for (long a = r.i0; a < r.i1; a++)
          for (long b = r.j0; b < r.j1; b++) {
            T* q = to + (a * g.W + b) * C + c;
            Vec<T, V> here = all<T, V>(T((a - r.top) * 3 + b - r.left));
            store<T, V>(q, load<T, V>(q) + even + (at == here ? peak : zero));
          }
      }
    }
}

// dx += transposed pooling of `most` and `mean`
template <class T, int V>
void pool_backward(Shape g, const T* x, const T* most, const T* mean, T* dx) {
  long in = g.H * g.W * g.C, out = g.h * g.w * g.C;
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    const T *from = x + n * in, *peaks = most ? most + n * out : nullptr;
    const T* evens = mean ? mean + n * out : nullptr;
    if (!most || finite<T, V>(from, in))
      pool_backward<T, V, false>(g, from, peaks, evens, dx + n * in);
    else
      pool_backward<T, V, true>(g, from, peaks, evens, dx + n * in);
  }
}

}  // namespace
