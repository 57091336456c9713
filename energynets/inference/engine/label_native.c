/* The passes over the labels of streamed.py, each a tile of labels at a time, so that z, y and dz of a tile stay in a
 * core's cache, and with A once read from memory for all products of the pass. label_kernels.py has the same for a GPU.
 *
 *     sums       m  += y A^T,  y = sigmoid(z),  z = c phi + n A       or  dn += dz A^T,  dz = y (1 - y) (dm A)
 *     gradients  dA  = sum_t n_t^T dz_t + dm_t^T y_t,  dphi = sum_t c_t dz_t
 *
 * Every thread has its own labels, in order, and sums are added up in the order of the threads: two runs give the same
 * bits. Targets are few and are corrected for outside.
 */
#include "products.h"

#define TILE_BYTES (128 << 10) /* of A, in a core's second-level cache */

typedef struct {
    int64_t batch, labels, measurements, steps, threads;
    int64_t unary_row, rows_row, rows_bar_row, unary_bar_row; /* numbers from one row to the next */
    const real *unary, *rows, *n, *bars;                      /* n, bars: (B, K), or (T, B, K) of all steps; or NULL */
    const double *factors;                                    /* c, or c_0 .. c_T */
    double scale;                                             /* dz_T = scale sigmoid(z_T) */
    real *sums, *rows_bar, *unary_bar;                        /* (B, K); (K, L) or NULL; (B, L) */
    double *losses, *shares;                                  /* (B,): sum softplus(z); (T + 1,): sum dz_t phi; or NULL */
} LabelPass;

/* How a pass is cut, and what a thread works in. */
typedef struct {
    int64_t documents, groups, width, group; /* of a block, of a tile; K in whole PARTS; numbers of a group of A */
    real *rows, *z, *g, *stack, *rows_bar;
    vec *sums;
    double *losses, *shares;
} Work;

static Work cut(const LabelPass *p, int64_t most_groups, int64_t most_documents) {
    Work w = {0};
    w.width = whole(p->measurements, PARTS);
    w.group = (w.width + (w.width % 2 == 0)) * W; /* an odd number of lines, so that groups fall into different sets */
    w.groups = TILE_BYTES / ((int64_t)sizeof(real) * w.group);
    w.groups = w.groups < 1 ? 1 : least(w.groups, most_groups);
    w.documents = least(p->batch, whole(most_documents, BLOCK)); /* a block ends where one of BLOCK does */
    return w;
}

/* Part `part` of `parts` of the rows of a tile that is wanted soon, into the second-level cache: they lie far apart in
 * memory, where a processor does not foresee them. */
static void fetch(const LabelPass *p, int64_t first, int64_t count, int64_t part, int64_t parts) {
    int64_t line = 64 / (int64_t)sizeof(real), k = p->measurements;
    for (int64_t i = k * part / parts; i < k * (part + 1) / parts; i++)
        for (int64_t c = 0; c < count; c += line) __builtin_prefetch(p->rows + i * p->rows_row + first + c, 0, 2);
}

/* The labels of a thread: whole tiles. */
static void share_of(const LabelPass *p, const Work *w, int64_t *first, int64_t *end) {
    int64_t thread = 0, threads = 1, tile = w->groups * W, tiles = (p->labels + tile - 1) / tile;
#ifdef _OPENMP
    thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    *first = least(tiles * thread / threads * tile, p->labels);
    *end = least(tiles * (thread + 1) / threads * tile, p->labels);
}

/* -------------------------------------------------------------------------------------------------------- sums */

/* sum softplus(z) over the first `count` labels of document i. */
static double softplus_sum(const real *z, int64_t i, int64_t group, int64_t count) {
    vec sum = fill(0);
    double rest = 0;
    for (int64_t c = 0; c < count; c += LANES) {
        vec found = vector_softplus(*at(z + c / W * group + i * W + c % W));
        if (c + LANES <= count) sum += found;
        else
            for (int64_t v = 0; v < count - c; v++) rest += (double)found[v];
    }
    return (double)across(sum) + rest;
}

static void tile_of_sums(const LabelPass *p, const Work *w, const real *n, const real *bars, int64_t first, int64_t count,
                         int64_t next) {
    int64_t groups = (count + W - 1) / W, k = p->measurements;
    by_groups(k, count, p->rows + first, p->rows_row, w->rows, w->group);
    for (int64_t b = 0; b < p->batch; b += w->documents) {
        int64_t documents = least(w->documents, p->batch - b), group = documents * W;
        by_groups(documents, count, p->unary + b * p->unary_row + first, p->unary_row, w->z, group);
        for (int64_t i = 0; i < groups; i++) {
            real *z = w->z + i * group;
            if (!b) fetch(p, first + count, next, i, groups);
            if (*p->factors != 1)
                for (int64_t c = 0; c < group; c += LANES) *at(z + c) *= (real)*p->factors;
            if (n) spread(documents, k, n + b * k, w->rows + i * w->group, z);
            if (bars) {
                memset(w->g, 0, (size_t)group * sizeof(real));
                spread(documents, k, bars + b * k, w->rows + i * w->group, w->g);
            }
            if (!w->losses)
                for (int64_t c = 0; c < group; c += LANES) {
                    vec y = vector_sigmoid(*at(z + c));
                    *at(z + c) = bars ? y * ((real)1 - y) * *at(w->g + c) : y;
                }
        }
        if (w->losses) {
            for (int64_t i = 0; i < documents; i++) w->losses[b + i] += softplus_sum(w->z, i, group, count);
            for (int64_t c = 0; c < groups * group; c += LANES) *at(w->z + c) = vector_sigmoid(*at(w->z + c));
        }
        gather(documents, w->width, groups, w->z, group, w->rows, w->group, w->sums + b * w->width);
    }
}

