// The Python module athsearch._scan: checks arrays, releases Python's lock, calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "distinct.h"
#include "gil.h"
#include "registry.h"
#include "scanner.h"

namespace py = pybind11;
using athsearch::Database;
using athsearch::Found;
using athsearch::Options;
using athsearch::Queries;

namespace {

// athsearch.index hands over arrays of the right type, C-contiguous and aligned; they are read in place.
using WordArray = py::array_t<uint64_t, py::array::c_style>;

const uint64_t* checked_words(const WordArray& array, const char* what, size_t n_words) {
  if (array.ndim() != 2 || static_cast<size_t>(array.shape(1)) != n_words)
    throw py::value_error(std::string(what) + " must be uint64 [n, " + std::to_string(n_words) + "]");
  return array.data();
}

// Segments that were checked once, and are kept alive.
class Segments {
 public:
  Segments(std::vector<WordArray> arrays, size_t bits) : arrays_(std::move(arrays)), database_{{}, bits} {
    if (bits < 1) throw py::value_error("bits must be at least 1");
    for (const WordArray& array : arrays_)
      database_.segments.push_back(
          {checked_words(array, "a segment", database_.n_words()), static_cast<uint64_t>(array.shape(0))});
  }

  const Database& searched() const { return database_; }
  size_t n_words() const { return database_.n_words(); }
  uint64_t n_rows() const { return database_.n_rows(); }

 private:
  std::vector<WordArray> arrays_;
  Database database_;
};

using OffsetArray = py::array_t<int64_t, py::array::c_style>;
using RowArray = py::array_t<uint32_t, py::array::c_style>;

// Distinct codes and their rows, checked once and kept alive.
class Distinct {
 public:
  Distinct(WordArray words, OffsetArray offsets, RowArray rows, size_t bits)
      : words_(std::move(words)),
        offsets_(std::move(offsets)),
        rows_(std::move(rows)),
        postings_{{{}, bits}, nullptr, nullptr, 0} {
    if (bits < 1) throw py::value_error("bits must be at least 1");
    const uint64_t* first = checked_words(words_, "the distinct codes", postings_.codes.n_words());
    const auto n_codes = static_cast<uint64_t>(words_.shape(0));
    if (rows_.ndim() != 1) throw py::value_error("rows must be uint32 [n_rows]");
    const auto n_rows = static_cast<uint64_t>(rows_.size());
    if (offsets_.ndim() != 1 || static_cast<uint64_t>(offsets_.size()) != n_codes + 1 || offsets_.data()[0] != 0 ||
        static_cast<uint64_t>(offsets_.data()[n_codes]) != n_rows)
      throw py::value_error("offsets must be int64 [n_codes + 1], from 0 to n_rows");
    postings_ = {{{{first, n_codes}}, bits}, offsets_.data(), rows_.data(), n_rows};
    for (uint64_t code = 0; code < n_codes; ++code) {
      const int64_t begin = postings_.offsets[code], end = postings_.offsets[code + 1];
      if (begin >= end || end > static_cast<int64_t>(n_rows)) throw py::value_error("offsets must ascend");
      for (int64_t i = begin + 1; i < end; ++i)
        if (postings_.rows[i] <= postings_.rows[i - 1]) throw py::value_error("a code's rows must ascend");
      if (postings_.rows[end - 1] >= n_rows) throw py::value_error("rows must be below n_rows");
    }
  }

  const athsearch::Postings& searched() const { return postings_; }
  size_t n_words() const { return postings_.codes.n_words(); }
  uint64_t n_rows() const { return postings_.n_rows; }

 private:
  WordArray words_;
  OffsetArray offsets_;
  RowArray rows_;
  athsearch::Postings postings_;
};

bool is_interrupted() {
  const PyGILState_STATE state = athsearch::take_lock([] { return PyGILState_Ensure(); });
  const bool has_raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return has_raised;
}

struct Arguments {
  Queries queries;
  Options options;

  Arguments(size_t n_words, uint64_t n_rows, const WordArray& query_words, const py::object& mask, unsigned threads,
            const std::string& kernel)
      : queries{checked_words(query_words, "queries", n_words), static_cast<size_t>(query_words.shape(0))},
        options{&athsearch::select_kernel(kernel), nullptr, threads, is_interrupted} {
    if (mask.is_none()) return;
    mask_words = py::cast<WordArray>(mask);
    if (mask_words.ndim() != 1 || static_cast<uint64_t>(mask_words.size()) != (n_rows + 63) / 64)
      throw py::value_error("mask must be uint64 [ceil(n_rows / 64)]");
    options.mask = mask_words.data();
  }

