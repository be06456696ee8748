// Since glibc 2.32 std::shared_ptr, which torch::stable::Tensor holds, asks this variable whether plain additions will
// do for its counts. Defined here, unseen from outside, it needs no such glibc: 0 stands for atomic ones, always.
#include <cstddef>

#ifdef __GLIBC__
extern "C" {
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
#endif
