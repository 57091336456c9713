/* Mirror descent over a measured energy, all T steps for a few documents at a time, so that z, y and A stay in cache.
 *
 *     z_t = a_t z_0 + b_t phi + n_t A     y_t = sigmoid(z_t)     m_t = y_t A^T + a0     s_t = dh/dm
 *     v_{t+1} = momentum v_t - eta_t (s_t + tau n_t)             n_{t+1} = n_t + v_{t+1}
 *
 * and its backward pass, the equations of mirror.py. The head is h = <w, v_n>, v_i = softplus(p_i), p_1 = m_1,
 * p_{i+1} = W_i v_i + (m_{i+1} or b_i): one layer is a SPEN, m_{i+1} an ICNN, b_i a deep SPEN.
 *
 * Documents are independent but for the gradients of the weights, which every thread adds up for itself; these are
 * summed in the order of the threads, so that two runs give the same bits. Rows are padded with zeros: K by layer to
 * whole vectors, L at the end to whole groups of W.
 */
#include "products.h"

#define MOST 36 /* documents that a thread takes through all steps together: whole BLOCKs of either size */
#define MAX_LAYERS 8

typedef struct {
    int64_t batch, labels, measurements, steps, layers, passthrough, bases, offset_rows, threads;
    const int64_t *widths;
    const real *rows, *offset, *base[2], *dropout, *known, *known_mask; /* optional ones are NULL */
    const real *output, *const *matrices, *const *biases;
    const double *step_sizes, *factors[2];
    double tau, momentum;
    real *saved; /* NULL: keep nothing */
} Problem;

typedef struct {
    const real *logits; /* dz_T */
    real *rows, *offset, *base[2], *output, **matrices, **biases;
    double *numbers, *factors[2]; /* NULL: not wanted */
} Gradients;

/* Sizes, and A and the head's matrices packed for `multiply`, each way round. */
typedef struct {
    int64_t labels, measured, state, grads; /* padded L, K, widths of all layers; numbers of one thread's gradients */
    int64_t width[MAX_LAYERS], padded[MAX_LAYERS], start[MAX_LAYERS];
    int64_t grad_matrix[MAX_LAYERS], grad_bias[MAX_LAYERS], grad_output, grad_offset;
    real *pack, *rows, *columns, *matrix[MAX_LAYERS], *transposed[MAX_LAYERS], *output;
} Layout;

/* ------------------------------------------------------------------------------------------ products of documents */

/* out (rows, 2 vectors or 1) = kept from + left right. Not inlined: each is a dozen kernels. */
static __attribute__((noinline)) void product(int64_t vecs, int64_t rows, int64_t n, const real *left, int64_t left_row,
                                              int64_t left_step, const real *right, int64_t right_row, const real *from,
                                              real *out, int64_t out_row, real kept) {
    int64_t block = BLOCK * left_row;
    if (vecs > 1) spread_all(2, rows, n, left, left_row, left_step, block, right, right_row, from, out, out_row, kept);
    else spread_all(1, rows, n, left, left_row, left_step, block, right, right_row, from, out, out_row, kept);
}

/* out (rows, width) = kept from + x matrix; x (rows, n), the matrix (n, width) packed: W columns at a time, then LANES. */
static void multiply_from(const real *from, real kept, int64_t rows, int64_t n, int64_t width, const real *x, int64_t x_row,
                          const real *matrix, real *out, int64_t out_row) {
    for (int64_t c = 0; c < width; c += W) {
        int64_t w = least(width - c, W);
        product(w / LANES, rows, n, x, x_row, 1, matrix + c * n, w, from + c, out + c, out_row, kept);
    }
}

static void multiply(int64_t rows, int64_t n, int64_t width, const real *x, int64_t x_row, const real *matrix, real *out,
                     int64_t out_row) {
    multiply_from(out, 1, rows, n, width, x, x_row, matrix, out, out_row);
}

