// Linear layers in bf16, int8 and fp32 for x86 processors with AMX: out = x W' + bias, ended by a GELU if asked.
//
// A step's layers have few rows (256 for one stream at 256 px) and weights that no cache holds, so what counts is how
// values reach the matrix unit. It multiplies 32 rows by 32 columns at a time, and needs a tile loaded for every product:
//
// - Weights lie as the unit reads them, are read once for 256 rows, and the next columns' are prefetched meanwhile.
// - The input is laid out likewise first. int8 is made on the way, with a scale per row (dynamic) and per column.
// - 16 steps of 32 columns' weights (32 KB) stay in the L1 cache while all rows go by; the rows come from L2, past L1.
// - What follows the sum (scales, bias, GELU) runs on the vector unit between the next products, row by row.
//
// fp32 is multiplied in bf16 parts as in attention.cpp. Its weights are kept whole, so as to read less, and split by chunk.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "x86.h"

namespace {

using namespace saccade;

constexpr int kBlock = 2 * kTile;  // rows and columns multiplied at once
constexpr int kTileBytes = kTile * kRowBytes;
constexpr int kSums = 4 * kTileBytes;  // bytes of the sums of a block: upper left, upper right, lower left, lower right

// How values are multiplied. Depth: how many a product sums over; a chunk of depths is what of the weights stays in L1. A
// step: bytes of 32 rows, or columns, for one depth. Row blocks share a pass over the weights, up to kBlocks, of which
// kResident steps stay in L2. More of them are no gain but in fp32, whose weights are split in each pass.
struct Bf16 {
  using Value = bf16;
  static constexpr int kDepth = 32, kParts = 1, kChunk = 16, kBlocks = 8, kResident = 512;
  static constexpr std::ptrdiff_t kStep = 2 * kTileBytes, kWeightStep = kStep;
};
struct Int8 : Bf16 {
  static constexpr int kDepth = 64;
};
struct Fp32 {
  using Value = float;
  static constexpr int kDepth = 32, kParts = 3, kChunk = 4, kBlocks = 32, kResident = 128;
  static constexpr std::ptrdiff_t kStep = kParts * 2 * kTileBytes, kWeightStep = 4 * kTileBytes;
};

template <typename F>
struct Layout {
  int rows, inputs, outputs;
  int depths() const { return inputs / F::kDepth; }
  int row_blocks() const { return (rows + kBlock - 1) / kBlock; }
  int column_blocks() const { return outputs / kBlock; }
  int pass_blocks() const { return std::min(F::kBlocks, row_blocks()); }
  int piece() const { return std::max(F::kChunk, F::kResident / pass_blocks()); }  // depths that a pass goes through at once
  bool in_pieces() const { return depths() > piece(); }
  std::ptrdiff_t block_bytes() const { return depths() * F::kStep; }
  std::ptrdiff_t column_bytes() const { return depths() * F::kWeightStep; }
};

// Arranging: rows of the input -> (row block, depth, part, half, 16 rows of 64 bytes)

AVX512 void arrange(Bf16, const bf16 *x, int depths, char *to, float *) {
  for (int depth = 0; depth < depths; ++depth)
    _mm512_store_si512(to + depth * Bf16::kStep, _mm512_loadu_si512(x + depth * Bf16::kDepth));
}

// 32 fp32 values -> their parts, a row of a tile each.
AVX512 inline void split_row(const float *from, char *to) {
  __m512 low = load(from), high = load(from + kTile);
  for (int part = 0; part < Fp32::kParts; ++part, to += 2 * kTileBytes) {
    const __m512i rounded = round_pair(low, high);
    _mm512_store_si512(to, rounded);
    subtract(rounded, low, high);
  }
}

AVX512 void arrange(Fp32, const float *x, int depths, char *to, float *) {
  for (int depth = 0; depth < depths; ++depth) split_row(x + depth * Fp32::kDepth, to + depth * Fp32::kStep);
}

AVX512 void arrange(Int8, const bf16 *x, int depths, char *to, float *scale) {
  constexpr float kLeast = 1e-30f, kMost = 127;
  __m512 top = _mm512_set1_ps(kLeast);
  for (int i = 0; i < depths * Int8::kDepth; i += kTile) top = _mm512_max_ps(top, _mm512_abs_ps(load(x + i)));
  const float highest = _mm512_reduce_max_ps(top);
  *scale = highest / kMost;
  const __m512 factor = _mm512_set1_ps(kMost / highest);
  for (int depth = 0; depth < depths; ++depth, x += Int8::kDepth)
    for (int i = 0; i < Int8::kDepth; i += kTile) {
      const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + i), factor));
      _mm_store_si128((__m128i *)(to + depth * Int8::kStep + i), _mm512_cvtsepi32_epi8(rounded));
    }
}

