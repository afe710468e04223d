// Depthwise Legendre memory with a read-out: forward, and backward by recomputation.
//
// m[t] = Ad m[t-1] + Bd u[t],  y[t] = sum_q c[q] m[t][q] + d u[t], one memory of order Q a channel,
// in chunks of L frames: with s the state before a chunk,
//   y[i] = sum_q s[q] R[q][i] + sum_{j <= i} u[j] h[i-j]
//   s'   = s + sum_j u[j] step[j] + sum_p s[p] step[L+p]
// step (G, L+Q, Q) is shared by the channels of a group; R and h are a channel's own and come
// packed by tiles of channels, (tiles, L + Q*L, LANES): h first, then R.
// Whole chunks have 8 frames; the frames that are left go one by one (L = 1).
// Layouts: u, y (N, T, C); state (N, C, Q). A tile never crosses a group.

#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr int CHUNK = 8;
constexpr int BLOCK = 4;

template <typename T> struct Lane;
template <> struct Lane<float> {
  typedef float Vec __attribute__((vector_size(64)));
  typedef float Loose __attribute__((vector_size(64), aligned(4), may_alias));
};
template <> struct Lane<double> {
  typedef double Vec __attribute__((vector_size(64)));
  typedef double Loose __attribute__((vector_size(64), aligned(8), may_alias));
};

// Slowly decaying states would otherwise end in denormals, many times slower.
class FlushDenormals {
#if defined(__SSE__)
  unsigned saved_ = _mm_getcsr();

 public:
  FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
#else
 public:
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
};

