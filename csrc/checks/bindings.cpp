// The Python module athsearch._checks: CRC-32 of rows of values, as docs/format.md has it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <utility>
#include <vector>

#include "crc32.h"

namespace py = pybind11;

namespace {

using Bytes = std::vector<uint8_t>;

void append_number(char letter, uint64_t value, Bytes& bytes) {
  uint8_t encoded[9] = {static_cast<uint8_t>(letter)};
  for (int i = 0; i < 8; ++i) encoded[1 + i] = static_cast<uint8_t>(value >> 8 * i);
  bytes.insert(bytes.end(), encoded, encoded + 9);
}

void append_content(char letter, const char* content, Py_ssize_t n_bytes, Bytes& bytes) {
  append_number(letter, static_cast<uint64_t>(n_bytes), bytes);
  bytes.insert(bytes.end(), content, content + n_bytes);
}

void append_value(PyObject* value, Bytes& bytes) {
  if (value == Py_None) {
    bytes.push_back('n');
  } else if (PyUnicode_Check(value)) {
    Py_ssize_t n_bytes = 0;
    const char* text = PyUnicode_AsUTF8AndSize(value, &n_bytes);
    if (text == nullptr) throw py::error_already_set();
    append_content('t', text, n_bytes, bytes);
  } else if (PyLong_Check(value)) {
    const long long number = PyLong_AsLongLong(value);
    if (number == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    append_number('i', static_cast<uint64_t>(number), bytes);
  } else if (PyBytes_Check(value)) {
    append_content('b', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), bytes);
  } else if (PyFloat_Check(value)) {
    const double number = PyFloat_AS_DOUBLE(value);
    uint64_t pattern = 0;
    static_assert(sizeof(pattern) == sizeof(number));
    std::memcpy(&pattern, &number, sizeof(pattern));
    append_number('r', pattern, bytes);
  } else {
    throw py::type_error(std::string("a row holds None, int, float, str or bytes, got ") + Py_TYPE(value)->tp_name);
  }
}

uint32_t check_of(uint32_t begin, PyObject* row, py::ssize_t first, Bytes& bytes) {
  bytes.clear();
  for (py::ssize_t column = first; column < PyTuple_GET_SIZE(row); ++column)
    append_value(PyTuple_GET_ITEM(row, column), bytes);
  return athsearch::crc32(begin, bytes.data(), bytes.size());
}

// Python's lock is kept: the values are Python's, and a row takes a fraction of a microsecond.
py::list row_checks(uint32_t begin, const py::list& rows, py::ssize_t first) {
  py::list checks(rows.size());
  Bytes bytes;
  for (py::ssize_t i = 0; i < PyList_GET_SIZE(rows.ptr()); ++i) {
    PyObject* row = PyList_GET_ITEM(rows.ptr(), i);
    if (!PyTuple_Check(row)) throw py::type_error("rows must be tuples");
    checks[static_cast<size_t>(i)] = py::int_(check_of(begin, row, first, bytes));
  }
  return checks;
}

// Of rows (rowid, check, values...): the places of those whose check is another, and the sum of the others' checks.
std::pair<std::vector<py::ssize_t>, uint64_t> find_misfits(uint32_t begin, const py::list& rows) {
  std::pair<std::vector<py::ssize_t>, uint64_t> found{{}, 0};
  Bytes bytes;
  for (py::ssize_t i = 0; i < PyList_GET_SIZE(rows.ptr()); ++i) {
    PyObject* row = PyList_GET_ITEM(rows.ptr(), i);
    if (!PyTuple_Check(row) || PyTuple_GET_SIZE(row) < 2) throw py::type_error("rows must be tuples of two or more");
    PyObject* stated = PyTuple_GET_ITEM(row, 1);
    bool fits = PyLong_Check(stated);
    try {
      const uint32_t check = check_of(begin, row, 2, bytes);
      int overflow = 0;
      fits = fits && PyLong_AsLongLongAndOverflow(stated, &overflow) == check && overflow == 0;
      if (fits) found.second += check;
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_UnicodeEncodeError)) throw;
      fits = false;  // what was written was text
    }
    if (!fits) found.first.push_back(i);
  }
  return found;
}

}  // namespace

PYBIND11_MODULE(_checks, module) {
  module.doc() = "Checks of rows; athsearch.archive.checks is its public face.";
  module.def("row_checks", &row_checks, py::arg("begin"), py::arg("rows"), py::arg("first"),
             "CRC-32 of each row's values from column `first` on, after what `begin` is the CRC of.");
  module.def("find_misfits", &find_misfits, py::arg("begin"), py::arg("rows"),
             "Of rows (rowid, check, values...): places of those whose check is another, and the others' sum.");
}
