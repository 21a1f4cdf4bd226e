// Memory for results and scratch that is used again instead of going back to the system after each call.
//
// Large blocks from malloc are mapped anew by each call and zeroed page by page on first touch: in a ResNet's forward
// pass that cost 15 to 40% of the time. Here a freed block is kept for the next request of about its size, on huge
// pages where the system has them. Blocks that nothing has taken for a while go back, at the next call of any kind.
//
// From Python (dlperf._C):
//   empty(size, strides, dtype)   a DLPack capsule of uninitialised memory, or None where the system has none left
//   scratch(bytes)                address of this thread's scratch, valid until the thread asks again
//   memory_stats()                bytes: in use, kept for reuse, most ever in use
//   empty_cache()                 gives back what is kept; returns how many bytes that was
#pragma once

#include <cstddef>

namespace dlperf {

// At least `bytes`, aligned to 64 bytes; null where the system has none left. Any thread may give what another took.
void* take_memory(size_t bytes);
void give_memory(void* block);

// This thread's scratch, valid until its next call; null where the system has none left.
void* thread_scratch(size_t bytes);

struct MemoryStats {
    size_t used, kept, peak;
};
MemoryStats memory_stats();

size_t empty_memory_cache();

}  // namespace dlperf