// The kernel on tiles of LANES channels: 32, or 16 where that leaves fewer lanes empty.
template <int LANES> struct Tiled {
  // LANES numbers as vectors of 64 bytes.
  template <typename T> struct Row {
    using Vec = typename Lane<T>::Vec;
    static constexpr int COUNT = LANES * sizeof(T) / 64;
    Vec v[COUNT];
    void zero() {
      UNROLL
      for (int k = 0; k < COUNT; ++k) v[k] = Vec{};
    }
    void fma(T a, const Row& b) {
      UNROLL
      for (int k = 0; k < COUNT; ++k) v[k] += a * b.v[k];
    }
  };

  struct Shape {
    int64_t N, T, C, G, Q;
    int64_t channels() const { return C / G; }
    int64_t tiles_per_group() const { return (channels() + LANES - 1) / LANES; }
    int64_t tiles() const { return tiles_per_group() * G; }
  };

  // One tile of one sequence.
  struct Task {
    int64_t n, tile, group, first, count, length;
    Task(const Shape& s, int64_t index, const int64_t* lens) {
      n = index / s.tiles();
      tile = index % s.tiles();
      group = tile / s.tiles_per_group();
      int64_t inside = (tile % s.tiles_per_group()) * LANES;
      first = group * s.channels() + inside;
      count = s.channels() - inside < LANES ? s.channels() - inside : LANES;
      length = lens ? lens[n] : s.T;
      length = length < 0 ? 0 : (length > s.T ? s.T : length);
    }
  };

  template <typename T> void load(Row<T>& row, const T* from, int64_t count) {
    if (count == LANES) {
      using Loose = typename Lane<T>::Loose;  // `auto` would lose its looser alignment
      const Loose* vectors = reinterpret_cast<const Loose*>(from);
      UNROLL
      for (int k = 0; k < Row<T>::COUNT; ++k) row.v[k] = vectors[k];
    } else {
      row.zero();
      std::memcpy(&row, from, count * sizeof(T));
    }
  }

  template <typename T> void store(T* to, const Row<T>& row, int64_t count) {
    if (count == LANES) {
      using Loose = typename Lane<T>::Loose;
      Loose* vectors = reinterpret_cast<Loose*>(to);
      UNROLL
      for (int k = 0; k < Row<T>::COUNT; ++k) vectors[k] = row.v[k];
    } else {
      std::memcpy(to, &row, count * sizeof(T));
    }
  }

  template <typename T> void clear_rows(T* rows, const Shape& s, const Task& task) {
    for (int64_t t = task.length; t < s.T; ++t)
      std::memset(rows + (task.n * s.T + t) * s.C + task.first, 0, task.count * sizeof(T));
  }

  // A thread's working rows: x = [inputs | state], what the state's rounding lost, and spare ones.
  template <typename T> struct Work {
    std::vector<Row<T>> x, low, spare;
    explicit Work(int64_t Q) : x(CHUNK + Q), low(Q), spare(CHUNK + Q) {}
    Row<T>* state() { return &x[CHUNK]; }
    // x for chunks of L: the state's place is the same for every L.
    Row<T>* inputs(int L) { return &x[CHUNK - L]; }
  };

  template <typename T>
  void read_state(Work<T>& work, const T* from, const Shape& s, const Task& task) {
    Row<T>* state = work.state();
    for (int64_t q = 0; q < s.Q; ++q) {
      state[q].zero();
      work.low[q].zero();
    }
    if (!from) return;
    const T* base = from + (task.n * s.C + task.first) * s.Q;
    for (int64_t c = 0; c < task.count; ++c)
      for (int64_t q = 0; q < s.Q; ++q) reinterpret_cast<T*>(&state[q])[c] = base[c * s.Q + q];
  }

  template <typename T>
  void write_state(T* to, const Row<T>* state, const Shape& s, const Task& task) {
    T* base = to + (task.n * s.C + task.first) * s.Q;
    for (int64_t c = 0; c < task.count; ++c)
      for (int64_t q = 0; q < s.Q; ++q)
        base[c * s.Q + q] = reinterpret_cast<const T*>(&state[q])[c];
  }

  // out[b] = sum_w x[w] matrix[w * row_stride + b * column_stride], for B columns b.
  template <typename T, int B>
  void columns(Row<T>* out, const Row<T>* x, int64_t W, const T* matrix, int64_t row_stride,
               int64_t column_stride) {
    Row<T> sum[B];
    UNROLL
    for (int b = 0; b < B; ++b) sum[b].zero();
    for (int64_t w = 0; w < W; ++w) {
      const Row<T> value = x[w];
      const T* row = matrix + w * row_stride;
      UNROLL
      for (int b = 0; b < B; ++b) sum[b].fma(row[b * column_stride], value);
    }
    UNROLL
    for (int b = 0; b < B; ++b) out[b] = sum[b];
  }

  template <typename T>
  void product(Row<T>* out, int64_t count, const Row<T>* x, int64_t W, const T* matrix,
               int64_t row_stride, int64_t column_stride) {
    int64_t b = 0;
    for (; b + BLOCK <= count; b += BLOCK)
      columns<T, BLOCK>(out + b, x, W, matrix + b * column_stride, row_stride, column_stride);
    for (; b < count; ++b)
      columns<T, 1>(out + b, x, W, matrix + b * column_stride, row_stride, column_stride);
  }

  // state += change with what rounding lost kept in low (Knuth's two-sum): over a long theta a
  // state takes hundreds of small changes.
  template <typename T>
  void add_exactly(Row<T>* state, Row<T>* low, const Row<T>* change, int64_t Q) {
    for (int64_t q = 0; q < Q; ++q)
      UNROLL
      for (int k = 0; k < Row<T>::COUNT; ++k) {
        const auto old = state[q].v[k], part = change[q].v[k] + low[q].v[k];
        const auto sum = old + part, taken = sum - old;
        state[q].v[k] = sum;
        low[q].v[k] = (old - (sum - taken)) + (part - taken);
      }
  }

  // x = [inputs of the chunk | state] (L + Q rows), packed = [h | R] of the tile.
  template <typename T, int L>
  void read_out(Row<T>* y, const Row<T>* x, const Row<T>* packed, int64_t Q) {
    const Row<T>* R = packed + L;
    for (int k = 0; k < Row<T>::COUNT; ++k) {
      typename Row<T>::Vec sum[L] = {};
      UNROLL
      for (int lag = 0; lag < L; ++lag)
        UNROLL
        for (int i = lag; i < L; ++i) sum[i] += packed[lag].v[k] * x[i - lag].v[k];
      for (int64_t q = 0; q < Q; ++q) {
        const typename Row<T>::Vec state = x[L + q].v[k];
        UNROLL
        for (int i = 0; i < L; ++i) sum[i] += R[q * L + i].v[k] * state;
      }
      UNROLL
      for (int i = 0; i < L; ++i) y[i].v[k] = sum[i];
    }
  }

  template <typename T> struct Operators {
    const T* step;
    const T* packed;
    const T* step_of(const Task& task, const Shape& s, int L) const {
      return step + task.group * (L + s.Q) * s.Q;
    }
    const Row<T>* packed_of(const Task& task, const Shape& s, int L) const {
      return reinterpret_cast<const Row<T>*>(packed + task.tile * (L + s.Q * L) * LANES);
    }
  };

  template <typename T> const T* at(const T* rows, const Shape& s, const Task& task, int64_t t) {
    return rows + (task.n * s.T + t) * s.C + task.first;
  }
  template <typename T> T* at(T* rows, const Shape& s, const Task& task, int64_t t) {
    return rows + (task.n * s.T + t) * s.C + task.first;
  }

  // Fetch the rows [t, t + L) ahead of their use: a tile strides over memory, which no processor
  // foresees.
  template <typename T, int WRITE = 0>
  void prefetch(const T* rows, const Shape& s, const Task& task, int64_t t, int L) {
    for (int i = 0; i < L && t + i < task.length; ++i) {
      const char* line = reinterpret_cast<const char*>(at(rows, s, task, t + i));
      for (size_t b = 0; b < LANES * sizeof(T); b += 64) __builtin_prefetch(line + b, WRITE);
    }
  }

  // Frames [t, end) in chunks of L, from the state in work and into it.
  template <typename T, int L>
  void forward_range(const T* u, T* y, const Operators<T>& ops, const Shape& s, const Task& task,
                     int64_t t, int64_t end, Work<T>& work) {
    const T* step = ops.step_of(task, s, L);
    const Row<T>* packed = ops.packed_of(task, s, L);
    Row<T>* x = work.inputs(L);
    Row<T> out[L];
    for (; t + L <= end; t += L) {
      prefetch(u, s, task, t + 2 * L, L);
      prefetch<T, 1>(y, s, task, t + 2 * L, L);
      for (int i = 0; i < L; ++i) load(x[i], at(u, s, task, t + i), task.count);
      read_out<T, L>(out, x, packed, s.Q);
      for (int i = 0; i < L; ++i) store(at(y, s, task, t + i), out[i], task.count);
      product(&work.spare[0], s.Q, x, L + s.Q, step, s.Q, int64_t(1));
      add_exactly(work.state(), &work.low[0], &work.spare[0], s.Q);
    }
  }

  template <typename T>
  void forward(const T* u, const T* state, const int64_t* lens, Operators<T> chunk,
               Operators<T> frame, T* y, T* last, Shape s, int threads) {
  #pragma omp parallel num_threads(threads)
    {
      FlushDenormals flush;
      Work<T> work(s.Q);
  #pragma omp for schedule(static, 1)
      for (int64_t index = 0; index < s.N * s.tiles(); ++index) {
        Task task(s, index, lens);
        int64_t whole = task.length - task.length % CHUNK;
        read_state(work, state, s, task);
        forward_range<T, CHUNK>(u, y, chunk, s, task, 0, whole, work);
        forward_range<T, 1>(u, y, frame, s, task, whole, task.length, work);
        write_state(last, work.state(), s, task);
        clear_rows(y, s, task);
      }
    }
  }

  // Add what BLOCK chunks, x and dy, give to the gradient of [h | R].
  template <typename T, int L>
  void accumulate(Row<T>* grad, const Row<T>* x, const Row<T>* dy, int chunks, int64_t Q) {
    const int64_t W = L + Q;
    Row<T>* R = grad + L;
    for (int k = 0; k < Row<T>::COUNT; ++k) {
      typename Row<T>::Vec sum[L];
      UNROLL
      for (int lag = 0; lag < L; ++lag) sum[lag] = grad[lag].v[k];
      for (int b = 0; b < chunks; ++b)
        UNROLL
        for (int i = 0; i < L; ++i)
          UNROLL
          for (int lag = 0; lag <= i; ++lag)
            sum[lag] += dy[b * L + i].v[k] * x[b * W + i - lag].v[k];
      UNROLL
      for (int lag = 0; lag < L; ++lag) grad[lag].v[k] = sum[lag];
      for (int64_t q = 0; q < Q; ++q) {
        UNROLL
        for (int i = 0; i < L; ++i) sum[i] = R[q * L + i].v[k];
        for (int b = 0; b < chunks; ++b) {
          const typename Row<T>::Vec state = x[b * W + L + q].v[k];
          UNROLL
          for (int i = 0; i < L; ++i) sum[i] += dy[b * L + i].v[k] * state;
        }
        UNROLL
        for (int i = 0; i < L; ++i) R[q * L + i].v[k] = sum[i];
      }
    }
  }

  // First pass, forward in time: states again, and the gradient of the read-out.
  template <typename T, int L>
  void readout_range(const T* u, const T* dy, const Operators<T>& ops, T* grad, const Shape& s,
                     const Task& task, int64_t t, int64_t end, Work<T>& work, Row<T>* x,
                     Row<T>* out) {
    const int64_t W = L + s.Q;
    const T* step = ops.step_of(task, s, L);
    Row<T>* sums = reinterpret_cast<Row<T>*>(grad + task.tile * (L + s.Q * L) * LANES);
    while (t + L <= end) {
      int chunks = 0;
      for (; chunks < BLOCK && t + L <= end; ++chunks, t += L) {
        Row<T>* now = x + chunks * W;
        prefetch(u, s, task, t + 2 * L, L);
        prefetch(dy, s, task, t + L, L);
        for (int i = 0; i < L; ++i) load(now[i], at(u, s, task, t + i), task.count);
        for (int i = 0; i < L; ++i) load(out[chunks * L + i], at(dy, s, task, t + i), task.count);
        std::memcpy(now + L, work.state(), s.Q * sizeof(Row<T>));
        product(&work.spare[0], s.Q, now, W, step, s.Q, int64_t(1));
        add_exactly(work.state(), &work.low[0], &work.spare[0], s.Q);
      }
      accumulate<T, L>(sums, x, out, chunks, s.Q);
    }
  }

  // Second pass, backward in time: the adjoint state (in work) and the gradient of the input.
  template <typename T, int L>
  void adjoint_range(const T* dy, T* du, const Operators<T>& ops, const Shape& s, const Task& task,
                     int64_t t, int64_t begin, Work<T>& work) {
    const int64_t Q = s.Q;
    const T* step = ops.step_of(task, s, L);
    const Row<T>* packed = ops.packed_of(task, s, L);
    const Row<T>* R = packed + L;
    Row<T>*state = work.state(), *change = &work.spare[0];
    Row<T> out[L];
    for (t -= L; t >= begin; t -= L) {
      if (t >= L) {
        prefetch(dy, s, task, t - L, L);
        prefetch<T, 1>(du, s, task, t - L, L);
      }
      for (int i = 0; i < L; ++i) load(out[i], at(dy, s, task, t + i), task.count);
      product(change, L + Q, state, Q, step, int64_t(1), Q);
      for (int k = 0; k < Row<T>::COUNT; ++k) {
        typename Row<T>::Vec sum[L];
        UNROLL
        for (int j = 0; j < L; ++j) sum[j] = change[j].v[k];
        UNROLL
        for (int lag = 0; lag < L; ++lag)
          UNROLL
          for (int j = 0; j + lag < L; ++j) sum[j] += packed[lag].v[k] * out[j + lag].v[k];
        UNROLL
        for (int j = 0; j < L; ++j) change[j].v[k] = sum[j];
        for (int64_t q = 0; q < Q; ++q) {
          typename Row<T>::Vec total = change[L + q].v[k];
          UNROLL
          for (int i = 0; i < L; ++i) total += R[q * L + i].v[k] * out[i].v[k];
          change[L + q].v[k] = total;
        }
      }
      UNROLL
      for (int j = 0; j < L; ++j) store(at(du, s, task, t + j), change[j], task.count);
      add_exactly(state, &work.low[0], change + L, Q);
    }
  }

  template <typename T>
  void backward(const T* u, const T* dy, const T* state, const int64_t* lens, Operators<T> chunk,
                Operators<T> frame, const T* dlast, T* du, T* dstate, T* grad_chunk, T* grad_frame,
                Shape s, int threads) {
  #pragma omp parallel num_threads(threads)
    {
      FlushDenormals flush;
      const int64_t mine = omp_get_thread_num() * s.tiles() * LANES;
      T* chunk_sums = grad_chunk ? grad_chunk + mine * (CHUNK + s.Q * CHUNK) : nullptr;
      T* frame_sums = grad_frame ? grad_frame + mine * (1 + s.Q) : nullptr;
      Work<T> work(s.Q);
      std::vector<Row<T>> x(BLOCK * (CHUNK + s.Q)), out(BLOCK * CHUNK);
  #pragma omp for schedule(static, 1)
      for (int64_t index = 0; index < s.N * s.tiles(); ++index) {
        Task task(s, index, lens);
        int64_t whole = task.length - task.length % CHUNK;
        if (chunk_sums) {
          read_state(work, state, s, task);
          readout_range<T, CHUNK>(u, dy, chunk, chunk_sums, s, task, 0, whole, work, &x[0],
                                &out[0]);
          readout_range<T, 1>(u, dy, frame, frame_sums, s, task, whole, task.length, work, &x[0],
                              &out[0]);
        }
        read_state(work, dlast, s, task);
        adjoint_range<T, 1>(dy, du, frame, s, task, task.length, whole, work);
        adjoint_range<T, CHUNK>(dy, du, chunk, s, task, whole, 0, work);
        write_state(dstate, work.state(), s, task);
        clear_rows(du, s, task);
      }
    }
  }
};

}  // namespace

