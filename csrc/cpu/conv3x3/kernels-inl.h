// The kernels of `conv3x3` and `conv3x3_weight` for one instruction set: conv3x3.cpp compiles them for each.
//
// Winograd's minimal filtering F(2 × 2, 3 × 3) (Lavin and Gray, "Fast algorithms for convolutional neural networks",
// CVPR 2016): the 2 × 2 outputs of a tile, of filters g over 4 × 4 inputs d, are Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, with
//
//        ⎡1  0 −1  0⎤       ⎡ 1    0   0 ⎤
//   Bᵀ = ⎢0  1  1  0⎥   G = ⎢1/2  1/2 1/2⎥   Aᵀ = ⎡1 1  1  0⎤
//        ⎢0 −1  1  0⎥       ⎢1/2 −1/2 1/2⎥        ⎣0 1 −1 −1⎦
//        ⎣0  1  0 −1⎦       ⎣ 0    0   1 ⎦
//
// and the sum over input channels makes it 16 matrix products, one a position: 16 multiplications for the 36 of the
// definition. A block of tiles is transformed, multiplied and transformed back while it is in the core's own cache;
// memory has the images and the packed filters alone.
#include "cpu/conv3x3/filters-inl.h"
#include "cpu/conv3x3/tiles-inl.h"
#include "cpu/conv3x3/weight-inl.h"
