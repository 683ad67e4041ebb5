// The methods that build a network step by step, for the Python class of any network.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

namespace athsearch {

using Floats = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;

inline std::vector<float> to_vector(const Floats& array) { return {array.data(), array.data() + array.size()}; }

template <class Network>
void define_steps(pybind11::class_<Network>& network) {
  namespace py = pybind11;
  network.def("add_plane", &Network::add_plane, py::arg("height"), py::arg("width"), py::arg("channels"))
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
          py::arg("bits"), py::arg("weights"), py::arg("bias"));
}

}  // namespace athsearch
