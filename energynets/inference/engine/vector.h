/* Whole vectors of numbers, and the elementary functions on them: the vector extensions of GCC and Clang. Memory for them,
 * and what of them is a thread's. */
#ifndef ENERGYNETS_VECTOR_H
#define ENERGYNETS_VECTOR_H

#ifdef __AVX__
#include <immintrin.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#endif

#ifdef __AVX512F__
#define VECTOR_BYTES 64
#else
#define VECTOR_BYTES 32
#endif

#ifdef ENERGYNETS_DOUBLE
typedef double real;
typedef int64_t word;
#define EXP_TERMS {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320, 1. / 5040, \
                   1. / 720, 1. / 120, 1. / 24, 1. / 6, .5, 1, 1} /* Taylor's */
#define LOG_TERMS 17
#define MANTISSA 52
#define ROUND 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to whole numbers */
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define EXP_MAX 708.0
#else
typedef float real;
typedef int32_t word;
#define EXP_TERMS {1.38145992e-3f, 8.36871669e-3f, 4.16683882e-2f, 1.66665211e-1f, 4.99999940e-1f, 1, 1} /* off by 4e-9 */
#define LOG_TERMS 8
#define MANTISSA 23
#define ROUND 12582912.0f
#define LN2_HIGH 6.93145752e-01f
#define LN2_LOW 1.42860677e-06f
#define EXP_MAX 87.0f
#endif

#define LANES ((int64_t)(VECTOR_BYTES / sizeof(real)))
#define UNROLL _Pragma("GCC unroll 16")

typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(VECTOR_BYTES)));
typedef real loose __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias)); /* anywhere in memory */
typedef word words __attribute__((vector_size(VECTOR_BYTES)));

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline vec *at(const real *x) { return (vec *)x; }
static inline vec fill(real x) { return x - (vec){0}; }
static inline vec choose(words where, vec x, vec y) { return (vec)((where & (words)x) | (~where & (words)y)); }

/* x, or `least` where it is less; NaN stays. One instruction where compare and choose are five. */
#if defined(__AVX512F__) && defined(ENERGYNETS_DOUBLE)
static inline vec at_least(real least, vec x) { return (vec)_mm512_max_pd((__m512d)fill(least), (__m512d)x); }
#elif defined(__AVX512F__)
static inline vec at_least(real least, vec x) { return (vec)_mm512_max_ps((__m512)fill(least), (__m512)x); }
#elif defined(__AVX__) && defined(ENERGYNETS_DOUBLE)
static inline vec at_least(real least, vec x) { return (vec)_mm256_max_pd((__m256d)fill(least), (__m256d)x); }
#elif defined(__AVX__)
static inline vec at_least(real least, vec x) { return (vec)_mm256_max_ps((__m256)fill(least), (__m256)x); }
#else
static inline vec at_least(real least, vec x) { return choose(x < least, fill(least), x); }
#endif

/* The labels, or so, of a thread: whole tiles. */
static inline void share_of(int64_t labels, int64_t tile, int64_t *first, int64_t *end) {
    int64_t thread = 0, threads = 1, tiles = (labels + tile - 1) / tile;
#ifdef _OPENMP
    thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    *first = least(tiles * thread / threads * tile, labels);
    *end = least(tiles * (thread + 1) / threads * tile, labels);
}

/* n <= LANES numbers. */
static inline vec load(const real *x, int64_t n) {
    if (n == LANES) return *(const loose *)x;
    real some[VECTOR_BYTES / sizeof(real)] = {0};
    memcpy(some, x, (size_t)n * sizeof(real));
    return *(const loose *)some;
}

static inline void store(real *x, vec found, int64_t n) {
    if (n == LANES) {
        *(loose *)x = found;
    } else {
        loose some = found;
        memcpy(x, &some, (size_t)n * sizeof(real));
    }
}

static inline void *allocate(int64_t numbers) { /* zeros, on a cache line's boundary */
    void *memory = NULL;
    size_t bytes = (size_t)(numbers > 0 ? numbers : 1) * sizeof(real);
    if (posix_memalign(&memory, 64, bytes)) return NULL;
    return memset(memory, 0, bytes);
}

static inline vec vector_exp(vec x) { /* x <= EXP_MAX; the relative error is a few units in the last place */
    static const real terms[] = EXP_TERMS; /* of r^n down to r^0, |r| <= log(2) / 2 */
    x = at_least(-EXP_MAX, x);
    vec shifted = x * fill((real)1.44269504088896340736) + ROUND;
    vec whole = shifted - ROUND;
    vec r = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    vec sum = fill(terms[0]);
    UNROLL
    for (size_t i = 1; i < sizeof(terms) / sizeof(real); i++) sum = sum * r + terms[i];
#if defined(__AVX512F__) && defined(ENERGYNETS_DOUBLE)
    return (vec)_mm512_scalef_pd((__m512d)sum, (__m512d)whole);
#elif defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)sum, (__m512)whole);
#else
    /* The whole number stands in the low bits of `shifted`; x - x keeps a NaN one. */
    return (vec)((words)sum + ((words)shifted << MANTISSA)) + (x - x);
#endif
}

/* 1 / x of a normal number: 14 bits of the processor's and one step of Newton's. */
static inline vec reciprocal(vec x) {
#if defined(__AVX512F__) && !defined(ENERGYNETS_DOUBLE)
    vec near = (vec)_mm512_rcp14_ps((__m512)x);
    return near * ((real)2 - x * near);
#else
    return (real)1 / x;
#endif
}

static inline vec vector_sigmoid(vec x) { return reciprocal((real)1 + vector_exp(-at_least(-EXP_MAX, x))); }

static inline vec magnitude(vec x) { return choose(x < 0, -x, x); }

static inline vec vector_log1p(vec e) { /* log(1 + e) = 2 atanh(e / (2 + e)), 0 <= e <= 1 */
    vec w = e / (e + (real)2), square = w * w, sum = fill((real)(1.0 / (2 * LOG_TERMS + 1)));
    UNROLL
    for (int i = LOG_TERMS - 1; i >= 0; i--) sum = sum * square + (real)(1.0 / (2 * i + 1));
    return (w + w) * sum;
}

static inline vec vector_softplus(vec x) { /* max(x, 0) + log(1 + exp(-|x|)) */
    return choose(x < 0, fill(0), x) + vector_log1p(vector_exp(-magnitude(x)));
}

#endif
