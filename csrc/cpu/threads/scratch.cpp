#include "cpu/threads/scratch.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <memory>
#include <new>

namespace scatsimclr {
namespace {

struct FreeAligned {
  void operator()(char* p) const { std::free(p); }
};

struct Piece {
  std::unique_ptr<char, FreeAligned> memory;
  size_t bytes = 0;

  void release() {
    memory.reset();
    bytes = 0;
  }
};

thread_local Piece pieces[2];

// Large pages: fresh memory costs a fault each, and columns of a field touch a page for every row.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kKeptBytes = size_t{32} << 20;  // of each slot, between calls

}  // namespace

char* scratch_memory(Slot slot, size_t bytes) {
  Piece& piece = pieces[static_cast<int>(slot)];
  if (piece.bytes < bytes) {
    piece.release();
    const size_t unit = bytes < kHugePage ? 64 : kHugePage, rounded = (bytes + unit - 1) / unit * unit;
    piece.memory.reset(static_cast<char*>(std::aligned_alloc(unit, rounded)));
    if (!piece.memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (unit == kHugePage) madvise(piece.memory.get(), rounded, MADV_HUGEPAGE);
#endif
    piece.bytes = rounded;
  }
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(piece.memory.get(), piece.bytes);
#endif
  return piece.memory.get();
}

void trim_scratch(Slot slot) {
  Piece& piece = pieces[static_cast<int>(slot)];
  if (piece.bytes > kKeptBytes) piece.release();
}

}  // namespace scatsimclr
