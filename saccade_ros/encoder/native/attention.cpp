// Attention of a block of tubelets over the ring cache, in bf16 and fp32, for x86 processors with AMX.
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
// Packed: the matrix unit takes pairs, so keys lie as (P/2, S, 2), channel pairs outermost, and values as (S/2, E, 2),
// key pairs outermost. S tokens per tubelet, E head width, P = E padded to 32. In fp32 the ring holds keys as (P, S) and
// values as (S, E), and packs their parts as it goes.
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
constexpr float kLowest = -1e30f;    // a maximum before any score; finite, so that differences are
constexpr float kMost = 1e20f;       // a sum of numerators far from overflow, and so are its products with values

template <typename T>
constexpr int kParts = std::is_same_v<T, float> ? 3 : 1;  // bf16 parts of a value

struct Shape {
  int heads, window, fill, tokens, width, padded, block;
  int queries() const { return block * tokens; }
  std::ptrdiff_t key_slot() const { return static_cast<std::ptrdiff_t>(padded) * tokens; }
  std::ptrdiff_t value_slot() const { return static_cast<std::ptrdiff_t>(width) * tokens; }
  std::ptrdiff_t query_plane() const { return static_cast<std::ptrdiff_t>(padded) * queries(); }
  std::ptrdiff_t weight_plane() const { return static_cast<std::ptrdiff_t>(kQueries) * tokens; }
};

// One thread's working memory. N queries; a leading axis of parts where values are bf16.
struct Workspace {
  float *scores;  // (32, S)
  bf16 *weights;  // (parts, 32, S) softmax numerators
  bf16 *keys;     // (parts, P/2, S, 2) a slot's keys, turned; in bf16 only the channel pairs that turn
  bf16 *values;   // (parts, S/2, E, 2) a slot's values; fp32 only
  bf16 *queries;  // (parts, N, P)
  float *sums;    // (N, E) output before division by the totals
  float *maxima;  // (N)
  float *totals;  // (N)
};

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
  return _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(p.even)), _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(p.odd)), 16));
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

// A tubelet's queries of one head, `stride` apart -> parts of (S, P).
template <typename T>
AVX512 void turn_queries(const Shape &s, const T *from, int stride, const float *turns, bf16 *to) {
  for (int token = 0; token < s.tokens; ++token)
    for (int pair = 0; pair < s.padded / 2; pair += kTile)
      store_parts<T>(turned_pairs(s, from + token * stride, turns + token * 2 * s.padded, pair),
                     to + token * s.padded + 2 * pair, s.query_plane());
}

// A tubelet's keys of one head -> the ring's slot.
template <typename T>
AVX512 void keep_keys(const Shape &s, const T *from, int stride, const float *turns, T *slot) {
  for (int pair = 0; pair < s.padded / 2; pair += kTile)
    for (int token = 0; token < s.tokens; token += kTile) {
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
          T *row = slot + static_cast<std::ptrdiff_t>(2 * (pair + i)) * s.tokens;  // of this pair: S words or 2 x S fp32
          if constexpr (std::is_same_v<T, float>)
            _mm512_storeu_si512(row + kind * s.tokens + token, rows[kind][i]);
          else
            _mm512_storeu_si512(row + 2 * token, rows[kind][i]);
        }
      }
    }
}

// A tubelet's values of one head -> the ring's slot.
AVX512 void keep_values(const Shape &s, const bf16 *from, int stride, bf16 *slot) {
  for (int token = 0; token < s.tokens; token += 2)
    for (int e = 0; e < s.width; e += kTile) {
      const __m256i first = _mm256_loadu_si256((const __m256i *)(from + token * stride + e));
      const __m256i second = _mm256_loadu_si256((const __m256i *)(from + (token + 1) * stride + e));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16);
      _mm512_storeu_si512(slot + token * s.width + 2 * e, _mm512_or_si512(_mm512_cvtepu16_epi32(first), high));
    }
}
void keep_values(const Shape &s, const float *from, int stride, float *slot) {
  for (int token = 0; token < s.tokens; ++token) std::copy_n(from + token * stride, s.width, slot + token * s.width);
}