// Finishing: sums -> scales, bias, GELU -> output

// x/2 (1 + erf(x/sqrt 2)). For bf16 erf is x times a polynomial of x^2, minimax over |x| < 4.4: 2.5e-5 off at most.
AVX512 inline __m512 gelu(bf16, __m512 x) {
  constexpr float kErf[] = {5.50835719e-3f, -1.57683697e-2f, 2.19756458e-2f, -3.19539681e-2f, 5.36043942e-2f,
                            -8.01784694e-2f, 1.10501043e-1f, -1.57224625e-1f, 3.20808828e-1f};
  const __m512 bound = _mm512_set1_ps(4.4f), one = _mm512_set1_ps(1.0f);
  const __m512 inside = _mm512_range_ps(x, bound, 2);  // the smaller in magnitude, with the sign of x
  const __m512 at = _mm512_fmsub_ps(_mm512_mul_ps(inside, _mm512_set1_ps(2 / (4.4f * 4.4f))), inside, one);
  const __m512 erf = _mm512_range_ps(_mm512_mul_ps(inside, polynomial(kErf, at)), one, 2);
  const __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
  return _mm512_fmadd_ps(half, erf, half);
}

// For fp32 by Abramowitz and Stegun 7.1.26, 1.5e-7 off at most.
AVX512 inline __m512 gelu(float, __m512 x) {
  constexpr float kErfc[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f, 0.0f};
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 scaled = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(static_cast<float>(M_SQRT1_2)));
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(scaled, _mm512_set1_ps(0.3275911f), one));
  const __m512 bell = exp2_of<float>(_mm512_mul_ps(_mm512_mul_ps(scaled, scaled), _mm512_set1_ps(-M_LOG2E)));
  const __m512 tail = _mm512_mul_ps(polynomial(kErfc, t), bell);  // erfc(|x|/sqrt 2)
  const __m512 half = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.5f));
  return _mm512_fnmadd_ps(half, tail, _mm512_max_ps(x, _mm512_setzero_ps()));
}

// A block's sums on their way into the output.
template <typename F>
struct Finish {
  using Value = typename F::Value;
  const char *sums = nullptr;
  const float *bias, *row_scales, *column_scales;
  Value *out;
  std::ptrdiff_t stride;
  bool ends_in_gelu;
  int rows = 0, done = 0;  // rows 0: nothing to finish

  AVX512 inline void next_row() {
    const char *row = sums + done / kTile * 2 * kTileBytes + done % kTile * kRowBytes;
    for (int half = 0; half < 2; ++half, row += kTileBytes) {
      __m512 y;
      if constexpr (std::is_same_v<F, Int8>) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(row_scales[done]), load(column_scales + half * kTile));
        y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(row)), scale, load(bias + half * kTile));
      } else {
        y = _mm512_add_ps(_mm512_load_ps(row), load(bias + half * kTile));
      }
      store(out + done * stride + half * kTile, ends_in_gelu ? gelu(Value{}, y) : y);
    }
    ++done;
  }
  AMX inline void fetch_row(int row) const {
    for (int half = 0; half < static_cast<int>(kBlock * sizeof(Value)); half += kRowBytes)
      __builtin_prefetch(reinterpret_cast<const char *>(out + row * stride) + half, 1);
  }
  AVX512 inline void rest() {
    while (done < rows) next_row();
  }
};

// Multiplying

// Weights of fp32, in the order of bf16 tiles -> the tiles of their parts.
AVX512 void split(const float *w, int depths, char *to) {
  for (int depth = 0; depth < depths; ++depth, to += Fp32::kStep)
    for (int row = 0; row < 2 * kTile; ++row, w += kPair) split_row(w, to + row * kRowBytes);
}

