// Codes on a GPU and exact searches over them: a sample gives each query a limit, a scan appends what is within it, a
// sort puts that in order. What did not find room is scanned once more under its exact limit.
#pragma once

#include <mutex>
#include <vector>

#include "device.h"
#include "levels.h"

namespace athsearch {
namespace cuda {

// Hits of query q: hits[offsets[q]] to hits[offsets[q + 1]], ascending. ties: as many rows lie at exactly the distance
// of the query's last hit; empty for a radius search.
struct Answer {
  std::vector<int64_t> offsets;
  std::vector<Hit> hits;
  std::vector<int64_t> ties;
};

// One search at a time; others wait.
class Database {
 public:
  // Room for the codes; they come by `append`. Throws OutOfMemory.
  Database(Device& device, uint64_t n_rows, unsigned n_words);

  // rows: row-major [n_rows, n_words], after those there are.
  void append(const uint64_t* rows, uint64_t n_rows);

  uint64_t n_rows() const { return n_rows_; }
  uint64_t n_appended() const { return n_appended_; }
  unsigned n_words() const { return n_words_; }

  // How many queries a search should be asked at once, so that it needs little memory beside the codes.
  size_t n_queries_at_once(uint64_t k) const;

  // queries: row-major [n_queries, n_words]. k: 1 to n_rows. mask: bit r % 64 of word r / 64 allows row r; null allows
  // all.
  Answer top_k(const uint64_t* queries, size_t n_queries, uint64_t k, const uint64_t* mask);
  Answer within(const uint64_t* queries, size_t n_queries, uint64_t radius, const uint64_t* mask);

 private:
  // Some queries of a search, and what is wanted of each: the hits up to a limit.
  struct Part {
    std::vector<size_t> numbers;    // of the queries in the search
    std::vector<uint64_t> queries;  // [n, n_words]
    std::vector<Hit> limits;
    std::vector<uint64_t> n_before;  // hits at a lower distance than the limit's
    std::vector<uint64_t> n_within;  // hits up to the limit

    size_t n() const { return numbers.size(); }
  };

  Part whole(const uint64_t* queries, size_t n_queries, Hit limit) const;
  void add(Part& part, const Part& from, size_t i) const;
  void upload_mask(const uint64_t* mask);
  std::vector<uint64_t> count(const Part& part, const std::vector<Hit>& firsts, unsigned shift, unsigned n_bins,
                              uint64_t every);
  std::vector<uint64_t> scan(const Part& part, uint64_t capacity);
  void narrow(Part& part, uint64_t k, uint64_t most);
  void sort(const Part& part, uint64_t capacity, uint64_t k, std::vector<std::vector<Hit>>& answers);

  unsigned n_distances() const { return 64 * n_words_ + 1; }
  Codes codes() const { return {words_.data(), n_rows_, n_words_}; }

  Device& device_;
  uint64_t n_rows_, n_appended_ = 0;
  unsigned n_words_;
  LeastQueries least_queries_;
  Memory<uint64_t> words_, staged_, mask_, queries_, bins_, n_candidates_, n_kept_, begins_;
  Memory<Hit> limits_, candidates_, others_, hits_;
  const uint64_t* searched_mask_ = nullptr;
  uint64_t most_candidates_ = 0;  // of all queries of a search together
  std::mutex turn_;
};

}  // namespace cuda
}  // namespace athsearch
