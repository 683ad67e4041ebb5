// Multi-index hashing. Step (s, t) looks into the buckets of table t whose substring differs from the query's in
// exactly s bits. A code that steps (0, 0), (0, 1), ... (s, t) have not shown differs in more than s bits in substrings
// 0 to t and in at least s in the others, so in at least m s + t + 1: after step (s, t) everything up to distance m s +
// t has been seen.
//
// Cost: a bucket is two lines of memory fetched at random, begins[] and its first codes; both are asked for well ahead.
// The codes are compared by the kernel, in place.
#include "multi_index.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "blocks.h"
#include "nearest_codes.h"
#include "partition.h"

namespace athsearch {

namespace {

constexpr uint64_t kBucketsAtOnce = 64;           // are fetched together
constexpr uint64_t kChunk = 16 * kBucketsAtOnce;  // are looked into before a thread asks for more
constexpr uint64_t kWordsPerBucket = 32;          // a scan compares about as many while a bucket is fetched
constexpr uint64_t kWordsPerHit = 8;
constexpr uint64_t kWordsPerWord = 2;  // and while a word of a bucket is compared

uint64_t substring(const uint64_t* code, const SubstringTable& table) {
  const size_t word = table.first_bit / 64;
  const unsigned shift = table.first_bit % 64;
  uint64_t bits = code[word] >> shift;
  if (shift + table.n_bits > 64) bits |= code[word + 1] << (64 - shift);
  return bits & ((uint64_t{1} << table.n_bits) - 1);
}

unsigned n_ones(uint64_t value) { return static_cast<unsigned>(__builtin_popcountll(value)); }

// n choose k; for n up to kMostSubstringBits.
uint64_t n_choices(unsigned n, unsigned k) {
  uint64_t choices = k <= n;
  for (unsigned i = 1; i <= k && choices; ++i) choices = choices * (n - k + i) / i;
  return choices;
}

// The numbers with n_ones bits set, ascending: the one of this rank.
uint64_t choice(uint64_t rank, unsigned n_ones) {
  uint64_t bits = 0;
  for (; n_ones > 0; --n_ones) {
    unsigned bit = n_ones - 1;
    while (n_choices(bit + 1, n_ones) <= rank) ++bit;
    rank -= n_choices(bit, n_ones);
    bits |= uint64_t{1} << bit;
  }
  return bits;
}

// The next larger number with as many bits set.
uint64_t next_choice(uint64_t bits) {
  if (bits == 0) return 0;
  const uint64_t lowest = bits & (~bits + 1), carried = bits + lowest;
  return carried | (bits ^ carried) >> (__builtin_ctzll(bits) + 2);
}

// What one thread needs to look into buckets.
class Prober {
 public:
  Prober(const MultiIndex& index, const Options& options)
      : index_(index),
        workspace_(index.postings.codes, options, nullptr, nullptr),
        n_codes_(index.postings.codes.n_rows()) {}

