// Batch statistics and the gradient through a batch normalisation.
// Statistics are double[3][C]: mean, 1/sqrt(var + eps), biased variance. Gradient sums of one are
// double[2][C]: sum(dy), sum(dy * (z - mean)).

#pragma once

#include <cmath>

#include "lanes.h"

namespace {

constexpr long RUN = 32;  // terms added in a row: sums of sums keep float rounding small

// Mean and sum of squared deviations of one image, two passes over data in the cache.
template <class T, int V>
void image_moments(const T* z, long pixels, long C, double* mean, double* square) {
  for (long c = 0; c < C; c += V) {
    Vec<T, V> sum{}, dev{};
    for (long start = 0; start < pixels; start += RUN) {
      Vec<T, V> part{};
      for (long p = start; p < pixels && p < start + RUN; p++) part += load<T, V>(z + p * C + c);
      sum += part;
    }
    Vec<T, V> m = sum / T(pixels);
    for (long start = 0; start < pixels; start += RUN) {
      Vec<T, V> part{};
      for (long p = start; p < pixels && p < start + RUN; p++) {
        Vec<T, V> e = load<T, V>(z + p * C + c) - m;
        part += e * e;
      }
      dev += part;
    }
    T a[V], b[V];
    store<T, V>(a, m);
    store<T, V>(b, dev);
    for (int v = 0; v < V; v++) mean[c + v] = a[v], square[c + v] = b[v];
  }
}

// Statistics of the batch, from the moments of its images.
void merge_moments(const double* means, const double* squares, long N, long pixels, long C,
                   double eps, double* stat) {
  for (long c = 0; c < C; c++) {
    double mean = 0, square = 0;
    for (long n = 0; n < N; n++) mean += means[n * C + c];
    mean /= N;
    for (long n = 0; n < N; n++) {
      double e = means[n * C + c] - mean;
      square += squares[n * C + c] + pixels * e * e;
    }
    double variance = square / (double(N) * pixels);
    stat[c] = mean, stat[C + c] = 1 / std::sqrt(variance + eps), stat[2 * C + c] = variance;
  }
}

template <class T> void narrow(const double* from, T* to, long count) {
  for (long i = 0; i < count; i++) to[i] = T(from[i]);
}

// Coefficients of dz = c1 dy + c2 (z - mean) + c3 for y = weight * (z - mean) * scale; n pixels.
template <class T>
void normal_gradient(const double* stat, const double* sums, double weight, double n, long C, T* c1,
                     T* c2, T* c3) {
  for (long c = 0; c < C; c++) {
    double scale = stat[C + c];
    c1[c] = T(weight * scale);
    c2[c] = T(-weight * scale * scale * scale * sums[C + c] / n);
    c3[c] = T(-weight * scale * sums[c] / n);
  }
}

// The dz of one image, from those coefficients.
template <class T, int V>
void normal_backward(const T* dy, const T* z, const T* mean, const T* c1, const T* c2, const T* c3,
                     T* dz, long pixels, long C) {
  for (long c = 0; c < C; c += V) {
    Vec<T, V> m = load<T, V>(mean + c), a1 = load<T, V>(c1 + c), a2 = load<T, V>(c2 + c),
              a3 = load<T, V>(c3 + c);
    for (long p = c; p < pixels * C; p += C)
      store<T, V>(dz + p, a1 * load<T, V>(dy + p) + a2 * (load<T, V>(z + p) - m) + a3);
  }
}

}  // namespace
