// CPU kernels of the fast search network: NHWC, float or double (REAL), one image per thread at a time.
//
// Plain C++ with compiler vectors and OpenMP, no library headers, so that it compiles in seconds and
// one build serves every shape, batch size and live set. The readable per-edge network is its oracle.
//
// Statistics of a batch normalisation are double[3][C]: mean, 1/sqrt(var + eps), biased variance.
// Gradient sums of one are double[2][C]: sum(dy), sum(dy * (z - mean)).

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <omp.h>

namespace {

template <class T, int V> struct Lane {
  typedef T type __attribute__((vector_size(sizeof(T) * V), aligned(sizeof(T)), may_alias));
};
template <class T> struct Lane<T, 1> { typedef T type; };
template <class T, int V> using Vec = typename Lane<T, V>::type;

template <class T, int V> inline Vec<T, V> load(const T* p) {
  return *reinterpret_cast<const Vec<T, V>*>(p);
}
template <class T, int V> inline void store(T* p, Vec<T, V> v) {
  *reinterpret_cast<Vec<T, V>*>(p) = v;
}
template <class T, int V> inline Vec<T, V> all(T s) { return Vec<T, V>{} + s; }

// Memory a thread keeps between calls; grows, never shrinks.
template <class T> T* scratch(int slot, size_t count) {
  static thread_local void* memory[8] = {};
  static thread_local size_t size[8] = {};
  size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
  if (size[slot] < bytes) {
    std::free(memory[slot]);
    memory[slot] = std::aligned_alloc(64, bytes);
    size[slot] = bytes;
  }
  return static_cast<T*>(memory[slot]);
}

// ------------------------------------------------------------------ matrix product
// out[m, 0:J*V] (+)= sum_k a[m*am + k*ak] * b[k*ldb + j]; M rows and J vectors stay in registers.
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

// ------------------------------------------------------------------ depthwise convolution
// x is padded, `wide` pixels per row; the taps' weights [K*K][C] stay in registers.
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
        store<T, V>(row + j * C + c, y > Vec<T, V>{} ? y : Vec<T, V>{});
      }
    }
  }
}

// ------------------------------------------------------------------ batch statistics
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

// dz = c1 dy + c2 (z - mean) + c3 of y = weight * (z - mean) * scale; sums over n pixels
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

struct Shape {
  long N, H, W, C, h, w;  // input [N,H,W,C], output [N,h,w,C]
  int K, s, d, threads;
};

template <class T> void transpose_taps(const T* w, T* out, long C, int taps, bool flip) {
  for (long c = 0; c < C; c++)
    for (int t = 0; t < taps; t++) out[(flip ? taps - 1 - t : t) * C + c] = w[c * taps + t];
}

