/* Mirror descent over a measured energy, all T steps for a few documents at a time, so that z, y and A stay in cache.
 *
 *     z_t = a_t z_0 + b_t phi + n_t A     y_t = sigmoid(z_t)     m_t = y_t A^T + a0     s_t = dh/dm
 *     v_{t+1} = momentum v_t - eta_t (s_t + tau n_t)             n_{t+1} = n_t + v_{t+1}
 *
 * and its backward pass, the equations of mirror.py. The head is h = <w, v_n>, v_i = softplus(p_i), p_1 = m_1,
 * p_{i+1} = W_i v_i + (m_{i+1} or b_i): one layer is a SPEN, m_{i+1} an ICNN, b_i a deep SPEN.
 *
 * Documents come in blocks of R and are independent but for the gradients of the weights, which every thread adds up
 * for itself; these are summed in the order of the threads, so that two runs give the same bits. Rows are padded with
 * zeros to whole vectors: K by layer, L at the end.
 */
#include "vector.h"

#ifdef __AVX512F__
#define TILE 2 /* vectors a row held in registers: R x TILE of them */
#else
#define TILE 1
#endif
#define R 8
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

/* Sizes, and A and the head's matrices packed with padding, each way round. */
typedef struct {
    int64_t labels, measured, state, grads; /* padded L, K, widths of all layers; numbers of one thread's gradients */
    int64_t width[MAX_LAYERS], padded[MAX_LAYERS], start[MAX_LAYERS];
    int64_t grad_matrix[MAX_LAYERS], grad_bias[MAX_LAYERS], grad_output;
    real *pack, *rows, *columns, *matrix[MAX_LAYERS], *transposed[MAX_LAYERS], *output;
} Layout;

static inline int64_t pad(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
/* -------------------------------------------------------------------------------------- products of R documents */

/* out[r][c] += sum_j x[r][j] matrix[j][c], c < width (whole vectors). */
static void multiply(int64_t n, int64_t width, const real *x, int64_t x_row, const real *matrix, int64_t matrix_row,
                     real *out, int64_t out_row) {
    int64_t c = 0;
    for (; c + TILE * LANES <= width; c += TILE * LANES) {
        vec sum[R][TILE];
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int v = 0; v < TILE; v++) sum[r][v] = *at(out + r * out_row + c + v * LANES);
        for (int64_t j = 0; j < n; j++) {
            const real *row = matrix + j * matrix_row + c;
            UNROLL
            for (int r = 0; r < R; r++)
                UNROLL
                for (int v = 0; v < TILE; v++) sum[r][v] += x[r * x_row + j] * *at(row + v * LANES);
        }
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int v = 0; v < TILE; v++) *at(out + r * out_row + c + v * LANES) = sum[r][v];
    }
    for (; c < width; c += LANES) {
        vec sum[R], second[R]; /* two sums each: a product waits for the one before it */
        UNROLL
        for (int r = 0; r < R; r++) sum[r] = *at(out + r * out_row + c), second[r] = fill(0);
        int64_t j = 0;
        for (; j + 2 <= n; j += 2) {
            vec row = *at(matrix + j * matrix_row + c), next = *at(matrix + (j + 1) * matrix_row + c);
            UNROLL
            for (int r = 0; r < R; r++) sum[r] += x[r * x_row + j] * row, second[r] += x[r * x_row + j + 1] * next;
        }
        for (; j < n; j++) {
            vec row = *at(matrix + j * matrix_row + c);
            UNROLL
            for (int r = 0; r < R; r++) sum[r] += x[r * x_row + j] * row;
        }
        UNROLL
        for (int r = 0; r < R; r++) *at(out + r * out_row + c) = sum[r] + second[r];
    }
}

