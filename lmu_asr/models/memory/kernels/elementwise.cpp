// Element-wise parts of the encoders in one pass each, and products with int8 weights.
// Plain C interface over float32 rows; every result is independent of the number of threads.
// Legend: R rows (frames), D features, H hidden, K inputs, N outputs, M rows of a product.

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr long kSerial = 16384;  // elements below which threads cost more than they give
constexpr long kBlock = 64;      // rows whose weight gradients are summed together

inline float exp_fast(float x) {
  // 2^(x log2 e) by rounding and a polynomial; relative error below 2e-7 in the clamped range.
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = std::nearbyint(x * 1.44269504089f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

inline uint32_t random_bits(uint32_t i, uint32_t seed_low, uint32_t seed_high) {
  uint32_t x = i * 0x9E3779B9u + seed_low;
  x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
  x = (x ^ seed_high ^ (x >> 13)) * 0xC2B2AE35u;
  return x ^ (x >> 16);
}

}  // namespace

extern "C" {

// y = w * x / rms(x); inv (R) keeps 1 / rms for the gradient.
void rms_forward(const float* x, const float* w, float* y, float* inv, long R, long D, float eps) {
#pragma omp parallel for schedule(static) if (R * D > kSerial)
  for (long i = 0; i < R; ++i) {
    const float* row = x + i * D;
    float* out = y + i * D;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < D; ++j) sum += row[j] * row[j];
    const float scale = 1.0f / std::sqrt(sum / D + eps);
    inv[i] = scale;
#pragma omp simd
    for (long j = 0; j < D; ++j) out[j] = row[j] * scale * w[j];
  }
}

// gw (ceil(R / 64), D) holds one partial weight gradient a block of rows.
void rms_backward(const float* g, const float* x, const float* w, const float* inv, float* gx,
                  float* gw, long R, long D) {
  const long blocks = (R + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static) if (R * D > kSerial)
  for (long b = 0; b < blocks; ++b) {
    float* part = gw + b * D;
    std::memset(part, 0, D * sizeof(float));
    const long end = (b + 1) * kBlock < R ? (b + 1) * kBlock : R;
    for (long i = b * kBlock; i < end; ++i) {
      const float *gi = g + i * D, *xi = x + i * D;
      float* out = gx + i * D;
      const float scale = inv[i];
      float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
      for (long j = 0; j < D; ++j) dot += gi[j] * w[j] * xi[j];
      const float pull = dot * scale * scale * scale / D;
#pragma omp simd
      for (long j = 0; j < D; ++j) {
        part[j] += gi[j] * xi[j] * scale;
        out[j] = gi[j] * w[j] * scale - xi[j] * pull;
      }
    }
  }
}

// y = v * silu(g); v and g have rows vs and gs apart.
void gate_forward(const float* v, long vs, const float* g, long gs, float* y, long R, long H) {
#pragma omp parallel for schedule(static) if (R * H > kSerial)
  for (long i = 0; i < R; ++i) {
    const float *vi = v + i * vs, *gi = g + i * gs;
    float* out = y + i * H;
#pragma omp simd
    for (long j = 0; j < H; ++j) out[j] = vi[j] * gi[j] * sigmoid(gi[j]);
  }
}

// Gradients of gate_forward, with rows gvs and ggs apart.
void gate_backward(const float* gy, const float* v, long vs, const float* g, long gs, float* gv,
                   long gvs, float* gg, long ggs, long R, long H) {
#pragma omp parallel for schedule(static) if (R * H > kSerial)
  for (long i = 0; i < R; ++i) {
    const float *yi = gy + i * H, *vi = v + i * vs, *gi = g + i * gs;
    float *dv = gv + i * gvs, *dg = gg + i * ggs;
#pragma omp simd
    for (long j = 0; j < H; ++j) {
      const float s = sigmoid(gi[j]);
      const float silu = gi[j] * s;
      dv[j] = yi[j] * silu;
      dg[j] = yi[j] * vi[j] * (s + silu * (1.0f - s));
    }
  }
}

// y = x + b * scale where a random 32-bit number of the element reaches the threshold, else x.
// x may be null: y = b * scale or 0, which is the gradient of b.
void drop_add(const float* x, const float* b, float* y, long n, uint64_t seed, uint32_t threshold,
              float scale) {
  const uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  constexpr long kPiece = 4096;
  const long pieces = (n + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (n > kSerial)
  for (long p = 0; p < pieces; ++p) {
    const long begin = p * kPiece, end = begin + kPiece < n ? begin + kPiece : n;
    const uint32_t upper = high ^ static_cast<uint32_t>(begin >> 32);
    if (x == nullptr) {
#pragma omp simd
      for (long i = begin; i < end; ++i) {
        const bool keep = random_bits(static_cast<uint32_t>(i), low, upper) >= threshold;
        y[i] = keep ? b[i] * scale : 0.0f;
      }
    } else {
#pragma omp simd
      for (long i = begin; i < end; ++i) {
        const bool keep = random_bits(static_cast<uint32_t>(i), low, upper) >= threshold;
        y[i] = x[i] + (keep ? b[i] * scale : 0.0f);
      }
    }
  }
}

}  // extern "C"

namespace {

typedef float Lanes __attribute__((vector_size(64)));  // 16 floats
typedef int32_t Ints __attribute__((vector_size(64)));
constexpr long kTile = 64;     // outputs packed together
constexpr long kAhead = 2048;  // bytes fetched ahead: weights are read once and in order

// 16 int8 to 16 floats; compilers do not find the widening move by themselves.
inline Lanes widen(const int8_t* w) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
  return reinterpret_cast<Lanes>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#elif defined(__AVX2__)
  union {
    __m256 half[2];
    Lanes whole;
  } out;
  for (int i = 0; i < 2; ++i) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w + 8 * i));
    out.half[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  return out.whole;
#else
  Ints out;
  for (int i = 0; i < 16; ++i) out[i] = w[i];
  return __builtin_convertvector(out, Lanes);
#endif
}