// ------------------------------------------------------------------ relu, depthwise, pointwise
template <class T, int V, int K>
void conv_forward(Shape g, const T* x, const double* in, const T* dw, const T* pw, T* z, double eps,
                  double* stat) {
  long C = g.C, pad = g.d * (K - 1) / 2, wide = g.W + 2 * pad, pixels = g.h * g.w;
  T *taps = scratch<T>(0, K * K * C), *matrix = scratch<T>(1, C * C), *affine = scratch<T>(2, 3 * C);
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
  T *taps = scratch<T>(0, 2 * K * K * C), *flipped = taps + K * K * C, *affine = scratch<T>(2, 6 * C);
  T *mean = affine + 2 * C, *c1 = mean + C, *c2 = c1 + C, *c3 = c2 + C;
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
    for (long c = 0; c < C; c += V) {
      Vec<T, V> m = load<T, V>(mean + c), a1 = load<T, V>(c1 + c), a2 = load<T, V>(c2 + c),
                a3 = load<T, V>(c3 + c);
      for (long p = c; p < pixels * C; p += C)
        store<T, V>(dz + p, a1 * load<T, V>(dyn + p) + a2 * (load<T, V>(zn + p) - m) + a3);
    }
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
        Vec<T, V> m = load<T, V>(affine + c), zero{}, sum{}, dot{};
        for (long i = 0; i < g.H; i++) {
          Vec<T, V> row_sum{}, row_dot{};
          for (long j = 0; j < g.W; j++) {
            long p = (i * g.W + j) * C + c;
            Vec<T, V> e = load<T, V>(xn + p) - m, v = load<T, V>(dr + (i * dr_wide + j) * C + c);
            v = e > zero ? v : zero;
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
            Vec<T, V> zero{}, v = load<T, V>(dr + (i * dr_wide + j) * C + c);
            store<T, V>(out + p, load<T, V>(out + p) + (load<T, V>(xn + p) > zero ? v : zero));
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

// ------------------------------------------------------------------ relu, pointwise
// K parts of `out / K` channels each; part k reads the pixels (i * s + k, j * s + k): one part at
// stride 1 is the preprocessing of a cell, two at stride 2 are the factorized reduction.
template <class T, int V>
void gather_relu(Shape g, const T* x, int part, T* out) {
  for (long i = 0; i < g.h; i++)
    for (long j = 0; j < g.w; j++) {
      const T* from = x + ((i * g.s + part) * g.W + j * g.s + part) * g.C;
      for (long c = 0; c < g.C; c += V) {
        Vec<T, V> v = load<T, V>(from + c), zero{};
        store<T, V>(out + (i * g.w + j) * g.C + c, v > zero ? v : zero);
      }
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
    for (long c = 0; c < out; c += V) {
      Vec<T, V> m = load<T, V>(mean + c), a1 = load<T, V>(c1 + c), a2 = load<T, V>(c2 + c),
                a3 = load<T, V>(c3 + c);
      for (long p = c; p < pixels * out; p += out)
        store<T, V>(dz + p, a1 * load<T, V>(dyn + p) + a2 * (load<T, V>(zn + p) - m) + a3);
    }
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
            Vec<T, V> v = load<T, V>(packed + (i * g.w + j) * C + c), zero{};
            v = load<T, V>(xn + at + c) > zero ? v : zero;
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

// ------------------------------------------------------------------ sums over the inputs of a node
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

// ------------------------------------------------------------------ 3x3 pooling, both kinds at once
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
        long top = i * g.s - 1, left = j * g.s - 1;
        long i0 = top < 0 ? 0 : top, i1 = top + 3 < g.H ? top + 3 : g.H;
        long j0 = left < 0 ? 0 : left, j1 = left + 3 < g.W ? left + 3 : g.W;
        T share = T(1) / T((i1 - i0) * (j1 - j0));
        for (long c = 0; c < C; c += V) {
          Vec<T, V> best = all<T, V>(-std::numeric_limits<T>::infinity()), sum{};
          for (long a = i0; a < i1; a++)
            for (long b = j0; b < j1; b++) {
              Vec<T, V> v = load<T, V>(from + (a * g.W + b) * C + c);
              best = v > best ? v : best;
              sum += v;
            }
          long p = (n * pixels + i * g.w + j) * C + c;
          if (most) store<T, V>(most + p, best);
          if (mean) store<T, V>(mean + p, sum * share);
        }
      }
    double* at = moments + n * C;
    long step = g.N * C;
    if (most_stat) image_moments<T, V>(most + n * pixels * C, pixels, C, at, at + step);
    if (mean_stat) image_moments<T, V>(mean + n * pixels * C, pixels, C, at + 2 * step, at + 3 * step);
  }
  long step = g.N * C;
  if (most_stat) merge_moments(moments, moments + step, g.N, pixels, C, eps, most_stat);
  if (mean_stat)
    merge_moments(moments + 2 * step, moments + 3 * step, g.N, pixels, C, eps, mean_stat);
}

// out = sum_i (c1_i dy_i + c3_i) + (sum_i c2_i) (x - mean): one tensor normalised into many nodes
template <class T, int V>
void shared_gradient(long count, const T* const* dy, const double* const* sums, const double* weight,
                     const T* x, const double* stat, T* out, long pixels, long C, int threads) {
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

// dx += transposed pooling of `most` (first maximum in scan order) and `mean`
template <class T, int V>
void pool_backward(Shape g, const T* x, const T* most, const T* mean, T* dx) {
  long C = g.C, pixels = g.h * g.w;
#pragma omp parallel for num_threads(g.threads) schedule(static)
  for (long n = 0; n < g.N; n++) {
    const T* from = x + n * g.H * g.W * C;
    T* to = dx + n * g.H * g.W * C;
    for (long i = 0; i < g.h; i++)
      for (long j = 0; j < g.w; j++) {
        long top = i * g.s - 1, left = j * g.s - 1;
        long i0 = top < 0 ? 0 : top, i1 = top + 3 < g.H ? top + 3 : g.H;
        long j0 = left < 0 ? 0 : left, j1 = left + 3 < g.W ? left + 3 : g.W;
        T share = T(1) / T((i1 - i0) * (j1 - j0));
        for (long c = 0; c < C; c += V) {
          long p = (n * pixels + i * g.w + j) * C + c;
          Vec<T, V> zero{}, at = all<T, V>(T((i0 - top) * 3 + j0 - left)), peak{};
          Vec<T, V> even = mean ? load<T, V>(mean + p) * share : zero;
          if (most) {
            peak = load<T, V>(most + p);
            Vec<T, V> best = load<T, V>(from + (i0 * g.W + j0) * C + c);
            for (long a = i0; a < i1; a++)
              for (long b = j0; b < j1; b++) {
                Vec<T, V> v = load<T, V>(from + (a * g.W + b) * C + c);
                at = v > best ? all<T, V>(T((a - top) * 3 + b - left)) : at;
                best = v > best ? v : best;
              }
          }
          for (long a = i0; a < i1; a++)
            for (long b = j0; b < j1; b++) {
              T* q = to + (a * g.W + b) * C + c;
              Vec<T, V> here = all<T, V>(T((a - top) * 3 + b - left));
              store<T, V>(q, load<T, V>(q) + even + (at == here ? peak : zero));
            }
        }
      }
  }
}

// The widest vector that divides the channels (of `a | b`: both).
#define BY_WIDTH(T, C, CALL)                                  \
  do {                                                        \
    constexpr int full = 64 / sizeof(T);                      \
    if ((C) % full == 0) { constexpr int V = full; CALL; }    \
    else if ((C) % 8 == 0) { constexpr int V = 8; CALL; }     \
    else if ((C) % 4 == 0) { constexpr int V = 4; CALL; }     \
    else { constexpr int V = 1; CALL; }                       \
  } while (0)

#define BY_KERNEL(K_, CALL)                                   \
  switch (K_) {                                               \
    case 3: { constexpr int K = 3; CALL; break; }             \
    case 5: { constexpr int K = 5; CALL; break; }             \
    default: { constexpr int K = 7; CALL; break; }            \
  }

}  // namespace

extern "C" {

typedef REAL T;

void conv_forward(Shape g, const T* x, const double* in, const T* dw, const T* pw, T* z, double eps,
                  double* stat) {
  BY_WIDTH(T, g.C, BY_KERNEL(g.K, (conv_forward<T, V, K>(g, x, in, dw, pw, z, eps, stat))));
}

void conv_backward(Shape g, const T* x, const double* in, const T* dw, const T* pw, const T* z,
                   const double* stat, const T* dy, const double* sums, double weight, T* dx,
                   double* in_sums, T* ddw, T* dpw) {
  BY_WIDTH(T, g.C, BY_KERNEL(g.K, (conv_backward<T, V, K>(g, x, in, dw, pw, z, stat, dy, sums,
                                                          weight, dx, in_sums, ddw, dpw))));
}

void point_forward(Shape g, const T* x, const T* const* weight, long out, T* z, double eps,
                   double* stat) {
  BY_WIDTH(T, g.C | out / g.K, (point_forward<T, V>(g, x, weight, out, z, eps, stat)));
}

void point_backward(Shape g, const T* x, const T* const* weight, long out, const T* z,
                    const double* stat, const T* dy, const double* sums, double scale, T* dx,
                    int add, T* const* dweight) {
  BY_WIDTH(T, g.C | out / g.K, (point_backward<T, V>(g, x, weight, out, z, stat, dy, sums, scale,
                                                     dx, add, dweight)));
}

void combine(Shape g, long count, const T* const* x, const double* const* stat,
             const double* weight, T* out) {
  BY_WIDTH(T, g.C,
           (combine<T, V>(count, x, stat, weight, out, g.N * g.h * g.w, g.C, g.threads)));
}

void node_sums(Shape g, long count, const T* const* x, const double* const* stat, const T* dy,
               double* sums, double* dweight) {
  BY_WIDTH(T, g.C, (node_sums<T, V>(count, x, stat, dy, sums, dweight, g.N, g.h * g.w, g.C,
                                    g.threads)));
}

void pool_forward(Shape g, const T* x, T* most, T* mean, double eps, double* most_stat,
                  double* mean_stat) {
  BY_WIDTH(T, g.C, (pool_forward<T, V>(g, x, most, mean, eps, most_stat, mean_stat)));
}

void shared_gradient(Shape g, long count, const T* const* dy, const double* const* sums,
                     const double* weight, const T* x, const double* stat, T* out) {
  BY_WIDTH(T, g.C, (shared_gradient<T, V>(count, dy, sums, weight, x, stat, out,
                                          g.N * g.h * g.w, g.C, g.threads)));
}

void pool_backward(Shape g, const T* x, const T* most, const T* mean, T* dx) {
  BY_WIDTH(T, g.C, (pool_backward<T, V>(g, x, most, mean, dx)));
}

// running = (1 - momentum) running + momentum batch, with the unbiased variance
void update_running(Shape g, long count, const double* const* stat, T* const* mean,
                    T* const* variance, const double* momentum) {
  double n = double(g.N) * g.h * g.w, unbiased = n / (n - 1);
  for (long i = 0; i < count; i++)
    for (long c = 0; c < g.C; c++) {
      double m = momentum[i];
      mean[i][c] = T((1 - m) * mean[i][c] + m * stat[i][c]);
      variance[i][c] = T((1 - m) * variance[i][c] + m * stat[i][2 * g.C + c] * unbiased);
    }
}

}  // extern "C"
