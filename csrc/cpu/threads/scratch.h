// Scratch memory of the CPU kernels, not initialised.
#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace scatsimclr {

// Two for each thread, so that what a call shares among its threads does not collide with what the calling thread uses
// as one of them.
enum class Slot { shared = 0, own = 1 };

// The slot's memory, 64-byte aligned; kept between calls while it is small.
char* scratch_memory(Slot slot, size_t bytes);
// Gives back what is too large to keep.
void trim_scratch(Slot slot);

// Hands out parts of a piece of memory, each on cache lines of its own; without one it only counts what they take.
class Arena {
 public:
  explicit Arena(char* base = nullptr) : base_(base) {}

  template <class T>
  T* take(size_t count) {
    T* taken = base_ ? reinterpret_cast<T*>(base_ + bytes_) : nullptr;
    const size_t size = count * sizeof(T);
    bytes_ += (size + 63) / 64 * 64;
#ifdef __SANITIZE_ADDRESS__
    // Leaving a part is as wrong as leaving the memory: a line after each must not be touched.
    bytes_ += 64;
    char* end = reinterpret_cast<char*>(taken) + size;
    if (base_) ASAN_POISON_MEMORY_REGION(end, base_ + bytes_ - end);
#endif
    return taken;
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

// What `lay_out(arena)` returns, which takes its parts of the slot's memory: called twice, first to count them.
template <class LayOut>
auto scratch(Slot slot, const LayOut& lay_out) {
  Arena counted;
  lay_out(counted);
  Arena memory(scratch_memory(slot, counted.bytes()));
  return lay_out(memory);
}

}  // namespace scatsimclr
