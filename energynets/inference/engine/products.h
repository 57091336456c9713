/* Products of a few rows with a matrix of many, from cache, and the layouts that they read.
 *
 * Numbers come in groups of W: R rows lie in memory as (groups, R, W), so that what a product reads next is what lies
 * next. `spread`, whose sums lie along the vectors, holds BLOCK x W of them in registers; `gather`, which sums along
 * them, DOCUMENTS x PARTS vectors of partial sums, which are summed across only in the end.
 */
#ifndef ENERGYNETS_PRODUCTS_H
#define ENERGYNETS_PRODUCTS_H

#include <stdlib.h>
#include <string.h>

#include "vector.h"

#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#endif

#define W (2 * LANES) /* numbers of a group */
#ifdef __AVX512F__
#define BLOCK 12 /* rows whose sums are in registers at once */
#define PARTS 6
#else
#define BLOCK 6
#define PARTS 3
#endif
#define DOCUMENTS 4

/* In a register: or the compiler reads it again for each product. */
#if defined(__AVX512F__)
#define HOLD(x) __asm__("" : "+v"(x))
#elif defined(__AVX__)
#define HOLD(x) __asm__("" : "+x"(x))
#else
#define HOLD(x)
#endif

typedef real loose __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static inline int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline void *numbers(int64_t count) { /* zeros, on a cache line's boundary */
    void *memory = NULL;
    size_t bytes = (size_t)(count > 0 ? count : 1) * sizeof(real);
    if (posix_memalign(&memory, 64, bytes)) return NULL;
    return memset(memory, 0, bytes);
}

static inline real across(vec x) {
    UNROLL
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

/* out[i][c] = kept out[i][c] + sum_j left[j][i] right[j][c], i < r, c < W; left has rows of BLOCK. */
static inline __attribute__((always_inline)) void spread_rows(const int r, int64_t n, const real *left, const real *right,
                                                              int64_t right_row, real *out, int64_t out_row, real kept) {
    vec sum[BLOCK][2];
    UNROLL
    for (int i = 0; i < r; i++) {
        sum[i][0] = kept * *at(out + i * out_row);
        sum[i][1] = kept * *at(out + i * out_row + LANES);
    }
    for (int64_t j = 0; j < n; j++, left += BLOCK, right += right_row) {
        vec first = *at(right), second = *at(right + LANES);
        UNROLL
        for (int i = 0; i < r; i++) sum[i][0] += left[i] * first, sum[i][1] += left[i] * second;
    }
    UNROLL
    for (int i = 0; i < r; i++) *at(out + i * out_row) = sum[i][0], *at(out + i * out_row + LANES) = sum[i][1];
}

/* out (rows, W) = kept out + left^T right; left in blocks of BLOCK columns, (n, BLOCK) each. */
static inline void spread_into(int64_t rows, int64_t n, const real *left, const real *right, int64_t right_row, real *out,
                               int64_t out_row, real kept) {
#define ROWS(r) \
    case r: spread_rows(r, n, left, right, right_row, out, out_row, kept); break;
    for (int64_t i = 0; i < rows; i += BLOCK, left += n * BLOCK, out += BLOCK * out_row) switch (least(rows - i, BLOCK)) {
            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
#if BLOCK > 6
            ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
#endif
        }
#undef ROWS
}

static inline void spread(int64_t rows, int64_t n, const real *left, const real *right, real *out) {
    spread_into(rows, n, left, right, W, out, W, 1);
}

/* sums[i][q] += sum over a row of y[i] a[q], i < r, q < PARTS: a vector of partial sums each. */
static inline __attribute__((always_inline)) void gather_rows(const int r, int64_t groups, const real *y, int64_t y_group,
                                                              const real *a, int64_t a_group, vec *sums, int64_t width) {
    vec sum[DOCUMENTS][PARTS];
    UNROLL
    for (int i = 0; i < r; i++)
        UNROLL
        for (int q = 0; q < PARTS; q++) sum[i][q] = sums[i * width + q];
    for (int64_t g = 0; g < groups; g++, y += y_group, a += a_group)
        UNROLL
        for (int half = 0; half < 2; half++) {
            vec row[PARTS];
            UNROLL
            for (int q = 0; q < PARTS; q++) row[q] = *at(a + q * W + half * LANES);
            UNROLL
            for (int i = 0; i < r; i++) {
                vec here = *at(y + i * W + half * LANES);
                HOLD(here);
                UNROLL
                for (int q = 0; q < PARTS; q++) sum[i][q] += here * row[q];
            }
        }
    UNROLL
    for (int i = 0; i < r; i++)
        UNROLL
        for (int q = 0; q < PARTS; q++) sums[i * width + q] = sum[i][q];
}

/* sums (documents, width) += y a^T; y (groups, y_group / W, W), a likewise; width in whole PARTS. */
static inline void gather(int64_t documents, int64_t width, int64_t groups, const real *y, int64_t y_group, const real *a,
                   int64_t a_group, vec *sums) {
    for (int64_t k = 0; k < width; k += PARTS)
        for (int64_t i = 0; i < documents; i += DOCUMENTS) {
            const real *from = y + i * W, *row = a + k * W;
            vec *to = sums + i * width + k;
            switch (least(documents - i, DOCUMENTS)) {
            case 4: gather_rows(4, groups, from, y_group, row, a_group, to, width); break;
            case 3: gather_rows(3, groups, from, y_group, row, a_group, to, width); break;
            case 2: gather_rows(2, groups, from, y_group, row, a_group, to, width); break;
            default: gather_rows(1, groups, from, y_group, row, a_group, to, width);
            }
        }
}

/* (rows, columns), rows `stride` apart, to blocks of BLOCK rows, (columns, BLOCK) each, zeros beyond. */
static inline void by_blocks(int64_t rows, int64_t columns, const real *from, int64_t stride, real *to) {
    for (int64_t i = 0; i < rows; i++) {
        real *place = to + i / BLOCK * BLOCK * columns + i % BLOCK;
        for (int64_t j = 0; j < columns; j++) place[j * BLOCK] = from[i * stride + j];
    }
}

/* W numbers, or the first `count`. */
static inline void copy(const real *from, real *to, int64_t count) {
    if (count >= W) *(loose *)to = *(const loose *)from, *(loose *)(to + LANES) = *(const loose *)(from + LANES);
    else
        for (int64_t c = 0; c < count; c++) to[c] = from[c];
}

/* `count` numbers of `rows` rows, `stride` apart, to (groups, group / W, W), zeros beyond the last. */
static inline void by_groups(int64_t rows, int64_t count, const real *from, int64_t stride, real *to, int64_t group) {
    for (int64_t i = 0; i < rows; i++, from += stride, to += W) {
        real *place = to;
        for (int64_t c = 0; c < count; c += W, place += group) {
            if (count - c < W) memset(place, 0, (size_t)W * sizeof(real));
            copy(from + c, place, count - c);
        }
    }
}

static inline void from_groups(int64_t rows, int64_t count, const real *from, int64_t group, real *to, int64_t stride) {
    for (int64_t i = 0; i < rows; i++, from += W, to += stride)
        for (int64_t c = 0; c < count; c += W) copy(from + c / W * group, to + c, count - c);
}

#endif
