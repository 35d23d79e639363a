// Attention of a block of tubelets over the ring cache in bf16, for x86 processors with AMX.
//
// torch's kernel needs the depth part of all keys rotated in memory first, and packs keys and values for the matrix unit
// anew in every step. Here the ring holds them packed: a step packs only its own tubelets. Attention goes through the
// ring slot by slot with an online softmax (Dao et al. 2022, FlashAttention, algorithm 1), so that what it touches stays
// in the L2 cache, and turns a slot's few depth channels on the way.
//
// A plain C interface for ctypes, without torch's headers. OpenMP resolves to the library that torch has loaded, so both
// share one pool of threads.
//
// Packed: the matrix unit multiplies pairs, so keys lie as (P/2, S, 2), channel pairs outermost, and values as
// (S/2, E, 2), key pairs outermost. S tokens per tubelet, E head width, P = E padded to 32.
// Turns: what to rotate channel pairs by, in rows of 4 x P/2: cosines of the even channels, of the odd ones, sines of the
// even ones (with a minus), of the odd ones. Cosine 1 and sine 0 leave a pair as it is.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <type_traits>

namespace {

using bf16 = std::uint16_t;

constexpr int kTile = 16;           // rows of a tile; fp32 values in one of them
constexpr int kPair = 2 * kTile;    // bf16 values in a row of a tile
constexpr int kQueries = 2 * kTile; // queries handled at once
constexpr float kLowest = -1e30f;   // a maximum before any score; finite, so that differences are
constexpr float kMost = 1e20f;      // a sum of numerators that is far from overflow, and so are its products with values

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))

struct Shape {
  int heads, window, fill, tokens, width, padded, block;
  int queries() const { return block * tokens; }
  std::ptrdiff_t key_slot() const { return static_cast<std::ptrdiff_t>(padded) * tokens; }
  std::ptrdiff_t value_slot() const { return static_cast<std::ptrdiff_t>(width) * tokens; }
};

// One thread's working memory. N queries.
struct Workspace {
  float *scores;   // (32, S)
  bf16 *weights;   // (32, S) softmax numerators
  bf16 *turned;    // (P/2, S, 2) the slot's rotated channel pairs; only those that turn are filled
  bf16 *queries;   // (N, P)
  float *sums;     // (N, E) output before division by the totals
  float *maxima;   // (N)
  float *totals;   // (N)
};

// 2^x; relative error 1e-4 (minimax cubic over the fraction), a twentieth of bf16's rounding.
AVX512 inline __m512 exp2_of(__m512 x) {
  const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 y = _mm512_set1_ps(7.8024523e-2f);
  y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(2.2606716e-1f));
  y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(6.9583356e-1f));
  y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(9.9992522e-1f));
  return _mm512_scalef_ps(y, x);
}

// 16 pairs of bf16, turned.
AVX512 inline __m512i turn(__m512i pairs, __m512 cos_even, __m512 cos_odd, __m512 sin_even, __m512 sin_odd) {
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
  const __m512 low = _mm512_fmadd_ps(odd, sin_even, _mm512_mul_ps(even, cos_even));
  const __m512 high = _mm512_fmadd_ps(even, sin_odd, _mm512_mul_ps(odd, cos_odd));
  const __m512i low_words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
  const __m512i high_words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
  return _mm512_or_si512(low_words, _mm512_slli_epi32(high_words, 16));
}

// 16 channel pairs of a token, from pair `first` of its head, turned by its row of the table; zero beyond the head.
AVX512 inline __m512i turned_pairs(const Shape &s, const bf16 *head, const float *row, int first) {
  const int left = std::min(kTile, s.width / 2 - first), half = s.padded / 2;
  const __m512i pairs = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << left) - 1), head + 2 * first);
  const float *turns = row + first;
  return turn(pairs, _mm512_loadu_ps(turns), _mm512_loadu_ps(turns + half), _mm512_loadu_ps(turns + 2 * half),
              _mm512_loadu_ps(turns + 3 * half));
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