/* grad (n, width), packed, += x^T y; x (rows, n), y (rows, width). */
static void outer(int64_t rows, int64_t n, int64_t width, const real *x, int64_t x_row, const real *y, int64_t y_row,
                  real *grad) {
    real group[MOST * W] __attribute__((aligned(VECTOR_BYTES)));
    for (int64_t c = 0; c < width; c += W) {
        int64_t w = least(width - c, W), right_row = y_row;
        const real *right = y + c;
        if (w == W && n >= 4 * BLOCK) { /* read again and again, rows far apart want the same places of the cache */
            by_groups(rows, W, right, y_row, group, 0);
            right = group, right_row = W;
        }
        product(w / LANES, n, rows, x, 1, x_row, right, right_row, grad + c * n, grad + c * n, w, 1);
    }
}

/* One row of a packed matrix (n, width). */
static void pack_row(int64_t n, int64_t width, int64_t row, const real *from, int64_t count, real *matrix) {
    for (int64_t c = 0; c < count; c += W) {
        int64_t w = least(width - c, W);
        memcpy(matrix + c * n + row * w, from + c, (size_t)least(w, count - c) * sizeof(real));
    }
}

static void unpack_row(int64_t n, int64_t width, int64_t row, real *to, int64_t count, const real *matrix) {
    for (int64_t c = 0; c < count; c += W) {
        int64_t w = least(width - c, W);
        memcpy(to + c, matrix + c * n + row * w, (size_t)least(w, count - c) * sizeof(real));
    }
}

/* One column. */
static void pack_column(int64_t n, int64_t width, int64_t column, const real *from, real *matrix) {
    int64_t c = column / W * W, w = least(width - c, W);
    for (int64_t j = 0; j < n; j++) matrix[c * n + j * w + column - c] = from[j];
}

/* ------------------------------------------------------------------------------------------------------- layouts */

static Layout measure_layout(const Problem *p) {
    Layout l = {0};
    l.labels = whole(p->labels, W);
    for (int64_t i = 0; i < p->layers; i++) {
        l.width[i] = p->widths[i], l.padded[i] = whole(p->widths[i], LANES), l.start[i] = l.state;
        l.state += l.padded[i];
    }
    l.measured = p->passthrough ? l.state : l.padded[0];
    l.grads = l.measured * l.labels;
    for (int64_t i = 0; i + 1 < p->layers; i++) {
        l.grad_matrix[i] = l.grads, l.grads += l.padded[i + 1] * l.padded[i];
        l.grad_bias[i] = l.grads, l.grads += l.padded[i + 1];
    }
    l.grad_output = l.grads, l.grads += l.padded[p->layers - 1];
    l.grad_offset = l.grads, l.grads += l.measured; /* where all documents have one offset */
    return l;
}

static int64_t num_measured(const Problem *p) { return p->passthrough ? p->layers : 1; }

static int pack(const Problem *p, Layout *l) {
    int64_t size = l->measured * (l->labels + p->labels) + l->padded[p->layers - 1], at_ = 0;
    for (int64_t i = 0; i + 1 < p->layers; i++) size += whole(2 * l->padded[i] * l->padded[i + 1], W);
    l->pack = allocate(size);
    if (!l->pack) return 0;
    l->rows = l->pack, at_ = l->measured * l->labels;
    l->columns = l->pack + at_, at_ += l->measured * p->labels;
    int64_t given = 0;
    for (int64_t i = 0; i < num_measured(p); i++)
        for (int64_t k = l->start[i]; k < l->start[i] + l->width[i]; k++, given++) {
            pack_row(l->measured, l->labels, k, p->rows + given * p->labels, p->labels, l->rows);
            pack_column(p->labels, l->measured, k, p->rows + given * p->labels, l->columns);
        }
    for (int64_t i = 0; i + 1 < p->layers; i++) {
        l->matrix[i] = l->pack + at_, at_ += l->width[i + 1] * l->padded[i];
        l->transposed[i] = l->pack + at_, at_ += l->width[i] * l->padded[i + 1];
        for (int64_t o = 0; o < l->width[i + 1]; o++) {
            pack_row(l->width[i + 1], l->padded[i], o, p->matrices[i] + o * l->width[i], l->width[i], l->matrix[i]);
            pack_column(l->width[i], l->padded[i + 1], o, p->matrices[i] + o * l->width[i], l->transposed[i]);
        }
    }
    l->output = l->pack + at_;
    memcpy(l->output, p->output, (size_t)l->width[p->layers - 1] * sizeof(real));
    return 1;
}

