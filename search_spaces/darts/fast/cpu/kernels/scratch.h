// Memory a thread keeps between calls; grows, never shrinks.

#pragma once

#include <cstddef>
#include <cstdlib>

namespace {

template <class T> T* scratch(int slot, std::size_t count) {
  static thread_local void* memory[8] = {};
  static thread_local std::size_t size[8] = {};
  std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
  if (size[slot] < bytes) {
    std::free(memory[slot]);
    memory[slot] = std::aligned_alloc(64, bytes);
    size[slot] = bytes;
  }
  return static_cast<T*>(memory[slot]);
}

}  // namespace