// A tubelet's queries of one head, `stride` apart -> (S, P).
AVX512 void turn_queries(const Shape &s, const bf16 *from, int stride, const float *turns, bf16 *to) {
  for (int token = 0; token < s.tokens; ++token)
    for (int pair = 0; pair < s.padded / 2; pair += kTile)
      _mm512_storeu_si512(to + token * s.padded + 2 * pair,
                          turned_pairs(s, from + token * stride, turns + token * 2 * s.padded, pair));
}

// A tubelet's keys of one head -> (P/2, S, 2).
AVX512 void pack_keys(const Shape &s, const bf16 *from, int stride, const float *turns, bf16 *to) {
  for (int pair = 0; pair < s.padded / 2; pair += kTile)
    for (int token = 0; token < s.tokens; token += kTile) {
      __m512i rows[kTile];
      for (int i = 0; i < kTile; ++i)
        rows[i] = turned_pairs(s, from + (token + i) * stride, turns + (token + i) * 2 * s.padded, pair);
      transpose(rows);
      for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(to + ((pair + i) * s.tokens + token) * 2, rows[i]);
    }
}

// A tubelet's values of one head -> (S/2, E, 2).
AVX512 void pack_values(const Shape &s, const bf16 *from, int stride, bf16 *to) {
  for (int token = 0; token < s.tokens; token += 2)
    for (int e = 0; e < s.width; e += kTile) {
      const __m256i first = _mm256_loadu_si256((const __m256i *)(from + token * stride + e));
      const __m256i second = _mm256_loadu_si256((const __m256i *)(from + (token + 1) * stride + e));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16);
      _mm512_storeu_si512(to + token * s.width + 2 * e, _mm512_or_si512(_mm512_cvtepu16_epi32(first), high));
    }
}

// The channel pairs of a slot's keys that turn with depth, in a copy: (`pairs`, S, 2).
AVX512 void turn_depth(const Shape &s, const bf16 *keys, const float *turns, int turning, int pairs, bf16 *to) {
  const int half = s.padded / 2;
  for (int pair = 0; pair < pairs; ++pair) {
    const __m512 c0 = _mm512_set1_ps(turns[pair]), c1 = _mm512_set1_ps(turns[half + pair]);
    const __m512 s0 = _mm512_set1_ps(turns[2 * half + pair]), s1 = _mm512_set1_ps(turns[3 * half + pair]);
    for (int token = 0; token < s.tokens; token += kTile) {
      const std::ptrdiff_t at = (static_cast<std::ptrdiff_t>(pair) * s.tokens + token) * 2;
      const __m512i words = _mm512_loadu_si512(keys + at);
      _mm512_storeu_si512(to + at, pair < turning ? turn(words, c0, c1, s0, s1) : words);
    }
  }
}