/* --------------------------------------------------------------------------------------------------- gradients */

/* y_t and dz_t of all steps of a group of labels, (2 T, documents, W), and dphi, (documents, W). */
static void steps_of_group(const LabelPass *p, const Work *w, const real *n, const real *bars, int64_t b,
                           int64_t documents, const real *rows, const real *phi, real *change) {
    int64_t size = documents * W, k = p->measurements, step = whole(p->batch, BLOCK) * k, steps = p->steps;
    memset(change, 0, (size_t)size * sizeof(real));
    for (int64_t t = 0; t <= steps; t++) {
        real factor = (real)p->factors[t];
        real *y = t < steps ? w->stack + t * size : w->z, *dz = t ? w->stack + (steps + t - 1) * size : w->g;
        for (int64_t c = 0; c < size; c += LANES) *at(y + c) = factor * *at(phi + c);
        if (t) spread(documents, k, n + (t - 1) * step + b * k, rows, y);
        if (t < steps) {
            memset(dz, 0, (size_t)size * sizeof(real));
            spread(documents, k, bars + t * step + b * k, rows, dz);
        }
        vec share = fill(0);
        for (int64_t c = 0; c < size; c += LANES) {
            vec here = vector_sigmoid(*at(y + c));
            vec slope = t < steps ? here * ((real)1 - here) * *at(dz + c) : (real)p->scale * here;
            *at(y + c) = here, *at(dz + c) = slope;
            *at(change + c) += factor * slope;
            share += slope * *at(phi + c);
        }
        if (w->shares) w->shares[t] += (double)across(share);
    }
}

static void tile_of_gradients(const LabelPass *p, const Work *w, const real *n, const real *bars, const real *after,
                              int64_t first, int64_t count, int64_t next) {
    int64_t k = p->measurements, both = 2 * p->steps;
    by_groups(k, count, p->rows + first, p->rows_row, w->rows, w->group);
    memset(w->rows_bar, 0, (size_t)(w->groups * k * W) * sizeof(real));
    for (int64_t b = 0; b < p->batch; b += w->documents) {
        int64_t documents = least(w->documents, p->batch - b), size = documents * W;
        real *phi = w->stack + (both > 0 ? both : 1) * w->documents * W, *change = phi + w->documents * W;
        for (int64_t g = 0; g * W < count; g++) {
            int64_t here = first + g * W, some = least(W, count - g * W);
            if (!b) fetch(p, first + count, next, g, (count + W - 1) / W);
            by_groups(documents, some, p->unary + b * p->unary_row + here, p->unary_row, phi, size);
            steps_of_group(p, w, n, bars, b, documents, w->rows + g * w->group, phi, change);
            from_groups(documents, some, change, size, p->unary_bar + b * p->unary_bar_row + here, p->unary_bar_row);
            if (p->rows_bar)
                spread(k, both * documents, after + b * both * whole(k, BLOCK), w->stack, w->rows_bar + g * k * W);
        }
    }
    if (p->rows_bar) from_groups(k, count, w->rows_bar, k * W, p->rows_bar + first, p->rows_bar_row);
}

/* What y_0 .. y_{T-1}, dz_1 .. dz_T are multiplied by in dA: dm_0 .. dm_{T-1}, n_1 .. n_T. Of a block of documents after
 * the other (K, 2 T documents) each, by blocks. */
static void partners(const LabelPass *p, int64_t most, real *to) {
    int64_t k = p->measurements, steps = p->steps, width = whole(k, BLOCK);
    for (int64_t b = 0; b < p->batch; b += most) {
        int64_t documents = least(most, p->batch - b), columns = 2 * steps * documents;
        for (int64_t s = 0; s < 2 * steps; s++) {
            const real *from = (s < steps ? p->bars + s * p->batch * k : p->n + (s - steps) * p->batch * k) + b * k;
            for (int64_t i = 0; i < documents; i++)
                for (int64_t j = 0; j < k; j++)
                    to[j / BLOCK * BLOCK * columns + (s * documents + i) * BLOCK + j % BLOCK] = from[i * k + j];
        }
        to += columns * width;
    }
}

/* -------------------------------------------------------------------------------------------------- the passes */

