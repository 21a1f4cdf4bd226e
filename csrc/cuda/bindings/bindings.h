// What the bindings share. Tensors arrive as addresses: torch owns all memory, workspaces too.
#pragma once

#include <pybind11/pybind11.h>

#include "cuda/plan.h"

namespace py = pybind11;

// tensor.data_ptr(), or 0 for None.
using Address = uintptr_t;

template <class T = void>
inline T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

void bind_products(py::module_& m);
void bind_norms(py::module_& m);
void bind_random(py::module_& m);
void bind_attention(py::module_& m);
void bind_elementwise(py::module_& m);