inline Lanes widen(const float* w) {
  Lanes out;
  std::memcpy(&out, w, sizeof out);
  return out;
}

inline Lanes lanes(float x) { return x - Lanes{}; }

// ROWS rows of x (K each) times one tile of 64 outputs; SPLIT sums hide the latency.
template <int ROWS, int SPLIT, typename Weight>
void tile_product(const float* x, const Weight* w, Lanes out[ROWS][4], long K) {
  Lanes sum[SPLIT][ROWS][4];
  for (int s = 0; s < SPLIT; ++s)
    for (int r = 0; r < ROWS; ++r)
      for (int j = 0; j < 4; ++j) sum[s][r][j] = Lanes{};
  long k = 0;
  for (; k + SPLIT <= K; k += SPLIT) {
#pragma GCC unroll 4
    for (int s = 0; s < SPLIT; ++s) {
      const Weight* row = w + (k + s) * kTile;
      __builtin_prefetch(reinterpret_cast<const char*>(row) + kAhead);
      const Lanes a = widen(row), b = widen(row + 16), c = widen(row + 32), d = widen(row + 48);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const Lanes xr = lanes(x[r * K + k + s]);
        sum[s][r][0] += xr * a;
        sum[s][r][1] += xr * b;
        sum[s][r][2] += xr * c;
        sum[s][r][3] += xr * d;
      }
    }
  }
  for (; k < K; ++k)
    for (int r = 0; r < ROWS; ++r)
      for (int j = 0; j < 4; ++j)
        sum[0][r][j] += lanes(x[r * K + k]) * widen(w + k * kTile + 16 * j);
  for (int r = 0; r < ROWS; ++r)
    for (int j = 0; j < 4; ++j) {
      out[r][j] = sum[0][r][j];
      for (int s = 1; s < SPLIT; ++s) out[r][j] += sum[s][r][j];
    }
}