/* Rows of some documents from (B, K) numbers to the padded layout, whose padding is 0. */
static void load_measured(const Problem *p, const Layout *l, const real *from, int64_t per_row, int64_t first,
                          int64_t count, real *to) {
    for (int64_t r = 0; r < count; r++) {
        int64_t given = per_row ? (first + r) * p->measurements : 0;
        for (int64_t i = 0; i < num_measured(p); given += l->width[i++])
            memcpy(to + r * l->measured + l->start[i], from + given, (size_t)l->width[i] * sizeof(real));
    }
}

static void store_measured(const Problem *p, const Layout *l, const real *from, int64_t first, int64_t count, real *to) {
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0, given = (first + r) * p->measurements; i < num_measured(p); given += l->width[i++])
            memcpy(to + given, from + r * l->measured + l->start[i], (size_t)l->width[i] * sizeof(real));
}

static void load_labels(const Problem *p, const Layout *l, const real *from, int64_t first, int64_t count, real *to) {
    for (int64_t r = 0; r < count; r++)
        memcpy(to + r * l->labels, from + (first + r) * p->labels, (size_t)p->labels * sizeof(real));
}

static void store_labels(const Problem *p, const Layout *l, const real *from, int64_t first, int64_t count, real *to) {
    for (int64_t r = 0; r < count; r++)
        memcpy(to + (first + r) * p->labels, from + r * l->labels, (size_t)p->labels * sizeof(real));
}

/* What a step leaves for the backward pass: p (B, state), then n_{t+1} (B, measured). */
static real *saved_state(const Problem *p, const Layout *l, int64_t step, int64_t first) {
    return p->saved + step * p->batch * (l->state + l->measured) + first * l->state;
}

static real *saved_n(const Problem *p, const Layout *l, int64_t step, int64_t first) {
    return saved_state(p, l, step, p->batch) + first * l->measured;
}

int64_t saved_size(const Problem *p) {
    Layout l = measure_layout(p);
    return p->batch * p->steps * (l.state + l.measured);
}

/* ------------------------------------------------------------------------------------------------------ the head */

/* What a slope and its backward pass work with, (MOST, state) each. */
typedef struct {
    real *v, *sigma, *u, *u_bar, *slope;
} Work;

/* From m, or from p where that stands there already: p in m's place and the slope s; v, sigma and u are left. */
static void head_forward(const Problem *p, const Layout *l, int64_t count, int from_p, real *state, real *slope,
                         const Work *w) {
    int64_t last = p->layers - 1, row = l->state;
    for (int64_t i = 0; i <= last; i++) {
        int64_t start = l->start[i];
        if (i && !from_p) {
            if (!p->passthrough)
                for (int64_t r = 0; r < count; r++) {
                    memset(state + r * row + start, 0, (size_t)l->padded[i] * sizeof(real));
                    memcpy(state + r * row + start, p->biases[i - 1], (size_t)l->width[i] * sizeof(real));
                }
            multiply(count, l->width[i - 1], l->padded[i], w->v + l->start[i - 1], row, l->transposed[i - 1], state + start,
                     row);
        }
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = r * row + start; c < r * row + start + l->padded[i]; c += LANES) {
                vec x = *at(state + c);
                if (i < last) *at(w->v + c) = vector_softplus(x);
                *at(w->sigma + c) = vector_sigmoid(x);
            }
    }
    for (int64_t i = last; i >= 0; i--) {
        int64_t start = l->start[i], size = l->padded[i];
        for (int64_t r = 0; r < count; r++)
            if (i == last) memcpy(w->u + r * row + start, l->output, (size_t)size * sizeof(real));
            else memset(w->u + r * row + start, 0, (size_t)size * sizeof(real));
        if (i < last)
            multiply(count, l->width[i + 1], size, slope + l->start[i + 1], row, l->matrix[i], w->u + start, row);
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = r * row + start; c < r * row + start + size; c += LANES)
                *at(slope + c) = *at(w->u + c) * *at(w->sigma + c);
    }
}

