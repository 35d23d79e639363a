// Attention of a step's tokens over the ring cache, in bf16 and fp32, for x86 processors with AMX. They are whole tubelets,
// or, in a sparse step, any tokens of one.
//
// torch's kernel needs the depth part of all keys rotated in memory first, and packs keys and values for the matrix unit
// anew for every block of queries. This one goes through the ring slot by slot with an online softmax (Dao et al. 2022,
// FlashAttention, algorithm 1), so that what it touches stays in the L2 cache, and turns a slot's depth channels on the
// way. In bf16 the ring holds keys and values packed for the matrix unit, so that a step packs only its own tubelets.
//
// The matrix unit multiplies bf16 only. An fp32 value is exactly the sum of three bf16 values, of 8 bits each: its parts.
// fp32 products are the six products of parts that reach 24 bits, summed in fp32 (as in Henry et al. 2019, "Leveraging
// the bfloat16 artificial intelligence datatype for higher-precision computations"), still faster than fp32 arithmetic.
//
// A plain C interface for ctypes, without torch's headers. OpenMP resolves to the library that torch has loaded, so both
// share one pool of threads.
//
// Tiles: all that the matrix unit reads and writes lies in tiles of 16 rows of 64 bytes, each of 1 KB in one piece. It takes
// pairs of bf16: a tile of keys has 16 channel pairs of 16 keys, one of values 16 key pairs of 16 channels. S tokens per
// tubelet, E head width, P = E padded to 32. Keys lie as (S/16, P/32) tiles, values as (S/32, E/16). In fp32 the ring
// holds keys as (P, S) and values as (S, E), and their parts are made into tiles on the way.
// Turns: what to rotate channel pairs by, in rows of 4 x P/2: cosines of the even channels, of the odd ones, sines of the
// even ones (with a minus), of the odd ones. Cosine 1 and sine 0 leave a pair as it is.

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "x86.h"

namespace {

using namespace saccade;

constexpr int kQueries = 2 * kTile;  // queries handled at once
constexpr int kKeys = 64;            // keys handled at once: scores and weights of two turns then fit the L1 cache
constexpr int kWords = kTile * kTile;  // fp32 values of a tile; it has twice as many of bf16
constexpr float kLowest = -1e30f;    // a maximum before any score; finite, so that differences are
constexpr float kMost = 1e20f;       // a sum of numerators far from overflow, and so are its products with values

template <typename T>
constexpr int kParts = std::is_same_v<T, float> ? 3 : 1;  // bf16 parts of a value

struct Shape {
  int heads, window, fill, tokens, width, padded, rows;  // rows: tokens computed
  int queries() const { return (rows + kQueries - 1) / kQueries * kQueries; }
  std::ptrdiff_t key_slot() const { return static_cast<std::ptrdiff_t>(padded) * tokens; }
  std::ptrdiff_t value_slot() const { return static_cast<std::ptrdiff_t>(width) * tokens; }
  std::ptrdiff_t query_plane() const { return static_cast<std::ptrdiff_t>(padded) * queries(); }
  int key_steps() const { return padded / kPair; }
  int columns() const { return width / kTile; }
};

// One thread's working memory, in tiles. N queries; a leading axis of parts where values are bf16. Scores and weights
// twice, for two turns.
struct Workspace {
  float *scores[2];  // (keys/16, 2, 16, 16) of 32 queries
  bf16 *weights[2];  // (parts, keys/32, 2, 16, 32) softmax numerators of them
  bf16 *keys;        // (parts, S/16, P/32) tiles of a slot's keys, turned; in bf16 only of the channels that turn
  bf16 *values;      // (parts, S/32, E/16) tiles of a slot's values; fp32 only
  bf16 *queries;     // (parts, N/32, P/32, 2, 16, 32)
  float *sums;       // (N/32, E/16, 2, 16, 16) output before division by the totals
  float *totals;     // (N, 16) in lanes, to be added up
  float *maxima;     // (N)
};

constexpr std::ptrdiff_t kWeightPlane = kQueries * kKeys;

// Where a row of 32 begins in tiles of fp32; its next 16 columns are 2 tiles further.
inline std::ptrdiff_t row_of_words(int row) { return row / kTile * kWords + row % kTile * kTile; }
// The same of bf16, with 32 columns.
inline std::ptrdiff_t row_of_pairs(int row) { return 2 * row_of_words(row); }

// 16 channel pairs in fp32: first and second channel of each.
struct Pairs {
  __m512 even, odd;
};

AVX512 inline Pairs turn(Pairs p, __m512 cos_even, __m512 cos_odd, __m512 sin_even, __m512 sin_odd) {
  return {_mm512_fmadd_ps(p.odd, sin_even, _mm512_mul_ps(p.even, cos_even)),
          _mm512_fmadd_ps(p.even, sin_odd, _mm512_mul_ps(p.odd, cos_odd))};
}

AVX512 inline Pairs unpack(__m512i words) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff0000)))};
}

