// yfkernels._C: the operations of the CPU and the CUDA driver, on raw addresses.
//
// No torch header is included, so no release of torch can break the binary. yfkernels/ops/native
// is the only caller: it owns every tensor, checks everything, and passes addresses and sizes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "cpu/driver.h"
#include "cpu/parallel.h"
#include "layout.h"
#include "tangents.h"
#include "watch.h"
#if YFK_WITH_CUDA
#include "cuda/driver.h"
#endif

#ifndef YFK_BUILD_COMPILER
#define YFK_BUILD_COMPILER ""
#endif
#ifndef YFK_BUILD_CUDA_VERSION
#define YFK_BUILD_CUDA_VERSION ""
#endif
#ifndef YFK_BUILD_CUDA_ARCHS
#define YFK_BUILD_CUDA_ARCHS ""
#endif

namespace py = pybind11;
using namespace yfk;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Table make_table(Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size) {
  return {at<const TensorRow>(rows), at<const Chunk>(chunks), num_chunks, chunk_size};
}

TunerOptions options_from(const py::dict& given) {
  TunerOptions options;
#define YFK_TAKE(Type, name) options.name = py::cast<Type>(given[#name]);
  YFK_TUNER_OPTIONS(YFK_TAKE)
#undef YFK_TAKE
  return options;
}

// ----

std::pair<double, double> host_single_step(double distance, double variance, double h_min,
                                           double h_max) {
  const StepSize step = single_step(distance, variance, h_min, h_max);
  return {step.lr, step.momentum};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled core of yfkernels; see yfkernels.ops.native.";
  const auto no_gil = py::call_guard<py::gil_scoped_release>();

  m.def("layout", &layout);
  m.def("build_info", [] {
    py::dict info;
    info["compiler"] = YFK_BUILD_COMPILER;
    info["cuda_version"] = YFK_BUILD_CUDA_VERSION;
    info["cuda_archs"] = YFK_BUILD_CUDA_ARCHS;
    info["instruction_set"] = cpu::instruction_set();
    info["threads"] = thread_source();
    return info;
  });

  py::class_<TunerOptions>(m, "TunerOptions").def(py::init([](const py::kwargs& given) {
    return options_from(given);
  }));

  m.def("single_step", &host_single_step);

  py::class_<Watch>(m, "Watch")
      .def(py::init<py::capsule, py::object, py::object,
                    const std::vector<std::pair<int64_t, uintptr_t>>&, std::vector<int64_t>,
                    py::list>())
      .def("look", &Watch::look)
      .def("moved", &Watch::moved)
      .def("present", &Watch::present)
      .def("forget_grads", &Watch::forget_grads)
      .def("forget", &Watch::forget);

  m.def(
      "cpu_measure",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int what,
         int64_t num_slots, bool nonzero, Address partials, Address sketches, int threads) {
        cpu::measure(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), Measure(what),
                     num_slots, nonzero, at<double>(partials), at<float>(sketches), threads);
      },
      no_gil);
  m.def(
      "cpu_yellowfin_tune",
      [](const TunerOptions& options, int64_t num_slots, Address partials, Address sketches,
         double inv_scale, bool found_inf, Address state, int64_t num_groups, Address groups,
         Address coefficients) {
        cpu::yellowfin_tune(options, num_slots, at<const double>(partials),
                            at<const float>(sketches), inv_scale, found_inf, at<double>(state),
                            num_groups, at<const double>(groups), at<double>(coefficients));
      },
      no_gil);
  m.def(
      "cpu_decide",
      [](int64_t num_slots, Address partials, double inv_scale, bool found_inf, Address state,
         int64_t num_groups, int64_t words, Address coefficients) {
        cpu::decide(num_slots, at<const double>(partials), inv_scale, found_inf,
                    at<GateState>(state), num_groups, words, at<double>(coefficients));
      },
      no_gil);
  m.def(
      "cpu_update",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address chunk_move_sums, Address move_sums, int threads) {
        cpu::update(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), RuleId(rule),
                    at<const double>(coefficients), at<double>(chunk_move_sums),
                    at<double>(move_sums), threads);
      },
      no_gil);
  m.def(
      "cpu_update_state",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address chunk_norms, Address norms, int threads) {
        cpu::update_state(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype),
                          RuleId(rule), at<const double>(coefficients), at<double>(chunk_norms),
                          at<double>(norms), threads);
      },
      no_gil);
  m.def(
      "cpu_update_state_then_apply",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address chunk_norms, Address norms, int threads) {
        cpu::update_state_then_apply(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype),
                                     RuleId(rule), at<const double>(coefficients),
                                     at<double>(chunk_norms), at<double>(norms), threads);
      },
      no_gil);
  m.def(
      "cpu_apply",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address norms, int threads) {
        cpu::apply(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), RuleId(rule),
                   at<const double>(coefficients), at<const double>(norms), threads);
      },
      no_gil);

  m.def(
      "cpu_average",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype,
         int average, Address coefficients, double power, double every, int threads) {
        cpu::average(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), DType(average),
                     at<const double>(coefficients), {power, every}, threads);
      },
      no_gil);
  m.def(
      "cpu_advance_tangents",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int family,
         Address coefficients, int threads) {
        cpu::advance_tangents(make_table(rows, chunks, num_chunks, chunk_size), FamilyId(family),
                              at<const double>(coefficients), threads);
      },
      no_gil);
  m.def(
      "cpu_own_derivatives",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int family,
         Address coefficients, int threads) {
        cpu::own_derivatives(make_table(rows, chunks, num_chunks, chunk_size), FamilyId(family),
                             at<const double>(coefficients), threads);
      },
      no_gil);
  m.def(
      "cpu_project",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int projection,
         int own, int tangent, Address coefficients, Address chunk_sums, Address sums,
         int threads) {
        cpu::project(make_table(rows, chunks, num_chunks, chunk_size),
                     {ProjectionId(projection), own, tangent}, at<const double>(coefficients),
                     at<double>(chunk_sums), at<double>(sums), threads);
      },
      no_gil);

  m.def("cpu_write_words",
        [](Address destination, int64_t stride, const std::vector<int64_t>& words) {
          cpu::write_words(at<int64_t>(destination), stride, words.data(), int64_t(words.size()));
        });

