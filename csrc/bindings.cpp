// The Python module athsearch._scan: checks arrays, releases Python's lock, calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gil.h"
#include "multi_index.h"
#include "registry.h"
#include "rerank.h"
#include "scanner.h"

namespace py = pybind11;
using athsearch::Database;
using athsearch::Found;
using athsearch::Options;
using athsearch::Queries;

namespace {

// athsearch.index hands over arrays of the right type, C-contiguous and aligned; those of codes are read in place.
using WordArray = py::array_t<uint64_t, py::array::c_style>;

const uint64_t* checked_words(const WordArray& array, const char* what, size_t n_words) {
  if (array.ndim() != 2 || static_cast<size_t>(array.shape(1)) != n_words)
    throw py::value_error(std::string(what) + " must be uint64 [n, " + std::to_string(n_words) + "]");
  return array.data();
}

void append_code(const uint64_t* code, size_t n_words, std::vector<uint64_t>& codes) {
  codes.insert(codes.end(), code, code + n_words);
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

  // codes, where given, gets the words of the hits' codes, row-major [n_hits, n_words].
  Found top_k(const Queries& queries, uint64_t k, const Options& options, std::vector<int64_t>* n_ties,
              std::vector<uint64_t>* codes) const {
    Found found = athsearch::top_k(database_, queries, k, options, n_ties);
    if (codes == nullptr) return found;
    codes->reserve(found.hits.size() * n_words());
    const athsearch::RowCodes of_rows(database_);
    for (const athsearch::Hit hit : found.hits) append_code(of_rows[athsearch::hit_row(hit)], n_words(), *codes);
    return found;
  }
  Found within(const Queries& queries, uint64_t radius, const Options& options) const {
    return athsearch::within(database_, queries, radius, options);
  }

 private:
  std::vector<WordArray> arrays_;
  Database database_;
};

using OffsetArray = py::array_t<int64_t, py::array::c_style>;
using NumberArray = py::array_t<uint32_t, py::array::c_style>;

const uint32_t* checked_numbers(const NumberArray& array, const char* what, uint64_t size) {
  if (array.ndim() != 1 || static_cast<uint64_t>(array.size()) != size)
    throw py::value_error(std::string(what) + " must be uint32 [" + std::to_string(size) + "]");
  return array.data();
}

// Codes with the arrays that spare a search comparing them all, and rows that were added since. Arrays may be mapped
// from disk: only their shapes are checked here, what they hold where it is used.
class Sorted {
 public:
  using TableArrays = std::tuple<unsigned, NumberArray, WordArray, NumberArray>;

  Sorted(const Segments& codes, std::optional<OffsetArray> offsets, std::optional<NumberArray> rows,
         std::vector<TableArrays> tables, std::optional<Segments> added)
      : codes_(codes), offsets_(std::move(offsets)), rows_(std::move(rows)), tables_(std::move(tables)), added_(added) {
    const Database& database = codes_.searched();
    const uint64_t n_codes = database.n_rows();
    if (offsets_.has_value() != rows_.has_value()) throw py::value_error("offsets and rows go together");
    index_.postings = {database, nullptr, nullptr, n_codes};
    if (offsets_) {
      if (offsets_->ndim() != 1 || static_cast<uint64_t>(offsets_->size()) != n_codes + 1)
        throw py::value_error("offsets must be int64 [" + std::to_string(n_codes + 1) + "]");
      const auto n_rows = static_cast<uint64_t>(rows_->size());
      index_.postings = {database, offsets_->data(), checked_numbers(*rows_, "rows", n_rows), n_rows};
    }
    unsigned first_bit = 0;
    for (const auto& [n_bits, begins, words, numbers] : tables_) {
      if (n_bits < 1 || n_bits > athsearch::kMostSubstringBits) throw py::value_error("a substring has 1 to 24 bits");
      if (static_cast<uint64_t>(words.shape(0)) != n_codes) throw py::value_error("a table holds every code");
      index_.tables.push_back({first_bit, n_bits, checked_numbers(begins, "begins", (uint64_t{1} << n_bits) + 1),
                               checked_words(words, "a table's codes", database.n_words()),
                               checked_numbers(numbers, "a table's numbers", n_codes)});
      first_bit += n_bits;
    }
    if (!tables_.empty() && first_bit != database.n_bits) throw py::value_error("every bit is in one substring");
    if (!added_) return;
    if (added_->n_words() != n_words()) throw py::value_error("codes added since must be of the same length");
    added_database_ = added_->searched();
    added_database_->first_row = index_.postings.n_rows;
  }