AVX512 inline __m512i pack(Pairs p) {
  const __m512i odd = _mm512_cvtepu16_epi32(narrow(p.odd));
  return _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(p.even)), _mm512_slli_epi32(odd, 16));
}

// The parts of 16 pairs, each packed in a plane of its own.
template <typename T>
AVX512 inline void store_parts(Pairs p, bf16 *to, std::ptrdiff_t plane) {
  for (int part = 0; part < kParts<T>; ++part) {
    const __m512i words = pack(p);
    _mm512_storeu_si512(to + part * plane, words);
    const Pairs taken = unpack(words);
    p = {_mm512_sub_ps(p.even, taken.even), _mm512_sub_ps(p.odd, taken.odd)};
  }
}

// Up to 16 channel pairs of a head; zero beyond them.
AVX512 inline Pairs load_pairs(const bf16 *from, int count) {
  return unpack(_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), from));
}
AVX512 inline Pairs load_pairs(const float *from, int count) {
  const std::uint64_t mask = (std::uint64_t{1} << (2 * count)) - 1;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> kTile), from + kTile);
  const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(low, evens, high), _mm512_permutex2var_ps(low, odds, high)};
}

// 16 channel pairs of a token, from pair `first` of its head on, turned by its row of the table.
template <typename T>
AVX512 inline Pairs turned_pairs(const Shape &s, const T *head, const float *row, int first) {
  const int half = s.padded / 2;
  const float *turns = row + first;
  return turn(load_pairs(head + 2 * first, std::min(kTile, s.width / 2 - first)), _mm512_loadu_ps(turns),
              _mm512_loadu_ps(turns + half), _mm512_loadu_ps(turns + 2 * half), _mm512_loadu_ps(turns + 3 * half));
}

// 16 x 16 words, rows to columns.
AVX512 inline void transpose(__m512i r[kTile]) {
  __m512i t[kTile];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 8] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
  }
}

// All queries of one head, `stride` apart -> tiles of their parts; the last 32 filled up with zeros.
template <typename T>
AVX512 void turn_queries(const Shape &s, const T *from, int stride, const float *turns, bf16 *queries) {
  const Pairs zero{_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (std::ptrdiff_t query = 0; query < s.queries(); ++query) {
    bf16 *to = queries + query / kQueries * kQueries * s.padded + row_of_pairs(query % kQueries);
    for (int pair = 0; pair < s.padded / 2; pair += kTile, to += 4 * kWords) {
      const bool real = query < s.rows;
      const Pairs p = real ? turned_pairs(s, from + query * stride, turns + query * 2 * s.padded, pair) : zero;
      store_parts<T>(p, to, s.query_plane());
    }
  }
}

// A tubelet's keys of one head -> the ring's slot.
template <typename T>
AVX512 void keep_keys(const Shape &s, const T *from, int stride, const float *turns, T *slot) {
  for (int token = 0; token < s.tokens; token += kTile)
    for (int pair = 0; pair < s.padded / 2; pair += kTile) {
      __m512i rows[2][kTile];  // fp32: even channels, odd channels; bf16: both in the first
      for (int i = 0; i < kTile; ++i) {
        const Pairs p = turned_pairs(s, from + (token + i) * stride, turns + (token + i) * 2 * s.padded, pair);
        if constexpr (std::is_same_v<T, float>) {
          rows[0][i] = _mm512_castps_si512(p.even);
          rows[1][i] = _mm512_castps_si512(p.odd);
        } else {
          rows[0][i] = pack(p);
        }
      }
      for (int kind = 0; kind < (std::is_same_v<T, float> ? 2 : 1); ++kind) {
        transpose(rows[kind]);
        for (int i = 0; i < kTile; ++i) {
          if constexpr (std::is_same_v<T, float>)
            _mm512_storeu_si512(slot + (2 * (pair + i) + kind) * s.tokens + token, rows[kind][i]);
          else
            _mm512_storeu_si512(slot + token * s.padded + pair * kPair + i * kPair, rows[kind][i]);
        }
      }
    }
}

// One token's keys of one head -> its place in the ring's slot, `token`; the other tokens' stay.
template <typename T>
AVX512 void keep_key(const Shape &s, const T *head, const float *turns, int token, T *slot) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int pair = 0; pair < s.padded / 2; pair += kTile) {
    const Pairs p = turned_pairs(s, head, turns, pair);
    if constexpr (std::is_same_v<T, float>) {
      T *to = slot + static_cast<std::ptrdiff_t>(2 * pair) * s.tokens + token;
      const __m512i at = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(2 * s.tokens));
      _mm512_i32scatter_ps(to, at, p.even, sizeof(float));
      _mm512_i32scatter_ps(to + s.tokens, at, p.odd, sizeof(float));
    } else {  // a row of a tile per pair, a word of it per token
      T *to = slot + token / kTile * kTile * s.padded + pair * kPair + token % kTile * 2;
      _mm512_i32scatter_epi32(to, _mm512_slli_epi32(lanes, 4), pack(p), kRowBytes / kTile);
    }
  }
}

