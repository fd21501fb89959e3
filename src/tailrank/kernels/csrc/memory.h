// Memory of packed weights and of the work in between. Not for files with flags of their own.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace tailrank {

// Numbers that start on a cache line, zeroed when made. Large ones ask for huge pages: weights that
// are read from end to end for every batch would otherwise miss the TLB on every page.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t count) : count_(count) {
    constexpr std::size_t kHugePage = std::size_t{2} << 20;
    const std::size_t bytes = count * sizeof(T);
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
    const std::size_t whole = (bytes / alignment + 1) * alignment;
    memory_.reset(static_cast<T*>(std::aligned_alloc(alignment, whole)));
    if (!memory_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    // Refused or not, the numbers are the same.
    if (alignment == kHugePage) madvise(memory_.get(), whole, MADV_HUGEPAGE);
#endif
    for (std::size_t i = 0; i < whole / sizeof(T); ++i) memory_.get()[i] = T{};
  }

  // Room for `count` numbers; what was in it is gone where it has to grow.
  T* reserve(std::size_t count) {
    if (count > count_) *this = Buffer(count);
    return memory_.get();
  }

  T* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  std::size_t count_ = 0;
};

// Work spaces for calls from any number of threads: one for each call at a time, kept for the next.
template <typename Space>
class Pool {
 public:
  class Lease {
   public:
    Lease(Pool& pool, std::unique_ptr<Space> space) : pool_(pool), space_(std::move(space)) {}
    ~Lease() {
      const std::lock_guard<std::mutex> lock(pool_.mutex_);
      pool_.idle_.push_back(std::move(space_));
    }
    Lease(const Lease&) = delete;
    Space& operator*() const { return *space_; }

   private:
    Pool& pool_;
    std::unique_ptr<Space> space_;
  };

  Lease lease() {
    std::unique_ptr<Space> space;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (idle_.empty()) {
        space = std::make_unique<Space>();
        idle_.reserve(++num_spaces_);  // so that giving back cannot fail
      } else {
        space = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    return Lease(*this, std::move(space));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Space>> idle_;
  std::size_t num_spaces_ = 0;  // idle or lent
};

}  // namespace tailrank
