#include "bindings/bindings.h"

namespace {

// Borrowed, or null where the dict has no such key.
PyObject* item_of(PyObject* dict, PyObject* key) {
    PyObject* found = PyDict_GetItemWithError(dict, key);
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

}  // namespace

void bind_watch(py::module_& m) {
    m.def(
        "holds",
        [](const py::tuple& holders, const py::tuple& keys, const py::tuple& held) {
            for (size_t i = 0; i < holders.size(); ++i) {
                PyObject* key = PyTuple_GET_ITEM(keys.ptr(), i);
                if (item_of(PyTuple_GET_ITEM(holders.ptr(), i), key) != PyTuple_GET_ITEM(held.ptr(), i)) return false;
            }
            return true;
        },
        "(holders, keys, held): whether each dict still holds the very object under its key.");
    m.def(
        "have_sizes",
        [](const py::tuple& dicts, const py::tuple& sizes) {
            for (size_t i = 0; i < dicts.size(); ++i) {
                if (PyDict_Size(PyTuple_GET_ITEM(dicts.ptr(), i)) != PyLong_AsSsize_t(PyTuple_GET_ITEM(sizes.ptr(), i)))
                    return false;
            }
            return true;
        },
        "(dicts, sizes): whether each dict has so many items.");
}