  size_t n_words() const { return codes_.n_words(); }
  uint64_t n_rows() const { return index_.postings.n_rows + (added_ ? added_->n_rows() : 0); }

  Found top_k(const Queries& queries, uint64_t k, Options options, std::vector<int64_t>* n_ties,
              std::vector<uint64_t>* codes) const {
    options.wants_codes = codes != nullptr && offsets_;
    std::vector<int64_t> ties, added_ties;
    std::vector<int64_t>* sorted_ties = n_ties == nullptr ? nullptr : added_database_ ? &ties : n_ties;
    Found of_sorted = index_.tables.empty() ? athsearch::top_k(index_.postings, queries, k, options, sorted_ties)
                                            : athsearch::top_k(index_, queries, k, options, sorted_ties);
    if (!added_database_) {
      if (codes != nullptr) append_codes(of_sorted, of_sorted, *codes);
      return of_sorted;
    }
    const Found of_added =
        athsearch::top_k(*added_database_, queries, k, options, n_ties == nullptr ? nullptr : &added_ties);
    Found found = athsearch::merged(of_sorted, ties, of_added, added_ties, k, n_ties);
    if (codes != nullptr) append_codes(found, of_sorted, *codes);
    return found;
  }

  Found within(const Queries& queries, uint64_t radius, const Options& options) const {
    Found found = index_.tables.empty() ? athsearch::within(index_.postings, queries, radius, options)
                                        : athsearch::within(index_, queries, radius, options);
    if (!added_database_) return found;
    const Found of_added = athsearch::within(*added_database_, queries, radius, options);
    return athsearch::merged(found, {}, of_added, {}, ~uint64_t{0}, nullptr);
  }

 private:
  // The codes of an answer's hits; those of sorted rows are the first hits of `of_sorted`, in its order.
  void append_codes(const Found& found, const Found& of_sorted, std::vector<uint64_t>& codes) const {
    codes.reserve(found.hits.size() * n_words());
    const athsearch::RowCodes sorted(codes_.searched());
    const athsearch::RowCodes added(added_database_ ? *added_database_ : codes_.searched());
    for (size_t q = 0; q + 1 < found.offsets.size(); ++q) {
      auto place = static_cast<size_t>(of_sorted.offsets[q]);
      for (int64_t i = found.offsets[q]; i < found.offsets[q + 1]; ++i) {
        const uint64_t row = athsearch::hit_row(found.hits[static_cast<size_t>(i)]);
        const uint64_t* code = row >= index_.postings.n_rows ? added[row]
                               : offsets_                    ? sorted[of_sorted.codes[place++]]
                                                             : sorted[row];
        append_code(code, n_words(), codes);
      }
    }
  }

  Segments codes_;
  std::optional<OffsetArray> offsets_;
  std::optional<NumberArray> rows_;
  std::vector<TableArrays> tables_;
  std::optional<Segments> added_;
  std::optional<Database> added_database_;
  athsearch::MultiIndex index_{{{{}, 1}, nullptr, nullptr, 0}, {}};
};

bool is_interrupted() {
  const PyGILState_STATE state = athsearch::take_lock([] { return PyGILState_Ensure(); });
  const bool has_raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return has_raised;
}

// Queries are copied: they are read more than once, and the caller's may be written meanwhile.
struct Arguments {
  std::vector<uint64_t> words;
  Queries queries;
  Options options;

  Arguments(size_t n_words, uint64_t n_rows, const WordArray& query_words, const py::object& mask, unsigned threads,
            const std::string& kernel)
      : words(checked_words(query_words, "queries", n_words), query_words.data() + query_words.size()),
        queries{words.data(), static_cast<size_t>(query_words.shape(0))},
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
  } catch (const athsearch::Damaged&) {
    py::set_error(py::module_::import("athsearch.errors").attr("SegmentCorrupt"),
                  "the index's arrays are damaged: they point past their end");
    throw py::error_already_set();
  }
  return result;
}