// Where the values of a pair of tokens lie among the tiles, from channel e on; `token` is either of them.
inline std::ptrdiff_t value_at(const Shape &s, int token, int e) {
  return static_cast<std::ptrdiff_t>(token / kPair) * kPair * s.width + e * kPair + token % kPair / 2 * kPair;
}

// A tubelet's values of one head -> the ring's slot.
AVX512 void keep_values(const Shape &s, const bf16 *from, int stride, bf16 *slot) {
  for (int token = 0; token < s.tokens; token += 2)
    for (int e = 0; e < s.width; e += kTile) {
      const __m256i first = _mm256_loadu_si256((const __m256i *)(from + token * stride + e));
      const __m256i second = _mm256_loadu_si256((const __m256i *)(from + (token + 1) * stride + e));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16);
      _mm512_storeu_si512(slot + value_at(s, token, e), _mm512_or_si512(_mm512_cvtepu16_epi32(first), high));
    }
}
void keep_values(const Shape &s, const float *from, int stride, float *slot) {
  for (int token = 0; token < s.tokens; ++token) std::copy_n(from + token * stride, s.width, slot + token * s.width);
}

// One token's values of one head -> its place in the ring's slot, `token`; the other tokens' stay.
AVX512 void keep_value(const Shape &s, const bf16 *head, int token, bf16 *slot) {
  const bool second = token % 2;
  for (int e = 0; e < s.width; e += kTile) {
    const __m512i values = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(head + e)));
    const __m512i words = second ? _mm512_slli_epi32(values, 16) : values;
    _mm512_mask_storeu_epi16(slot + value_at(s, token, e), second ? 0xaaaaaaaa : 0x55555555, words);
  }
}
void keep_value(const Shape &s, const float *head, int token, float *slot) {
  std::copy_n(head, s.width, slot + token * s.width);
}

// A slot's keys with the first `turning` channel pairs turned: tiles of the first `steps` times 16 pairs.
template <typename T>
AVX512 void turn_keys(const Shape &s, const T *slot, const float *turns, int turning, int steps, bf16 *to) {
  const int half = s.padded / 2;
  for (int pair = 0; pair < steps * kTile; ++pair) {
    const __m512 c0 = _mm512_set1_ps(turns[pair]), c1 = _mm512_set1_ps(turns[half + pair]);
    const __m512 s0 = _mm512_set1_ps(turns[2 * half + pair]), s1 = _mm512_set1_ps(turns[3 * half + pair]);
    const int in_tile = pair / kTile * 2 * kWords + pair % kTile * kPair;
    for (int token = 0; token < s.tokens; token += kTile) {
      Pairs p;
      if constexpr (std::is_same_v<T, float>) {
        const T *row = slot + static_cast<std::ptrdiff_t>(2 * pair) * s.tokens + token;
        p = {_mm512_loadu_ps(row), _mm512_loadu_ps(row + s.tokens)};
      } else {
        p = unpack(_mm512_loadu_si512(slot + token * s.padded + in_tile));
      }
      store_parts<T>(pair < turning ? turn(p, c0, c1, s0, s1) : p, to + token * steps * kPair + in_tile, s.key_slot());
    }
  }
}

