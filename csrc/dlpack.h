// The part of DLPack that tells where a tensor lies without making any Python object.
//
// torch >= 2.10 offers it as torch.Tensor.__dlpack_c_exchange_api__, a capsule around a table of
// functions whose layout DLPack's major version 1 fixes. So no header of torch is needed, and no
// release of torch can break the binary.
// Source: github.com/dmlc/dlpack, include/dlpack/dlpack.h, "DLPack C functional exchange".
#pragma once

#include <cstdint>

namespace yfk::dlpack {

struct Device {
  int32_t type, index;
  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
};

struct DType {
  uint8_t code, bits;
  uint16_t lanes;
  bool operator==(const DType& other) const {
    return code == other.code && bits == other.bits && lanes == other.lanes;
  }
};

constexpr uint8_t kComplex = 5;  // DType::code

struct Tensor {
  void* data;  // null for a tensor without memory of its own, a wrapper for one
  Device device;
  int32_t ndim;
  DType dtype;
  int64_t *shape, *strides;  // borrowed; strides in elements
  uint64_t byte_offset;
};

struct ExchangeApi {
  uint32_t major, minor;
  ExchangeApi* older;
  void *allocate, *export_managed, *import_managed;
  // 0, or -1 with a Python exception set. No reference is taken, nothing is synchronized.
  int (*describe)(void* py_object, Tensor* out);  // may be null
  void* current_stream;
};

constexpr const char* kCapsule = "dlpack_exchange_api";
constexpr uint32_t kMajor = 1;

}  // namespace yfk::dlpack
