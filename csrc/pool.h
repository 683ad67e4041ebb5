// Threads that wait for work, so that a search need not start any.
#pragma once

#include <functional>

namespace athsearch {

// Calls body(0) here and body(1), body(2), ... on other threads, n_threads in all at most, and returns when those that
// were called have returned; rethrows the first exception of any. Fewer are called where they are slow to wake, the
// system refuses threads, or another search has them: body(0) alone must be enough, and the others share its work out.
// Threads are started when first needed and then kept; after fork() the child starts its own. Where body(0) forked,
// other threads' share is missing in the child: there it throws std::runtime_error.
void run_parallel(unsigned n_threads, const std::function<void(unsigned)>& body);

}  // namespace athsearch