// A slot's fp32 values -> tiles of their parts.
AVX512 void split_values(const Shape &s, const float *slot, bf16 *to) {
  for (int token = 0; token < s.tokens; token += 2)
    for (int e = 0; e < s.width; e += kTile) {
      const float *at = slot + token * s.width + e;
      store_parts<float>({load(at), load(at + s.width)}, to + value_at(s, token, e), s.value_slot());
    }
}

// Numerators 2^(scale * score - maximum) of one query over some keys, in parts; returns their sum, in lanes.
template <typename T>
AVX512 inline __m512 raise(int keys, const float *scores, float scale, float maximum, bf16 *weights) {
  const __m512 factor = _mm512_set1_ps(scale), minus = _mm512_set1_ps(-maximum);
  __m512 sum = _mm512_setzero_ps();
  for (int key = 0; key < keys; key += kPair, scores += 4 * kWords, weights += 4 * kWords) {
    __m512 low = exp2_of<T>(_mm512_fmadd_ps(load(scores), factor, minus));
    __m512 high = exp2_of<T>(_mm512_fmadd_ps(load(scores + 2 * kWords), factor, minus));
    sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
    for (int part = 0; part < kParts<T>; ++part) {
      const __m512i rounded = round_pair(low, high);
      _mm512_storeu_si512(weights + part * kWeightPlane, rounded);
      subtract(rounded, low, high);
    }
  }
  return sum;
}

// Rebases a query's total and sums on the maximum of these scores, if that is higher.
AVX512 void rebase(const Shape &s, int keys, const float *scores, float scale, const Workspace &w, int query) {
  __m512 top = load(scores);
  for (int tile = 1; tile < keys / kTile; ++tile) top = _mm512_max_ps(top, load(scores + tile * 2 * kWords));
  const float highest = std::max(w.maxima[query], _mm512_reduce_max_ps(top) * scale);
  const __m512 shrink = exp2_of<float>(_mm512_set1_ps(w.maxima[query] - highest));
  float *sums = w.sums + query / kQueries * kQueries * s.width + row_of_words(query % kQueries);
  for (int column = 0; column < s.columns(); ++column, sums += 2 * kWords)
    store(sums, _mm512_mul_ps(load(sums), shrink));
  float *total = w.totals + query * kTile;
  store(total, _mm512_mul_ps(load(total), shrink));
  w.maxima[query] = highest;
}

// The softmax of 32 queries over some keys, query by query, between the products of the turns before and after: the
// vector unit works while the matrix unit does. The first maximum of a query serves its later keys too: floating point is
// as precise at any scale, so rebasing on a higher one is needed only before something overflows. That waits until no
// product is adding to the sums.
template <typename T>
struct Softmax {
  const Shape &s;
  const Workspace &w;
  float scale;
  int ticks;       // products that a whole softmax is spread over
  int query = 0;   // the first
  int buffer = 0;  // of scores and weights
  int keys = 0;
  bool first = true;
  int done = kQueries, due = 0, late_count = 0;
  int late[kQueries] = {};

  void begin(int first_query, int which, int key_count, bool first_keys) {
    query = first_query, buffer = which, keys = key_count, first = first_keys;
    done = due = late_count = 0;
  }
  AVX512 inline __m512 raise_row(int row) {
    return raise<T>(keys, w.scores[buffer] + row_of_words(row), scale, w.maxima[query + row],
                    w.weights[buffer] + row_of_pairs(row));
  }
  AVX512 inline void add(int row, __m512 sum) {
    float *total = w.totals + (query + row) * kTile;
    store(total, _mm512_add_ps(load(total), sum));
  }
  AVX512 inline void next() {
    const int row = done++;
    if (first) rebase(s, keys, w.scores[buffer] + row_of_words(row), scale, w, query + row);
    const __m512 sum = raise_row(row);
    if (_mm512_cmp_ps_mask(sum, _mm512_set1_ps(kMost), _CMP_NLT_UQ))
      late[late_count++] = row;
    else
      add(row, sum);
  }
  AVX512 inline void tick() {
    for (due += kQueries; due >= ticks && done < kQueries; due -= ticks) next();
  }
  AVX512 void rest() {
    while (done < kQueries) next();
    while (late_count > 0) {
      const int row = late[--late_count];
      rebase(s, keys, w.scores[buffer] + row_of_words(row), scale, w, query + row);
      add(row, raise_row(row));
    }
  }
};

