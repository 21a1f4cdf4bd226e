#include "cpu/memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <chrono>
#include <map>
#include <mutex>
#include <unordered_map>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace dlperf {
namespace {

constexpr size_t kHuge = size_t(2) << 20;
constexpr double kSecondsKept = 10;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t rounded(size_t bytes) {
    const size_t grain = bytes >= kHuge ? kHuge / 4 : size_t(64) << 10;
    return (bytes + grain - 1) / grain * grain;
}

// Under AddressSanitizer only the bytes that were asked for may be touched, as with malloc; else nothing.
void allow(void* block, size_t bytes, size_t size) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(block, bytes);
    __asan_poison_memory_region(static_cast<char*>(block) + bytes, size - bytes);
#else
    (void)block, (void)bytes, (void)size;
#endif
}

class Cache {
  public:
    void* take(size_t bytes) {
        const size_t size = rounded(bytes ? bytes : 1);
        std::lock_guard<std::mutex> lock(mutex_);
        release_old();
        auto found = free_.lower_bound(size);
        void* block;
        if (found != free_.end() && found->first <= size + size / 4) {
            block = found->second.block;
            kept_ -= found->first;
            in_use_[block] = found->first;
            used_ += found->first;
            free_.erase(found);
        } else {
            block = map(size);
            if (!block) {
                release(0);
                block = map(size);
            }
            if (!block) return nullptr;
            in_use_[block] = size;
            used_ += size;
        }
        if (used_ > peak_) peak_ = used_;
        allow(block, bytes, size);
        return block;
    }

    void give(void* block) {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto found = in_use_.find(block);
        if (found == in_use_.end()) return;
        free_.insert({found->second, {block, now()}});
        allow(block, 0, found->second);
        used_ -= found->second;
        kept_ += found->second;
        in_use_.erase(found);
        release_old();
    }

    size_t empty() {
        std::lock_guard<std::mutex> lock(mutex_);
        return release(0);
    }

    MemoryStats stats() {
        std::lock_guard<std::mutex> lock(mutex_);
        return {used_, kept_, peak_};
    }

    std::mutex mutex_;

  private:
    struct Free {
        void* block;
        double since;
    };

    static void* map(size_t size) {
        const bool huge = size >= kHuge;
        const size_t length = huge ? size + kHuge : size;
        void* p = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        if (!huge) return p;
        // On a huge page's boundary: what lies before and behind goes back.
        char* begin = static_cast<char*>(p);
        char* aligned = reinterpret_cast<char*>((reinterpret_cast<size_t>(begin) + kHuge - 1) / kHuge * kHuge);
        if (aligned > begin) munmap(begin, size_t(aligned - begin));
        if (begin + length > aligned + size) munmap(aligned + size, size_t(begin + length - aligned - size));
        madvise(aligned, size, MADV_HUGEPAGE);
        return aligned;
    }

    void release_old() {
        const double time = now();
        if (time - swept_ < kSecondsKept / 10) return;
        swept_ = time;
        release(time - kSecondsKept);
    }

    // Blocks free since before `limit`; 0 means all.
    size_t release(double limit) {
        size_t bytes = 0;
        for (auto i = free_.begin(); i != free_.end();) {
            if (limit > 0 && i->second.since >= limit) {
                ++i;
                continue;
            }
            allow(i->second.block, i->first, i->first);  // what is mapped here next is not ours
            munmap(i->second.block, i->first);
            bytes += i->first;
            i = free_.erase(i);
        }
        kept_ -= bytes;
        return bytes;
    }

    std::multimap<size_t, Free> free_;
    std::unordered_map<void*, size_t> in_use_;
    size_t used_ = 0, kept_ = 0, peak_ = 0;
    double swept_ = 0;
};

// Never destroyed: tensors may outlive every static object.
Cache& cache() {
    static Cache* const instance = [] {
        static Cache* made;
        made = new Cache;
        // A child must not inherit a lock that a thread it hasn't got will never give back.
        pthread_atfork([] { made->mutex_.lock(); }, [] { made->mutex_.unlock(); }, [] { made->mutex_.unlock(); });
        return made;
    }();
    return *instance;
}

struct ThreadScratch {
    void* block = nullptr;
    size_t size = 0;
    ~ThreadScratch() {
        if (block) cache().give(block);
    }
};

thread_local ThreadScratch scratch;

}  // namespace

void* take_memory(size_t bytes) {
    return cache().take(bytes);
}

void give_memory(void* block) {
    cache().give(block);
}

void* thread_scratch(size_t bytes) {
    // Far more than is asked for is given back too: another call of this process may want it.
    const bool wasteful = scratch.size > (size_t(16) << 20) && scratch.size / 8 > bytes;
    if (!scratch.block || scratch.size < bytes || wasteful) {  // of 0 bytes too: null means that there is no memory
        if (scratch.block) cache().give(scratch.block);
        scratch.block = cache().take(bytes);
        scratch.size = scratch.block ? rounded(bytes) : 0;
    }
    if (scratch.block) allow(scratch.block, bytes, scratch.size);
    return scratch.block;
}

MemoryStats memory_stats() {
    return cache().stats();
}

size_t empty_memory_cache() {
    return cache().empty();
}

}  // namespace dlperf