template <typename F>
AMX inline void products() {
  if constexpr (std::is_same_v<F, Int8>) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  } else {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

AMX inline void load_rows(const char *x, int part) {  // past L1, which is for the weights
  _tile_stream_loadd(4, x + part * 2 * kTileBytes, kRowBytes);
  _tile_stream_loadd(5, x + part * 2 * kTileBytes + kTileBytes, kRowBytes);
}
AMX inline void load_columns(const char *w, int part) {
  _tile_loadd(6, w + part * 2 * kTileBytes, kRowBytes);
  _tile_loadd(7, w + part * 2 * kTileBytes + kTileBytes, kRowBytes);
}

// All products of one depth: of parts those that reach 24 bits, the largest last.
template <typename F>
AMX inline void multiply(const char *x, const char *w) {
  if constexpr (F::kParts > 1) {
    load_rows(x, 2);
    load_columns(w, 0);
    products<F>();
    load_rows(x, 1);
    products<F>();
    load_columns(w, 1);
    products<F>();
    load_rows(x, 0);
    products<F>();
    load_columns(w, 2);
    products<F>();
    load_columns(w, 0);
  } else {
    load_rows(x, 0);
    load_columns(w, 0);
  }
  products<F>();
}

// Where the next weights lie, a share of which every product fetches into L2.
struct Prefetch {
  const char *at, *end;
  int lines;
  void fetch() {
    for (int line = 0; line < lines && at < end; ++line, at += kRowBytes) _mm_prefetch(at, _MM_HINT_T1);
  }
};

// Adds the products of `depths` depths to a block's sums. Meanwhile finishes the block before, and fetches the lines that
// this one will be written to.
template <typename F>
AMX void multiply_chunk(const char *x, const char *w, int depths, bool first, char *sums, Prefetch &next,
                        Finish<F> &before, const Finish<F> &now) {
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kRowBytes);
    _tile_loadd(1, sums + kTileBytes, kRowBytes);
    _tile_loadd(2, sums + 2 * kTileBytes, kRowBytes);
    _tile_loadd(3, sums + 3 * kTileBytes, kRowBytes);
  }
  const int each = (kBlock + depths - 1) / depths;  // rows per depth
  for (int depth = 0; depth < depths; ++depth, x += F::kStep, w += F::kStep) {
    next.fetch();
    multiply<F>(x, w);
    for (int row = 0; row < each && before.done < before.rows; ++row) before.next_row();
    for (int row = depth * each; row < std::min((depth + 1) * each, now.rows); ++row) now.fetch_row(row);
  }
  before.rest();  // its sums may lie where these go
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(1, sums + kTileBytes, kRowBytes);
  _tile_stored(2, sums + 2 * kTileBytes, kRowBytes);
  _tile_stored(3, sums + 3 * kTileBytes, kRowBytes);
}

template <typename F>
struct Layer {
  Layout<F> layout;
  const char *x;  // arranged
  const char *weight;
  const float *bias, *row_scales, *column_scales;
  bool ends_in_gelu;
  typename F::Value *out;

  // One piece of one column block, for the row blocks from `first` on.
  AMX void multiply_piece(int first, int column, int piece, char *sums, Finish<F> &before) const {
    const int count = std::min(layout.pass_blocks(), layout.row_blocks() - first);
    const int end = std::min(piece + layout.piece(), layout.depths());
    const char *w = weight + column * layout.column_bytes() + piece * F::kWeightStep;
    const int lines = (end - piece) * F::kWeightStep / kRowBytes, multiplications = (end - piece) * count;
    const char *following = w + layout.column_bytes();
    Prefetch next{following, following + lines * kRowBytes, (lines + multiplications - 1) / multiplications};
    for (int depth = piece; depth < end; depth += F::kChunk, w += F::kChunk * F::kWeightStep) {
      const int depths = std::min(F::kChunk, end - depth);
      alignas(kRowBytes) char parts[F::kParts > 1 ? F::kChunk * F::kStep : kRowBytes];
      if constexpr (F::kParts > 1) split(reinterpret_cast<const float *>(w), depths, parts);
      for (int i = 0; i < count; ++i) {
        const char *rows = x + (first + i) * layout.block_bytes() + depth * F::kStep;
        const bool ends = depth + depths == layout.depths();
        const Finish<F> now = ends ? finish(first + i, column, sums + i * kSums) : Finish<F>{};
        multiply_chunk<F>(rows, F::kParts > 1 ? parts : w, depths, depth == 0, sums + i * kSums, next, before, now);
        before = now;
      }
    }
  }