/* grad[j][c] += sum_r (x[r][j] y[r][c] + u[r][j] w[r][c]), j < n, c < width. */
static void outer_products(int64_t n, int64_t width, const real *x, const real *u, int64_t left_row, const real *y,
                           const real *w, int64_t right_row, real *grad, int64_t grad_row) {
    for (int64_t c = 0; c < width; c += LANES) {
        vec ys[R], ws[R];
        UNROLL
        for (int r = 0; r < R; r++) ys[r] = *at(y + r * right_row + c), ws[r] = *at(w + r * right_row + c);
        for (int64_t j = 0; j < n; j++) {
            vec sum = *at(grad + j * grad_row + c), second = fill(0);
            UNROLL
            for (int r = 0; r < R; r++) sum += x[r * left_row + j] * ys[r], second += u[r * left_row + j] * ws[r];
            *at(grad + j * grad_row + c) = sum + second;
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- layouts */

static Layout measure_layout(const Problem *p) {
    Layout l = {0};
    l.labels = pad(p->labels);
    for (int64_t i = 0; i < p->layers; i++) {
        l.width[i] = p->widths[i], l.padded[i] = pad(p->widths[i]), l.start[i] = l.state;
        l.state += l.padded[i];
    }
    l.measured = p->passthrough ? l.state : l.padded[0];
    int64_t size = l.measured * l.labels;
    l.grads = size;
    for (int64_t i = 0; i + 1 < p->layers; i++) {
        l.grad_matrix[i] = l.grads, l.grads += l.padded[i + 1] * l.padded[i];
        l.grad_bias[i] = l.grads, l.grads += l.padded[i + 1];
    }
    l.grad_output = l.grads, l.grads += l.padded[p->layers - 1];
    return l;
}

static int64_t num_measured(const Problem *p) { return p->passthrough ? p->layers : 1; }

static int pack(const Problem *p, Layout *l) {
    int64_t size = 2 * l->measured * l->labels + l->padded[p->layers - 1], at_ = 0;
    for (int64_t i = 0; i + 1 < p->layers; i++) size += 2 * l->padded[i] * l->padded[i + 1];
    l->pack = allocate(size);
    if (!l->pack) return 0;
    l->rows = l->pack, at_ = l->measured * l->labels;
    l->columns = l->pack + at_, at_ += l->measured * l->labels;
    int64_t given = 0;
    for (int64_t i = 0; i < num_measured(p); i++)
        for (int64_t k = 0; k < l->width[i]; k++, given++) {
            const real *row = p->rows + given * p->labels;
            memcpy(l->rows + (l->start[i] + k) * l->labels, row, (size_t)p->labels * sizeof(real));
            real *column = l->columns + l->start[i] + k;
            for (int64_t c = 0; c < p->labels; c++) column[c * l->measured] = row[c];
        }
    for (int64_t i = 0; i + 1 < p->layers; i++) {
        l->matrix[i] = l->pack + at_, at_ += l->padded[i] * l->padded[i + 1];
        l->transposed[i] = l->pack + at_, at_ += l->padded[i] * l->padded[i + 1];
        for (int64_t o = 0; o < l->width[i + 1]; o++)
            for (int64_t c = 0; c < l->width[i]; c++) {
                real value = p->matrices[i][o * l->width[i] + c];
                l->matrix[i][o * l->padded[i] + c] = value;
                l->transposed[i][c * l->padded[i + 1] + o] = value;
            }
    }
    l->output = l->pack + at_;
    memcpy(l->output, p->output, (size_t)l->width[p->layers - 1] * sizeof(real));
    return 1;
}

/* Rows of R documents from (B, K) numbers to the padded layout, zeros beyond the batch. */
static void load_measured(const Problem *p, const Layout *l, const real *from, int64_t per_row, int64_t first, real *to) {
    for (int64_t r = 0; r < R; r++) {
        int64_t given = (per_row ? (first + r) * p->measurements : 0);
        for (int64_t i = 0; i < num_measured(p); given += l->width[i++]) {
            real *slice = to + r * l->measured + l->start[i];
            memset(slice, 0, (size_t)l->padded[i] * sizeof(real));
            if (first + r < p->batch) memcpy(slice, from + given, (size_t)l->width[i] * sizeof(real));
        }
    }
}

static void store_measured(const Problem *p, const Layout *l, const real *from, int64_t first, real *to) {
    for (int64_t r = 0; r < R && first + r < p->batch; r++)
        for (int64_t i = 0, given = (first + r) * p->measurements; i < num_measured(p); given += l->width[i++])
            memcpy(to + given, from + r * l->measured + l->start[i], (size_t)l->width[i] * sizeof(real));
}

static void load_labels(const Problem *p, const Layout *l, const real *from, int64_t first, real *to) {
    for (int64_t r = 0; r < R; r++) {
        int64_t given = first + r < p->batch ? p->labels : 0;
        if (given) memcpy(to + r * l->labels, from + (first + r) * p->labels, (size_t)given * sizeof(real));
        memset(to + r * l->labels + given, 0, (size_t)(l->labels - given) * sizeof(real));
    }
}

static void store_labels(const Problem *p, const Layout *l, const real *from, int64_t first, real *to) {
    for (int64_t r = 0; r < R && first + r < p->batch; r++)
        memcpy(to + (first + r) * p->labels, from + r * l->labels, (size_t)p->labels * sizeof(real));
}

/* ------------------------------------------------------------------------------------------------------ the head */

/* From m, or from p where that stands there already: p in m's place and the slope s, both (R, state). What the backward
 * pass wants besides is left in `work`: v, sigma and u, (R, state) each. */
static void head_forward(const Problem *p, const Layout *l, int from_p, real *state, real *slope, real *work) {
    int64_t last = p->layers - 1, row = l->state;
    real *v = work, *sigma = work + R * row, *u = work + 2 * R * row;
    for (int64_t i = 0; i <= last; i++) {
        int64_t start = l->start[i];
        if (i && !from_p) {
            if (!p->passthrough)
                for (int64_t r = 0; r < R; r++) {
                    memset(state + r * row + start, 0, (size_t)l->padded[i] * sizeof(real));
                    memcpy(state + r * row + start, p->biases[i - 1], (size_t)l->width[i] * sizeof(real));
                }
            multiply(l->width[i - 1], l->padded[i], v + l->start[i - 1], row, l->transposed[i - 1], l->padded[i],
                     state + start, row);
        }
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = start; c < start + l->padded[i]; c += LANES) {
                vec x = *at(state + r * row + c);
                if (i < last) *at(v + r * row + c) = vector_softplus(x);
                *at(sigma + r * row + c) = vector_sigmoid(x);
            }
    }
    for (int64_t i = last; i >= 0; i--) {
        int64_t start = l->start[i];
        for (int64_t r = 0; r < R; r++) {
            if (i == last) memcpy(u + r * row + start, l->output, (size_t)l->padded[i] * sizeof(real));
            else memset(u + r * row + start, 0, (size_t)l->padded[i] * sizeof(real));
        }
        real *s = slope + start;
        if (i < last)
            multiply(l->width[i + 1], l->padded[i], slope + l->start[i + 1], row, l->matrix[i], l->padded[i], u + start,
                     row);
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = 0; c < l->padded[i]; c += LANES)
                *at(s + r * row + c) = *at(u + r * row + start + c) * *at(sigma + r * row + start + c);
    }
}

/* ds (R, state; zeros where not measured; overwritten) -> dp (R, state), whose measured slices are dm. */
static void head_backward(const Problem *p, const Layout *l, real *state, real *slope_bar, real *pre_bar, real *work,
                          real *grads) {
    int64_t last = p->layers - 1, row = l->state;
    real *v = work, *sigma = work + R * row, *u = work + 2 * R * row, *u_bar = work + 3 * R * row,
         *slope = work + 4 * R * row;
    head_forward(p, l, 1, state, slope, work);
    for (int64_t i = 0; i <= last; i++) {
        int64_t start = l->start[i];
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = start; c < start + l->padded[i]; c += LANES) {
                vec bar = *at(slope_bar + r * row + c), share = *at(sigma + r * row + c);
                *at(pre_bar + r * row + c) = bar * *at(u + r * row + c) * share * ((real)1 - share);
                *at(u_bar + r * row + c) = bar * share;
            }
        if (i < last)
            multiply(l->width[i], l->padded[i + 1], u_bar + start, row, l->transposed[i], l->padded[i + 1],
                     slope_bar + l->start[i + 1], row);
        else
            for (int64_t r = 0; r < R; r++)
                for (int64_t c = 0; c < l->padded[i]; c += LANES)
                    *at(grads + l->grad_output + c) += *at(u_bar + r * row + start + c);
    }
    for (int64_t i = last - 1; i >= 0; i--) {
        int64_t start = l->start[i], next = l->start[i + 1];
        outer_products(l->width[i + 1], l->padded[i], slope + next, pre_bar + next, row, u_bar + start, v + start, row,
                       grads + l->grad_matrix[i], l->padded[i]);
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = 0; c < l->padded[i + 1]; c += LANES)
                *at(grads + l->grad_bias[i] + c) += *at(pre_bar + r * row + next + c);
        real *through = u_bar; /* no longer wanted there */
        for (int64_t r = 0; r < R; r++) memset(through + r * row + start, 0, (size_t)l->padded[i] * sizeof(real));
        multiply(l->width[i + 1], l->padded[i], pre_bar + next, row, l->matrix[i], l->padded[i], through + start, row);
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = start; c < start + l->padded[i]; c += LANES)
                *at(pre_bar + r * row + c) += *at(through + r * row + c) * *at(sigma + r * row + c);
    }
}