  // Looks into buckets begin to end - 1 of step (distance, number) and calls take(hit), its row a code's number, for
  // those of their codes within radius() that no earlier step has shown; take returns how many words that was worth.
  // Returns how many words it compared; gives up where it would compare more than `most`.
  template <class Radius, class Take>
  uint64_t probe(const uint64_t* query, unsigned distance, size_t number, uint64_t begin, uint64_t end, double most,
                 Radius radius, Take take) {
    const SubstringTable& table = index_.tables[number];
    const size_t n_words = index_.postings.codes.n_words();
    const uint64_t own = substring(query, table);
    uint64_t bits = choice(begin, distance), n_compared = 0;
    while (begin < end) {
      const uint64_t n = std::min(kBucketsAtOnce, end - begin);
      const uint32_t* begins[kBucketsAtOnce];
      uint64_t firsts[kBucketsAtOnce], sizes[kBucketsAtOnce], n_words_ahead = 0;
      for (uint64_t i = 0; i < n; ++i, bits = next_choice(bits)) {
        begins[i] = table.begins + (own ^ bits);
        __builtin_prefetch(begins[i]);
      }
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t first = begins[i][0], last = begins[i][1];
        if (first > last || last > n_codes_) throw Damaged();
        firsts[i] = first;
        sizes[i] = last - first;
        n_words_ahead += sizes[i] * n_words;
        const auto* bytes = reinterpret_cast<const char*>(table.words + first * n_words);
        const uint64_t n_bytes = 8 * n_words * sizes[i];
        for (uint64_t byte = 0; byte < std::min(n_bytes, kBytesFetched); byte += 64) __builtin_prefetch(bytes + byte);
      }
      n_compared += n_words_ahead;
      if (static_cast<double>(kWordsPerWord * n_compared) > most) return n_compared;
      for (uint64_t i = 0; i < n; ++i) {
        for (uint64_t part = 0; part < sizes[i]; part += kPart) {
          const uint64_t n_part = std::min(kPart, sizes[i] - part), first = firsts[i] + part;
          workspace_.load({table.words + first * n_words, n_part, first});
          workspace_.scan_one(query, radius(), [&](Hit hit) {
            const uint64_t* code = table.words + hit_row(hit) * n_words;
            if (hit_distance(hit) > radius() || !is_first(query, code, distance, number)) return;
            const uint64_t code_number = table.codes[hit_row(hit)];
            if (code_number >= n_codes_) throw Damaged();
            n_compared += take(make_hit(hit_distance(hit), code_number));
          });
        }
      }
      begin += n;
    }
    return n_compared;
  }

 private:
  static constexpr uint64_t kBytesFetched = 1024;  // of a bucket; the processor itself goes on from there
  static constexpr uint64_t kPart = 2048;          // codes compared at once

  bool is_first(const uint64_t* query, const uint64_t* code, unsigned distance, size_t number) const {
    for (size_t other = 0; other < index_.tables.size(); ++other) {
      const SubstringTable& table = index_.tables[other];
      const unsigned apart = n_ones(substring(query, table) ^ substring(code, table));
      if (apart < distance || (apart == distance && other < number)) return false;
    }
    return true;
  }

  const MultiIndex& index_;
  Workspace workspace_;
  uint64_t n_codes_;
};

// Steps (0, 0), (0, 1), ... up to the one after which everything within `radius` has been seen.
struct Step {
  unsigned distance;
  size_t table;
};

class Steps {
 public:
  explicit Steps(const MultiIndex& index) : index_(index) {
    for (const SubstringTable& table : index.tables) last_ = std::max(last_, table.n_bits);
  }

  uint64_t n_steps() const { return (last_ + 1) * index_.tables.size(); }
  Step operator[](uint64_t step) const {
    return {static_cast<unsigned>(step / index_.tables.size()), static_cast<size_t>(step % index_.tables.size())};
  }
  uint64_t n_buckets(uint64_t step) const {
    return n_choices(index_.tables[(*this)[step].table].n_bits, (*this)[step].distance);
  }
  // A scan compares about as many words in that time; the buckets being as full as they are on average.
  double work(uint64_t step) const {
    const Database& codes = index_.postings.codes;
    const double n_words = static_cast<double>(codes.n_rows() * codes.n_words());
    const double words_a_bucket =
        n_words / static_cast<double>(uint64_t{1} << index_.tables[(*this)[step].table].n_bits);
    return static_cast<double>(n_buckets(step)) * (kWordsPerBucket + kWordsPerWord * words_a_bucket);
  }

