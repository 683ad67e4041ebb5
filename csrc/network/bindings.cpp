// The Python module athsearch._network: checks arrays, releases Python's lock, calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "../gil.h"
#include "levels.h"
#include "network.h"

namespace py = pybind11;
using athsearch::Network;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

std::vector<float> to_vector(const Floats& array) { return {array.data(), array.data() + array.size()}; }

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
  py::class_<Network>(module, "Network")
      .def(py::init([](size_t size, const Floats& values, std::vector<size_t> order, const std::string& level) {
             return std::make_unique<Network>(athsearch::select_level(level), size, to_vector(values),
                                              std::move(order));
           }),
           py::arg("size"), py::arg("values"), py::arg("order"), py::arg("level") = "")
      .def("add_plane", &Network::add_plane, py::arg("height"), py::arg("width"), py::arg("channels"))
      .def(
          "convolve",
          [](Network& network, size_t in, size_t out, size_t kernel, size_t stride, const Floats& weights,
             const Floats& bias, bool is_rectified, std::optional<size_t> added) {
            network.convolve(in, out, kernel, stride, to_vector(weights), to_vector(bias), is_rectified,
                             added ? &*added : nullptr);
          },
          py::arg("in_"), py::arg("out"), py::arg("kernel"), py::arg("stride"), py::arg("weights"), py::arg("bias"),
          py::arg("is_rectified"), py::arg("added"))
      .def("pool_maximum", &Network::pool_maximum, py::arg("in_"), py::arg("out"))
      .def("pool_average", &Network::pool_average, py::arg("in_"), py::arg("out"))
      .def(
          "attend",
          [](Network& network, size_t in, size_t out, size_t n_channels, float offset, const Floats& weights) {
            network.attend(in, out, n_channels, offset, to_vector(weights));
          },
          py::arg("in_"), py::arg("out"), py::arg("n_channels"), py::arg("offset"), py::arg("weights"))
      .def("flatten", &Network::flatten, py::arg("in_"), py::arg("n_channels"))
      .def("summarise", &Network::summarise, py::arg("in_"))
      .def(
          "finish",
          [](Network& network, size_t bits, const Floats& weights, const Floats& bias) {
            network.finish(bits, to_vector(weights), to_vector(bias));
          },
          py::arg("bits"), py::arg("weights"), py::arg("bias"))
      .def("run", &run, py::arg("images").noconvert(), py::arg("threads"),
           "images uint8 [n, size, size, 3] -> logits float32 [n, bits]");
}
