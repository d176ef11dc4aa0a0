// CPU kernels of the fast search network: NHWC, float or double (REAL). A thread takes one image at
// a time.
//
// Plain C++ with compiler vectors and OpenMP, no library headers, so that it compiles in seconds;
// one build serves every shape, batch size and live set. The readable per-edge network is the
// oracle. The headers belong to this one translation unit: their names are local to it.

#include "convolution.h"
#include "node.h"
#include "pointwise.h"
#include "pooling.h"
#include "shape.h"

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