template <int ROWS, int SPLIT, typename Weight>
void rows_product(const float* x, const Weight* w, const float* scale, const float* bias, float* y,
                  long K, long N, long tile) {
  Lanes out[ROWS][4];
  tile_product<ROWS, SPLIT>(x, w + tile * K * kTile, out, K);
  const long first = tile * kTile, count = N - first < kTile ? N - first : kTile;
  for (int r = 0; r < ROWS; ++r) {
    float values[kTile];
    std::memcpy(values, out[r], sizeof values);
    float* row = y + r * N + first;
    for (long j = 0; j < count; ++j)
      row[j] = values[j] * (scale == nullptr ? 1.0f : scale[first + j]) +
               (bias == nullptr ? 0.0f : bias[first + j]);
  }
}

template <typename Weight>
void packed_linear(const float* x, const Weight* w, const float* scale, const float* bias, float* y,
                   long M, long K, long N) {
  const long tiles = (N + kTile - 1) / kTile;
#pragma omp parallel for schedule(static) if (M * K * N > 262144)
  for (long t = 0; t < tiles; ++t) {
    long m = 0;
    for (; m + 6 <= M; m += 6) rows_product<6, 1>(x + m * K, w, scale, bias, y + m * N, K, N, t);
    for (; m + 4 <= M; m += 4) rows_product<4, 1>(x + m * K, w, scale, bias, y + m * N, K, N, t);
    for (; m + 2 <= M; m += 2) rows_product<2, 2>(x + m * K, w, scale, bias, y + m * N, K, N, t);
    for (; m < M; ++m) rows_product<1, 4>(x + m * K, w, scale, bias, y + m * N, K, N, t);
  }
}

}  // namespace

extern "C" {

// y (M, N) = (x (M, K) . w) * scale (N) + bias (N or null); w is packed (ceil(N / 64), K, 64).
void int8_linear(const float* x, const int8_t* w, const float* scale, const float* bias, float* y,
                 long M, long K, long N) {
  packed_linear(x, w, scale, bias, y, M, K, N);
}

// The same with float weights and no scale.
void float_linear(const float* x, const float* w, const float* bias, float* y, long M, long K,
                  long N) {
  packed_linear<float>(x, w, nullptr, bias, y, M, K, N);
}

}  // extern "C"

namespace {

struct Product {  // a packed linear layer; scale is null for float weights
  const void* weight;
  const float* scale;
  long K, N;
};

void apply(const Product& p, const float* x, float* y, long M) {
  if (p.scale == nullptr)
    float_linear(x, static_cast<const float*>(p.weight), nullptr, y, M, p.K, p.N);
  else
    int8_linear(x, static_cast<const int8_t*>(p.weight), p.scale, nullptr, y, M, p.K, p.N);
}

void add(float* y, const float* x, long n) {
#pragma omp simd
  for (long i = 0; i < n; ++i) y[i] += x[i];
}

// One frame of one stream: m (C, Q) moves on, y (C) is read out and gated.
// change (G, Q, Q) is Ad - I with the column first, so that q runs along the lanes.
template <long FIXED>
void memory_frame(const float* u, const float* gate, float* m, float* y, const float* change,
                  const float* inject, const float* readout, const float* skip, long C, long G,
                  long Q) {
  const long order = FIXED ? FIXED : Q, per_group = C / G;
  float moved[FIXED ? FIXED : 1024];
  for (long c = 0; c < C; ++c) {
    const float *A = change + c / per_group * order * order, *B = inject + c / per_group * order;
    float* state = m + c * order;
    for (long q = 0; q < order; ++q) moved[q] = state[q] + B[q] * u[c];
    for (long k = 0; k < order; ++k) {
      const float mk = state[k];
#pragma omp simd
      for (long q = 0; q < order; ++q) moved[q] += A[k * order + q] * mk;
    }
    float sum = 0.0f;
    for (long q = 0; q < order; ++q) {
      state[q] = moved[q];
      sum += readout[c * order + q] * moved[q];
    }
    y[c] = (sum + skip[c] * u[c]) * gate[c] * sigmoid(gate[c]);
  }
}

// u (T, C) plus its depthwise convolution; before (kernel - 1, C) are the frames that came first.
void convolve(const float* v, const float* before, const float* kernel, float* u, long T, long C,
              long width) {
  for (long t = 0; t < T; ++t) {
    std::memcpy(u + t * C, v + t * C, C * sizeof(float));
    for (long j = 0; j < width; ++j) {
      const long from = t + j - (width - 1);
      const float* row = from < 0 ? before + (from + width - 1) * C : v + from * C;
#pragma omp simd
      for (long c = 0; c < C; ++c) u[t * C + c] += kernel[j * C + c] * row[c];
    }
  }
}

void shift(const float* v, float* before, long T, long C, long keep) {
  const long stay = keep > T ? keep - T : 0;
  std::memmove(before, before + (keep - stay) * C, stay * C * sizeof(float));
  const long fresh = keep - stay;
  std::memcpy(before + stay * C, v + (T - fresh) * C, fresh * C * sizeof(float));
}

}  // namespace