// Tiles of a right-hand side: pairs of rows by step, columns by 16.
struct Tiles {
  const bf16 *data;
  std::ptrdiff_t column, step, plane;  // of parts
  const bf16 *at(int column_idx, int step_idx, int part) const {
    return data + column_idx * column + step_idx * step + part * plane;
  }
};

// c (columns, 2, 16, 16) = or += a (steps, 2, 16, 32) b, 32 rows; a's parts are `a_plane` apart. The first `split` steps of
// b come from `b_first`.
template <typename T>
AMX void multiply(const bf16 *a, std::ptrdiff_t a_plane, const Tiles &b_first, int split, const Tiles &b, float *c,
                  int columns, int steps, bool add, Softmax<T> &meanwhile) {
  constexpr int parts = kParts<T>;
  for (int column = 0; column < columns; column += 2, c += 4 * kWords) {
    const bool both = column + 1 < columns;
    if (add) {
      _tile_loadd(0, c, kRowBytes);
      _tile_loadd(1, c + kWords, kRowBytes);
      if (both) _tile_loadd(2, c + 2 * kWords, kRowBytes);
      if (both) _tile_loadd(3, c + 3 * kWords, kRowBytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int left = parts - 1; left >= 0; --left)  // the smallest products first
      for (int right = parts - 1 - left; right >= 0; --right)
        for (int step = 0; step < steps; ++step) {
          const bf16 *rows = a + left * a_plane + step * 4 * kWords;
          const Tiles &from = step < split ? b_first : b;
          _tile_loadd(4, rows, kRowBytes);
          _tile_loadd(5, rows + 2 * kWords, kRowBytes);
          _tile_loadd(6, from.at(column, step, right), kRowBytes);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 5, 6);
          if (both) {
            _tile_loadd(7, from.at(column + 1, step, right), kRowBytes);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
          }
          meanwhile.tick();
        }
    _tile_stored(0, c, kRowBytes);
    _tile_stored(1, c + kWords, kRowBytes);
    if (both) _tile_stored(2, c + 2 * kWords, kRowBytes);
    if (both) _tile_stored(3, c + 3 * kWords, kRowBytes);
  }
}

// One share of an array, into L2.
template <typename T>
void fetch(const T *array, std::ptrdiff_t size, int share, int shares) {
  for (std::ptrdiff_t i = size * share / shares; i < size * (share + 1) / shares; i += kRowBytes / sizeof(T))
    _mm_prefetch(reinterpret_cast<const char *>(array + i), _MM_HINT_T1);
}

