#include "cpu/isa.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_isa(py::module_& m) {
    m.def("isa", [] { return isa_name(current_isa()); });
    m.def("detected_isa", [] { return isa_name(detected_isa()); });
    m.def("isa_environment_ok", &isa_environment_ok);
    m.def("float32_tiles_environment_ok", &float32_tiles_environment_ok);
    m.def("set_isa_cap", [](const char* name) { return set_isa_cap(name); });
    py::list names;
    for (int i = 0; i < kIsaCount; ++i) names.append(isa_name(static_cast<Isa>(i)));
    m.attr("ISAS") = names;
}
