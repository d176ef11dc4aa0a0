// Matrix product. M rows and J vectors of the result stay in registers.

#pragma once

#include "lanes.h"

namespace {

// out[m, 0:J*V] (+)= sum_k a[m*am + k*ak] * b[k*ldb + j]
template <class T, int V, int M, int J>
inline void tile(const T* a, long am, long ak, const T* b, long ldb, T* out, long ldo, long depth,
                 bool add) {
  Vec<T, V> sum[M][J];
  for (int m = 0; m < M; m++)
    for (int j = 0; j < J; j++) sum[m][j] = Vec<T, V>{};
  for (long k = 0; k < depth; k++) {
    Vec<T, V> row[J];
    for (int j = 0; j < J; j++) row[j] = load<T, V>(b + k * ldb + j * V);
    for (int m = 0; m < M; m++) {
      Vec<T, V> s = all<T, V>(a[m * am + k * ak]);
      for (int j = 0; j < J; j++) sum[m][j] += s * row[j];
    }
  }
  for (int m = 0; m < M; m++)
    for (int j = 0; j < J; j++) {
      T* to = out + m * ldo + j * V;
      store<T, V>(to, add ? load<T, V>(to) + sum[m][j] : sum[m][j]);
    }
}

template <class T, int V, int M, int J>
void tiles(const T* a, long am, long ak, const T* b, long ldb, T* out, long ldo, long rows,
           long depth, bool add) {
  long m = 0;
  for (; m + M <= rows; m += M)
    tile<T, V, M, J>(a + m * am, am, ak, b, ldb, out + m * ldo, ldo, depth, add);
  if constexpr (M > 1)
    tiles<T, V, M / 2, J>(a + m * am, am, ak, b, ldb, out + m * ldo, ldo, rows - m, depth, add);
}

template <class T, int V>
void product(const T* a, long am, long ak, const T* b, long ldb, T* out, long ldo, long rows,
             long columns, long depth, bool add) {
  long j = 0;
  for (; j + 2 * V <= columns; j += 2 * V)
    tiles<T, V, 8, 2>(a, am, ak, b + j, ldb, out + j, ldo, rows, depth, add);
  for (; j < columns; j += V)
    tiles<T, V, 16, 1>(a, am, ak, b + j, ldb, out + j, ldo, rows, depth, add);
}

}  // namespace
