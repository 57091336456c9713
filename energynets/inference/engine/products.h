/* Products of a few rows with a matrix of many, from cache, and the layouts that they read.
 *
 * BLOCK rows of sums are held in registers, two vectors of each. Numbers come in groups of W, those two vectors: R rows lie
 * in memory as (groups, R, W), so that what a product reads next is what lies next.
 */
#ifndef ENERGYNETS_PRODUCTS_H
#define ENERGYNETS_PRODUCTS_H

#include "vector.h"

#define W (2 * LANES) /* numbers of a group */
#ifdef __AVX512F__
#define BLOCK 12
#else
#define BLOCK 6
#endif

static inline int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

static inline real across(vec x) {
    UNROLL
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

#define INLINE static inline __attribute__((always_inline))

/* out[i][c] = kept from[i][c] + sum_j left[i][j] right[j][c], i < r, c < vecs * LANES; `from`, maybe `out`, lies as it does. */
INLINE void spread_rows(const int r, const int vecs, int64_t n, const real *left, int64_t left_row, int64_t left_step,
                        const real *right, int64_t right_row, const real *from, real *out, int64_t out_row, real kept) {
    vec sum[BLOCK][2];
    UNROLL
    for (int i = 0; i < r; i++)
        UNROLL
        for (int v = 0; v < vecs; v++) sum[i][v] = kept * *at(from + i * out_row + v * LANES);
    for (int64_t j = 0; j < n; j++, left += left_step, right += right_row) {
        vec first = *at(right), second = vecs > 1 ? *at(right + LANES) : first;
        UNROLL
        for (int i = 0; i < r; i++) {
            sum[i][0] += left[i * left_row] * first;
            if (vecs > 1) sum[i][1] += left[i * left_row] * second;
        }
    }
    UNROLL
    for (int i = 0; i < r; i++)
        UNROLL
        for (int v = 0; v < vecs; v++) *at(out + i * out_row + v * LANES) = sum[i][v];
}

/* The same of any number of rows; from one BLOCK of them to the next it is `left_block`. */
INLINE void spread_all(const int vecs, int64_t rows, int64_t n, const real *left, int64_t left_row, int64_t left_step,
                       int64_t left_block, const real *right, int64_t right_row, const real *from, real *out,
                       int64_t out_row, real kept) {
#define ROWS(r) \
    case r: spread_rows(r, vecs, n, left, left_row, left_step, right, right_row, from, out, out_row, kept); break;
    for (int64_t i = 0, step = BLOCK * out_row; i < rows; i += BLOCK, left += left_block, from += step, out += step)
        switch (least(rows - i, BLOCK)) {
            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
#if BLOCK > 6
            ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
#endif
        }
#undef ROWS
}

/* out (rows, W) = kept out + left^T right; left in blocks of BLOCK columns, (n, BLOCK) each. */
static inline void spread_into(int64_t rows, int64_t n, const real *left, const real *right, int64_t right_row, real *out,
                               int64_t out_row, real kept) {
    spread_all(2, rows, n, left, 1, BLOCK, n * BLOCK, right, right_row, out, out, out_row, kept);
}

static inline void spread(int64_t rows, int64_t n, const real *left, const real *right, real *out) {
    spread_into(rows, n, left, right, W, out, W, 1);
}

/* out (rows, documents) = kept out + left right, documents along one vector or two; left as it lies, either way round. */
static inline void spread_documents(int64_t vecs, int64_t rows, int64_t n, const real *left, int64_t left_row,
                                    int64_t left_step, const real *right, real *out, real kept) {
    if (vecs > 1) spread_all(2, rows, n, left, left_row, left_step, BLOCK * left_row, right, W, out, out, W, kept);
    else spread_all(1, rows, n, left, left_row, left_step, BLOCK * left_row, right, LANES, out, out, LANES, kept);
}

/* Vectors that documents from b on take: those of a batch come W at a time, the last of them LANES if they are few. */
static inline int64_t vectors_of(int64_t batch, int64_t b) { return batch - b > LANES ? 2 : 1; }

#ifndef __AVX__
#define SQUARE 1
INLINE void transpose_square(const real *from, int64_t from_row, real *to, int64_t to_row) { *to = *from; }
#elif defined(ENERGYNETS_DOUBLE)
#define SQUARE 4
INLINE void transpose_square(const real *from, int64_t from_row, real *to, int64_t to_row) {
    __m256d a[4], b[4];
    UNROLL
    for (int i = 0; i < 4; i++) a[i] = _mm256_loadu_pd(from + i * from_row);
    UNROLL
    for (int i = 0; i < 4; i += 2) b[i] = _mm256_unpacklo_pd(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_pd(a[i], a[i + 1]);
    UNROLL
    for (int i = 0; i < 2; i++) {
        _mm256_storeu_pd(to + i * to_row, _mm256_permute2f128_pd(b[i], b[i + 2], 0x20));
        _mm256_storeu_pd(to + (i + 2) * to_row, _mm256_permute2f128_pd(b[i], b[i + 2], 0x31));
    }
}
#else
#define SQUARE 8
INLINE void transpose_square(const real *from, int64_t from_row, real *to, int64_t to_row) {
    __m256 a[8], b[8];
    UNROLL
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(from + i * from_row);
    UNROLL
    for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    UNROLL
    for (int i = 0; i < 8; i += 4)
        UNROLL
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
            a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
        }
    UNROLL
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_row, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_row, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#endif

/* to[j][i] = from[i][j], a square of SQUARE numbers at a time in registers. */
static inline void transpose(int64_t rows, int64_t columns, const real *from, int64_t from_row, real *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i += SQUARE)
        for (int64_t j = 0; j < columns; j += SQUARE) {
            const real *here = from + i * from_row + j;
            real *there = to + j * to_row + i;
            if (rows - i >= SQUARE && columns - j >= SQUARE) transpose_square(here, from_row, there, to_row);
            else
                for (int64_t m = 0; m < least(SQUARE, rows - i); m++)
                    for (int64_t n = 0; n < least(SQUARE, columns - j); n++) there[n * to_row + m] = here[m * from_row + n];
        }
}

/* `columns` numbers of documents, `stride` apart, to (columns, lanes), zeros beyond the last document. */
static inline void by_documents(int64_t documents, int64_t columns, const real *from, int64_t stride, real *to,
                                int64_t lanes) {
    if (documents < lanes) memset(to, 0, (size_t)(columns * lanes) * sizeof(real));
    transpose(least(documents, lanes), columns, from, stride, to, lanes);
}

/* All documents of a batch so, a group after the other. */
static inline void all_by_documents(int64_t batch, int64_t columns, const real *from, real *to) {
    for (int64_t b = 0; b < batch; b += W)
        by_documents(batch - b, columns, from + b * columns, columns, to + b * columns, vectors_of(batch, b) * LANES);
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
