// The Python module athsearch._cuda: checks arrays, releases Python's lock, calls. It needs no driver to be imported.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../csrc/gil.h"
#include "../csrc/registry.h"
#include "cuda_device.h"
#include "database.h"
#include "failure.h"
#include "network_bindings.h"
#include "op_bindings.h"

namespace py = pybind11;
using athsearch::cuda::Answer;
using athsearch::cuda::CudaDevice;

namespace {

using WordArray = py::array_t<uint64_t, py::array::c_style>;

const uint64_t* checked_rows(const WordArray& array, unsigned n_words) {
  if (array.ndim() != 2 || static_cast<uint64_t>(array.shape(1)) != n_words)
    throw py::value_error("codes must be uint64 [n, " + std::to_string(n_words) + "]");
  return array.data();
}

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// (offsets int64 [q + 1], rows int64 [hits], distances int32 [hits])
py::tuple to_arrays(const Answer& answer) {
  const auto n_hits = static_cast<py::ssize_t>(answer.hits.size());
  py::array_t<int64_t> rows(n_hits);
  py::array_t<int32_t> distances(n_hits);
  int64_t* row = rows.mutable_data();
  int32_t* distance = distances.mutable_data();
  for (size_t i = 0; i < answer.hits.size(); ++i) {
    row[i] = static_cast<int64_t>(athsearch::hit_row(answer.hits[i]));
    distance[i] = static_cast<int32_t>(athsearch::hit_distance(answer.hits[i]));
  }
  return py::make_tuple(to_array(answer.offsets), rows, distances);
}

class Database {
 public:
  Database(uint64_t n_rows, unsigned n_words, int device) : device_(device), database_(device_, n_rows, n_words) {}

  void append(const WordArray& rows) {
    const uint64_t* words = checked_rows(rows, database_.n_words());
    const auto n_rows = static_cast<uint64_t>(rows.shape(0));
    if (n_rows > database_.n_rows() - database_.n_appended())
      throw py::value_error("more codes than there is room for");
    athsearch::without_gil([&] { database_.append(words, n_rows); });
  }

  size_t n_queries_at_once(uint64_t k) const { return database_.n_queries_at_once(k); }

  py::tuple top_k(const WordArray& queries, uint64_t k, const py::object& mask) {
    if (k < 1) throw py::value_error("k must be at least 1");
    const Answer answer = search(queries, mask, [&](const uint64_t* words, size_t n, const uint64_t* mask_words) {
      return database_.top_k(words, n, std::min(k, std::max<uint64_t>(database_.n_rows(), 1)), mask_words);
    });
    return py::make_tuple(to_arrays(answer), to_array(answer.ties));
  }

  py::tuple within(const WordArray& queries, uint64_t radius, const py::object& mask) {
    if (radius > 64 * database_.n_words()) throw py::value_error("radius must be at most the bits of a code");
    return to_arrays(search(queries, mask, [&](const uint64_t* words, size_t n, const uint64_t* mask_words) {
      return database_.within(words, n, radius, mask_words);
    }));
  }

 private:
  template <class Search>
  Answer search(const WordArray& queries, const py::object& mask, Search of) {
    const uint64_t* words = checked_rows(queries, database_.n_words());
    if (database_.n_appended() != database_.n_rows()) throw py::value_error("the codes are not all there yet");
    WordArray mask_words(0);
    if (!mask.is_none()) {
      mask_words = py::cast<WordArray>(mask);
      if (mask_words.ndim() != 1 || static_cast<uint64_t>(mask_words.size()) != (database_.n_rows() + 63) / 64)
        throw py::value_error("mask must be uint64 [ceil(n_rows / 64)]");
    }
    const uint64_t* allowed = mask.is_none() ? nullptr : mask_words.data();
    Answer answer;
    athsearch::without_gil([&] { answer = of(words, static_cast<size_t>(queries.shape(0)), allowed); });
    return answer;
  }

  CudaDevice device_;
  athsearch::cuda::Database database_;
};

// (list of dicts, one a GPU; why there is none, or "")
py::tuple devices() {
  std::string why_none;
  py::list found;
  for (const athsearch::cuda::DeviceFacts& facts : athsearch::cuda::device_facts(why_none)) {
    py::dict entry;
    entry["name"] = facts.name;
    entry["compute_capability"] = std::to_string(facts.major) + "." + std::to_string(facts.minor);
    entry["multiprocessors"] = facts.n_multiprocessors;
    entry["memory_bytes"] = facts.n_bytes;
    found.append(entry);
  }
  return py::make_tuple(found, why_none);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() =
      "Exact Hamming search, hashing networks and their operations on NVIDIA GPUs, for athsearch.index.gpu, the "
      "encoder and athsearch.model.ops.";
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const athsearch::cuda::CudaFailure& error) {
      py::set_error(py::module_::import("athsearch.errors").attr("CudaError"), error.what());
    } catch (const athsearch::KernelUnavailable& error) {
      py::set_error(py::module_::import("athsearch.errors").attr("KernelUnavailable"), error.what());
    }
  });
  module.def("devices", &devices, "(facts of each GPU, why there is none or \"\").");
  module.def("free_bytes", &athsearch::cuda::n_free_bytes, py::arg("device"), "Of a GPU's memory; it is made use of.");
  module.def(
      "versions",
      [] {
        const athsearch::cuda::Versions found = athsearch::cuda::versions();
        return py::make_tuple(found.driver, found.runtime);
      },
      "(newest CUDA that the driver knows, or 0 without one; the runtime's), each 1000 * major + 10 * minor.");
  athsearch::cuda::define_ops(module);
  py::class_<Database>(module, "Database", "Codes in a GPU's memory; one search at a time.")
      .def(py::init<uint64_t, unsigned, int>(), py::arg("n_rows"), py::arg("n_words"), py::arg("device"))
      .def("append", &Database::append, py::arg("rows").noconvert(), "uint64 [n, n_words], after those there are.")
      .def("n_queries_at_once", &Database::n_queries_at_once, py::arg("k"), "How many queries to ask at once.")
      .def("top_k", &Database::top_k, py::arg("queries").noconvert(), py::arg("k"), py::arg("mask"),
           "((offsets, rows, distances), ties), hits ordered by (distance, row).")
      .def("within", &Database::within, py::arg("queries").noconvert(), py::arg("radius"), py::arg("mask"),
           "(offsets, rows, distances), hits ordered by (distance, row).");
  athsearch::cuda::define_network(module);
}
