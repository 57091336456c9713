/* Binary cross-entropy with logits and its slope in one pass, as energynets/objectives/cross_entropy.py has them. */
#include "vector.h"

typedef struct {
    int64_t count, threads;
    const real *logits, *targets;
    real *slope; /* NULL: not wanted */
    double scale;
} CrossEntropy;

#define TILE (64 * LANES) /* numbers whose losses are added up as they are, before they join a sum of doubles */

/* Where t is 0 or 1 nothing but log(1 + e) is left of a label that is nearly right. */
static inline vec of_labels(vec z, vec t, real scale, vec *slope) {
    vec e = vector_exp(-magnitude(z));
    *slope = scale * (choose(z < 0, e, fill(1)) * reciprocal((real)1 + e) - t);
    return choose(z < 0, fill(0), z) - t * z + vector_log1p(e);
}

static double share_of_sum(const CrossEntropy *p, int64_t first, int64_t end) {
    double total = 0;
    real scale = (real)p->scale;
    for (; first < end; first += TILE) {
        vec sum = fill(0), slope;
        int64_t count = end - first < TILE ? end - first : TILE, i = 0;
        const real *logits = p->logits + first, *targets = p->targets + first;
        for (; i + LANES <= count; i += LANES) {
            sum += of_labels(*(const loose *)(logits + i), *(const loose *)(targets + i), scale, &slope);
            if (p->slope) *(loose *)(p->slope + first + i) = slope;
        }
        if (i < count) {
            real z[VECTOR_BYTES / sizeof(real)] = {0}, t[VECTOR_BYTES / sizeof(real)] = {0};
            memcpy(z, logits + i, (size_t)(count - i) * sizeof(real));
            memcpy(t, targets + i, (size_t)(count - i) * sizeof(real));
            vec loss = of_labels(*(const loose *)z, *(const loose *)t, scale, &slope);
            for (int64_t j = 0; j < count - i; j++) {
                total += loss[j];
                if (p->slope) p->slope[first + i + j] = slope[j];
            }
        }
        for (int64_t j = 0; j < LANES; j++) total += sum[j];
    }
    return total;
}

double cross_entropy(const CrossEntropy *p) {
    double total = 0, sums[p->threads];
    int64_t used = 1;
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1 && p->count > 4 * TILE)
#endif
    {
        int64_t thread = 0, threads = 1, tiles = (p->count + TILE - 1) / TILE;
#ifdef _OPENMP
        thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
        int64_t end = tiles * (thread + 1) / threads * TILE;
        sums[thread] = share_of_sum(p, tiles * thread / threads * TILE, end < p->count ? end : p->count);
        if (!thread) used = threads;
    }
    for (int64_t thread = 0; thread < used; thread++) total += sums[thread]; /* in order: two runs give the same bits */
    return total * p->scale;
}