template <class Searched>
py::tuple top_k(const Searched& searched, const WordArray& queries, uint64_t k, const py::object& mask,
                unsigned threads, const std::string& kernel, bool count_ties, bool with_codes) {
  if (k < 1) throw py::value_error("k must be at least 1");
  const Arguments arguments(searched.n_words(), searched.n_rows(), queries, mask, threads, kernel);
  std::vector<int64_t> ties;
  std::vector<uint64_t> codes;
  const Found found = run([&] {
    return searched.top_k(arguments.queries, k, arguments.options, count_ties ? &ties : nullptr,
                          with_codes ? &codes : nullptr);
  });
  const auto n_words = static_cast<py::ssize_t>(searched.n_words());
  const auto n_codes = static_cast<py::ssize_t>(codes.size()) / n_words;
  return py::make_tuple(to_arrays(found), count_ties ? py::object(to_array(ties)) : py::none(),
                        py::array_t<uint64_t>({n_codes, n_words}, codes.data()));
}

template <class Searched>
py::tuple within(const Searched& searched, const WordArray& queries, uint64_t radius, const py::object& mask,
                 unsigned threads, const std::string& kernel) {
  const Arguments arguments(searched.n_words(), searched.n_rows(), queries, mask, threads, kernel);
  return to_arrays(run([&] { return searched.within(arguments.queries, radius, arguments.options); }));
}

template <class Searched>
void define_searches(py::module_& module) {
  module.def("top_k", &top_k<Searched>, py::arg("searched"), py::arg("queries").noconvert(), py::arg("k"),
             py::arg("mask"), py::arg("threads"), py::arg("kernel"), py::arg("count_ties"), py::arg("with_codes"),
             "((offsets, rows, distances), ties or None, codes uint64 [hits or 0, n_words]), hits ordered by "
             "(distance, row).");
  module.def("within", &within<Searched>, py::arg("searched"), py::arg("queries").noconvert(), py::arg("radius"),
             py::arg("mask"), py::arg("threads"), py::arg("kernel"),
             "(offsets, rows, distances), hits ordered by (distance, row).");
}

using WeightArray = py::array_t<int16_t, py::array::c_style>;
using ValueArray = py::array_t<float, py::array::c_style>;

WeightArray quantised(const ValueArray& values) {
  if (values.ndim() != 2) throw py::value_error("values must be float32 [q, bits]");
  const auto n_bits = static_cast<size_t>(values.shape(1));
  WeightArray weights({values.shape(0), values.shape(1)});
  for (py::ssize_t q = 0; q < values.shape(0); ++q)
    if (!athsearch::quantise(values.data() + static_cast<size_t>(q) * n_bits, n_bits,
                             weights.mutable_data() + static_cast<size_t>(q) * n_bits))
      throw py::value_error("logits hold NaN or infinity, which cannot be quantised");
  return weights;
}

// (offsets int64 [q + 1], places int64 [n], scores int32 [n])
py::tuple rerank(const WordArray& codes, const OffsetArray& offsets, const WeightArray& weights, uint64_t k,
                 unsigned threads) {
  if (weights.ndim() != 2 || weights.shape(1) < 1) throw py::value_error("weights must be int16 [q, bits]");
  const auto n_queries = static_cast<size_t>(weights.shape(0)), n_bits = static_cast<size_t>(weights.shape(1));
  const uint64_t* words = checked_words(codes, "codes", (n_bits + 63) / 64);
  if (offsets.ndim() != 1 || static_cast<size_t>(offsets.size()) != n_queries + 1)
    throw py::value_error("offsets must be int64 [q + 1]");
  const int64_t* begins = offsets.data();
  if (begins[0] != 0 || begins[n_queries] != codes.shape(0) || !std::is_sorted(begins, begins + n_queries + 1))
    throw py::value_error("offsets must ascend from 0 to the number of codes");
  const athsearch::Reranked reranked =
      run([&] { return athsearch::rerank({words, begins, n_queries, n_bits}, weights.data(), k, threads); });
  return py::make_tuple(to_array(reranked.offsets), to_array(reranked.places), to_array(reranked.scores));
}

// An array that owns the buffer.
template <class T>
py::array_t<T> to_array(athsearch::Buffer<T>&& buffer, std::vector<py::ssize_t> shape) {
  auto kept = std::make_unique<athsearch::Buffer<T>>(std::move(buffer));
  const T* data = kept->data();
  if (data == nullptr) return py::array_t<T>(std::move(shape));
  const py::capsule owner(kept.release(), [](void* memory) { delete static_cast<athsearch::Buffer<T>*>(memory); });
  return py::array_t<T>(std::move(shape), data, owner);
}