/* --------------------------------------------------------------------------------------------------- the descent */

/* What a block of R documents works with. */
typedef struct {
    real *base[2], *y, *known, *mask, *offset, *dropout, *slope, *work, *n, *velocity, *state;
    real *dz, *base_bar[2], *dn, *dv, *slope_bar, *pre_bar, *offset_bar, *memory;
} Block;

static int allocate_block(const Problem *p, const Layout *l, int backward, Block *b) {
    int64_t labels = R * l->labels, measured = R * l->measured, state = R * l->state;
    int64_t wanted[] = {labels, labels, labels, labels, labels, measured, measured, state, 5 * state, measured, measured,
                        state, labels, labels, labels, measured, measured, state, state, measured};
    real **place[] = {&b->base[0], &b->base[1], &b->y, &b->known, &b->mask, &b->offset, &b->dropout, &b->slope, &b->work,
                      &b->n, &b->velocity, &b->state, &b->dz, &b->base_bar[0], &b->base_bar[1], &b->dn, &b->dv,
                      &b->slope_bar, &b->pre_bar, &b->offset_bar};
    int count = backward ? 20 : 12;
    int64_t total = 0;
    (void)p;
    for (int i = 0; i < count; i++) total += wanted[i];
    b->memory = allocate(total);
    if (!b->memory) return 0;
    real *next = b->memory;
    for (int i = 0; i < count; i++) *place[i] = next, next += wanted[i];
    return 1;
}