/* Where a thread works, and how many numbers that takes, in whole cache lines. */
static int64_t work_in(const LabelPass *p, int gradients, real *memory, double *extra, Work *w) {
    int64_t rows = w->groups * w->group, tile = w->documents * W, k = p->measurements, both = 2 * p->steps;
    w->rows = memory, w->z = w->rows + rows;
    if (gradients) {
        w->g = w->z + tile, w->rows_bar = w->g + tile;
        w->stack = w->rows_bar + w->groups * k * W; /* phi and dphi behind it */
        w->shares = p->shares ? extra : NULL;
        return rows + (both > 0 ? both + 4 : 5) * tile + w->groups * k * W;
    }
    w->g = w->z + w->groups * tile, w->sums = (vec *)(w->g + tile);
    w->losses = p->losses ? extra : NULL;
    return whole(rows + (w->groups + 1) * tile + p->batch * w->width * LANES, W);
}

static void add_up(const LabelPass *p, const Work *w) {
    int64_t k = p->measurements;
    for (int64_t b = 0; w->sums && b < p->batch; b++)
        for (int64_t i = 0; i < k; i++) p->sums[b * k + i] += across(w->sums[b * w->width + i]);
    for (int64_t b = 0; w->losses && b < p->batch; b++) p->losses[b] += w->losses[b];
    for (int64_t t = 0; w->shares && t <= p->steps; t++) p->shares[t] += w->shares[t];
}

/* All labels, and what the threads have summed. They meet once: on a busy machine each meeting may cost a time slice. */
static int run(const LabelPass *p, int gradients, const Work *plan, const real *n, const real *bars, const real *after) {
    Work w = *plan;
    int64_t used = 1, doubles = gradients ? p->steps + 1 : p->batch, size = work_in(p, gradients, NULL, NULL, &w);
    void *memory = NULL;
    double *extra = calloc((size_t)(p->threads * doubles), sizeof(double));
    if (!extra || posix_memalign(&memory, 64, (size_t)(p->threads * size) * sizeof(real))) {
        free(extra);
        return 1;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
#endif
    {
        Work mine = *plan;
        int64_t first, end, thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
        if (!thread) used = omp_get_num_threads();
#endif
        memset((real *)memory + thread * size, 0, (size_t)size * sizeof(real));
        work_in(p, gradients, (real *)memory + thread * size, extra + thread * doubles, &mine);
        share_of(p, &mine, &first, &end);
        for (int64_t tile = mine.groups * W, next; first < end; first += tile) {
            next = least(tile, end - least(end, first + tile));
            if (gradients) tile_of_gradients(p, &mine, n, bars, after, first, least(tile, end - first), next);
            else tile_of_sums(p, &mine, n, bars, first, least(tile, end - first), next);
        }
    }
    for (int64_t thread = 0; thread < used; thread++) {
        work_in(p, gradients, (real *)memory + thread * size, extra + thread * doubles, &w);
        add_up(p, &w);
    }
    free(memory);
    free(extra);
    return 0;
}

/* m or dn, and losses. 0, or 1 where there is no memory. */
int label_sums(const LabelPass *p) {
    int64_t size = whole(p->batch, BLOCK) * p->measurements;
    Work plan = cut(p, 32, 48);
    real *packed = numbers(2 * size), *n = p->n ? packed : NULL, *bars = p->bars ? packed + size : NULL;
    if (!packed) return 1;
    if (n) by_blocks(p->batch, p->measurements, p->n, p->measurements, n);
    if (bars) by_blocks(p->batch, p->measurements, p->bars, p->measurements, bars);
    memset(p->sums, 0, (size_t)(p->batch * p->measurements) * sizeof(real));
    if (p->losses) memset(p->losses, 0, (size_t)p->batch * sizeof(double));
    int failed = run(p, 0, &plan, n, bars, NULL);
    free(packed);
    return failed;
}

/* dA, dphi and shares. 0, or 1 where there is no memory. */
int label_gradients(const LabelPass *p) {
    int64_t k = p->measurements, steps = p->steps, size = whole(p->batch, BLOCK) * k;
    int64_t most = (16 << 10) / ((2 * steps + 1) * W * (int64_t)sizeof(real)) / BLOCK * BLOCK;
    Work plan = cut(p, 4, most > 0 ? most : 1);
    real *packed = numbers(2 * steps * size + 2 * steps * p->batch * whole(k, BLOCK));
    real *n = packed, *bars = packed + steps * size, *after = bars + steps * size;
    if (!packed) return 1;
    for (int64_t t = 0; t < steps; t++) {
        by_blocks(p->batch, k, p->n + t * p->batch * k, k, n + t * size);
        by_blocks(p->batch, k, p->bars + t * p->batch * k, k, bars + t * size);
    }
    partners(p, plan.documents, after);
    if (p->shares) memset(p->shares, 0, (size_t)(steps + 1) * sizeof(double));
    int failed = run(p, 1, &plan, n, bars, after);
    free(packed);
    return failed;
}