/* ds (count, state; zeros where not measured; overwritten) -> dp (count, state), whose measured slices are dm. */
static void head_backward(const Problem *p, const Layout *l, int64_t count, real *state, real *slope_bar, real *pre_bar,
                          const Work *w, real *grads) {
    int64_t last = p->layers - 1, row = l->state;
    head_forward(p, l, count, 1, state, w->slope, w);
    for (int64_t i = 0; i <= last; i++) {
        int64_t start = l->start[i], size = l->padded[i];
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = r * row + start; c < r * row + start + size; c += LANES) {
                vec bar = *at(slope_bar + c), share = *at(w->sigma + c);
                *at(pre_bar + c) = bar * *at(w->u + c) * share * ((real)1 - share);
                *at(w->u_bar + c) = bar * share;
            }
        if (i < last)
            multiply(count, l->width[i], l->padded[i + 1], w->u_bar + start, row, l->transposed[i],
                     slope_bar + l->start[i + 1], row);
        else
            for (int64_t r = 0; r < count; r++)
                for (int64_t c = 0; c < size; c += LANES)
                    *at(grads + l->grad_output + c) += *at(w->u_bar + r * row + start + c);
    }
    for (int64_t i = last - 1; i >= 0; i--) {
        int64_t start = l->start[i], size = l->padded[i], next = l->start[i + 1];
        real *grad = grads + l->grad_matrix[i];
        outer(count, l->width[i + 1], size, w->slope + next, row, w->u_bar + start, row, grad);
        outer(count, l->width[i + 1], size, pre_bar + next, row, w->v + start, row, grad);
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = 0; c < l->padded[i + 1]; c += LANES)
                *at(grads + l->grad_bias[i] + c) += *at(pre_bar + r * row + next + c);
        real *through = w->u_bar; /* no longer wanted there */
        for (int64_t r = 0; r < count; r++) memset(through + r * row + start, 0, (size_t)size * sizeof(real));
        multiply(count, l->width[i + 1], size, pre_bar + next, row, l->matrix[i], through + start, row);
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = r * row + start; c < r * row + start + size; c += LANES)
                *at(pre_bar + c) += *at(through + c) * *at(w->sigma + c);
    }
}

/* --------------------------------------------------------------------------------------------------- the descent */

/* What a few documents work with. */
typedef struct {
    int64_t first, count;
    real *base[2], *y, *known, *mask, *offset, *dropout, *slope, *n, *velocity, *state;
    real *dz, *base_bar[2], *dn, *dv, *slope_bar, *pre_bar, *offset_bar, *memory;
    Work work;
} Block;

static int allocate_block(const Problem *p, const Layout *l, int backward, Block *b) {
    int64_t most = least(p->batch, MOST), labels = most * l->labels, measured = most * l->measured, state = most * l->state;
    struct { real **place; int64_t size; } wanted[] = {
        {&b->base[0], labels}, {&b->base[1], p->bases > 1 ? labels : 0}, {&b->y, labels},
        {&b->known, p->known ? labels : 0}, {&b->mask, p->known ? labels : 0}, {&b->offset, measured},
        {&b->dropout, p->dropout ? measured : 0}, {&b->slope, state}, {&b->n, measured}, {&b->velocity, measured},
        {&b->state, state}, {&b->work.v, state}, {&b->work.sigma, state}, {&b->work.u, state},
        /* backwards alone */
        {&b->work.u_bar, state}, {&b->work.slope, state}, {&b->dz, labels}, {&b->base_bar[0], labels},
        {&b->base_bar[1], p->bases > 1 ? labels : 0}, {&b->dn, measured}, {&b->dv, measured}, {&b->slope_bar, state},
        {&b->pre_bar, state}, {&b->offset_bar, measured}};
    int count = backward ? sizeof(wanted) / sizeof(wanted[0]) : 14;
    int64_t total = 0;
    for (int i = 0; i < count; i++) total += wanted[i].size;
    b->memory = allocate(total);
    if (!b->memory) return 0;
    real *next = b->memory;
    for (int i = 0; i < count; i++) *wanted[i].place = next, next += wanted[i].size;
    return 1;
}