#define LEGENDRE_EXPORT(NAME, T)                                                                   \
  extern "C" void legendre_forward_##NAME(                                                         \
      const T* u, const T* state, const int64_t* lens, const T* chunk_step, const T* chunk_packed, \
      const T* frame_step, const T* frame_packed, T* y, T* last, const int64_t* shape,             \
      int threads) {                                                                               \
    const auto run = [&](auto tiled) {                                                             \
      tiled.template forward<T>(u, state, lens, {chunk_step, chunk_packed},                        \
                                {frame_step, frame_packed}, y, last,                               \
                                {shape[0], shape[1], shape[2], shape[3], shape[4]}, threads);      \
    };                                                                                             \
    shape[5] == 16 ? run(Tiled<16>()) : run(Tiled<32>());                                          \
  }                                                                                                \
  extern "C" void legendre_backward_##NAME(                                                        \
      const T* u, const T* dy, const T* state, const int64_t* lens, const T* chunk_step,           \
      const T* chunk_packed, const T* frame_step, const T* frame_packed, const T* dlast, T* du,    \
      T* dstate, T* grad_chunk, T* grad_frame, const int64_t* shape, int threads) {                \
    const auto run = [&](auto tiled) {                                                             \
      tiled.template backward<T>(u, dy, state, lens, {chunk_step, chunk_packed},                   \
                                 {frame_step, frame_packed}, dlast, du, dstate, grad_chunk,        \
                                 grad_frame, {shape[0], shape[1], shape[2], shape[3], shape[4]},   \
                                 threads);                                                         \
    };                                                                                             \
    shape[5] == 16 ? run(Tiled<16>()) : run(Tiled<32>());                                          \
  }

LEGENDRE_EXPORT(float, float)
LEGENDRE_EXPORT(double, double)
