// Sums over the inputs of a node, and gradients over the nodes of an input.

#pragma once

#include <cstring>

#include "lanes.h"
#include "scratch.h"
#include "statistics.h"

namespace {

constexpr long BLOCK = 64;  // pixels that stay in the first-level cache between terms

// out = sum_i weight_i * (x_i - mean_i) * scale_i; without statistics weight_i * x_i
template <class T, int V>
void combine(long count, const T* const* x, const double* const* stat, const double* weight, T* out,
             long pixels, long C, int threads) {
  T *scale = scratch<T>(0, (count + 1) * C), *offset = scale + count * C;
  for (long c = 0; c < C; c++) {
    double sum = 0;
    for (long i = 0; i < count; i++) {
      double a = weight[i] * (stat[i] ? stat[i][C + c] : 1);
      scale[i * C + c] = T(a);
      if (stat[i]) sum -= a * stat[i][c];
    }
    offset[c] = T(sum);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long start = 0; start < pixels; start += BLOCK) {
    long end = start + BLOCK < pixels ? start + BLOCK : pixels;
    for (long c = 0; c < C; c += V) {
      Vec<T, V> first = load<T, V>(offset + c);
      for (long i = 0; i < count; i += 4) {
        long m = count - i < 4 ? count - i : 4;
        Vec<T, V> a[4];
        const T* from[4];
        for (long k = 0; k < 4; k++) {
          a[k] = k < m ? load<T, V>(scale + (i + k) * C + c) : Vec<T, V>{};
          from[k] = x[k < m ? i + k : i];
        }
        for (long p = start * C + c; p < end * C; p += C) {
          Vec<T, V> sum = i ? load<T, V>(out + p) : first;
          for (int k = 0; k < 4; k++) sum += a[k] * load<T, V>(from[k] + p);
          store<T, V>(out + p, sum);
        }
      }
    }
  }
}

// sums[i] = sum(dy), sum(dy * (x_i - mean_i)); dweight[i] = sum of dy * (x_i - mean_i) * scale_i
template <class T, int V>
void node_sums(long count, const T* const* x, const double* const* stat, const T* dy, double* sums,
               double* dweight, long N, long pixels, long C, int threads) {
  T* mean = scratch<T>(0, count * C);
  for (long i = 0; i < count; i++)
    for (long c = 0; c < C; c++) mean[i * C + c] = stat[i] ? T(stat[i][c]) : T(0);
  double* part = scratch<double>(3, N * (count + 1) * C);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long n = 0; n < N; n++) {
    T* total = scratch<T>(4, (count + 1) * C);
    std::memset(total, 0, sizeof(T) * (count + 1) * C);
    for (long start = 0; start < pixels; start += BLOCK) {
      long end = start + BLOCK < pixels ? start + BLOCK : pixels, base = n * pixels * C;
      for (long i = 0; i <= count; i++)
        for (long c = 0; c < C; c += V) {
          Vec<T, V> sum{};
          if (i == count) {
            for (long p = base + start * C + c; p < base + end * C; p += C)
              sum += load<T, V>(dy + p);
          } else {
            Vec<T, V> m = load<T, V>(mean + i * C + c);
            for (long p = base + start * C + c; p < base + end * C; p += C)
              sum += load<T, V>(dy + p) * (load<T, V>(x[i] + p) - m);
          }
          store<T, V>(total + i * C + c, load<T, V>(total + i * C + c) + sum);
        }
    }
    for (long i = 0; i < (count + 1) * C; i++) part[n * (count + 1) * C + i] = total[i];
  }
  for (long i = 0; i < count; i++) {
    dweight[i] = 0;
    for (long c = 0; c < C; c++) {
      double sum = 0, dot = 0;
      for (long n = 0; n < N; n++) {
        sum += part[(n * (count + 1) + count) * C + c];
        dot += part[(n * (count + 1) + i) * C + c];
      }
      sums[2 * i * C + c] = sum, sums[(2 * i + 1) * C + c] = dot;
      dweight[i] += dot * (stat[i] ? stat[i][C + c] : 1);
    }
  }
}

// out = sum_i (c1_i dy_i + c3_i) + (sum_i c2_i) (x - mean): one tensor normalised into many nodes
template <class T, int V>
void shared_gradient(long count, const T* const* dy, const double* const* sums,
                     const double* weight, const T* x, const double* stat, T* out, long pixels,
                     long C, int threads) {
  T *c1 = scratch<T>(0, (count + 5) * C), *one = c1 + count * C;
  T *c2 = one + C, *c3 = c2 + C, *mean = c3 + C, *last = mean + C;
  std::memset(c2, 0, sizeof(T) * 2 * C);
  for (long i = 0; i < count; i++) {
    normal_gradient(stat, sums[i], weight[i], double(pixels), C, c1 + i * C, one, last);
    for (long c = 0; c < C; c++) c2[c] += one[c], c3[c] += last[c];
  }
  narrow(stat, mean, C);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long start = 0; start < pixels; start += BLOCK) {
    long end = start + BLOCK < pixels ? start + BLOCK : pixels;
    for (long c = 0; c < C; c += V) {
      Vec<T, V> a2 = load<T, V>(c2 + c), a3 = load<T, V>(c3 + c), m = load<T, V>(mean + c);
      for (long p = start * C + c; p < end * C; p += C)
        store<T, V>(out + p, a2 * (load<T, V>(x + p) - m) + a3);
      for (long i = 0; i < count; i++) {
        Vec<T, V> a1 = load<T, V>(c1 + i * C + c);
        for (long p = start * C + c; p < end * C; p += C)
          store<T, V>(out + p, load<T, V>(out + p) + a1 * load<T, V>(dy[i] + p));
      }
    }
  }
}

}  // namespace