static void load_block(const Problem *p, const Layout *l, int64_t first, Block *b) {
    for (int64_t j = 0; j < p->bases; j++) load_labels(p, l, p->base[j], first, b->base[j]);
    if (p->known) load_labels(p, l, p->known, first, b->known), load_labels(p, l, p->known_mask, first, b->mask);
    load_measured(p, l, p->offset, p->offset_rows > 1, first, b->offset);
    if (p->dropout) load_measured(p, l, p->dropout, 1, first, b->dropout);
}

/* a_t z_0 + b_t phi, one vector. */
static inline vec base_at(const Problem *p, const Block *b, int64_t step, int64_t place) {
    vec sum = (real)p->factors[0][step] * *at(b->base[0] + place);
    return p->bases > 1 ? sum + (real)p->factors[1][step] * *at(b->base[1] + place) : sum;
}

static inline vec labels_at(const Problem *p, const Block *b, vec z, int64_t place) {
    vec y = vector_sigmoid(z);
    if (!p->known) return y;
    vec mask = *at(b->mask + place);
    return choose(mask > 0, *at(b->known + place), y);
}

/* z_t = base + n A into `out`, as labels where asked for. */
static void spread(const Problem *p, const Layout *l, const Block *b, int64_t step, const real *n, int as_labels,
                   real *out) {
    for (int64_t c = 0; c < l->labels; c += LANES) {
        vec z[R];
        UNROLL
        for (int r = 0; r < R; r++) z[r] = base_at(p, b, step, r * l->labels + c);
        if (n)
            for (int64_t i = 0; i < num_measured(p); i++)
                for (int64_t k = l->start[i]; k < l->start[i] + l->width[i]; k++) {
                    vec row = *at(l->rows + k * l->labels + c);
                    UNROLL
                    for (int r = 0; r < R; r++) z[r] += n[r * l->measured + k] * row;
                }
        UNROLL
        for (int r = 0; r < R; r++)
            *at(out + r * l->labels + c) = as_labels ? labels_at(p, b, z[r], r * l->labels + c) : z[r];
    }
}