// One head's keys and values -> its part of the output, `stride` apart per query. A turn is 32 queries and 64 keys, the
// keys of a slot innermost, so that a block's sums stay in L1 while a slot goes by.
template <typename T>
AVX512 void attend_head(const Shape &s, const T *keys, const T *values, const float *depth_turns, int turning, T *out,
                        int stride, const Workspace &w) {
  constexpr bool in_parts = kParts<T> > 1;
  const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(s.width)));
  const int turned_steps = in_parts ? s.key_steps() : (turning + kTile - 1) / kTile;
  std::fill_n(w.sums, s.queries() * s.width, 0.0f);
  std::fill_n(w.totals, s.queries() * kTile, 0.0f);
  std::fill_n(w.maxima, s.queries(), kLowest);
  const int blocks = s.queries() / kQueries, chunks = (s.tokens + kKeys - 1) / kKeys;
  const int products = kParts<T> * (kParts<T> + 1) / 2 * (kKeys / kPair) * (s.key_steps() + (s.columns() + 1) / 2);
  Softmax<T> softmax{s, w, scale, products};
  struct Turn {
    int slot, query, key, keys;
  };
  const auto find = [&](int turn) {
    const int key = turn % chunks * kKeys;
    return Turn{turn / chunks / blocks, turn / chunks % blocks * kQueries, key, std::min(kKeys, s.tokens - key)};
  };
  const auto score = [&](int turn) {
    const Turn at = find(turn);
    const T *slot = keys + at.slot * s.key_slot();
    if (at.query == 0 && at.key == 0)
      turn_keys(s, slot, depth_turns + at.slot * 2 * s.padded, turning, turned_steps, w.keys);
    const Tiles turned{w.keys + at.key * turned_steps * kPair, turned_steps * 2 * kWords, 2 * kWords, s.key_slot()};
    Tiles kept{};
    if constexpr (!in_parts) kept = {slot + at.key * s.padded, s.key_steps() * 2 * kWords, 2 * kWords, 0};
    multiply<T>(w.queries + at.query * s.padded, s.query_plane(), turned, turned_steps, kept, w.scores[turn % 2],
                at.keys / kTile, s.key_steps(), false, softmax);
  };
  const auto weigh = [&](int turn) {
    const Turn at = find(turn);
    const T *slot = values + at.slot * s.value_slot();
    const bf16 *tiles;
    if constexpr (in_parts) {
      if (at.query == 0 && at.key == 0) split_values(s, slot, w.values);
      tiles = w.values;
    } else {
      tiles = slot;
    }
    const Tiles packed{tiles + at.key * s.width, 2 * kWords, s.columns() * 2 * kWords, s.value_slot()};
    multiply<T>(w.weights[turn % 2], kWeightPlane, packed, 0, packed, w.sums + at.query * s.width, s.columns(),
                at.keys / kPair, true, softmax);
  };
  const int turns = s.fill * blocks * chunks;
  score(0);
  for (int turn = 0; turn <= turns; ++turn) {
    const Turn at = find(turn);
    if (turn < turns) softmax.begin(at.query, turn % 2, at.keys, at.slot == 0 && at.key == 0);
    if (at.slot + 1 < s.fill) {
      const int share = turn % (blocks * chunks);
      fetch(keys + (at.slot + 1) * s.key_slot(), s.key_slot(), share, blocks * chunks);
      fetch(values + (at.slot + 1) * s.value_slot(), s.value_slot(), share, blocks * chunks);
    }
    if (turn > 0) weigh(turn - 1);
    if (turn + 1 < turns) score(turn + 1);
    softmax.rest();
  }
  for (int query = 0; query < s.rows; ++query) {
    const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(load(w.totals + query * kTile)));
    const float *sums = w.sums + query / kQueries * kQueries * s.width + row_of_words(query % kQueries);
    for (int column = 0; column < s.columns(); ++column, sums += 2 * kWords)
      store(out + query * stride + column * kTile, _mm512_mul_ps(load(sums), inverse));
  }
}

// Bytes of the workspace; laid out from `memory` on, unless that is null.
template <typename T>
std::size_t lay_out(const Shape &s, char *memory, Workspace *w) {
  std::size_t end = 0;
  const auto carve = [&](auto *&array, std::ptrdiff_t count) {
    if (memory) array = reinterpret_cast<std::decay_t<decltype(array)>>(memory + end);
    end += (count * sizeof(*array) + 63) / 64 * 64;
  };
  for (int i = 0; i < 2; ++i) {
    carve(w->scores[i], kQueries * kKeys);
    carve(w->weights[i], kParts<T> * kWeightPlane);
  }
  carve(w->keys, kParts<T> * s.key_slot());
  carve(w->values, kParts<T> > 1 ? kParts<T> * s.value_slot() : 0);
  carve(w->queries, kParts<T> * s.query_plane());
  carve(w->sums, static_cast<std::ptrdiff_t>(s.queries()) * s.width);
  carve(w->totals, static_cast<std::ptrdiff_t>(s.queries()) * kTile);
  carve(w->maxima, s.queries());
  return end;
}