 private:
  const MultiIndex& index_;
  unsigned last_ = 0;  // no substring differs in more bits
};

// How much work buckets may be: as many words as a scan of all codes compares for each of so many queries, which share
// a pass. None where a mask allows few rows: the nearest of these are far.
double most_work(const MultiIndex& index, size_t n_queries, const Options& options) {
  constexpr uint64_t kRarelyAllowed = 100;
  const uint64_t n_rows = index.postings.n_rows;
  if (options.mask != nullptr && n_allowed_by(options.mask, n_rows) < n_rows / kRarelyAllowed) return -1;
  const auto n_words = static_cast<double>(index.postings.codes.n_rows() * index.postings.codes.n_words());
  return options.most_probing * (n_queries < 8 ? n_words : n_words / 3);
}

struct Answer {
  bool is_complete = false;  // false: a scan of all codes is cheaper
  std::vector<Hit> rows;
  std::vector<uint32_t> codes;  // Found::codes of these rows
  int64_t n_ties = 0;
};

// Shares the buckets of one query's steps out to threads.
class Search {
 public:
  Search(const MultiIndex& index, const uint64_t* query, const Options& options, unsigned threads, double most_work)
      : index_(index), steps_(index), query_(query), options_(options), threads_(threads), most_work_(most_work) {}

  template <class IsStopped>
  Answer top_k(uint64_t k, bool is_counting, IsStopped is_stopped) {
    const uint64_t largest_distance = 64 * index_.postings.codes.n_words();
    const uint64_t most = is_counting ? ~uint64_t{0} : k;
    std::vector<NearestCodes> best(threads_, NearestCodes(k, largest_distance));
    std::atomic<uint64_t> radius{largest_distance};
    const bool is_complete =
        run([&](unsigned thread) { return std::min(best[thread].radius(), radius.load(std::memory_order_relaxed)); },
            [&](unsigned thread, Hit hit) {
              NearestCodes& nearest = best[thread];
              nearest.offer(hit, n_allowed(index_.postings, hit_row(hit), options_.mask, most));
              uint64_t known = radius.load(std::memory_order_relaxed);
              while (nearest.radius() < known && !radius.compare_exchange_weak(known, nearest.radius())) {
              }
              return kWordsPerHit + (options_.mask == nullptr ? 0 : 4 * n_rows_of(index_.postings, hit_row(hit)));
            },
            [&](uint64_t n_seen) {
              uint64_t n = 0;
              for (uint64_t distance = 0; distance <= std::min(n_seen, largest_distance); ++distance)
                for (const NearestCodes& nearest : best) n += nearest.n_at(distance);
              return n >= k;
            },
            is_stopped);
    Answer answer;
    answer.is_complete = is_complete;
    if (!is_complete) return answer;
    std::vector<const NearestCodes*> nearest;
    for (const NearestCodes& of_thread : best) nearest.push_back(&of_thread);
    answer.n_ties = append_rows(index_.postings, nearest, largest_distance, k, options_.mask, answer.rows,
                                options_.wants_codes ? &answer.codes : nullptr);
    return answer;
  }

  template <class IsStopped>
  Answer within(uint64_t radius, IsStopped is_stopped) {
    std::vector<std::vector<Hit>> codes(threads_);
    Answer answer;
    if (probing_words(index_, radius) > most_work_) return answer;
    answer.is_complete = run([&](unsigned) { return radius; },
                             [&](unsigned thread, Hit hit) {
                               codes[thread].push_back(hit);
                               return kWordsPerHit;
                             },
                             [&](uint64_t n_seen) { return n_seen >= radius; }, is_stopped);
    if (!answer.is_complete) return answer;
    for (size_t thread = 1; thread < codes.size(); ++thread)
      codes[0].insert(codes[0].end(), codes[thread].begin(), codes[thread].end());
    append_rows_of(index_.postings, codes[0].data(), codes[0].size(), options_.mask, answer.rows);
    return answer;
  }

