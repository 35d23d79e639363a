// Shared parts of the kernels: vectors of AVX-512, tiles of AMX, and bf16 between them.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16,amx-int8,prfchw")))

namespace saccade {

using bf16 = std::uint16_t;

constexpr int kTile = 16;         // rows of a tile; 4-byte words in one of them; lanes of a vector
constexpr int kPair = 2 * kTile;  // bf16 values in a row of a tile
constexpr int kRowBytes = 64;

AVX512 inline __m512 widen(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
AVX512 inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

// 16 values of either type, in fp32.
AVX512 inline __m512 load(const float *from) { return _mm512_loadu_ps(from); }
AVX512 inline __m512 load(const bf16 *from) { return widen(_mm256_loadu_si256((const __m256i *)from)); }
AVX512 inline void store(float *to, __m512 x) { _mm512_storeu_ps(to, x); }
AVX512 inline void store(bf16 *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, narrow(x)); }

// 32 fp32 values rounded to bf16, in order.
AVX512 inline __m512i round_pair(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// What rounding them lost.
AVX512 inline void subtract(__m512i rounded, __m512 &low, __m512 &high) {
  low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(rounded)));
  high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(rounded, 1)));
}

template <int count>
AVX512 inline __m512 polynomial(const float (&coefficients)[count], __m512 x) {  // highest power first
  __m512 y = _mm512_set1_ps(coefficients[0]);
  for (int i = 1; i < count; ++i) y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(coefficients[i]));
  return y;
}

// Minimax polynomials of 2^x over [0, 1]; relative error far below the rounding of T.
template <typename T>
constexpr float kExp2[] = {7.8024523e-2f, 2.2606716e-1f, 6.9583356e-1f, 9.9992522e-1f};  // 1e-4
template <>
constexpr float kExp2<float>[] = {2.17022556e-4f, 1.24396878e-3f, 9.67884099e-3f, 5.54833420e-2f,
                                  2.40229836e-1f, 6.93146984e-1f, 1.0f};  // 2e-9

template <typename T>
AVX512 inline __m512 exp2_of(__m512 x) {
  const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return _mm512_scalef_ps(polynomial(kExp2<T>, fraction), x);
}

struct TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
};
// Not on the stack: GCC's _tile_loadconfig declares 8 of its 64 bytes as read.
alignas(64) inline const TileConfig kTiles;

AMX inline void open_tiles() { _tile_loadconfig(&kTiles); }
AMX inline void close_tiles() { _tile_release(); }

}  // namespace saccade