#if YFK_WITH_CUDA
  m.def("cuda_device_count", [] {
    const char* reason = "";
    const int count = cuda::device_count(&reason);
    return std::pair<int, const char*>(count, reason);
  });
  py::class_<cuda::GateArguments>(m, "GateArguments")
      .def(py::init([](int64_t num_slots, Address partials, Address grad_scale, Address found_inf,
                       Address state, int64_t num_groups, int64_t words, Address coefficients) {
        return cuda::GateArguments{num_slots,
                                   at<const double>(partials),
                                   at<const float>(grad_scale),
                                   at<const float>(found_inf),
                                   at<GateState>(state),
                                   num_groups,
                                   words,
                                   at<double>(coefficients)};
      }));
  m.def(
      "cuda_measure",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int what,
         int64_t num_slots, Address partials, Address sketches, int device, Address stream) {
        cuda::measure(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), Measure(what),
                      num_slots, at<double>(partials), at<float>(sketches),
                      {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_measure_then_decide",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype,
         int64_t num_slots, Address partials, const cuda::GateArguments& gate, Address ticket,
         int device, Address stream) {
        cuda::measure_then_decide(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype),
                                  num_slots, at<double>(partials), gate, at<unsigned>(ticket),
                                  {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_decide",
      [](const cuda::GateArguments& gate, int device, Address stream) {
        cuda::decide(gate, {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_yellowfin_tune",
      [](const TunerOptions& options, int64_t num_slots, Address partials, Address sketches,
         Address grad_scale, Address found_inf, Address state, int64_t num_groups, Address groups,
         Address coefficients, Address scratch, int device, Address stream) {
        cuda::yellowfin_tune(options, num_slots, at<const double>(partials),
                             at<const float>(sketches), at<const float>(grad_scale),
                             at<const float>(found_inf), at<double>(state), num_groups,
                             at<const double>(groups), at<double>(coefficients),
                             at<double>(scratch), {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_update",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address chunk_move_sums, Address move_sums, Address tickets,
         Address ticket, int device, Address stream) {
        cuda::update(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), RuleId(rule),
                     at<const double>(coefficients), at<double>(chunk_move_sums),
                     at<double>(move_sums), at<unsigned>(tickets), at<unsigned>(ticket),
                     {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_update_state",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address chunk_norms, Address norms, Address tickets, int device,
         Address stream) {
        cuda::update_state(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype),
                           RuleId(rule), at<const double>(coefficients), at<double>(chunk_norms),
                           at<double>(norms), at<unsigned>(tickets), {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_apply",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype, int rule,
         Address coefficients, Address norms, int device, Address stream) {
        cuda::apply(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype), RuleId(rule),
                    at<const double>(coefficients), at<const double>(norms),
                    {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_average",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int dtype,
         int average, Address coefficients, double power, double every, int device,
         Address stream) {
        cuda::average(make_table(rows, chunks, num_chunks, chunk_size), DType(dtype),
                      DType(average), at<const double>(coefficients), {power, every},
                      {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_advance_tangents",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int family,
         Address coefficients, int device, Address stream) {
        cuda::advance_tangents(make_table(rows, chunks, num_chunks, chunk_size), FamilyId(family),
                               at<const double>(coefficients), {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_own_derivatives",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int family,
         Address coefficients, int device, Address stream) {
        cuda::own_derivatives(make_table(rows, chunks, num_chunks, chunk_size), FamilyId(family),
                              at<const double>(coefficients), {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_project",
      [](Address rows, Address chunks, int64_t num_chunks, int64_t chunk_size, int projection,
         int own, int tangent, Address coefficients, Address chunk_sums, Address sums,
         Address tickets, int device, Address stream) {
        cuda::project(make_table(rows, chunks, num_chunks, chunk_size),
                      {ProjectionId(projection), own, tangent}, at<const double>(coefficients),
                      at<double>(chunk_sums), at<double>(sums), at<unsigned>(tickets),
                      {device, at<void>(stream)});
      },
      no_gil);
  m.def(
      "cuda_write_words",
      [](Address destination, int64_t stride, const std::vector<int64_t>& words, int device,
         Address stream) {
        cuda::write_words(at<int64_t>(destination), stride, words.data(), int64_t(words.size()),
                          {device, at<void>(stream)});
      },
      no_gil);
#endif
}
