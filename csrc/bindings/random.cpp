#include "cpu/random.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_random(py::module_& m) {
    m.attr("RANDOM_STREAMS") =
        py::dict(py::arg("user") = uint32_t(RandomStream::user), py::arg("dropout") = uint32_t(RandomStream::dropout),
                 py::arg("diffusion") = uint32_t(RandomStream::diffusion),
                 py::arg("attention") = uint32_t(RandomStream::attention));

    py::class_<RandomFill>(m, "RandomFill")
        .def(py::init([](int64_t samples, int64_t elements, uint32_t first_sample, uint32_t step, uint32_t stream) {
                 return RandomFill{samples, elements, first_sample, step, RandomStream(stream)};
             }),
             py::arg("samples"), py::arg("elements"), py::arg("first_sample") = 0, py::arg("step") = 0,
             py::arg("stream") = 0);

    m.def(
        "philox",
        [](uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
            const PhiloxWords w =
                philox({{k0, k1}}, {uint64_t(c1) << 32 | uint64_t(c0), uint64_t(c3) << 32 | uint64_t(c2)});
            return py::make_tuple(w.word[0], w.word[1], w.word[2], w.word[3]);
        },
        "(key words 0 and 1, counter words 0 to 3): the four words of one Philox4x32-10 block.");
    m.def(
        "random_words",
        [](const RandomFill& fill, Address seed_offset, Address out) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(random_table).words(fill, as_pointer<int64_t>(seed_offset), as_pointer<uint32_t>(out));
        },
        "(fill, seed_offset, out): raw 32-bit words.");
    m.def(
        "random_uniform",
        [](const RandomFill& fill, Address seed_offset, Address out) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(random_table).uniform(fill, as_pointer<int64_t>(seed_offset), as_pointer<float>(out));
        },
        "(fill, seed_offset, out): float32 in [0, 1).");
    m.def(
        "random_normal",
        [](int dtype, const RandomFill& fill, Address seed_offset, Address out) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(random_table)
                .normal(DType(dtype), fill, as_pointer<int64_t>(seed_offset), as_pointer<void>(out));
        },
        "(dtype, fill, seed_offset, out): standard normals.");
    def_step(
        m, "dropout",
        +[](int dtype, int64_t n, double p, Address seed_offset, Address x, Address y) {
            DLPERF_DISPATCH(random_table)
                .dropout(DType(dtype), n, p, as_pointer<int64_t>(seed_offset), as_pointer<void>(x),
                         as_pointer<void>(y));
        },
        "(dtype, n, p, seed_offset, x, y): y = x * keep / (1 - p); also the gradient, of gy.");
}