static void load_block(const Problem *p, const Layout *l, Block *b) {
    for (int64_t j = 0; j < p->bases; j++) load_labels(p, l, p->base[j], b->first, b->count, b->base[j]);
    if (p->known) {
        load_labels(p, l, p->known, b->first, b->count, b->known);
        load_labels(p, l, p->known_mask, b->first, b->count, b->mask);
    }
    load_measured(p, l, p->offset, p->offset_rows > 1, b->first, b->count, b->offset);
    if (p->dropout) load_measured(p, l, p->dropout, 1, b->first, b->count, b->dropout);
}

/* z_t = a_t z_0 + b_t phi + n A in `y`, as labels where asked for. */
static void spread_labels(const Problem *p, const Layout *l, const Block *b, int64_t step, const real *n, int as_labels) {
    int64_t size = b->count * l->labels;
    real a = (real)p->factors[0][step], other = p->bases > 1 ? (real)p->factors[1][step] : 0;
    const real *from = b->base[0];
    if (p->bases > 1 || !n) {
        for (int64_t c = 0; c < size; c += LANES) {
            vec z = a * *at(b->base[0] + c);
            *at(b->y + c) = p->bases > 1 ? z + other * *at(b->base[1] + c) : z;
        }
        from = b->y, a = 1;
    }
    if (n) multiply_from(from, a, b->count, l->measured, l->labels, n, l->measured, l->rows, b->y, l->labels);
    if (!as_labels) return;
    for (int64_t c = 0; c < size; c += LANES) *at(b->y + c) = vector_sigmoid(*at(b->y + c));
    if (p->known)
        for (int64_t c = 0; c < size; c += LANES)
            *at(b->y + c) = choose(*at(b->mask + c) > 0, *at(b->known + c), *at(b->y + c));
}

static void forward_block(const Problem *p, const Layout *l, Block *b, real *logits) {
    int64_t measured = b->count * l->measured;
    load_block(p, l, b);
    memset(b->velocity, 0, (size_t)measured * sizeof(real));
    const real *n = NULL;
    for (int64_t step = 0; step < p->steps; step++) {
        real *state = p->saved ? saved_state(p, l, step, b->first) : b->state;
        real *next = p->saved ? saved_n(p, l, step, b->first) : b->n;
        spread_labels(p, l, b, step, n, 1);
        for (int64_t r = 0; r < b->count; r++)
            memcpy(state + r * l->state, b->offset + r * l->measured, (size_t)l->measured * sizeof(real));
        multiply(b->count, p->labels, l->measured, b->y, l->labels, l->columns, state, l->state);
        if (p->dropout)
            for (int64_t r = 0; r < b->count; r++)
                for (int64_t c = 0; c < l->measured; c += LANES)
                    *at(state + r * l->state + c) *= *at(b->dropout + r * l->measured + c);
        head_forward(p, l, b->count, 0, state, b->slope, &b->work);
        real size = (real)p->step_sizes[step], tau = (real)p->tau, momentum = (real)p->momentum;
        for (int64_t r = 0; r < b->count; r++)
            for (int64_t c = 0; c < l->measured; c += LANES) {
                int64_t k = r * l->measured + c;
                vec s = *at(b->slope + r * l->state + c), here = n ? *at(n + k) : fill(0);
                if (p->dropout) s *= *at(b->dropout + k);
                *at(b->velocity + k) = momentum * *at(b->velocity + k) - size * (s + tau * here);
                *at(next + k) = here + *at(b->velocity + k);
            }
        n = next;
    }
    spread_labels(p, l, b, p->steps, n, 0);
    store_labels(p, l, b->y, b->first, b->count, logits);
}