// c (32, n) = or += a (32, k) b (k/2, n, 2), n a multiple of 16, k of 32; the first `split` rows of b lie elsewhere.
// Strides in elements; b's rows are packed.
AMX void multiply(const bf16 *a, int a_stride, const bf16 *b_first, int split, const bf16 *b, float *c, int c_stride,
                  int n, int k, bool add) {
  const bf16 *a_low = a + kTile * a_stride;
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
    for (int i = 0; i < k; i += kPair) {
      const bf16 *rows = (i / 2 < split ? b_first : b) + i * n + 2 * j;
      _tile_loadd(4, a + i, a_stride * 2);
      _tile_loadd(5, a_low + i, a_stride * 2);
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

// Numerators 2^(scale * score - maximum) of one query over a slot's keys; returns their sum.
AVX512 inline float raise(const Shape &s, const float *scores, float scale, float maximum, bf16 *weights) {
  const __m512 factor = _mm512_set1_ps(scale), minus = _mm512_set1_ps(-maximum);
  __m512 sum = _mm512_setzero_ps();
  for (int key = 0; key < s.tokens; key += kPair) {
    const __m512 low = exp2_of(_mm512_fmadd_ps(_mm512_loadu_ps(scores + key), factor, minus));
    const __m512 high = exp2_of(_mm512_fmadd_ps(_mm512_loadu_ps(scores + key + kTile), factor, minus));
    sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
    _mm512_storeu_si512(weights + key, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  return _mm512_reduce_add_ps(sum);
}

// Rebases a query's total and sums on the maximum of these scores, if that is higher.
AVX512 void rebase(const Shape &s, const float *scores, float scale, const Workspace &w, int query) {
  __m512 top = _mm512_loadu_ps(scores);
  for (int key = kTile; key < s.tokens; key += kTile) top = _mm512_max_ps(top, _mm512_loadu_ps(scores + key));
  const float highest = std::max(w.maxima[query], _mm512_reduce_max_ps(top) * scale);
  const __m512 shrink = exp2_of(_mm512_set1_ps(w.maxima[query] - highest));
  float *sums = w.sums + query * s.width;
  for (int e = 0; e < s.width; e += kTile) _mm512_storeu_ps(sums + e, _mm512_mul_ps(_mm512_loadu_ps(sums + e), shrink));
  w.totals[query] *= _mm512_cvtss_f32(shrink);
  w.maxima[query] = highest;
}

// 32 queries over one slot's scores. The first slot's maximum serves the others too: bf16 and fp32 have the same
// precision at any scale, so rebasing on a higher one is needed only before something overflows.
AVX512 void soften(const Shape &s, float scale, bool first, const Workspace &w, int query) {
  for (int row = 0; row < kQueries; ++row) {
    const float *scores = w.scores + row * s.tokens;
    bf16 *weights = w.weights + row * s.tokens;
    if (first) rebase(s, scores, scale, w, query + row);
    float sum = raise(s, scores, scale, w.maxima[query + row], weights);
    if (!(sum < kMost)) {
      rebase(s, scores, scale, w, query + row);
      sum = raise(s, scores, scale, w.maxima[query + row], weights);
    }
    w.totals[query + row] += sum;
  }
}

// One head's keys and values -> its part of the output, `stride` apart per query.
AVX512 void attend(const Shape &s, const bf16 *keys, const bf16 *values, const float *depth_turns, int turning,
                   bf16 *out, int stride, const Workspace &w) {
  const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(s.width)));
  const int pairs = (turning + kTile - 1) / kTile * kTile;  // whole tiles, of which some pairs do not turn
  std::fill_n(w.sums, s.queries() * s.width, 0.0f);
  std::fill_n(w.totals, s.queries(), 0.0f);
  std::fill_n(w.maxima, s.queries(), kLowest);
  for (int slot = 0; slot < s.fill; ++slot) {
    const bf16 *slot_keys = keys + slot * s.key_slot(), *slot_values = values + slot * s.value_slot();
    turn_depth(s, slot_keys, depth_turns + slot * 2 * s.padded, turning, pairs, w.turned);
    for (int query = 0; query < s.queries(); query += kQueries) {
      multiply(w.queries + query * s.padded, s.padded, w.turned, pairs, slot_keys, w.scores, s.tokens, s.tokens,
               s.padded, false);
      soften(s, scale, slot == 0, w, query);
      multiply(w.weights, s.tokens, nullptr, 0, slot_values, w.sums + query * s.width, s.width, s.width, s.tokens, true);
    }
  }
  for (int query = 0; query < s.queries(); ++query) {
    const __m512 inverse = _mm512_set1_ps(1.0f / w.totals[query]);
    for (int e = 0; e < s.width; e += kTile) {
      const __m512 mean = _mm512_mul_ps(_mm512_loadu_ps(w.sums + query * s.width + e), inverse);
      _mm256_storeu_si256((__m256i *)(out + query * stride + e), (__m256i)_mm512_cvtneps_pbh(mean));
    }
  }
}

struct TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
};
alignas(64) const TileConfig kTiles;  // not on the stack: GCC's _tile_loadconfig declares 8 of its 64 bytes as read

AMX void open_tiles() { _tile_loadconfig(&kTiles); }
AMX void close_tiles() { _tile_release(); }

// Bytes of the workspace; laid out from `memory` on, unless that is null.
std::size_t lay_out(const Shape &s, char *memory, Workspace *w) {
  std::size_t end = 0;
  const auto carve = [&](auto *&array, std::ptrdiff_t count) {
    if (memory) array = reinterpret_cast<std::decay_t<decltype(array)>>(memory + end);
    end += (count * sizeof(*array) + 63) / 64 * 64;
  };
  carve(w->scores, kQueries * s.tokens);
  carve(w->weights, kQueries * s.tokens);
  carve(w->turned, s.key_slot());
  carve(w->queries, static_cast<std::ptrdiff_t>(s.queries()) * s.padded);
  carve(w->sums, static_cast<std::ptrdiff_t>(s.queries()) * s.width);
  carve(w->maxima, s.queries());
  carve(w->totals, s.queries());
  return end;
}

}  // namespace