  WordArray mask_words{0};
};

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// (offsets int64 [q + 1], rows int64 [hits], distances int32 [hits])
py::tuple to_arrays(const Found& found) {
  const auto n_hits = static_cast<py::ssize_t>(found.hits.size());
  py::array_t<int64_t> rows(n_hits);
  py::array_t<int32_t> distances(n_hits);
  int64_t* row = rows.mutable_data();
  int32_t* distance = distances.mutable_data();
  for (size_t i = 0; i < found.hits.size(); ++i) {
    row[i] = static_cast<int64_t>(athsearch::hit_row(found.hits[i]));
    distance[i] = static_cast<int32_t>(athsearch::hit_distance(found.hits[i]));
  }
  return py::make_tuple(to_array(found.offsets), rows, distances);
}

// Runs work() without the lock. The error that a signal's handler raised is set when it gives up.
template <class Work>
auto run(Work work) {
  decltype(work()) result;
  try {
    athsearch::without_gil([&] { result = work(); });
  } catch (const athsearch::Interrupted&) {
    throw py::error_already_set();
  }
  return result;
}

template <class Searched>
py::tuple top_k(const Searched& searched, const WordArray& queries, uint64_t k, const py::object& mask,
                unsigned threads, const std::string& kernel, bool count_ties) {
  if (k < 1) throw py::value_error("k must be at least 1");
  const Arguments arguments(searched.n_words(), searched.n_rows(), queries, mask, threads, kernel);
  std::vector<int64_t> ties;
  const Found found = run([&] {
    return athsearch::top_k(searched.searched(), arguments.queries, k, arguments.options, count_ties ? &ties : nullptr);
  });
  return py::make_tuple(to_arrays(found), count_ties ? py::object(to_array(ties)) : py::none());
}

template <class Searched>
py::tuple within(const Searched& searched, const WordArray& queries, uint64_t radius, const py::object& mask,
                 unsigned threads, const std::string& kernel) {
  const Arguments arguments(searched.n_words(), searched.n_rows(), queries, mask, threads, kernel);
  return to_arrays(
      run([&] { return athsearch::within(searched.searched(), arguments.queries, radius, arguments.options); }));
}

template <class Searched>
void define_searches(py::module_& module) {
  module.def("top_k", &top_k<Searched>, py::arg("searched"), py::arg("queries").noconvert(), py::arg("k"),
             py::arg("mask"), py::arg("threads"), py::arg("kernel"), py::arg("count_ties"),
             "((offsets, rows, distances), ties or None), hits ordered by (distance, row).");
  module.def("within", &within<Searched>, py::arg("searched"), py::arg("queries").noconvert(), py::arg("radius"),
             py::arg("mask"), py::arg("threads"), py::arg("kernel"),
             "(offsets, rows, distances), hits ordered by (distance, row).");
}

// An array that owns what was in the vector.
template <class T>
py::array_t<T> moved_to_array(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
  auto kept = std::make_unique<std::vector<T>>(std::move(values));
  const T* data = kept->data();
  const py::capsule owner(kept.release(), [](void* vector) { delete static_cast<std::vector<T>*>(vector); });
  return py::array_t<T>(std::move(shape), data, owner);
}

py::tuple group(const Segments& segments, unsigned threads) {
  if (segments.n_rows() > athsearch::kMostDistinctRows)
    throw py::value_error("at most 4294967295 codes can be grouped, got " + std::to_string(segments.n_rows()));
  athsearch::Grouped grouped = run([&] { return athsearch::group(segments.searched(), threads, is_interrupted); });
  const auto n_codes = static_cast<py::ssize_t>(grouped.offsets.size()) - 1;
  const auto n_rows = static_cast<py::ssize_t>(grouped.rows.size());
  return py::make_tuple(
      moved_to_array(std::move(grouped.words), {n_codes, static_cast<py::ssize_t>(segments.n_words())}),
      moved_to_array(std::move(grouped.offsets), {n_codes + 1}), moved_to_array(std::move(grouped.rows), {n_rows}));
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const athsearch::Kernel* kernel : athsearch::available_kernels()) names.emplace_back(kernel->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_scan, module) {
  module.doc() = "Exact Hamming search over packed codes; athsearch.index is its public face.";
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const athsearch::KernelUnavailable& error) {
      py::set_error(py::module_::import("athsearch.errors").attr("KernelUnavailable"), error.what());
    }
  });
  module.def("kernel_names", &kernel_names, "Kernels this machine can run, fastest first.");
  module.def(
      "selected_kernel", [](const std::string& name) { return athsearch::select_kernel(name).name; },
      py::arg("name") = "", "The kernel a search uses: the named one, else ATHSEARCH_KERNEL's, else the fastest.");
  py::class_<Segments>(module, "Segments", "Arrays of codes, uint64 [n, n_words], that count as one.")
      .def(py::init<std::vector<WordArray>, size_t>(), py::arg("arrays").noconvert(), py::arg("bits"));
  define_searches<Segments>(module);
  py::class_<Distinct>(module, "Distinct", "Distinct codes, and the rows offsets[c] to offsets[c + 1] - 1 of code c.")
      .def(py::init<WordArray, OffsetArray, RowArray, size_t>(), py::arg("words").noconvert(),
           py::arg("offsets").noconvert(), py::arg("rows").noconvert(), py::arg("bits"));
  define_searches<Distinct>(module);
  module.def("group", &group, py::arg("segments"), py::arg("threads"),
             "(words uint64 [n_codes, n_words], offsets int64 [n_codes + 1], rows uint32 [n_rows]) for Distinct.");
}
