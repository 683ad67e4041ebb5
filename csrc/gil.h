// Leaving Python's lock and coming back, also where the interpreter has ended meanwhile.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <exception>

namespace athsearch {

// Takes the lock by calling take(). Before Python 3.14 a daemon thread that does so after the interpreter's end is made
// to exit by unwinding its stack, which C++ turns into the end of the whole process; from 3.14 on it sleeps for ever,
// and here it always does. Only libstdc++ names such an unwinding.
template <class Take>
auto take_lock(Take take) {
#ifdef __GLIBCXX__
  try {
    return take();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
#else
  return take();
#endif
}

// Calls body() without the lock.
template <class Body>
void without_gil(Body body) {
  PyThreadState* const state = PyEval_SaveThread();
  std::exception_ptr error;
  try {
    body();
  } catch (...) {
    error = std::current_exception();
  }
  take_lock([state] { PyEval_RestoreThread(state); });
  if (error) std::rethrow_exception(error);
}

}  // namespace athsearch
