/* The passes over (B, L) between two products, as elementwise.py has them; numbers lie one after another. */
#include "vector.h"

typedef struct {
    int64_t count, threads, terms, bars; /* terms: those of z; bars: those of the gradient */
    const real *logits, *term[2], *gradient; /* no logits: the labels are there already; no gradient: only they are wanted */
    real *labels, *out, *bar[2];
    double term_factor[2], bar_factor[2];
} Pass;

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

static void share_of_pass(const Pass *p, int64_t first, int64_t end) {
    const Pass mine = *p; /* the compiler need not fear that a store changes it */
    for (; first + LANES <= end; first += LANES) pass_at(&mine, mine.terms, mine.bars, first, LANES);
    if (first < end) pass_at(&mine, mine.terms, mine.bars, first, end - first);
}

void pass(const Pass *p) {
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
#endif
    {
        int64_t thread = 0, threads = 1, vectors = p->count / LANES;
#ifdef _OPENMP
        thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
        int64_t first = vectors * thread / threads * LANES, end = vectors * (thread + 1) / threads * LANES;
        share_of_pass(p, first, thread + 1 == threads ? p->count : end);
    }
}
