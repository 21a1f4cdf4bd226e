#include <vector>

#include "bindings/bindings.h"

namespace {

// Borrowed, or null where the dict has no such key.
PyObject* item_of(PyObject* dict, PyObject* key) {
    PyObject* found = PyDict_GetItemWithError(dict, key);
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

// Kernels have emptied the caches: what lies this many entries further is asked for.
constexpr size_t kAhead = 16;

// The versions of tensors, and whether they are what they were.
struct Versions {
    Versions(const py::tuple& tensors, std::vector<Address> memory) : tensors(tensors), memory(std::move(memory)) {
        if (this->memory.size() != tensors.size()) throw py::value_error("memory: expected an address for each tensor");
        remember();
    }

    long read(size_t i) const {
        PyObject* got = PyObject_GetAttr(PyTuple_GET_ITEM(tensors.ptr(), i), name.ptr());
        if (!got) throw py::error_already_set();
        const long version = PyLong_AsLong(got);
        Py_DECREF(got);
        if (version == -1 && PyErr_Occurred()) throw py::error_already_set();
        return version;
    }

    void remember() {
        versions.clear();
        for (size_t i = 0; i < tensors.size(); ++i) versions.push_back(read(i));
    }

    bool unchanged() const {
        for (size_t i = 0; i < versions.size(); ++i) {
            if (i + kAhead < versions.size()) {
                __builtin_prefetch(PyTuple_GET_ITEM(tensors.ptr(), i + kAhead));
                // What torch itself keeps of a tensor: some 200 bytes.
                const char* line = as_pointer<const char>(memory[i + kAhead]);
                for (int at = 0; at < 256; at += 64) __builtin_prefetch(line + at);
            }
            if (read(i) != versions[i]) return false;
        }
        return true;
    }

    py::tuple tensors;
    std::vector<Address> memory;
    std::vector<long> versions;
    py::str name = "_version";
};

}  // namespace

void bind_watch(py::module_& m) {
    m.def(
        "holds",
        [](const py::tuple& holders, const py::tuple& keys, const py::tuple& held) {
            const size_t count = holders.size();
            for (size_t i = 0; i < count; ++i) {
                if (i + kAhead < count) __builtin_prefetch(PyTuple_GET_ITEM(holders.ptr(), i + kAhead));
                PyObject* key = PyTuple_GET_ITEM(keys.ptr(), i);
                if (item_of(PyTuple_GET_ITEM(holders.ptr(), i), key) != PyTuple_GET_ITEM(held.ptr(), i)) return false;
            }
            return true;
        },
        "(holders, keys, held): whether each dict still holds the very object under its key.");
    m.def(
        "have_sizes",
        [](const py::tuple& dicts, const py::tuple& sizes) {
            const size_t count = dicts.size();
            for (size_t i = 0; i < count; ++i) {
                if (i + kAhead < count) __builtin_prefetch(PyTuple_GET_ITEM(dicts.ptr(), i + kAhead));
                if (PyDict_Size(PyTuple_GET_ITEM(dicts.ptr(), i)) != PyLong_AsSsize_t(PyTuple_GET_ITEM(sizes.ptr(), i)))
                    return false;
            }
            return true;
        },
        "(dicts, sizes): whether each dict has so many items.");
    py::class_<Versions>(m, "Versions", "Of tensors, as they were when they were last remembered.")
        .def(py::init<const py::tuple&, std::vector<Address>>(), py::arg("tensors"), py::arg("memory"),
             "memory: where torch's own part of each tensor lies (tensor._cdata).")
        .def("remember", &Versions::remember)
        .def("unchanged", &Versions::unchanged);
}
