#include "cpu/memory.h"

#include <vector>

#include "bindings/steps.h"

using namespace dlperf;

namespace {

// DLPack's structures, version 0.8: the interface is the layout (https://dmlc.github.io/dlpack/latest/c_api.html).
struct DLDevice {
    int32_t type, id;
};
struct DLDataType {
    uint8_t code, bits;
    uint16_t lanes;
};
struct DLTensor {
    void* data;
    DLDevice device;
    int32_t dimensions;
    DLDataType dtype;
    int64_t* shape;
    int64_t* strides;
    uint64_t byte_offset;
};
struct DLManagedTensor {
    DLTensor tensor;
    void* context;
    void (*deleter)(DLManagedTensor*);
};

constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

// What the capsule owns, in one piece.
struct Owned {
    DLManagedTensor managed;
    std::vector<int64_t> shape, strides;
};

void destroy(DLManagedTensor* managed) {
    Owned* owned = static_cast<Owned*>(managed->context);
    give_memory(owned->managed.tensor.data);
    delete owned;
}

// A capsule that nobody consumed still has its first name.
void destroy_capsule(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;
    destroy(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor")));
}

py::object make_empty(std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype) {
    const bool wide = DType(dtype) == DType::f32;
    int64_t elements = 1;
    for (const int64_t n : shape) elements *= n;
    void* data = take_memory(size_t(elements) * (wide ? 4 : 2));
    if (!data) return py::none();
    Owned* owned = new Owned{{}, std::move(shape), std::move(strides)};
    const uint8_t code = DType(dtype) == DType::bf16 ? kBfloat : kFloat;
    owned->managed.tensor = {data,
                             {kCpu, 0},
                             int32_t(owned->shape.size()),
                             {code, uint8_t(wide ? 32 : 16), 1},
                             owned->shape.data(),
                             owned->strides.data(),
                             0};
    owned->managed.context = owned;
    owned->managed.deleter = destroy;
    return py::reinterpret_steal<py::object>(PyCapsule_New(&owned->managed, "dltensor", destroy_capsule));
}

}  // namespace

void bind_memory(py::module_& m) {
    m.def("empty", make_empty, py::arg("size"), py::arg("strides"), py::arg("dtype"),
          "A DLPack capsule of uninitialised memory, dense in its strides; None where the system has none left.");
    m.def(
        "scratch",
        [](int64_t bytes) {
            void* p = thread_scratch(size_t(bytes));
            if (!p) throw std::bad_alloc();
            if (open_tape) open_tape->append(py::make_tuple("scratch", bytes, Address(p)));
            return Address(p);
        },
        py::arg("bytes"), "The address of this thread's scratch memory, valid until the thread asks again.");
    m.def("memory_stats", [] {
        const MemoryStats s = memory_stats();
        return py::make_tuple(s.used, s.kept, s.peak);
    });
    m.def("empty_cache", [] { return empty_memory_cache(); });
}
