// Where tiles lie in the images, and Bᵀ of their inputs.
#include <cstdint>

#include "cpu/conv3x3/arithmetic-inl.h"

#if defined(SCATSIMCLR_CONV3X3_PLACES_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_CONV3X3_PLACES_INL_H_
#undef SCATSIMCLR_CONV3X3_PLACES_INL_H_
#else
#define SCATSIMCLR_CONV3X3_PLACES_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3 {

// Upper left output of tile t, and its image.
struct TilePlace {
  int64_t image, y, x;
};

template <class Job>
SCATSIMCLR_INLINE TilePlace place_of(const Job& job, int64_t t) {
  const int64_t columns = job.tile_columns(), of_image = job.tile_rows() * columns, rest = t % of_image;
  return {t / of_image, 2 * (rest / columns), 2 * (rest % columns)};
}

template <class Job>
SCATSIMCLR_INLINE TilePlace next_place(const Job& job, TilePlace at) {
  if ((at.x += 2) < job.width) return at;
  at.x = 0;
  if ((at.y += 2) < job.height) return at;
  return {at.image + 1, 0, 0};
}

template <class Job, class S>
SCATSIMCLR_INLINE const S* pixel_of(const Job& job, const S* images, int64_t channels, int64_t image, int64_t y,
                                    int64_t x) {
  const bool inside = image < job.batch && y >= 0 && y < job.height && x >= 0 && x < job.width;
  return inside ? images + ((image * job.height + y) * job.width + x) * channels : job.zeros;
}

// Bᵀ of a column of four.
SCATSIMCLR_INLINE void differences(const V* d, V* v) {
  v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_CONV3X3_PLACES_INL_H_