// Keys and values of one head -> the ring: of whole tubelets, or, where `places` is given, of its tokens of one tubelet.
template <typename T>
void keep(const Shape &s, const T *head, int stride, const std::int64_t *slots, const std::int64_t *places,
          const float *key_turns, T *keys, T *values) {
  const int channels = s.heads * s.width;
  if (places) {
    for (std::ptrdiff_t row = 0; row < s.rows; ++row) {
      const int token = static_cast<int>(places[row]);
      const T *from = head + row * stride;
      keep_key(s, from + channels, key_turns + token * 2 * s.padded, token, keys + *slots * s.key_slot());
      keep_value(s, from + 2 * channels, token, values + *slots * s.value_slot());
    }
    return;
  }
  for (std::ptrdiff_t first = 0; first < s.rows; first += s.tokens, ++slots) {
    const T *from = head + first * stride;
    keep_keys(s, from + channels, stride, key_turns, keys + *slots * s.key_slot());
    keep_values(s, from + 2 * channels, stride, values + *slots * s.value_slot());
  }
}

template <typename T>
int attend(int threads, const Shape &s, int turning, const T *qkv, const std::int64_t *slots,
           const std::int64_t *places, const float *query_turns, const float *key_turns, const float *depth_turns,
           T *keys, T *values, T *out) {
  const int channels = s.heads * s.width, stride = 3 * channels;
  Workspace unplaced;
  const std::size_t bytes = lay_out<T>(s, nullptr, &unplaced);
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    const std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char *>(std::aligned_alloc(64, bytes)),
                                                             &std::free);
    if (!memory) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp barrier
    if (!failed) {
      Workspace w;
      lay_out<T>(s, memory.get(), &w);
      open_tiles();
#pragma omp for schedule(static) nowait
      for (int head = 0; head < s.heads; ++head) {
        T *head_keys = keys + head * s.window * s.key_slot(), *head_values = values + head * s.window * s.value_slot();
        const T *from = qkv + head * s.width;
        turn_queries(s, from, stride, query_turns, w.queries);
        keep(s, from, stride, slots, places, key_turns, head_keys, head_values);
        attend_head(s, head_keys, head_values, depth_turns, turning, out + head * s.width, channels, w);
      }
      close_tiles();
    }
  }
  return failed;
}

}  // namespace

extern "C" {

// 1 if the processor has AMX and Linux lets this process use it. torch asks the same; asking twice is harmless.
int saccade_amx_available() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // Linux, Documentation/arch/x86/xstate.rst
  __builtin_cpu_init();
  return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") &&
         __builtin_cpu_supports("avx512bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Writes a block's keys and values into one layer of a ring, then attends to all of it. A block is some whole tubelets;
// or, in a sparse step, some tokens of one, whose slot holds the keys and values of its other tokens already.
//
//   qkv          (rows, 3, A, E)  as projected; dense, rows is a multiple of S
//   slots        (rows / S)  of the block's tubelets in the ring; (1) in a sparse step
//   places       (rows)  of the tokens in their tubelet, all different; null for whole tubelets
//   query_turns  (rows, 4, P/2)    key_turns (S, 4, P/2)    depth_turns (fill, 4, P/2), by slot
//   keys, values (A, W, slot)  slots as above
//   out          (rows, A * E)
//
// S is a multiple of 32, E of 16. Depth turns the first `turning` channel pairs. Returns 0, or 1 if memory runs out.
int saccade_amx_attend_bf16(int threads, int heads, int window, int fill, int tokens, int width, int rows, int turning,
                            const bf16 *qkv, const std::int64_t *slots, const std::int64_t *places,
                            const float *query_turns, const float *key_turns, const float *depth_turns, bf16 *keys,
                            bf16 *values, bf16 *out) {
  const Shape s{heads, window, fill, tokens, width, (width + kPair - 1) / kPair * kPair, rows};
  return attend(threads, s, turning, qkv, slots, places, query_turns, key_turns, depth_turns, keys, values, out);
}

int saccade_amx_attend_fp32(int threads, int heads, int window, int fill, int tokens, int width, int rows, int turning,
                            const float *qkv, const std::int64_t *slots, const std::int64_t *places,
                            const float *query_turns, const float *key_turns, const float *depth_turns, float *keys,
                            float *values, float *out) {
  const Shape s{heads, window, fill, tokens, width, (width + kPair - 1) / kPair * kPair, rows};
  return attend(threads, s, turning, qkv, slots, places, query_turns, key_turns, depth_turns, keys, values, out);
}
}
