/* The passes over the labels of streamed.py, each a tile of labels at a time, so that z, y and dz of a tile stay in a
 * core's cache, and with A once read from memory for all products of the pass. label_kernels.py has the same for a GPU.
 *
 *     sums       m  += y A^T,  y = sigmoid(z),  z = c phi + n A       or  dn += dz A^T,  dz = y (1 - y) (dm A)
 *     gradients  dA  = sum_t n_t^T dz_t + dm_t^T y_t,  dphi = sum_t c_t dz_t
 *
 * Where there is a place to keep them, each of y_0 .. y_{T-1}, dz_1 .. dz_{T-1} and sigmoid(z_T) is written by the sums
 * that have it first, and the passes after it read it: without, they make it again by a product with A.
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
    real *kept;                                               /* (L / W, 2 T, B, W), blocks of documents apart; or NULL */
    int64_t step;                                             /* t, of sums that keep */
    real *sums, *rows_bar, *unary_bar;                        /* (B, K); (K, L) or NULL; (B, L) */
    double *losses, *shares;                                  /* (B,): sum softplus(z); (T + 1,): sum dz_t phi; or NULL */
} LabelPass;

/* How a pass is cut, and what a thread works in. */
typedef struct {
    int64_t documents, groups, group; /* of a block, of a tile; numbers of a group of A */
    real *rows, *z, *g, *stack, *rows_bar, *sums;
    double *losses, *shares;
} Work;

static Work cut(const LabelPass *p, int64_t most_groups) {
    Work w = {0};
    int64_t width = p->measurements, groups = TILE_BYTES / (width * W * (int64_t)sizeof(real));
    int64_t each = (p->labels + p->threads * W - 1) / (p->threads * W); /* of a thread: none is to be idle */
    groups = least(least(groups, most_groups), each);
    w.groups = groups < 1 ? 1 : groups;
    int64_t most = (16 << 10) / ((2 * p->steps + 1) * W * (int64_t)sizeof(real)) / BLOCK * BLOCK;
    w.documents = least(p->batch, most > 0 ? most : BLOCK); /* their steps stay in a core's first-level cache */
    w.group = (width + (width % 2 == 0)) * W; /* an odd number of lines, so that groups fall into different sets */
    return w;
}

/* Part `part` of `parts` of the rows of a tile that is wanted soon, into the second-level cache: they lie far apart in
 * memory, where a processor does not foresee them. */
static void fetch(const LabelPass *p, int64_t first, int64_t count, int64_t part, int64_t parts) {
    int64_t line = 64 / (int64_t)sizeof(real), k = p->measurements;
    for (int64_t i = k * part / parts; i < k * (part + 1) / parts; i++)
        for (int64_t c = 0; c < count; c += line) __builtin_prefetch(p->rows + i * p->rows_row + first + c, 0, 2);
}

/* ---------------------------------------------------------------------------------------------- what is kept */

/* Place `row` of 2 T, of a group of W labels and a document; a block of documents lies together, row after row. */
static real *kept_at(const LabelPass *p, const Work *w, int64_t group, int64_t row, int64_t document) {
    int64_t first = document / w->documents * w->documents, here = least(w->documents, p->batch - first);
    return p->kept + ((group * p->batch + first) * 2 * p->steps + row * here + document - first) * W;
}

/* The numbers of a tile, (labels, lanes), of documents b .. to place `row`, or from there. */
static void keep(const LabelPass *p, const Work *w, int64_t row, int64_t b, int64_t first, int64_t count, real *z,
                 int64_t lanes, int back) {
    int64_t end = least(b + lanes, p->batch);
    for (int64_t g = 0; g < count; g += W, z += W * lanes)
        for (int64_t i = b, next; i < end; i = next) {
            int64_t labels = least(W, count - g);
            real *place = kept_at(p, w, (first + g) / W, row, i);
            next = least(end, i / w->documents * w->documents + w->documents);
            if (back) transpose(next - i, labels, place, W, z + i - b, lanes);
            else {
                if (labels < W) memset(place, 0, (size_t)((next - i) * W) * sizeof(real));
                transpose(labels, next - i, z + i - b, lanes, place, W);
            }
        }
}

/* -------------------------------------------------------------------------------------------------------- sums */

/* out (labels, lanes) = kept out + A^T right, and half of the next tile fetched meanwhile, if that is asked for. */
static void spread_labels(const LabelPass *p, const Work *w, int64_t vecs, int64_t count, int64_t row, const real *right,
                          real *out, real kept, int64_t end, int64_t next) {
    for (int64_t l = 0; l < count; l += BLOCK) {
        if (next) fetch(p, end, next, l / BLOCK, 2 * ((count + BLOCK - 1) / BLOCK));
        spread_documents(vecs, least(BLOCK, count - l), p->measurements, w->rows + l, 1, row, right,
                         out + l * vecs * LANES, kept);
    }
}

