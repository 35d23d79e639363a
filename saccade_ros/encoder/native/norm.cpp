// Residual sum and layer norm in one pass, for x86 processors with AVX-512. Plain C interface, as in attention.cpp.

#include <cmath>

#include "x86.h"

namespace {

using namespace saccade;

// One row: x += update, out = (x - mean) / sqrt(variance + epsilon) * weight + bias.
template <typename T>
AVX512 void add_norm_row(int width, float *x, const T *update, const float *weight, const float *bias, float epsilon,
                         T *out) {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < width; i += kTile) {
    __m512 value = load(x + i);
    if (update) {
      value = _mm512_add_ps(value, load(update + i));
      store(x + i, value);
    }
    sum = _mm512_add_ps(sum, value);
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < width; i += kTile) {
    const __m512 centred = _mm512_sub_ps(load(x + i), mean);
    squares = _mm512_fmadd_ps(centred, centred, squares);
  }
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / width + epsilon));
  for (int i = 0; i < width; i += kTile) {
    const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(load(x + i), mean), scale);
    store(out + i, _mm512_fmadd_ps(unit, load(weight + i), load(bias + i)));
  }
}

template <typename T>
void add_norm(int threads, int rows, int width, float *x, const T *update, const float *weight, const float *bias,
              float epsilon, T *out) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int row = 0; row < rows; ++row) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(row) * width;
    add_norm_row(width, x + at, update ? update + at : nullptr, weight, bias, epsilon, out + at);
  }
}

}  // namespace

extern "C" {

// 1 if the processor has the AVX-512 that these functions use.
int saccade_norm_available() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

// x (rows, width) in fp32 becomes x + update, unless update is null; out, of update's type, its layer norm. The width is
// a multiple of 16.
void saccade_add_norm_bf16(int threads, int rows, int width, float epsilon, float *x, const bf16 *update,
                           const float *weight, const float *bias, bf16 *out) {
  add_norm(threads, rows, width, x, update, weight, bias, epsilon, out);
}

void saccade_add_norm_fp32(int threads, int rows, int width, float epsilon, float *x, const float *update,
                           const float *weight, const float *bias, float *out) {
  add_norm(threads, rows, width, x, update, weight, bias, epsilon, out);
}
}
