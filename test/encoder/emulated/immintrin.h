// The AVX-512 and AMX operations that our kernels use, in plain C++, so that they run on any processor. For tests only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#define target(features)                    // of an attribute: the operations below need none
#define __builtin_cpu_init()
#define __builtin_cpu_supports(feature) 1
#define syscall(...) 0

typedef float __m512 __attribute__((vector_size(64)));
typedef int __m512i __attribute__((vector_size(64)));
typedef int __m256i __attribute__((vector_size(32)));
typedef int __m128i __attribute__((vector_size(16)));
typedef std::uint16_t __mmask16;
typedef std::uint32_t __mmask32;

namespace emulated {

template <typename To, typename From>
inline To bits(const From &from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
template <typename V>
inline V read(const void *from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename F>
inline __m512 map(F f) {
  __m512 v;
  for (int i = 0; i < 16; ++i) v[i] = f(i);
  return v;
}
template <typename F>
inline __m512i map_int(F f) {
  __m512i v;
  for (int i = 0; i < 16; ++i) v[i] = f(i);
  return v;
}

// To the nearest, ties to even; a denormal becomes zero and NaN stays one.
inline std::uint16_t round_bf16(float x) {
  const std::uint32_t u = bits<std::uint32_t>(x);
  if ((u & 0x7f800000) == 0) return (u & 0x80000000) >> 16;
  if (std::isnan(x)) return (u >> 16) | 0x40;
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
inline float from_bf16(std::uint16_t x) { return bits<float>(static_cast<std::uint32_t>(x) << 16); }

struct alignas(64) Tile {
  char row[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local bool open = false;

}  // namespace emulated

#define _MM_FROUND_TO_NEG_INF 1
#define _MM_FROUND_NO_EXC 8
#define _CMP_NLT_UQ 0x15
#define _MM_HINT_T1 2
#define _mm_prefetch(at, hint) ((void)(at))

inline __m256i _mm256_loadu_si256(const __m256i *p) { return emulated::read<__m256i>(p); }
inline void _mm256_storeu_si256(__m256i *p, __m256i v) { std::memcpy(p, &v, 32); }
inline __m512 _mm512_loadu_ps(const void *p) { return emulated::read<__m512>(p); }
inline __m512 _mm512_load_ps(const void *p) { return emulated::read<__m512>(p); }
inline __m512i _mm512_loadu_si512(const void *p) { return emulated::read<__m512i>(p); }
inline __m512i _mm512_load_si512(const void *p) { return emulated::read<__m512i>(p); }
inline void _mm512_storeu_ps(void *p, __m512 v) { std::memcpy(p, &v, 64); }
inline void _mm512_storeu_si512(void *p, __m512i v) { std::memcpy(p, &v, 64); }
inline void _mm512_store_si512(void *p, __m512i v) { std::memcpy(p, &v, 64); }
inline void _mm_store_si128(__m128i *p, __m128i v) { std::memcpy(p, &v, 16); }
inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512 _mm512_set1_ps(float x) { return emulated::map([x](int) { return x; }); }
inline __m512i _mm512_set1_epi32(int x) { return emulated::map_int([x](int) { return x; }); }
inline __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k, int l,
                                 int m, int n, int o, int p) {
  return __m512i{a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
}
inline __m512 _mm512_castsi512_ps(__m512i v) { return (__m512)v; }
inline __m512i _mm512_castps_si512(__m512 v) { return (__m512i)v; }
inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 _mm512_div_ps(__m512 a, __m512 b) { return a / b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return emulated::map([&](int i) { return std::fma(a[i], b[i], c[i]); });
}
inline __m512 _mm512_fmsub_ps(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, -c); }
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(-a, b, c); }
inline __m512 _mm512_abs_ps(__m512 a) {
  return emulated::map([&](int i) { return std::fabs(a[i]); });
}
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {  // the second where either is NaN
  return emulated::map([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline float _mm512_reduce_add_ps(__m512 v) {
  float sum[16];
  std::memcpy(sum, &v, sizeof sum);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}
inline float _mm512_reduce_max_ps(__m512 v) {
  float top = v[0];
  for (int i = 1; i < 16; ++i) top = top > v[i] ? top : v[i];
  return top;
}
inline __m512 _mm512_reduce_ps(__m512 v, int) {  // what is above the whole number below
  return emulated::map([&](int i) { return v[i] - std::floor(v[i]); });
}
inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  return emulated::map([&](int i) {
    const float power = std::floor(b[i]);
    if (std::isnan(power)) return power;
    return static_cast<float>(std::ldexp(static_cast<double>(a[i]), static_cast<int>(std::clamp(power, -1e4f, 1e4f))));
  });
}
inline __m512 _mm512_range_ps(__m512 a, __m512 b, int) {  // the smaller in magnitude, with the sign of the first
  return emulated::map([&](int i) {
    if (std::isnan(a[i]) || std::isnan(b[i])) return std::numeric_limits<float>::quiet_NaN();
    return std::copysign(std::fmin(std::fabs(a[i]), std::fabs(b[i])), a[i]);
  });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int) {  // not less, or NaN
  __mmask16 mask = 0;
  for (int i = 0; i < 16; ++i) mask |= !(a[i] < b[i]) << i;
  return mask;
}
inline __m512 _mm512_permutex2var_ps(__m512 a, __m512i at, __m512 b) {
  return emulated::map([&](int i) { return at[i] & 16 ? b[at[i] & 15] : a[at[i] & 15]; });
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void *p) {
  return emulated::map([&](int i) { return mask >> i & 1 ? static_cast<const float *>(p)[i] : 0.0f; });
}
inline __m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void *p) {
  return emulated::map_int([&](int i) {
    return mask >> i & 1 ? emulated::read<int>(static_cast<const char *>(p) + 4 * i) : 0;
  });
}
inline void _mm512_mask_storeu_epi16(void *p, __mmask32 mask, __m512i v) {
  std::uint16_t values[32];
  std::memcpy(values, &v, 64);
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) static_cast<std::uint16_t *>(p)[i] = values[i];
}
inline void _mm512_i32scatter_epi32(void *p, __m512i at, __m512i v, int scale) {
  for (int i = 0; i < 16; ++i) {
    const int word = v[i];
    std::memcpy(static_cast<char *>(p) + static_cast<std::ptrdiff_t>(at[i]) * scale, &word, 4);
  }
}
inline void _mm512_i32scatter_ps(void *p, __m512i at, __m512 v, int scale) {
  _mm512_i32scatter_epi32(p, at, (__m512i)v, scale);
}
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) { return a + b; }
inline __m512i _mm512_mullo_epi32(__m512i a, __m512i b) { return a * b; }
inline __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i _mm512_slli_epi32(__m512i a, int by) { return a << by; }
inline __m512 _mm512_cvtepi32_ps(__m512i v) {
  return emulated::map([&](int i) { return static_cast<float>(v[i]); });
}
inline __m512i _mm512_cvtps_epi32(__m512 v) {
  return emulated::map_int([&](int i) { return static_cast<int>(std::nearbyint(v[i])); });
}
inline __m128i _mm512_cvtsepi32_epi8(__m512i v) {
  signed char values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<signed char>(std::clamp(v[i], -128, 127));
  return emulated::read<__m128i>(values);
}
inline __m512i _mm512_cvtepu16_epi32(__m256i v) {
  std::uint16_t values[16];
  std::memcpy(values, &v, 32);
  return emulated::map_int([&](int i) { return static_cast<int>(values[i]); });
}
inline __m256i _mm512_cvtneps_pbh(__m512 v) {
  std::uint16_t values[16];
  for (int i = 0; i < 16; ++i) values[i] = emulated::round_bf16(v[i]);
  return emulated::read<__m256i>(values);
}
inline __m512i _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  const __m256i halves[2] = {_mm512_cvtneps_pbh(low), _mm512_cvtneps_pbh(high)};
  return emulated::read<__m512i>(halves);
}
inline __m256i _mm512_castsi512_si256(__m512i v) { return emulated::read<__m256i>(&v); }
inline __m256i _mm512_extracti64x4_epi64(__m512i v, int half) {
  return emulated::read<__m256i>(reinterpret_cast<const char *>(&v) + 32 * half);
}
inline __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return emulated::map_int([&](int i) { return (i & 1 ? b : a)[(i & 12) + (i >> 1 & 1)]; });
}
inline __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return emulated::map_int([&](int i) { return (i & 1 ? b : a)[(i & 12) + 2 + (i >> 1 & 1)]; });
}
inline __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) {
  return emulated::map_int([&](int i) { return (i & 2 ? b : a)[(i & 12) + (i & 1)]; });
}
inline __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) {
  return emulated::map_int([&](int i) { return (i & 2 ? b : a)[(i & 12) + 2 + (i & 1)]; });
}
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int which) {
  return emulated::map_int([&](int i) { return (i < 8 ? a : b)[(which >> (i / 4 * 2) & 3) * 4 + i % 4]; });
}