/* y in z's place, or dz. */
static void labels_of_tile(const LabelPass *p, const Work *w, const real *n, const real *bars, int64_t b, int64_t first,
                           int64_t count, int64_t row, int64_t next) {
    int64_t k = p->measurements, vecs = vectors_of(p->batch, b), lanes = vecs * LANES, size = count * lanes;
    int known = bars && p->kept;
    real factor = (real)*p->factors;
    if (known) keep(p, w, p->step, b, first, count, w->z, lanes, 1);
    else {
        by_documents(p->batch - b, count, p->unary + b * p->unary_row + first, p->unary_row, w->z, lanes);
        if (n) spread_labels(p, w, vecs, count, row, n + b * k, w->z, factor, first + count, b ? 0 : next);
        else if (factor != 1)
            for (int64_t c = 0; c < size; c += LANES) *at(w->z + c) *= factor;
    }
    if (w->losses)
        for (int64_t v = 0; v < vecs; v++) {
            vec sum = fill(0);
            for (int64_t c = v * LANES; c < size; c += lanes) sum += vector_softplus(*at(w->z + c));
            for (int64_t i = 0; i < LANES && b + v * LANES + i < p->batch; i++)
                w->losses[b + v * LANES + i] += (double)sum[i];
        }
    if (!known)
        for (int64_t c = 0; c < size; c += LANES) *at(w->z + c) = vector_sigmoid(*at(w->z + c));
    if (bars) {
        memset(w->g, 0, (size_t)size * sizeof(real));
        spread_labels(p, w, vecs, count, row, bars + b * k, w->g, 1, first + count, b || !known ? 0 : next);
        for (int64_t c = 0; c < size; c += LANES) {
            vec y = *at(w->z + c);
            *at(w->z + c) = y * ((real)1 - y) * *at(w->g + c);
        }
    }
    int64_t later = p->steps + p->step - 1; /* of dz_t, t > 0, and of sigmoid(z_T) */
    if (p->kept) keep(p, w, bars || p->step == p->steps ? later : p->step, b, first, count, w->z, lanes, 0);
}

/* Documents lie along the vectors: A is read number by number, in either order, and no sum is across a vector. */
static void tile_of_sums(const LabelPass *p, const Work *w, const real *n, const real *bars, int64_t first, int64_t count,
                         int64_t next) {
    int64_t k = p->measurements, row = w->groups * W + 64 / (int64_t)sizeof(real); /* an odd number of lines */
    int twice = n || bars;
    int64_t from = twice ? row : p->rows_row;
    const real *rows = twice ? w->rows : p->rows + first; /* what is read once needs no copy */
    for (int64_t i = 0; i < k && twice; i++)
        memcpy(w->rows + i * row, p->rows + i * p->rows_row + first, (size_t)count * sizeof(real));
    for (int64_t b = 0; b < p->batch; b += W) {
        int64_t vecs = vectors_of(p->batch, b), size = k * vecs * LANES;
        labels_of_tile(p, w, n, bars, b, first, count, row, next);
        /* By itself first: rounding grows with the length of a sum. */
        memset(w->g, 0, (size_t)size * sizeof(real));
        for (int64_t i = 0, parts = (k + BLOCK - 1) / BLOCK; i < k; i += BLOCK) {
            if (!b) fetch(p, first + count, next, (n ? parts : 0) + i / BLOCK, n ? 2 * parts : parts);
            spread_documents(vecs, least(BLOCK, k - i), count, rows + i * from, from, 1, w->z, w->g + i * vecs * LANES, 1);
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

/* dphi of a group of labels of which all else is kept. */
static void slopes_of_group(const LabelPass *p, const Work *w, const real *bars, int64_t b, int64_t documents,
                            const real *rows, const real *kept, const real *phi, real *change) {
    int64_t size = documents * W, k = p->measurements, steps = p->steps;
    memset(w->g, 0, (size_t)size * sizeof(real));
    spread(documents, k, bars + b * k, rows, w->g);
    for (int64_t c = 0; c < size; c += LANES) {
        vec y = *at(kept + c);
        *at(w->g + c) *= y * ((real)1 - y);
        *at(change + c) = (real)p->factors[0] * *at(w->g + c);
    }
    for (int64_t t = 0; t <= steps; t++) {
        const real *dz = t ? kept + (steps + t - 1) * size : w->g;
        real scale = t < steps ? 1 : (real)p->scale;
        vec share = fill(0);
        for (int64_t c = 0; c < size; c += LANES) {
            vec slope = scale * *at(dz + c);
            if (t) *at(change + c) += (real)p->factors[t] * slope;
            if (w->shares) share += slope * *at(phi + c);
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
            const real *stack = p->kept ? kept_at(p, w, here / W, 0, b) : w->stack;
            if (!p->kept || w->shares)
                by_groups(documents, some, p->unary + b * p->unary_row + here, p->unary_row, phi, size);
            if (p->kept) slopes_of_group(p, w, bars, b, documents, w->rows + g * w->group, stack, phi, change);
            else steps_of_group(p, w, n, bars, b, documents, w->rows + g * w->group, phi, change);
            from_groups(documents, some, change, size, p->unary_bar + b * p->unary_bar_row + here, p->unary_bar_row);
            if (p->rows_bar)
                spread(k, both * documents, after + b * both * whole(k, BLOCK), stack, w->rows_bar + g * k * W);
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
            real scale = p->kept && s == 2 * steps - 1 ? (real)p->scale : 1; /* kept is sigmoid(z_T), not dz_T */
            for (int64_t i = 0; i < documents; i++)
                for (int64_t j = 0; j < k; j++)
                    to[j / BLOCK * BLOCK * columns + (s * documents + i) * BLOCK + j % BLOCK] = scale * from[i * k + j];
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

/* W, of what is kept. */
int label_group(void) { return W; }

/* m or dn, and losses. 0, or 1 where there is no memory. */
int label_sums(const LabelPass *p) {
    int64_t size = whole(p->batch, W) * p->measurements;
    Work plan = cut(p, 16);
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
    Work plan = cut(p, 4);
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
