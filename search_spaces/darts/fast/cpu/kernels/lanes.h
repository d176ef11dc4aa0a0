// Vectors of V numbers, in the compiler's own terms.

#pragma once

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

// As in torch: NaN stays NaN, and lets the gradient through.
template <class T, int V> inline Vec<T, V> relu(Vec<T, V> x) {
  return x < Vec<T, V>{} ? Vec<T, V>{} : x;
}
template <class T, int V> inline Vec<T, V> relu_gradient(Vec<T, V> x, Vec<T, V> dy) {
  return x <= Vec<T, V>{} ? Vec<T, V>{} : dy;
}

}  // namespace
