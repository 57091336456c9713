/* Products of a few documents with U, a matrix with a row for each of many labels, which is read once, at the speed of
 * memory. f, g (B, F), phi, dphi (B, L), U (L, F), F in whole groups.
 *
 *     logits   phi = f U^T + u0      slopes   df += dphi U      descent   U <- kept U + dphi^T g
 */
#include "products.h"

#define SUMMED 64 /* tiles, after which their sum is added to the total: rounding grows with the length of a sum */
#define MANY 48   /* labels whose rows are in a core's second-level cache */
#define SOME (int64_t)(8192 / sizeof(real) / LANES) /* features: of W documents, in its first-level cache */
#define TILE 16 /* labels: as many lines, a row apart, are in a core's first-level cache for sure */

typedef struct {
    int64_t batch, labels, features, threads, slopes_row; /* numbers from one document's dphi or phi to the next's */
    const real *slopes, *given, *bias;                    /* dphi; f or g; u0 or NULL */
    real *weight, *sums, *logits;                         /* U; df (B, F); phi */
    double kept;
} RowProduct;

/* Part `part` of `parts` equal parts of what is wanted soon, while something is computed. */
static inline void fetch(const real *from, int64_t count, int64_t part, int64_t parts) {
    int64_t line = 64 / (int64_t)sizeof(real), first = count / line * part / parts, end = count / line * (part + 1) / parts;
    for (int64_t i = first; i < end; i++) __builtin_prefetch(from + i * line, 0, 2);
}

/* Documents lie along the vectors. */
static void logits_of(const RowProduct *p, int64_t first, int64_t end, const real *transposed, real *found) {
    for (int64_t l = first; l < end; l += MANY) {
        int64_t count = least(MANY, end - l), soon = least(MANY, end - l - count) * p->features;
        const real *rows = p->weight + l * p->features, *next = rows + count * p->features;
        for (int64_t b = 0; b < p->batch; b += W) {
            int64_t vecs = vectors_of(p->batch, b), lanes = vecs * LANES;
            memset(found, 0, (size_t)(count * lanes) * sizeof(real));
            for (int64_t j = 0; j < p->features; j += SOME) {
                if (!b) fetch(next, soon, j / SOME, (p->features + SOME - 1) / SOME);
                spread_documents(vecs, count, least(SOME, p->features - j), rows + j, p->features, 1,
                                 transposed + b * p->features + j * lanes, found, 1);
            }
            for (int64_t i = 0; i < least(lanes, p->batch - b); i++)
                for (int64_t c = 0; c < count; c++)
                    p->logits[(b + i) * p->slopes_row + l + c] = found[c * lanes + i] + (p->bias ? p->bias[l + c] : 0);
        }
    }
}

static void slopes_of(const RowProduct *p, int64_t first, int64_t end, real *left, real *sums,
                      real *total) {
    for (int64_t l = first; l < end; l += TILE) {
        int64_t count = least(TILE, end - l), soon = least(TILE, end - l - count) * p->features;
        const real *rows = p->weight + l * p->features, *next = rows + count * p->features;
        by_blocks(p->batch, count, p->slopes + l, p->slopes_row, left);
        for (int64_t c = 0; c < p->features; c += W) {
            fetch(next, soon, c / W, p->features / W);
            spread_into(p->batch, count, left, rows + c, p->features, sums + c * p->batch, W, 1);
        }
        if ((l - first) / TILE % SUMMED == SUMMED - 1 || l + TILE >= end)
            for (int64_t i = 0; i < p->batch * p->features; i += LANES) *at(total + i) += *at(sums + i), *at(sums + i) = fill(0);
    }
}

static void add_up(const RowProduct *p, const real *sums) {
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t c = 0; c < p->features; c++)
            p->sums[b * p->features + c] += sums[c / W * p->batch * W + b * W + c % W];
}

static void descent_of(const RowProduct *p, int64_t first, int64_t end, const real *g, real *left) {
    for (int64_t l = first; l < end; l += BLOCK) {
        int64_t count = least(BLOCK, end - l);
        for (int64_t b = 0; b < p->batch; b++)
            for (int64_t i = 0; i < count; i++) left[b * BLOCK + i] = p->slopes[b * p->slopes_row + l + i];
        real *rows = p->weight + l * p->features, *next = rows + count * p->features;
        int64_t soon = least(BLOCK, end - l - count) * p->features;
        for (int64_t c = 0; c < p->features; c += W) {
            fetch(next, soon, c / W, p->features / W);
            spread_into(count, p->batch, left, g + c * p->batch, W, rows + c, p->features, (real)p->kept);
        }
    }
}

/* Each of these: 0, or 1 where there is no memory. */
int row_logits(const RowProduct *p) {
    int64_t size = whole(p->batch, W) * p->features;
    real *transposed = allocate(size + p->threads * MANY * W);
    if (!transposed) return 1;
    all_by_documents(p->batch, p->features, p->given, transposed);
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
#endif
    {
        int64_t first, end;
        real *found = transposed + size;
#ifdef _OPENMP
        found += omp_get_thread_num() * MANY * W;
#endif
        share_of(p->labels, TILE, &first, &end);
        logits_of(p, first, end, transposed, found);
    }
    free(transposed);
    return 0;
}

int row_slopes(const RowProduct *p) {
    int64_t used = 1, left = TILE * whole(p->batch, BLOCK), count = p->batch * p->features, size = left + 2 * count;
    real *memory = allocate(p->threads * size);
    if (!memory) return 1;
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
#endif
    {
        int64_t first, end;
        real *mine = memory;
#ifdef _OPENMP
        mine += omp_get_thread_num() * size;
        if (mine == memory) used = omp_get_num_threads();
#endif
        share_of(p->labels, TILE, &first, &end);
        slopes_of(p, first, end, mine, mine + left, mine + left + count);
    }
    for (int64_t thread = 0; thread < used; thread++) add_up(p, memory + thread * size + left + count);
    free(memory);
    return 0;
}

/* Where there is no memory nothing has changed. g by groups is (F / W, B, W). */
int row_descent(const RowProduct *p) {
    int64_t left = whole(p->batch * BLOCK, 64 / (int64_t)sizeof(real));
    real *g = allocate(p->batch * p->features + p->threads * left);
    if (!g) return 1;
    by_groups(p->batch, p->features, p->given, p->features, g, p->batch * W);
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
#endif
    {
        int64_t first, end;
        real *mine = g + p->batch * p->features;
#ifdef _OPENMP
        mine += omp_get_thread_num() * left;
#endif
        share_of(p->labels, TILE, &first, &end);
        descent_of(p, first, end, g, mine);
    }
    free(g);
    return 0;
}