extern "C" {

// What a speech block is made of; products as pointer pairs (weight, scale or null).
struct Block {
  long D, C, G, Q, H, width;  // width: frames of the convolution, 1 for none; H: 0 for none
  float eps;
  const float *norm, *ff_norm, *kernel, *change, *inject, *readout, *skip;
  const void *value, *value_scale, *gate, *gate_scale, *output, *output_scale;
  const void *w1, *w1_scale, *w2, *w2_scale;
};

// The next T frames of N streams, x (N, T, D) to y (N, T, D). memory (N, C, Q) and before
// (N, width - 1, C) are moved on in place; work holds N T (2 D + 4 C + 3 H + 1) floats.
void block_step(const Block* b, const float* x, float* y, float* memory, float* before, float* work,
                long N, long T) {
  const long M = N * T, D = b->D, C = b->C, keep = b->width - 1;
  float *inverse = work, *h = inverse + M, *o = h + M * D, *v = o + M * D, *g = v + M * C;
  float *u = g + M * C, *r = u + M * C, *ab = r + M * C, *s = ab + 2 * M * b->H;
  rms_forward(x, b->norm, h, inverse, M, D, b->eps);
  apply({b->value, static_cast<const float*>(b->value_scale), D, C}, h, v, M);
  apply({b->gate, static_cast<const float*>(b->gate_scale), D, C}, h, g, M);
#pragma omp parallel for schedule(static) if (M * C * b->Q > kSerial)
  for (long n = 0; n < N; ++n) {
    const float* own = v + n * T * C;
    if (keep > 0) {
      float* past = before + n * keep * C;
      convolve(own, past, b->kernel, u + n * T * C, T, C, b->width);
      shift(own, past, T, C, keep);
      own = u + n * T * C;
    }
    auto frame = b->Q == 8 ? memory_frame<8> : b->Q == 16 ? memory_frame<16> : memory_frame<0>;
    for (long t = 0; t < T; ++t)
      frame(own + t * C, g + (n * T + t) * C, memory + n * C * b->Q, r + (n * T + t) * C, b->change,
            b->inject, b->readout, b->skip, C, b->G, b->Q);
  }
  apply({b->output, static_cast<const float*>(b->output_scale), C, D}, r, y, M);
  add(y, x, M * D);
  if (b->H == 0) return;
  rms_forward(y, b->ff_norm, h, inverse, M, D, b->eps);
  apply({b->w1, static_cast<const float*>(b->w1_scale), D, 2 * b->H}, h, ab, M);
  gate_forward(ab + b->H, 2 * b->H, ab, 2 * b->H, s, M, b->H);
  apply({b->w2, static_cast<const float*>(b->w2_scale), b->H, D}, s, o, M);
  add(y, o, M * D);
}

}  // extern "C"
