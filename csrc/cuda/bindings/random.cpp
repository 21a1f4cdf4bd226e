#include "cuda/random.h"

#include "cuda/bindings/bindings.h"

using namespace dlperf::cuda;

void bind_random(py::module_& m) {
    m.def("dropout", [](const Device& device, Address x, Address seed_offset, Address y, int64_t n, double p,
                        int type) { dropout(at(x), at<int64_t>(seed_offset), at(y), n, p, Storage(type), device); });
    m.def("diffusion_step",
          [](const Device& device, int64_t samples, int64_t elements, int channels, bool last, int type, int model_type,
             Address x, Address model, Address uncond, Address noise, Address history, Address seed_offset,
             uint32_t first_sample, uint32_t step, Address out, Address x0, const py::sequence& coefficients) {
              auto c = [&](int i) { return coefficients[size_t(i)].cast<float>(); };
              const DiffusionCall call = {
                  samples,      elements,  channels,   last,      Storage(type), Storage(model_type),
                  at(x),        at(model), at(uncond), at(noise), at(history),   at<int64_t>(seed_offset),
                  first_sample, step,      at(out),    at(x0),    c(0),          c(1),
                  c(2),         c(3),      c(4),       c(5),      c(6),          c(7),
                  c(8)};
              diffusion_step(call, device);
          });
    m.def("add_noise", [](const Device& device, int64_t samples, int64_t elements, int type, Address x, Address noise,
                          Address alpha_bar, Address timesteps, int64_t steps, bool velocity, Address out) {
        add_noise({samples, elements, Storage(type), at(x), at(noise), at<double>(alpha_bar), at<int64_t>(timesteps),
                   steps, velocity, at(out)},
                  device);
    });
}