inline void _tile_loadconfig(const void *) { emulated::open = true; }
inline void _tile_release() { emulated::open = false; }
inline void _tile_zero(int t) { std::memset(&emulated::tiles[t], 0, sizeof(emulated::Tile)); }
inline void _tile_loadd(int t, const void *p, int stride) {
  if (!emulated::open) __builtin_trap();
  for (int row = 0; row < 16; ++row)
    std::memcpy(emulated::tiles[t].row[row], static_cast<const char *>(p) + row * stride, 64);
}
inline void _tile_stream_loadd(int t, const void *p, int stride) { _tile_loadd(t, p, stride); }
inline void _tile_stored(int t, void *p, int stride) {
  for (int row = 0; row < 16; ++row)
    std::memcpy(static_cast<char *>(p) + row * stride, emulated::tiles[t].row[row], 64);
}
inline void _tile_dpbf16ps(int c, int a, int b) {
  using emulated::from_bf16;
  float rows[16][32], columns[16][32];  // columns by channel: (channel, 2 * pair + which)
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 32; ++j) {
      rows[i][j] = from_bf16(emulated::read<std::uint16_t>(emulated::tiles[a].row[i] + 2 * j));
      columns[j / 2][2 * i + j % 2] = from_bf16(emulated::read<std::uint16_t>(emulated::tiles[b].row[i] + 2 * j));
    }
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      float even = 0, odd = 0;
      for (int k = 0; k < 32; k += 2) {
        even = std::fma(rows[m][k], columns[n][k], even);
        odd = std::fma(rows[m][k + 1], columns[n][k + 1], odd);
      }
      float *sum = reinterpret_cast<float *>(emulated::tiles[c].row[m]) + n;
      *sum += even + odd;
    }
}
inline void _tile_dpbssd(int c, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      int *sum = reinterpret_cast<int *>(emulated::tiles[c].row[m]) + n;
      for (int k = 0; k < 64; ++k)
        *sum += static_cast<signed char>(emulated::tiles[a].row[m][k]) *
                static_cast<signed char>(emulated::tiles[b].row[k / 4][4 * n + k % 4]);
    }
}
