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
