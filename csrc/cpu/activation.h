// Activations by number: the one list that kernels, epilogues and Python share.
#pragma once

#include <cstdint>

namespace dlperf {

// Order is the interface: bindings publish it as dlperf._C.ACTIVATIONS, an index per name.
enum class Act : int {
    none = 0,
    relu,
    relu6,
    leaky_relu,  // param: negative slope
    elu,         // param: alpha
    gelu,        // exact, by erf
    gelu_tanh,   // the tanh approximation
    silu,
    sigmoid,
    tanh,
    hardsigmoid,
    hardswish,
    softplus,  // param: beta; threshold 20 as torch's default
    mish,
};

constexpr const char* kActNames[] = {"none", "relu",    "relu6", "leaky_relu",  "elu",       "gelu",     "gelu_tanh",
                                     "silu", "sigmoid", "tanh",  "hardsigmoid", "hardswish", "softplus", "mish"};
constexpr int kActCount = sizeof(kActNames) / sizeof(kActNames[0]);

// Whether y = act(x) alone gives act'(x).
constexpr bool derivative_from_output(Act act) {
    return act == Act::none || act == Act::relu || act == Act::relu6 || act == Act::sigmoid || act == Act::tanh;
}

}  // namespace dlperf
