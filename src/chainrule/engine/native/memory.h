// Memory that large weights stream from: aligned, in huge pages where the system has them.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

class ChainruleMemory {
 public:
  ChainruleMemory() = default;
  explicit ChainruleMemory(std::size_t bytes) {
    const std::size_t align = bytes >= kHuge ? kHuge : 64;
    bytes_ = (bytes + align - 1) / align * align;
    if (!bytes_) return;
    data_ = static_cast<unsigned char*>(std::aligned_alloc(align, bytes_));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align == kHuge) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
  }
  ~ChainruleMemory() { std::free(data_); }
  ChainruleMemory(ChainruleMemory&& other) noexcept { swap(other); }
  ChainruleMemory& operator=(ChainruleMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ChainruleMemory(const ChainruleMemory&) = delete;
  ChainruleMemory& operator=(const ChainruleMemory&) = delete;

  // What lies behind isn't used any more. Only of huge pages: the system takes whole ones back, and
  // what is less than one may share it with others.
  void end_at(std::size_t bytes) {
    if (bytes_ < kHuge) return;
    const std::size_t first = (bytes + kHuge - 1) / kHuge * kHuge;
#if defined(__linux__)
    if (first < bytes_) madvise(data_ + first, bytes_ - first, MADV_DONTNEED);
#endif
    if (first < bytes_) bytes_ = first;
  }

  unsigned char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  static constexpr std::size_t kHuge = std::size_t{1} << 21;
  void swap(ChainruleMemory& other) noexcept {
    unsigned char* const data = data_;
    const std::size_t bytes = bytes_;
    data_ = other.data_, bytes_ = other.bytes_;
    other.data_ = data, other.bytes_ = bytes;
  }
  unsigned char* data_ = nullptr;
  std::size_t bytes_ = 0;
};