// A slot's keys with the first `turning` channel pairs turned, packed: the first `pairs` pairs of them.
template <typename T>
AVX512 void turn_keys(const Shape &s, const T *slot, const float *turns, int turning, int pairs, bf16 *to) {
  const int half = s.padded / 2;
  for (int pair = 0; pair < pairs; ++pair) {
    const __m512 c0 = _mm512_set1_ps(turns[pair]), c1 = _mm512_set1_ps(turns[half + pair]);
    const __m512 s0 = _mm512_set1_ps(turns[2 * half + pair]), s1 = _mm512_set1_ps(turns[3 * half + pair]);
    const T *row = slot + static_cast<std::ptrdiff_t>(2 * pair) * s.tokens;
    for (int token = 0; token < s.tokens; token += kTile) {
      Pairs p;
      if constexpr (std::is_same_v<T, float>)
        p = {_mm512_loadu_ps(row + token), _mm512_loadu_ps(row + s.tokens + token)};
      else
        p = unpack(_mm512_loadu_si512(row + 2 * token));
      store_parts<T>(pair < turning ? turn(p, c0, c1, s0, s1) : p,
                     to + static_cast<std::ptrdiff_t>(2 * pair) * s.tokens + 2 * token, s.key_slot());
    }
  }
}

// A slot's fp32 values -> parts of (S/2, E, 2).
AVX512 void split_values(const Shape &s, const float *slot, bf16 *to) {
  for (int token = 0; token < s.tokens; token += 2)
    for (int e = 0; e < s.width; e += kTile) {
      const float *at = slot + token * s.width + e;
      store_parts<float>({_mm512_loadu_ps(at), _mm512_loadu_ps(at + s.width)}, to + token * s.width + 2 * e,
                         s.value_slot());
    }
}

// A packed right-hand side: parts `plane` apart; its first `split` rows may lie elsewhere.
struct Packed {
  const bf16 *first, *rest;
  int split;
  std::ptrdiff_t plane;
};

