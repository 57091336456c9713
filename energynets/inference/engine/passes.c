/* The passes over (B, L) between two products, as elementwise.py has them; numbers lie one after another. */
#include "vector.h"

typedef struct {
    int64_t count, threads, terms, bars; /* terms: those of z; bars: those of the gradient */
    const real *logits, *term[2], *gradient; /* no logits: the labels are there already; no gradient: only they are wanted */
    real *labels, *out, *bar[2];
    double term_factor[2], bar_factor[2];
} Pass;

static inline __attribute__((always_inline)) void pass_at(const Pass *p, int64_t terms, int64_t bars, int64_t at,
                                                          int64_t n) {
    vec y;
    if (terms < 0) {
        y = load(p->labels + at, n);
    } else {
        y = load(p->logits + at, n);
        for (int j = 0; j < terms; j++) y += (real)p->term_factor[j] * load(p->term[j] + at, n);
        y = vector_sigmoid(y);
        store(p->labels + at, y, n);
    }
    if (bars < 0) return;
    vec dz = y * ((real)1 - y) * load(p->gradient + at, n);
    store(p->out + at, dz, n);
    for (int j = 0; j < bars; j++)
        store(p->bar[j] + at, load(p->bar[j] + at, n) + (real)p->bar_factor[j] * dz, n);
}

void pass(const Pass *p) {
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
#endif
    {
        const Pass mine = *p; /* the compiler need not fear that a store changes it */
        int64_t first, end;
        share_of(mine.count, LANES, &first, &end);
        for (; first + LANES <= end; first += LANES) pass_at(&mine, mine.terms, mine.bars, first, LANES);
        if (first < end) pass_at(&mine, mine.terms, mine.bars, first, end - first);
    }
}