  Finish<F> finish(int row_block, int column, const char *sums) const {
    const int row = row_block * kBlock;
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(row) * layout.outputs + column * kBlock;
    return {sums, bias + column * kBlock, row_scales + row, column_scales + column * kBlock, out + at, layout.outputs,
            ends_in_gelu, std::min(kBlock, layout.rows - row)};
  }
};

// The calling thread's working memory, at least so large; null if there is none. Kept: fresh pages cost 5 ms a step.
char *workspace(std::size_t bytes) {
  thread_local std::unique_ptr<char, decltype(&std::free)> memory(nullptr, &std::free);
  thread_local std::size_t size = 0;
  if (size < bytes) {
    memory.reset();
    memory.reset(static_cast<char *>(std::aligned_alloc(kRowBytes, (bytes + kRowBytes - 1) / kRowBytes * kRowBytes)));
    size = memory ? bytes : 0;
  }
  return memory.get();
}

template <typename F>
int linear(int threads, const Layout<F> &layout, bool ends_in_gelu, const typename F::Value *x, const char *weight,
           const float *column_scales, const float *bias, typename F::Value *out) {
  // sums of a column block: of all of them where another piece follows, else of one for each thread
  const int kept = layout.in_pieces() ? layout.column_blocks() : threads;
  const std::ptrdiff_t input_bytes = layout.row_blocks() * layout.block_bytes();
  const std::ptrdiff_t column_sums = static_cast<std::ptrdiff_t>(layout.pass_blocks()) * kSums;
  const std::ptrdiff_t sums_bytes = kept * column_sums;
  char *arranged = workspace(input_bytes + sums_bytes + layout.row_blocks() * kBlock * sizeof(float));
  if (!arranged) return 1;
  char *sums = arranged + input_bytes;
  float *row_scales = reinterpret_cast<float *>(sums + sums_bytes);
  const Layer<F> layer{layout, arranged, weight, bias, row_scales, column_scales, ends_in_gelu, out};
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int row = 0; row < layout.rows; ++row)
      arrange(F{}, x + static_cast<std::ptrdiff_t>(row) * layout.inputs, layout.depths(),
              arranged + row / kBlock * layout.block_bytes() + row % kBlock * kRowBytes, row_scales + row);
    open_tiles();
    Finish<F> before;
    for (int first = 0; first < layout.row_blocks(); first += layout.pass_blocks())
      for (int piece = 0; piece < layout.depths(); piece += layout.piece()) {
#pragma omp for schedule(static) nowait  // static: each thread comes back to the columns whose sums it began
        for (int column = 0; column < layout.column_blocks(); ++column) {
          const int place = layout.in_pieces() ? column : omp_get_thread_num();
          layer.multiply_piece(first, column, piece, sums + place * column_sums, before);
        }
      }
    before.rest();
    close_tiles();
  }
  return 0;
}

}  // namespace

extern "C" {

// A layer: x (rows, inputs), out (rows, outputs), bias (outputs), weight (outputs / 32, inputs / depth, 2, 16, 16, values):
// tiles of 16 outputs, in each row some successive values of every one of them, 2 of bf16 and fp32, 4 of int8. Depth is 32
// inputs, in int8 64. Outputs are a multiple of 32, inputs of depth. Each returns 0, or 1 if memory runs out.
int saccade_linear_bf16(int threads, int rows, int inputs, int outputs, int ends_in_gelu, const bf16 *x,
                        const char *weight, const float *bias, bf16 *out) {
  return linear<Bf16>(threads, {rows, inputs, outputs}, ends_in_gelu, x, weight, nullptr, bias, out);
}

int saccade_linear_fp32(int threads, int rows, int inputs, int outputs, int ends_in_gelu, const float *x,
                        const char *weight, const float *bias, float *out) {
  return linear<Fp32>(threads, {rows, inputs, outputs}, ends_in_gelu, x, weight, nullptr, bias, out);
}

// scales (outputs): what the weight's int8 values of a column are multiples of.
int saccade_linear_int8(int threads, int rows, int inputs, int outputs, int ends_in_gelu, const bf16 *x,
                        const char *weight, const float *bias, const float *scales, bf16 *out) {
  return linear<Int8>(threads, {rows, inputs, outputs}, ends_in_gelu, x, weight, scales, bias, out);
}
}
