// Included before every C++ source (setup.py): what is compiled here loads with glibc 2.28, the oldest that PyTorch's
// wheels take, although the glibc of the compiling machine may be newer.
#pragma once

#if __has_include(<features.h>)
#include <features.h>
#endif

// glibc 2.29 gave these functions, which then no longer set errno through a wrapper, new versions. The old ones compute
// the same bits. Elsewhere than on x86-64 the first version has another name.
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver exp2, exp2@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver log2, log2@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
#endif
