// Kernels as steps of a sequence: recorded with their arguments once, then run one after another without Python
// between.
//
// An address among the arguments is one of memory, fixed for as long as the sequence lives, or slot_address(i, offset):
// `offset` bytes after the i-th address that a run of the sequence is given.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "bindings/bindings.h"

constexpr int kSlotBits = 15, kOffsetBits = 48;
constexpr Address kSlotFlag = Address(1) << 63;  // no address of memory has this bit

inline Address slot_address(Address slot, Address offset) {
    if (slot >> kSlotBits || offset >> kOffsetBits) throw std::out_of_range("a slot or its offset is too large");
    return kSlotFlag | slot << kOffsetBits | offset;
}

inline Address resolve(Address address, const Address* slots) {
    if (!(address & kSlotFlag)) return address;
    const Address below = address & ~kSlotFlag;
    return slots[below >> kOffsetBits] + (below & ((Address(1) << kOffsetBits) - 1));
}

template <class T>
const T& resolve(const T& value, const Address*) {
    return value;
}

struct Step {
    virtual ~Step() = default;
    virtual void run(const Address* slots) const = 0;
};

template <class... Args>
struct Recorded final : Step {
    using Function = void (*)(Args...);

    Recorded(Function function, std::tuple<std::decay_t<Args>...> args) : function(function), args(std::move(args)) {}

    void run(const Address* slots) const override {
        std::apply([&](const auto&... values) { function(resolve(values, slots)...); }, args);
    }

    Function function;
    std::tuple<std::decay_t<Args>...> args;
};

// Makes the step from the arguments of a Python call.
using Recorder = std::function<std::unique_ptr<Step>(const py::args&)>;

std::unordered_map<std::string, Recorder>& recorders();

template <class... Args, size_t... I>
std::unique_ptr<Step> record(void (*function)(Args...), const py::args& args, std::index_sequence<I...>) {
    if (args.size() != sizeof...(Args)) throw py::type_error("a step takes all its arguments, by position");
    return std::make_unique<Recorded<Args...>>(function, std::make_tuple(args[I].cast<std::decay_t<Args>>()...));
}

// The calls of this thread's innermost open tape, or null. Each is a tuple: the function's name, its arguments.
inline thread_local py::list* open_tape = nullptr;

// m.def for a kernel that a sequence can run too; it is called without the interpreter's lock, and noted on a tape.
template <class... Args, class... Extra>
void def_step(py::module_& m, const char* name, void (*function)(Args...), const Extra&... extra) {
    m.def(
        name,
        [name, function](Args... args) {
            if (open_tape) open_tape->append(py::make_tuple(name, args...));
            py::gil_scoped_release release;
            function(args...);
        },
        extra...);
    recorders()[name] = [function](const py::args& args) {
        return record(function, args, std::index_sequence_for<Args...>());
    };
}

void bind_sequence(py::module_& m);