py::tuple group(const Segments& segments, unsigned threads) {
  if (segments.n_rows() > athsearch::kMostDistinctRows)
    throw py::value_error("at most 4294967295 codes can be grouped, got " + std::to_string(segments.n_rows()));
  athsearch::Grouped grouped = run([&] { return athsearch::group(segments.searched(), threads, is_interrupted); });
  const auto n_codes = static_cast<py::ssize_t>(grouped.offsets.size()) - 1;
  const auto n_rows = static_cast<py::ssize_t>(grouped.rows.size());
  return py::make_tuple(to_array(std::move(grouped.words), {n_codes, static_cast<py::ssize_t>(segments.n_words())}),
                        to_array(std::move(grouped.offsets), {n_codes + 1}),
                        to_array(std::move(grouped.rows), {n_rows}));
}

void fill_table(const Segments& codes, unsigned first_bit, unsigned n_bits, NumberArray begins, WordArray words,
                NumberArray numbers, unsigned threads) {
  if (codes.n_rows() > athsearch::kMostDistinctRows)
    throw py::value_error("at most 4294967295 codes can be ordered, got " + std::to_string(codes.n_rows()));
  const auto bits = codes.searched().n_bits;
  if (n_bits < 1 || n_bits > athsearch::kMostSubstringBits || first_bit >= bits || n_bits > bits - first_bit)
    throw py::value_error("a substring has 1 to 24 bits of the code");
  checked_numbers(begins, "begins", (uint64_t{1} << n_bits) + 1);
  checked_words(words, "words", codes.n_words());
  if (static_cast<uint64_t>(words.shape(0)) != codes.n_rows()) throw py::value_error("words must hold every code");
  checked_numbers(numbers, "numbers", codes.n_rows());
  uint32_t* const to_begins = begins.mutable_data();
  uint64_t* const to_words = words.mutable_data();
  uint32_t* const to_numbers = numbers.mutable_data();
  run([&] {
    athsearch::fill_table(codes.searched(), first_bit, n_bits, to_begins, to_words, to_numbers, threads,
                          is_interrupted);
    return true;
  });
}

double probing_words(uint64_t n_codes, size_t bits, const std::vector<unsigned>& substring_bits, uint64_t distance) {
  athsearch::MultiIndex sizes{{{{{nullptr, n_codes}}, bits}, nullptr, nullptr, n_codes}, {}};
  for (const unsigned n_bits : substring_bits) sizes.tables.push_back({0, n_bits, nullptr, nullptr, nullptr});
  return athsearch::probing_words(sizes, distance);
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
  py::class_<Sorted>(module, "Sorted",
                     "Codes with the rows that carry them, tables by substring, and rows added since.")
      .def(py::init<const Segments&, std::optional<OffsetArray>, std::optional<NumberArray>,
                    std::vector<Sorted::TableArrays>, std::optional<Segments>>(),
           py::arg("codes"), py::arg("offsets").noconvert(), py::arg("rows").noconvert(), py::arg("tables").noconvert(),
           py::arg("added"));
  define_searches<Sorted>(module);
  module.def("quantised", &quantised, py::arg("values").noconvert(),
             "int16 [q, bits] of float32 [q, bits]: round(u * (32767 / max |u|)) of each row.");
  module.def("rerank", &rerank, py::arg("codes").noconvert(), py::arg("offsets").noconvert(),
             py::arg("weights").noconvert(), py::arg("k"), py::arg("threads"),
             "(offsets, places, scores): the first k of each query's codes by (score descending, place).");
  module.def("group", &group, py::arg("segments"), py::arg("threads"),
             "(words uint64 [n_codes, n_words], offsets int64 [n_codes + 1], rows uint32 [n_rows]) for Sorted.");
  module.def("fill_table", &fill_table, py::arg("codes"), py::arg("first_bit"), py::arg("n_bits"),
             py::arg("begins").noconvert(), py::arg("words").noconvert(), py::arg("numbers").noconvert(),
             py::arg("threads"), "Writes a table of Sorted: begins [2^n_bits + 1], words [n, n_words], numbers [n].");
  module.def("probing_words", &probing_words, py::arg("n_codes"), py::arg("bits"), py::arg("substring_bits"),
             py::arg("distance"),
             "About how many words a scan compares in the time that looking into buckets up to a distance takes.");
}
