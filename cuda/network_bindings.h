// The class athsearch._cuda.Network: checks arrays, releases Python's lock, calls.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../csrc/gil.h"
#include "../csrc/network/define_steps.h"
#include "cuda_device.h"
#include "network.h"

namespace athsearch {
namespace cuda {

struct OwnDevice {
  explicit OwnDevice(int number) : device(number) {}
  CudaDevice device;
};

inline Dtype dtype_of_precision(const std::string& precision) {
  if (precision == "float32") return Dtype::kFloat32;
  if (precision == "float16") return Dtype::kFloat16;
  throw std::invalid_argument("precision must be float32 or float16, got " + precision);
}

class BoundNetwork : private OwnDevice, public Network {
 public:
  BoundNetwork(size_t size, const Floats& values, std::vector<size_t> order, int number, const std::string& precision)
      : OwnDevice(number), Network(device, size, to_vector(values), std::move(order), dtype_of_precision(precision)) {}
};

inline pybind11::array_t<uint8_t, pybind11::array::c_style> checked_images(const Network& network,
                                                                           const pybind11::array& images) {
  namespace py = pybind11;
  const auto size = static_cast<py::ssize_t>(network.size());
  const std::string side = std::to_string(size);
  std::string text = "images must be uint8 [n, " + side + ", " + side + ", 3], got ";
  text += py::cast<std::string>(py::str(images.dtype())) + " [";
  for (py::ssize_t i = 0; i < images.ndim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(images.shape(i));
  text += "]";
  if (!py::isinstance<py::array_t<uint8_t>>(images)) throw py::type_error(text);
  if (images.ndim() != 4 || images.shape(1) != size || images.shape(2) != size || images.shape(3) != 3)
    throw py::value_error(text);
  return py::array_t<uint8_t, py::array::c_style>(py::reinterpret_borrow<py::object>(images));
}

// (logits float32 [n, bits], words uint64 [n, n_words])
inline std::pair<pybind11::array_t<float>, pybind11::array_t<uint64_t>> encode(BoundNetwork& network,
                                                                               const pybind11::array& images) {
  namespace py = pybind11;
  const auto checked = checked_images(network, images);
  const py::ssize_t n = checked.shape(0);
  py::array_t<float> logits({n, static_cast<py::ssize_t>(network.bits())});
  py::array_t<uint64_t> codes({n, static_cast<py::ssize_t>(network.n_words())});
  const uint8_t* squares = checked.data();
  float* to_logits = logits.mutable_data();
  uint64_t* to_codes = codes.mutable_data();
  without_gil([&] { network.run(squares, static_cast<size_t>(n), to_logits, to_codes); });
  return {logits, codes};
}

inline void define_network(pybind11::module_& module) {
  namespace py = pybind11;
  py::class_<BoundNetwork> network(module, "Network",
                                   "A hashing network on a GPU, built as _network.Network is; one run at a time.");
  define_steps(network);
  network
      .def(
          py::init<size_t, const Floats&, std::vector<size_t>, int, const std::string&>(), py::arg("size"),
          py::arg("values"), py::arg("order"), py::arg("device"), py::arg("precision") = "float32",
          "precision: of activations between the input and the last plane; float32, or float16 on tensor cores, which "
          "is experimental: with sums in 32 bits, and for networks whose first convolutions are 3 x 3 with a stride of "
          "2. Others stay with float32.")
      .def(
          "precision",
          [](const BoundNetwork& network) { return network.dtype() == Dtype::kFloat16 ? "float16" : "float32"; },
          "What a finished network computes in.")
      .def("n_launches", &BoundNetwork::n_launches, "Kernel launches for each part of a run.")
      .def(
          "run", [](BoundNetwork& network, const py::array& images, unsigned) { return encode(network, images).first; },
          py::arg("images"), py::arg("threads") = 1,
          "images uint8 [n, size, size, 3] -> logits float32 [n, bits]. threads: as _network.Network has it, not used.")
      .def("encode", &encode, py::arg("images"),
           "images uint8 [n, size, size, 3] -> (logits float32 [n, bits], words uint64 [n, n_words]), bit = logit > 0.")
      .def(
          "encode_on_gpu",
          [](BoundNetwork& network, uintptr_t images, size_t n_images, uintptr_t logits, uintptr_t words,
             uintptr_t stream) {
            without_gil([&] {
              network.run_on_device(reinterpret_cast<const uint8_t*>(images), n_images,
                                    reinterpret_cast<float*>(logits), reinterpret_cast<uint64_t*>(words),
                                    reinterpret_cast<Stream>(stream));
            });
          },
          py::arg("images"), py::arg("n_images"), py::arg("logits"), py::arg("words"), py::arg("stream"),
          "The same with addresses in this GPU's memory, of contiguous arrays. stream: this GPU's, in which images are "
          "made, as in torch.cuda.current_stream().cuda_stream; 0 for the default one. It begins after what was asked "
          "for there, and returns when logits and words are there.");
}

}  // namespace cuda
}  // namespace athsearch
