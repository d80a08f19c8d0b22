#include <trainer/core/heap.h>

#include <malloc.h>

namespace trainer {

void trim_heap() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace trainer
