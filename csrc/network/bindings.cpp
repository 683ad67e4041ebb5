// The Python module athsearch._network: checks arrays, releases Python's lock, calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../gil.h"
#include "define_steps.h"
#include "levels.h"
#include "network.h"

namespace py = pybind11;
using athsearch::Floats;
using athsearch::Network;
using athsearch::to_vector;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;

Floats run(const Network& network, const Bytes& images, unsigned threads) {
  const auto size = static_cast<py::ssize_t>(network.size());
  if (images.ndim() != 4 || images.shape(1) != size || images.shape(2) != size || images.shape(3) != 3)
    throw py::value_error("images must be uint8 [n, " + std::to_string(size) + ", " + std::to_string(size) + ", 3]");
  Floats logits({images.shape(0), static_cast<py::ssize_t>(network.bits())});
  float* out = logits.mutable_data();
  const uint8_t* in = images.data();
  const auto n_images = static_cast<size_t>(images.shape(0));
  athsearch::without_gil([&] { network.run(in, n_images, out, threads); });
  return logits;
}

std::vector<std::string> level_names() {
  std::vector<std::string> names;
  for (const athsearch::Operations* level : athsearch::available_levels()) names.emplace_back(level->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_network, module) {
  module.doc() = "Runs hashing networks on the CPU; athsearch.model.inference builds them.";
  module.def("level_names", &level_names, "CPU levels this machine can run, fastest first.");
  py::class_<Network> network(module, "Network");
  athsearch::define_steps(network);
  network
      .def(py::init([](size_t size, const Floats& values, std::vector<size_t> order, const std::string& level) {
             return std::make_unique<Network>(athsearch::select_level(level), size, to_vector(values),
                                              std::move(order));
           }),
           py::arg("size"), py::arg("values"), py::arg("order"), py::arg("level") = "")
      .def("run", &run, py::arg("images").noconvert(), py::arg("threads"),
           "images uint8 [n, size, size, 3] -> logits float32 [n, bits]");
}