static double dot(int64_t n, const real *x, const real *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

static void backward_block(const Problem *p, const Layout *l, Block *b, const Gradients *g, real *grads, double *numbers,
                           double *factors) {
    int64_t labels = b->count * l->labels, measured = b->count * l->measured;
    real tau = (real)p->tau, momentum = (real)p->momentum;
    load_block(p, l, b);
    load_labels(p, l, g->logits, b->first, b->count, b->dz);
    if (p->known)
        for (int64_t c = 0; c < labels; c += LANES) *at(b->dz + c) = choose(*at(b->mask + c) > 0, fill(0), *at(b->dz + c));
    for (int64_t j = 0; j < p->bases; j++)
        for (int64_t c = 0; c < labels; c += LANES)
            *at(b->base_bar[j] + c) = (real)p->factors[j][p->steps] * *at(b->dz + c);
    if (g->factors[0])
        for (int64_t j = 0; j < p->bases; j++)
            factors[j * (p->steps + 1) + p->steps] += dot(labels, b->dz, b->base[j]);
    memset(b->dn, 0, (size_t)measured * sizeof(real));
    memset(b->dv, 0, (size_t)measured * sizeof(real));
    memset(b->offset_bar, 0, (size_t)measured * sizeof(real));
    for (int64_t step = p->steps - 1; step >= 0; step--) {
        real eta = (real)p->step_sizes[step];
        const real *later = saved_n(p, l, step, b->first), *here = step ? saved_n(p, l, step - 1, b->first) : NULL,
                   *earlier = step > 1 ? saved_n(p, l, step - 2, b->first) : NULL;
        multiply(b->count, p->labels, l->measured, b->dz, l->labels, l->columns, b->dn, l->measured);
        if (l->state > l->measured) memset(b->slope_bar, 0, (size_t)(b->count * l->state) * sizeof(real));
        for (int64_t r = 0; r < b->count; r++)
            for (int64_t c = 0; c < l->measured; c += LANES) {
                int64_t k = r * l->measured + c;
                vec dv = *at(b->dn + k) + momentum * *at(b->dv + k);
                vec bar = -eta * dv;
                if (p->dropout) bar *= *at(b->dropout + k);
                *at(b->dv + k) = dv, *at(b->slope_bar + r * l->state + c) = bar;
                *at(b->dn + k) -= (eta * tau) * dv;
            }
        if (numbers)
            for (int64_t k = 0; k < measured; k++) {
                double dv = b->dv[k], n = here ? here[k] : 0, velocity = n - (earlier ? (double)earlier[k] : 0);
                numbers[step] += dv * ((double)later[k] - n - velocity * p->momentum) / p->step_sizes[step];
                numbers[p->steps] -= dv * n * p->step_sizes[step];
                numbers[p->steps + 1] += dv * velocity;
            }
        head_backward(p, l, b->count, saved_state(p, l, step, b->first), b->slope_bar, b->pre_bar, &b->work, grads);
        real *dm = b->slope; /* (count, measured) */
        for (int64_t r = 0; r < b->count; r++)
            for (int64_t c = 0; c < l->measured; c += LANES) {
                int64_t k = r * l->measured + c;
                vec bar = *at(b->pre_bar + r * l->state + c);
                if (p->dropout) bar *= *at(b->dropout + k);
                *at(dm + k) = bar, *at(b->offset_bar + k) += bar;
            }
        spread_labels(p, l, b, step, here, 1);
        if (g->rows) {
            outer(b->count, l->measured, l->labels, later, l->measured, b->dz, l->labels, grads);
            outer(b->count, l->measured, l->labels, dm, l->measured, b->y, l->labels, grads);
        }
        /* y, which is finite, is only a place to start from. */
        multiply_from(b->y, 0, b->count, l->measured, l->labels, dm, l->measured, l->rows, b->dz, l->labels);
        for (int64_t c = 0; c < labels; c += LANES) {
            vec y = *at(b->y + c), bar = *at(b->dz + c) * y * ((real)1 - y);
            *at(b->dz + c) = bar; /* 0 where y is known */
            for (int64_t j = 0; j < p->bases; j++) *at(b->base_bar[j] + c) += (real)p->factors[j][step] * bar;
        }
        if (g->factors[0])
            for (int64_t j = 0; j < p->bases; j++)
                factors[j * (p->steps + 1) + step] += dot(labels, b->dz, b->base[j]);
    }
    for (int64_t j = 0; j < p->bases; j++)
        if (g->base[j]) store_labels(p, l, b->base_bar[j], b->first, b->count, g->base[j]);
    if (p->offset_rows > 1) store_measured(p, l, b->offset_bar, b->first, b->count, g->offset);
    else
        for (int64_t k = 0; k < measured; k += LANES) *at(grads + l->grad_offset + k % l->measured) += *at(b->offset_bar + k);
}

static int num_threads(const Problem *p) {
#ifdef _OPENMP
    return (int)least(p->threads, whole(p->batch, BLOCK) / BLOCK);
#else
    (void)p;
    return 1;
#endif
}

/* Both return 0, or 1 where memory ran out. */
int forward(const Problem *p, real *logits) {
    Layout l = measure_layout(p);
    int failed = !pack(p, &l);
#ifdef _OPENMP
#pragma omp parallel num_threads(num_threads(p)) if (num_threads(p) > 1)
#endif
    {
        Block b;
        if (failed || !allocate_block(p, &l, 0, &b)) {
            failed = 1;
        } else {
            int64_t end;
            for (share_of(p->batch, 1, &b.first, &end); b.first < end; b.first += b.count)
                b.count = least(MOST, end - b.first), forward_block(p, &l, &b, logits);
            free(b.memory);
        }
    }
    free(l.pack);
    return failed;
}

int backward(const Problem *p, const Gradients *g) {
    Layout l = measure_layout(p);
    int threads = num_threads(p), failed = !pack(p, &l), last = (int)p->layers - 1;
    int64_t counts = (p->steps + 2) + 2 * (p->steps + 1);
    real *grads = failed ? NULL : allocate(threads * l.grads);
    double *sums = calloc((size_t)(threads * counts), sizeof(double));
    failed = failed || !grads || !sums;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
#endif
    {
        Block b;
        if (failed || !allocate_block(p, &l, 1, &b)) {
            failed = 1;
        } else {
            int64_t end, thread = 0;
#ifdef _OPENMP
            thread = omp_get_thread_num();
#endif
            double *numbers = sums + thread * counts;
            for (share_of(p->batch, 1, &b.first, &end); b.first < end; b.first += b.count)
                b.count = least(MOST, end - b.first),
                backward_block(p, &l, &b, g, grads + thread * l.grads, g->numbers ? numbers : NULL, numbers + p->steps + 2);
            free(b.memory);
        }
    }
    if (!failed) {
        for (int t = 1; t < threads; t++) {
            for (int64_t i = 0; i < l.grads; i += LANES) *at(grads + i) += *at(grads + t * l.grads + i);
            for (int64_t i = 0; i < counts; i++) sums[i] += sums[t * counts + i];
        }
        int64_t given = 0;
        for (int64_t i = 0; g->rows && i < num_measured(p); i++)
            for (int64_t k = 0; k < l.width[i]; k++, given++)
                unpack_row(l.measured, l.labels, l.start[i] + k, g->rows + given * p->labels, p->labels, grads);
        for (int i = 0; i < last; i++) {
            for (int64_t o = 0; o < l.width[i + 1]; o++)
                unpack_row(l.width[i + 1], l.padded[i], o, g->matrices[i] + o * l.width[i], l.width[i],
                           grads + l.grad_matrix[i]);
            if (!p->passthrough)
                memcpy(g->biases[i], grads + l.grad_bias[i], (size_t)l.width[i + 1] * sizeof(real));
        }
        if (p->offset_rows == 1) store_measured(p, &l, grads + l.grad_offset, 0, 1, g->offset);
        memcpy(g->output, grads + l.grad_output, (size_t)l.width[last] * sizeof(real));
        if (g->numbers) memcpy(g->numbers, sums, (size_t)(p->steps + 2) * sizeof(double));
        for (int j = 0; g->factors[0] && j < p->bases; j++)
            memcpy(g->factors[j], sums + p->steps + 2 + j * (p->steps + 1), (size_t)(p->steps + 1) * sizeof(double));
    }
    free(grads), free(sums), free(l.pack);
    return failed;
}
