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
    int64_t documents, groups, group; /* of a block, of a tile; numbers of a group of A */
    real *rows, *z, *g, *stack, *rows_bar, *sums;
    double *losses, *shares;
} Work;

static Work cut(const LabelPass *p, int64_t most_groups, int64_t most_documents) {
    Work w = {0};
    int64_t width = p->measurements, groups = TILE_BYTES / (width * W * (int64_t)sizeof(real));
    int64_t each = (p->labels + p->threads * W - 1) / (p->threads * W); /* of a thread: none is to be idle */
    groups = least(least(groups, most_groups), each);
    w.groups = groups < 1 ? 1 : groups;
    w.group = (width + (width % 2 == 0)) * W; /* an odd number of lines, so that groups fall into different sets */
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

/* -------------------------------------------------------------------------------------------------------- sums */

/* y of documents b .. of a tile in z's place, or dz; (labels, lanes). */
static void labels_of_tile(const LabelPass *p, const Work *w, const real *n, const real *bars, int64_t b, int64_t first,
                           int64_t count, int64_t row, int64_t next) {
    int64_t k = p->measurements, vecs = vectors_of(p->batch, b), lanes = vecs * LANES, size = count * lanes;
    real factor = (real)*p->factors;
    by_documents(p->batch - b, count, p->unary + b * p->unary_row + first, p->unary_row, w->z, lanes);
    if (n)
        for (int64_t l = 0; l < count; l += BLOCK) {
            if (!b) fetch(p, first + count, next, l / BLOCK, 2 * ((count + BLOCK - 1) / BLOCK));
            spread_documents(vecs, least(BLOCK, count - l), k, w->rows + l, 1, row, n + b * k, w->z + l * lanes, factor);
        }
    else if (factor != 1)
        for (int64_t c = 0; c < size; c += LANES) *at(w->z + c) *= factor;
    if (bars) {
        memset(w->g, 0, (size_t)size * sizeof(real));
        spread_documents(vecs, count, k, w->rows, 1, row, bars + b * k, w->g, 1);
    }
    if (w->losses)
        for (int64_t v = 0; v < vecs; v++) {
            vec sum = fill(0);
            for (int64_t c = v * LANES; c < size; c += lanes) sum += vector_softplus(*at(w->z + c));
            for (int64_t i = 0; i < LANES && b + v * LANES + i < p->batch; i++)
                w->losses[b + v * LANES + i] += (double)sum[i];
        }
    for (int64_t c = 0; c < size; c += LANES) {
        vec y = vector_sigmoid(*at(w->z + c));
        *at(w->z + c) = bars ? y * ((real)1 - y) * *at(w->g + c) : y;
    }
}

/* Documents lie along the vectors: A is read number by number, in either order, and no sum is across a vector. */
static void tile_of_sums(const LabelPass *p, const Work *w, const real *n, const real *bars, int64_t first, int64_t count,
                         int64_t next) {
    int64_t k = p->measurements, row = w->groups * W + 64 / (int64_t)sizeof(real); /* an odd number of lines */
    for (int64_t i = 0; i < k; i++) memcpy(w->rows + i * row, p->rows + i * p->rows_row + first, (size_t)count * sizeof(real));
    for (int64_t b = 0; b < p->batch; b += W) {
        int64_t vecs = vectors_of(p->batch, b), size = k * vecs * LANES;
        labels_of_tile(p, w, n, bars, b, first, count, row, next);
        /* By itself first: rounding grows with the length of a sum. */
        memset(w->g, 0, (size_t)size * sizeof(real));
        for (int64_t i = 0, parts = (k + BLOCK - 1) / BLOCK; i < k; i += BLOCK) {
            if (!b) fetch(p, first + count, next, (n ? parts : 0) + i / BLOCK, n ? 2 * parts : parts);
            spread_documents(vecs, least(BLOCK, k - i), count, w->rows + i * row, row, 1, w->z, w->g + i * vecs * LANES, 1);
        }
        for (int64_t c = 0; c < size; c += LANES) *at(w->sums + b * k + c) += *at(w->g + c);
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
    int64_t tile = w->documents * W, k = p->measurements, both = 2 * p->steps;
    int64_t rows = gradients ? w->groups * w->group : k * (w->groups * W + 64 / (int64_t)sizeof(real));
    w->rows = memory, w->z = w->rows + whole(rows, W);
    if (gradients) {
        w->g = w->z + tile, w->rows_bar = w->g + tile;
        w->stack = w->rows_bar + w->groups * k * W; /* phi and dphi behind it */
        w->shares = p->shares ? extra : NULL;
        return whole(rows, W) + (both > 0 ? both + 4 : 5) * tile + w->groups * k * W;
    }
    int64_t size = w->groups * W * W;
    w->g = w->z + size, w->sums = w->g + (size > k * W ? size : k * W);
    w->losses = p->losses ? extra : NULL;
    return w->sums - memory + whole(p->batch, W) * k;
}

static void add_up(const LabelPass *p, const Work *w) {
    int64_t k = p->measurements;
    for (int64_t b = 0; w->sums && b < p->batch; b++) {
        int64_t group = b / W * W, lanes = vectors_of(p->batch, group) * LANES;
        for (int64_t i = 0; i < k; i++) p->sums[b * k + i] += w->sums[group * k + i * lanes + b - group];
    }
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
        share_of(p->labels, mine.groups * W, &first, &end);
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
    int64_t size = whole(p->batch, W) * p->measurements;
    Work plan = cut(p, 16, 1);
    real *packed = allocate(2 * size), *n = p->n ? packed : NULL, *bars = p->bars ? packed + size : NULL;
    if (!packed) return 1;
    if (n) all_by_documents(p->batch, p->measurements, p->n, n);
    if (bars) all_by_documents(p->batch, p->measurements, p->bars, bars);
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
    real *packed = allocate(2 * steps * size + 2 * steps * p->batch * whole(k, BLOCK));
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
