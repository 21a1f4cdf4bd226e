#include "cpu/diffusion.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_diffusion(py::module_& m) {
    py::class_<DiffusionCoefficients>(m, "DiffusionCoefficients")
        .def(py::init([](float x0_from_x, float x0_from_m, float clip, float from_x0, float from_x, float from_m,
                         float from_history, float sigma, float guidance) {
                 return DiffusionCoefficients{x0_from_x, x0_from_m,    clip,  from_x0, from_x,
                                              from_m,    from_history, sigma, guidance};
             }),
             py::arg("x0_from_x"), py::arg("x0_from_m"), py::arg("clip"), py::arg("from_x0"), py::arg("from_x"),
             py::arg("from_m"), py::arg("from_history"), py::arg("sigma"), py::arg("guidance"));
    m.def(
        "diffusion_step",
        [](const DiffusionCoefficients& coefficients, int64_t samples, int64_t elements, int dtype, int model_dtype,
           Address x, Address model, Address uncond, Address noise, Address history, Address seed_offset,
           uint32_t first_sample, uint32_t step, Address out, Address x0) {
            const DiffusionStep call = {samples,
                                        elements,
                                        DType(dtype),
                                        DType(model_dtype),
                                        as_pointer<void>(x),
                                        as_pointer<void>(model),
                                        as_pointer<void>(uncond),
                                        as_pointer<void>(noise),
                                        as_pointer<void>(history),
                                        as_pointer<int64_t>(seed_offset),
                                        first_sample,
                                        step,
                                        as_pointer<void>(out),
                                        as_pointer<void>(x0)};
            py::gil_scoped_release release;
            DLPERF_DISPATCH(diffusion_table).step(call, coefficients);
        },
        py::arg("coefficients"), py::arg("samples"), py::arg("elements"), py::arg("dtype"), py::arg("model_dtype"),
        py::arg("x"), py::arg("model"), py::arg("uncond"), py::arg("noise"), py::arg("history"), py::arg("seed_offset"),
        py::arg("first_sample"), py::arg("step"), py::arg("out"), py::arg("x0"));
    m.def(
        "add_noise",
        [](int64_t samples, int64_t elements, int dtype, Address x, Address noise, Address alpha_bar, Address timesteps,
           bool velocity, Address out) {
            const AddNoise call = {samples,
                                   elements,
                                   DType(dtype),
                                   as_pointer<void>(x),
                                   as_pointer<void>(noise),
                                   as_pointer<double>(alpha_bar),
                                   as_pointer<int64_t>(timesteps),
                                   velocity,
                                   as_pointer<void>(out)};
            py::gil_scoped_release release;
            DLPERF_DISPATCH(diffusion_table).add_noise(call);
        },
        py::arg("samples"), py::arg("elements"), py::arg("dtype"), py::arg("x"), py::arg("noise"), py::arg("alpha_bar"),
        py::arg("timesteps"), py::arg("velocity"), py::arg("out"));
}