 private:
  // radius_of(thread); take(thread, hit); is_enough(distance up to which everything has been seen);
  // is_stopped(thread). False when it would have been too much work.
  template <class RadiusOf, class Take, class IsEnough, class IsStopped>
  bool run(RadiusOf radius_of, Take take, IsEnough is_enough, IsStopped is_stopped) {
    std::vector<std::unique_ptr<Prober>> probers(threads_);
    std::atomic<uint64_t> work{0};
    for (uint64_t number = 0; number < steps_.n_steps(); ++number) {
      if (static_cast<double>(work) + steps_.work(number) > most_work_) return false;
      const Step step = steps_[number];
      const uint64_t n_buckets = steps_.n_buckets(number);
      std::atomic<uint64_t> next{0};
      const auto look = [&](unsigned thread) {
        if (probers[thread] == nullptr) probers[thread] = std::make_unique<Prober>(index_, options_);
        for (;;) {
          const uint64_t begin = next.fetch_add(kChunk, std::memory_order_relaxed);
          if (begin >= n_buckets || static_cast<double>(work) > most_work_) return;
          const uint64_t end = std::min(begin + kChunk, n_buckets);
          const uint64_t n_compared = probers[thread]->probe(
              query_, step.distance, step.table, begin, end, most_work_ - static_cast<double>(work),
              [&] { return radius_of(thread); }, [&](Hit hit) { return take(thread, hit); });
          work += (end - begin) * kWordsPerBucket + n_compared * kWordsPerWord;
          if (is_stopped(thread)) return;
        }
      };
      const uint64_t n_useful = (n_buckets + kChunk - 1) / kChunk;
      if (threads_ == 1 || n_useful < 2)
        look(0);
      else
        run_parallel(static_cast<unsigned>(std::min<uint64_t>(threads_, n_useful)), look);
      if (static_cast<double>(work) > most_work_) return false;
      if (is_enough(number)) return true;
    }
    return true;
  }

  const MultiIndex& index_;
  Steps steps_;
  const uint64_t* query_;
  const Options& options_;
  unsigned threads_;
  double most_work_;
};

// Answers every query by answer_one(search, is_stopped) or, those for which it is cheaper, by scan(queries).
template <class AnswerOne, class Scan>
Found answer_all(const MultiIndex& index, const Queries& queries, const Options& options, std::vector<int64_t>* n_ties,
                 AnswerOne answer_one, Scan scan) {
  const size_t n_words = index.postings.codes.n_words();
  const unsigned threads = std::max(options.threads, 1u);
  const double most = most_work(index, queries.n_queries, options);
  std::vector<Answer> answers(queries.n_queries);
  std::atomic<bool> is_interrupted{false};
  Interruptions interruptions(options);
  const auto is_stopped = [&](unsigned thread) {
    // Once told it asks no more: the handler's error is pending, and no Python may run on top of it.
    if (thread == 0 && !is_interrupted && interruptions.is_told()) is_interrupted = true;
    return is_interrupted.load(std::memory_order_relaxed);
  };
  if (queries.n_queries == 1) {
    answers[0] = answer_one(Search(index, queries.words, options, threads, most), is_stopped);
  } else {
    std::atomic<size_t> next{0};
    run_parallel(static_cast<unsigned>(std::min<size_t>(threads, std::max<size_t>(queries.n_queries, 1))),
                 [&](unsigned thread) {
                   for (size_t q = next++; q < queries.n_queries && !is_interrupted; q = next++)
                     answers[q] = answer_one(Search(index, queries.words + q * n_words, options, 1, most),
                                             [&](unsigned) { return is_stopped(thread); });
                 });
  }
  if (is_interrupted) throw Interrupted();

  std::vector<uint64_t> left;
  for (size_t q = 0; q < queries.n_queries; ++q)
    if (!answers[q].is_complete)
      left.insert(left.end(), queries.words + q * n_words, queries.words + (q + 1) * n_words);
  std::vector<int64_t> left_ties;
  const Found scanned = scan(Queries{left.data(), left.size() / n_words}, &left_ties);
  Found found;
  found.offsets.push_back(0);
  size_t n_scanned = 0;
  for (Answer& answer : answers) {
    if (answer.is_complete) {
      found.hits.insert(found.hits.end(), answer.rows.begin(), answer.rows.end());
      found.codes.insert(found.codes.end(), answer.codes.begin(), answer.codes.end());
      std::vector<Hit>().swap(answer.rows);
    } else {
      const int64_t begin = scanned.offsets[n_scanned], end = scanned.offsets[n_scanned + 1];
      found.hits.insert(found.hits.end(), scanned.hits.begin() + begin, scanned.hits.begin() + end);
      if (options.wants_codes)
        found.codes.insert(found.codes.end(), scanned.codes.begin() + begin, scanned.codes.begin() + end);
      if (n_ties != nullptr) answer.n_ties = left_ties[n_scanned];
      ++n_scanned;
    }
    found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
    if (n_ties != nullptr) n_ties->push_back(answer.n_ties);
  }
  return found;
}

}  // namespace