// c (32, n) = or += a (32, k) b (k/2, n, 2), n a multiple of 16, k of 32; a's parts are `a_plane` apart.
template <int parts>
AMX void multiply(const bf16 *a, int a_stride, std::ptrdiff_t a_plane, Packed b, float *c, int c_stride, int n, int k,
                  bool add) {
  float *c_low = c + kTile * c_stride;
  for (int j = 0; j < n; j += 2 * kTile) {
    const bool both = j + kTile < n;
    if (add) {
      _tile_loadd(0, c + j, c_stride * 4);
      _tile_loadd(1, c_low + j, c_stride * 4);
      if (both) _tile_loadd(2, c + j + kTile, c_stride * 4);
      if (both) _tile_loadd(3, c_low + j + kTile, c_stride * 4);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int left = parts - 1; left >= 0; --left)  // the smallest products first
      for (int right = parts - 1 - left; right >= 0; --right)
        for (int i = 0; i < k; i += kPair) {
          const bf16 *upper = a + left * a_plane + i;
          const bf16 *rows = (i / 2 < b.split ? b.first : b.rest) + right * b.plane + i * n + 2 * j;
          _tile_loadd(4, upper, a_stride * 2);
          _tile_loadd(5, upper + kTile * a_stride, a_stride * 2);
          _tile_loadd(6, rows, n * 4);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 5, 6);
          if (both) {
            _tile_loadd(7, rows + 2 * kTile, n * 4);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
    _tile_stored(0, c + j, c_stride * 4);
    _tile_stored(1, c_low + j, c_stride * 4);
    if (both) _tile_stored(2, c + j + kTile, c_stride * 4);
    if (both) _tile_stored(3, c_low + j + kTile, c_stride * 4);
  }
}

// Numerators 2^(scale * score - maximum) of one query over a slot's keys, in parts; returns their sum.
template <typename T>
AVX512 inline float raise(const Shape &s, const float *scores, float scale, float maximum, bf16 *weights) {
  const __m512 factor = _mm512_set1_ps(scale), minus = _mm512_set1_ps(-maximum);
  __m512 sum = _mm512_setzero_ps();
  for (int key = 0; key < s.tokens; key += kPair) {
    __m512 low = exp2_of<T>(_mm512_fmadd_ps(_mm512_loadu_ps(scores + key), factor, minus));
    __m512 high = exp2_of<T>(_mm512_fmadd_ps(_mm512_loadu_ps(scores + key + kTile), factor, minus));
    sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
    for (int part = 0; part < kParts<T>; ++part) {
      const __m512i rounded = round_pair(low, high);
      _mm512_storeu_si512(weights + part * s.weight_plane() + key, rounded);
      subtract(rounded, low, high);
    }
  }
  return _mm512_reduce_add_ps(sum);
}

// Rebases a query's total and sums on the maximum of these scores, if that is higher.
AVX512 void rebase(const Shape &s, const float *scores, float scale, const Workspace &w, int query) {
  __m512 top = _mm512_loadu_ps(scores);
  for (int key = kTile; key < s.tokens; key += kTile) top = _mm512_max_ps(top, _mm512_loadu_ps(scores + key));
  const float highest = std::max(w.maxima[query], _mm512_reduce_max_ps(top) * scale);
  const __m512 shrink = exp2_of<float>(_mm512_set1_ps(w.maxima[query] - highest));
  float *sums = w.sums + query * s.width;
  for (int e = 0; e < s.width; e += kTile) _mm512_storeu_ps(sums + e, _mm512_mul_ps(_mm512_loadu_ps(sums + e), shrink));
  w.totals[query] *= _mm512_cvtss_f32(shrink);
  w.maxima[query] = highest;
}

// 32 queries over one slot's scores. The first slot's maximum serves the others too: floating point is as precise at any
// scale, so rebasing on a higher one is needed only before something overflows.
template <typename T>
AVX512 void soften(const Shape &s, float scale, bool first, const Workspace &w, int query) {
  for (int row = 0; row < kQueries; ++row) {
    const float *scores = w.scores + row * s.tokens;
    bf16 *weights = w.weights + row * s.tokens;
    if (first) rebase(s, scores, scale, w, query + row);
    float sum = raise<T>(s, scores, scale, w.maxima[query + row], weights);
    if (!(sum < kMost)) {
      rebase(s, scores, scale, w, query + row);
      sum = raise<T>(s, scores, scale, w.maxima[query + row], weights);
    }
    w.totals[query + row] += sum;
  }
}

// One head's keys and values -> its part of the output, `stride` apart per query.
template <typename T>
AVX512 void attend_head(const Shape &s, const T *keys, const T *values, const float *depth_turns, int turning, T *out,
                        int stride, const Workspace &w) {
  constexpr bool in_parts = kParts<T> > 1;
  const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(s.width)));
  const int pairs = in_parts ? s.padded / 2 : (turning + kTile - 1) / kTile * kTile;  // whole tiles
  std::fill_n(w.sums, s.queries() * s.width, 0.0f);
  std::fill_n(w.totals, s.queries(), 0.0f);
  std::fill_n(w.maxima, s.queries(), kLowest);
  for (int slot = 0; slot < s.fill; ++slot) {
    const T *slot_keys = keys + slot * s.key_slot(), *slot_values = values + slot * s.value_slot();
    turn_keys(s, slot_keys, depth_turns + slot * 2 * s.padded, turning, pairs, w.keys);
    Packed packed_keys{w.keys, nullptr, pairs, s.key_slot()}, packed_values{nullptr, nullptr, 0, s.value_slot()};
    if constexpr (in_parts) {
      split_values(s, slot_values, w.values);
      packed_values.rest = w.values;
    } else {
      packed_keys.rest = slot_keys;
      packed_values.rest = slot_values;
    }
    for (int query = 0; query < s.queries(); query += kQueries) {
      multiply<kParts<T>>(w.queries + query * s.padded, s.padded, s.query_plane(), packed_keys, w.scores, s.tokens,
                          s.tokens, s.padded, false);
      soften<T>(s, scale, slot == 0, w, query);
      multiply<kParts<T>>(w.weights, s.tokens, s.weight_plane(), packed_values, w.sums + query * s.width, s.width,
                          s.width, s.tokens, true);
    }
  }
  for (int query = 0; query < s.queries(); ++query) {
    const __m512 inverse = _mm512_set1_ps(1.0f / w.totals[query]);
    for (int e = 0; e < s.width; e += kTile)
      store(out + query * stride + e, _mm512_mul_ps(_mm512_loadu_ps(w.sums + query * s.width + e), inverse));
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
  carve(w->scores, s.weight_plane());
  carve(w->weights, kParts<T> * s.weight_plane());
  carve(w->keys, kParts<T> * s.key_slot());
  carve(w->values, kParts<T> > 1 ? kParts<T> * s.value_slot() : 0);
  carve(w->queries, kParts<T> * s.query_plane());
  carve(w->sums, static_cast<std::ptrdiff_t>(s.queries()) * s.width);
  carve(w->maxima, s.queries());
  carve(w->totals, s.queries());
  return end;
}