extern "C" {

// 1 if the processor has AMX for bf16 and Linux lets this process use it. torch asks the same; asking twice is harmless.
int saccade_amx_available() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // Linux, Documentation/arch/x86/xstate.rst
  __builtin_cpu_init();
  return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Writes a block's keys and values into one layer of a ring, then attends to all of it.
//
//   qkv          (block * S, 3, A, E)  as projected; bf16, as every pointer but the turns
//   slots        (block)  of the block's tubelets in the ring
//   query_turns  (block, S, 4, P/2)    key_turns (S, 4, P/2)    depth_turns (fill, 4, P/2), by slot
//   keys         (A, W, P/2, S, 2)     values (A, W, S/2, E, 2)
//   out          (block * S, A * E)
//
// S is a multiple of 32, E of 16. Depth turns the first `turning` channel pairs. Returns 0, or 1 if memory runs out.
int saccade_amx_attend(int threads, int heads, int window, int fill, int tokens, int width, int block, int turning,
                       const bf16 *qkv, const std::int64_t *slots, const float *query_turns, const float *key_turns,
                       const float *depth_turns, bf16 *keys, bf16 *values, bf16 *out) {
  const Shape s{heads, window, fill, tokens, width, (width + kPair - 1) / kPair * kPair, block};
  const int channels = heads * width, stride = 3 * channels;
  Workspace unplaced;
  const std::size_t bytes = lay_out(s, nullptr, &unplaced);
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    const std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char *>(std::aligned_alloc(64, bytes)),
                                                             &std::free);
    if (!memory) {
#pragma omp atomic write
      failed = 1;
    } else {
      Workspace w;
      lay_out(s, memory.get(), &w);
      open_tiles();
#pragma omp for schedule(static) nowait
      for (int head = 0; head < heads; ++head) {
        bf16 *head_keys = keys + head * window * s.key_slot(), *head_values = values + head * window * s.value_slot();
        for (int i = 0; i < block; ++i) {
          const bf16 *from = qkv + static_cast<std::ptrdiff_t>(i) * tokens * stride + head * width;
          turn_queries(s, from, stride, query_turns + static_cast<std::ptrdiff_t>(i) * tokens * 2 * s.padded,
                       w.queries + static_cast<std::ptrdiff_t>(i) * tokens * s.padded);
          pack_keys(s, from + channels, stride, key_turns, head_keys + slots[i] * s.key_slot());
          pack_values(s, from + 2 * channels, stride, head_values + slots[i] * s.value_slot());
        }
        attend(s, head_keys, head_values, depth_turns, turning, out + head * width, channels, w);
      }
      close_tiles();
    }
  }
  return failed;
}
}