void fill_table(const Database& codes, unsigned first_bit, unsigned n_bits, uint32_t* begins, uint64_t* words,
                uint32_t* numbers, unsigned threads, bool (*is_interrupted)()) {
  constexpr unsigned kMostPartitionBits = 9;  // more would have too many places written at once
  const SubstringTable table{first_bit, n_bits, begins, words, numbers};
  const size_t n_words = codes.n_words();
  const unsigned low_bits = n_bits - std::min(n_bits, kMostPartitionBits);
  const size_t n_low = size_t{1} << low_bits, n_partitions = size_t{1} << (n_bits - low_bits);
  const auto partition_of = [&](const uint64_t* code) {
    return static_cast<size_t>(substring(code, table) >> low_bits);
  };
  const std::vector<uint64_t> firsts =
      partition(codes, n_partitions, partition_of, words, numbers, threads, is_interrupted);
  // Partitions fit a cache, where each is copied and put back in order.
  for_each_task(n_partitions, threads, is_interrupted, [&](size_t number) {
    const uint64_t first = firsts[number], n_codes = firsts[number + 1] - first;
    const std::vector<uint64_t> unordered(words + first * n_words, words + (first + n_codes) * n_words);
    const std::vector<uint32_t> unordered_numbers(numbers + first, numbers + first + n_codes);
    std::vector<uint32_t> next(n_low + 1);
    const auto low_of = [&](uint64_t code) {
      return substring(unordered.data() + code * n_words, table) & (n_low - 1);
    };
    for (uint64_t code = 0; code < n_codes; ++code) ++next[low_of(code) + 1];
    next[0] = static_cast<uint32_t>(first);
    for (size_t low = 0; low < n_low; ++low) {
      next[low + 1] += next[low];
      begins[number * n_low + low] = next[low];
    }
    for (uint64_t code = 0; code < n_codes; ++code) {
      const uint64_t to = next[low_of(code)]++;
      copy_code(unordered.data() + code * n_words, n_words, words + to * n_words);
      numbers[to] = unordered_numbers[code];
    }
  });
  begins[n_partitions * n_low] = static_cast<uint32_t>(codes.n_rows());
}

double probing_words(const MultiIndex& index, uint64_t distance) {
  const Steps steps(index);
  double words = 0;
  for (uint64_t step = 0; step <= distance && step < steps.n_steps(); ++step) words += steps.work(step);
  return words;
}

Found top_k(const MultiIndex& index, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties) {
  return answer_all(
      index, queries, options, n_ties,
      [&](Search search, auto is_stopped) { return search.top_k(k, n_ties != nullptr, is_stopped); },
      [&](const Queries& left, std::vector<int64_t>* ties) {
        return top_k(index.postings, left, k, options, n_ties == nullptr ? nullptr : ties);
      });
}

Found within(const MultiIndex& index, const Queries& queries, uint64_t radius, const Options& options) {
  return answer_all(
      index, queries, options, nullptr,
      [&](Search search, auto is_stopped) { return search.within(radius, is_stopped); },
      [&](const Queries& left, std::vector<int64_t>*) { return within(index.postings, left, radius, options); });
}

}  // namespace athsearch