int64_t saved_size(const Problem *p) {
    Layout l = measure_layout(p);
    return (p->batch + R - 1) / R * p->steps * R * (l.state + l.measured);
}

static void forward_block(const Problem *p, const Layout *l, int64_t first, Block *b, real *logits) {
    int64_t measured = R * l->measured;
    real *saved = p->saved ? p->saved + first * p->steps * (l->state + l->measured) : NULL;
    load_block(p, l, first, b);
    memset(b->velocity, 0, (size_t)measured * sizeof(real));
    const real *n = NULL;
    for (int64_t step = 0; step < p->steps; step++) {
        real *state = saved ? saved : b->state, *next = saved ? saved + R * l->state : b->n;
        if (saved) saved += R * (l->state + l->measured);
        spread(p, l, b, step, n, 1, b->y);
        for (int64_t r = 0; r < R; r++)
            memcpy(state + r * l->state, b->offset + r * l->measured, (size_t)l->measured * sizeof(real));
        multiply(p->labels, l->measured, b->y, l->labels, l->columns, l->measured, state, l->state);
        if (p->dropout)
            for (int64_t r = 0; r < R; r++)
                for (int64_t c = 0; c < l->measured; c += LANES)
                    *at(state + r * l->state + c) *= *at(b->dropout + r * l->measured + c);
        head_forward(p, l, 0, state, b->slope, b->work);
        real size = (real)p->step_sizes[step], tau = (real)p->tau, momentum = (real)p->momentum;
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = 0; c < l->measured; c += LANES) {
                int64_t k = r * l->measured + c;
                vec s = *at(b->slope + r * l->state + c), here = n ? *at(n + k) : fill(0);
                if (p->dropout) s *= *at(b->dropout + k);
                *at(b->velocity + k) = momentum * *at(b->velocity + k) - size * (s + tau * here);
                *at(next + k) = here + *at(b->velocity + k);
            }
        n = next;
    }
    spread(p, l, b, p->steps, n, 0, b->y);
    store_labels(p, l, b->y, first, logits);
}