template <typename T>
int attend(int threads, const Shape &s, int turning, const T *qkv, const std::int64_t *slots, const float *query_turns,
           const float *key_turns, const float *depth_turns, T *keys, T *values, T *out) {
  const int channels = s.heads * s.width, stride = 3 * channels;
  const std::ptrdiff_t tubelet = static_cast<std::ptrdiff_t>(s.tokens) * stride;
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
        for (int i = 0; i < s.block; ++i) {
          const T *from = qkv + i * tubelet + head * s.width;
          turn_queries(s, from, stride, query_turns + static_cast<std::ptrdiff_t>(i) * s.tokens * 2 * s.padded,
                       w.queries + static_cast<std::ptrdiff_t>(i) * s.tokens * s.padded);
          keep_keys(s, from + channels, stride, key_turns, head_keys + slots[i] * s.key_slot());
          keep_values(s, from + 2 * channels, stride, head_values + slots[i] * s.value_slot());
        }
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

// Writes a block's keys and values into one layer of a ring, then attends to all of it.
//
//   qkv          (block * S, 3, A, E)  as projected
//   slots        (block)  of the block's tubelets in the ring
//   query_turns  (block, S, 4, P/2)    key_turns (S, 4, P/2)    depth_turns (fill, 4, P/2), by slot
//   keys, values (A, W, slot)  slots as above
//   out          (block * S, A * E)
//
// S is a multiple of 32, E of 16. Depth turns the first `turning` channel pairs. Returns 0, or 1 if memory runs out.
int saccade_amx_attend_bf16(int threads, int heads, int window, int fill, int tokens, int width, int block, int turning,
                            const bf16 *qkv, const std::int64_t *slots, const float *query_turns,
                            const float *key_turns, const float *depth_turns, bf16 *keys, bf16 *values, bf16 *out) {
  const Shape s{heads, window, fill, tokens, width, (width + kPair - 1) / kPair * kPair, block};
  return attend(threads, s, turning, qkv, slots, query_turns, key_turns, depth_turns, keys, values, out);
}

int saccade_amx_attend_fp32(int threads, int heads, int window, int fill, int tokens, int width, int block, int turning,
                            const float *qkv, const std::int64_t *slots, const float *query_turns,
                            const float *key_turns, const float *depth_turns, float *keys, float *values, float *out) {
  const Shape s{heads, window, fill, tokens, width, (width + kPair - 1) / kPair * kPair, block};
  return attend(threads, s, turning, qkv, slots, query_turns, key_turns, depth_turns, keys, values, out);
}
}
