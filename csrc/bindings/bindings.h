// What every bindings file shares. Tensors arrive as addresses: torch owns all memory.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "cpu/dtype.h"

namespace py = pybind11;

// The address of a tensor's first element (tensor.data_ptr()), or 0 for None.
using Address = uintptr_t;

template <class T>
inline T* as_pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

void bind_isa(py::module_& m);
void bind_watch(py::module_& m);
void bind_gemm(py::module_& m);
void bind_conv(py::module_& m);
void bind_ceiling(py::module_& m);
void bind_layout(py::module_& m);
void bind_memory(py::module_& m);
void bind_batch_norm(py::module_& m);
void bind_pool(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_glu(py::module_& m);
void bind_loss(py::module_& m);
void bind_softmax(py::module_& m);
void bind_random(py::module_& m);
void bind_attention(py::module_& m);
void bind_row_norm(py::module_& m);
void bind_group_norm(py::module_& m);
void bind_diffusion(py::module_& m);
void bind_upsample(py::module_& m);
void bind_gather(py::module_& m);
void bind_recurrent(py::module_& m);