static double dot(int64_t n, const real *x, const real *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

static void backward_block(const Problem *p, const Layout *l, int64_t first, Block *b, const Gradients *g, real *grads,
                           double *numbers, double *factors) {
    int64_t labels = R * l->labels, measured = R * l->measured, size = R * (l->state + l->measured);
    const real *saved = p->saved + first * p->steps * (l->state + l->measured);
    real tau = (real)p->tau, momentum = (real)p->momentum;
    load_block(p, l, first, b);
    load_labels(p, l, g->logits, first, b->dz);
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
        const real *later = saved + step * size + R * l->state, *here = step ? later - size : NULL,
                   *earlier = step > 1 ? here - size : NULL;
        multiply(p->labels, l->measured, b->dz, l->labels, l->columns, l->measured, b->dn, l->measured);
        if (l->state > l->measured) memset(b->slope_bar, 0, (size_t)(R * l->state) * sizeof(real));
        for (int64_t r = 0; r < R; r++)
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
        head_backward(p, l, (real *)saved + step * size, b->slope_bar, b->pre_bar, b->work, grads);
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = 0; c < l->measured; c += LANES) {
                vec *dm = at(b->slope + r * l->measured + c);
                *dm = *at(b->pre_bar + r * l->state + c);
                if (p->dropout) *dm *= *at(b->dropout + r * l->measured + c);
                *at(b->offset_bar + r * l->measured + c) += *dm;
            }
        /* One pass over the labels: y_t rebuilt, dA from n_{t+1}, dz_{t+1} and dm_t, y_t, and then dz_t. */
        for (int64_t c = 0; c < l->labels; c += LANES) {
            vec y[R], dy[R], dz[R];
            UNROLL
            for (int r = 0; r < R; r++) y[r] = base_at(p, b, step, r * l->labels + c), dy[r] = fill(0);
            for (int64_t i = 0; i < num_measured(p); i++)
                for (int64_t k = l->start[i]; k < l->start[i] + l->width[i]; k++) {
                    vec row = *at(l->rows + k * l->labels + c);
                    if (here) {
                        UNROLL
                        for (int r = 0; r < R; r++) y[r] += here[r * l->measured + k] * row;
                    }
                    UNROLL
                    for (int r = 0; r < R; r++) dy[r] += b->slope[r * l->measured + k] * row;
                }
            UNROLL
            for (int r = 0; r < R; r++) {
                int64_t place = r * l->labels + c;
                y[r] = labels_at(p, b, y[r], place);
                dz[r] = *at(b->dz + place);
                vec bar = dy[r] * y[r] * ((real)1 - y[r]); /* 0 where y is known */
                *at(b->dz + place) = bar;
                for (int64_t j = 0; j < p->bases; j++)
                    *at(b->base_bar[j] + place) += (real)p->factors[j][step] * bar;
            }
            if (g->rows)
                for (int64_t i = 0; i < num_measured(p); i++)
                    for (int64_t k = l->start[i]; k < l->start[i] + l->width[i]; k++) {
                        vec sum = *at(grads + k * l->labels + c), second = fill(0);
                        UNROLL
                        for (int r = 0; r < R; r++)
                            sum += later[r * l->measured + k] * dz[r], second += b->slope[r * l->measured + k] * y[r];
                        *at(grads + k * l->labels + c) = sum + second;
                    }
        }
        if (g->factors[0])
            for (int64_t j = 0; j < p->bases; j++)
                factors[j * (p->steps + 1) + step] += dot(labels, b->dz, b->base[j]);
    }
    for (int64_t j = 0; j < p->bases; j++)
        if (g->base[j]) store_labels(p, l, b->base_bar[j], first, g->base[j]);
    store_measured(p, l, b->offset_bar, first, g->offset);
}

static int num_threads(const Problem *p) {
#ifdef _OPENMP
    int64_t blocks = (p->batch + R - 1) / R;
    return (int)(p->threads < blocks ? p->threads : (blocks > 1 ? blocks : 1));
#else
    (void)p;
    return 1;
#endif
}

static void my_share(const Problem *p, int64_t *first, int64_t *end, int *thread) {
    int64_t blocks = (p->batch + R - 1) / R, threads = 1;
    *thread = 0;
#ifdef _OPENMP
    *thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    *first = blocks * *thread / threads * R, *end = blocks * (*thread + 1) / threads * R;
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
            int64_t first, end;
            int thread;
            for (my_share(p, &first, &end, &thread); first < end; first += R) forward_block(p, &l, first, &b, logits);
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
            int64_t first, end;
            int thread;
            my_share(p, &first, &end, &thread);
            double *numbers = sums + thread * counts;
            for (; first < end; first += R)
                backward_block(p, &l, first, &b, g, grads + thread * l.grads, g->numbers ? numbers : NULL,
                               numbers + p->steps + 2);
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
                memcpy(g->rows + given * p->labels, grads + (l.start[i] + k) * l.labels,
                       (size_t)p->labels * sizeof(real));
        for (int i = 0; i < last; i++) {
            for (int64_t o = 0; o < l.width[i + 1]; o++)
                memcpy(g->matrices[i] + o * l.width[i], grads + l.grad_matrix[i] + o * l.padded[i],
                       (size_t)l.width[i] * sizeof(real));
            if (!p->passthrough)
                memcpy(g->biases[i], grads + l.grad_bias[i], (size_t)l.width[i + 1] * sizeof(real));
        }
        memcpy(g->output, grads + l.grad_output, (size_t)l.width[last] * sizeof(real));
        if (g->numbers) memcpy(g->numbers, sums, (size_t)(p->steps + 2) * sizeof(double));
        for (int j = 0; g->factors[0] && j < p->bases; j++)
            memcpy(g->factors[j], sums + p->steps + 2 + j * (p->steps + 1), (size_t)(p->steps + 1) * sizeof(double));
    }
    free(grads), free(sums), free(l.pack);
    return failed;
}
