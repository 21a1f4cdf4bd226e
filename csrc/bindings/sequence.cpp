#include <vector>

#include "bindings/steps.h"

std::unordered_map<std::string, Recorder>& recorders() {
    static std::unordered_map<std::string, Recorder> all;
    return all;
}

namespace {

struct Sequence {
    void append(const std::string& name, const py::args& args) {
        const auto found = recorders().find(name);
        if (found == recorders().end()) throw py::value_error("no step is called " + name);
        steps.push_back(found->second(args));
    }

    void run(const py::args& addresses) const {
        std::vector<Address> slots;
        slots.reserve(addresses.size());
        for (const auto& address : addresses) slots.push_back(address.cast<Address>());
        py::gil_scoped_release release;
        for (const auto& step : steps) step->run(slots.data());
    }

    std::vector<std::unique_ptr<Step>> steps;
};

// A context manager: the calls of steps that its thread makes inside it.
struct Tape {
    py::list enter() {
        outer = open_tape;
        open_tape = &calls;
        return calls;
    }

    void exit(const py::args&) { open_tape = outer; }

    py::list calls;
    py::list* outer = nullptr;
};

}  // namespace

void bind_sequence(py::module_& m) {
    m.def("slot_address", slot_address, py::arg("slot"), py::arg("offset"),
          "For Sequence.append: `offset` bytes after the slot-th address that the sequence is called with.");
    m.def(
        "is_step", [](const std::string& name) { return recorders().count(name) > 0; }, py::arg("name"),
        "Whether Sequence.append takes the function of this name.");
    py::class_<Sequence>(m, "Sequence", "Calls of kernels, run one after another; what they point to must outlive it.")
        .def(py::init<>())
        .def("append", &Sequence::append, "(name, *args): adds the call of the function of this name.")
        .def("__call__", &Sequence::run, "(*addresses): runs all calls; addresses are what slot_address refers to.");
    py::class_<Tape>(m, "Tape",
                     "A context manager that gives a list: (name, *args) of each call, by this thread and while it is "
                     "open, of a function that Sequence.append takes, and of scratch: (\"scratch\", bytes, address).")
        .def(py::init<>())
        .def("__enter__", &Tape::enter)
        .def("__exit__", &Tape::exit);
}
