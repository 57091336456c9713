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
    while (first < end) {
        vec sum = fill(0), slope;
        for (int64_t last = least(first + TILE, end), n; first < last; first += n) {
            n = least(last - first, LANES);
            vec loss = of_labels(load(p->logits + first, n), load(p->targets + first, n), scale, &slope);
            for (int64_t j = n; j < LANES; j++) loss[j] = 0;
            sum += loss;
            if (p->slope) store(p->slope + first, slope, n);
        }
        for (int64_t j = 0; j < LANES; j++) total += sum[j];
    }
    return total;
}

double cross_entropy(const CrossEntropy *p) {
    double total = 0, sums[p->threads];
    for (int64_t thread = 0; thread < p->threads; thread++) sums[thread] = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1 && p->count > 4 * TILE)
#endif
    {
        int64_t thread = 0, first, end;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        share_of(p->count, TILE, &first, &end);
        sums[thread] = share_of_sum(p, first, end);
    }
    for (int64_t thread = 0; thread < p->threads; thread++) total += sums[thread]; /* in order: two runs give the same bits */
    return total * p->scale;
}
