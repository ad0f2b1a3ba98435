/* The reduction of a batch of texts of one layer on a CPU, in one pass over its activations.
 *
 * What belongs here: what `reduction.py` says in plain torch and a CPU does slowly that way. Both give the same counts,
 * lists and windows to the byte; sums agree to the rounding of float64. C11 with the vectors of GCC and Clang, so that
 * one text serves every processor. Nothing is allocated, nothing but the layer's state is written, and calls for
 * different states may run at once.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { GATE, IN, ACT, POST, ACTIVATIONS };
enum { QUADRANTS = 4 };
/* Neurons whose running sums fit the first-level cache, and how many tokens ahead their activations are fetched. */
enum { BLOCK = 64, AHEAD = 2 };

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourBits __attribute__((vector_size(16)));
typedef double FourDouble __attribute__((vector_size(32)));
typedef int32_t EightBits __attribute__((vector_size(32)));

/* The list of each quadrant and activation, -1 where there is none: LISTS in quadrants.py. */
static const int LIST[QUADRANTS][ACTIVATIONS] = {{0, 1, -1, 2}, {3, 4, -1, 5}, {6, 7, 8, 9}, {10, 11, 12, 13}};

static const float HALF_OVERFLOWS = 65520, HALF_SMALLEST = 0x1p-24f;

/* A batch and the state of a layer. Arrays are C-contiguous; kernel.py fills the same fields in the same order. */
typedef struct {
    const float *activation[ACTIVATIONS]; /* [tokens, neurons] each */
    const uint8_t *counted;               /* [tokens] */
    const int64_t *offset;                /* [texts + 1] */
    const int32_t *text;                  /* [texts], their numbers in the corpus */
    const int32_t *position;              /* [tokens], in their texts, ascending in each */
    int64_t texts, neurons, examples, before, window;
    int64_t is_routed; /* whether an expert sees these tokens alone: cells of windows for others are undefined, not 0 */
    int64_t *count;        /* [quadrants, neurons] */
    double *sum, *squares; /* [quadrants, activations, neurons] */
    float *largest;        /* [quadrants, activations, neurons] */
    float *value, *post;   /* [lists, neurons, examples], ordered best first */
    int32_t *list_text, *list_position;
    int64_t *slot;                 /* [lists, neurons, examples], where the example's window lies */
    void *windows[2];              /* of gate and in, [lists, neurons, examples, window] */
    int64_t wide[2];               /* whether they are float32 instead of float16 */
    int64_t unfit[2];              /* set where a value did not fit float16: its window must be widened and copied again */
} Work;

/* The running statistics of one neuron in one quadrant, an element for each activation. */
typedef struct {
    FourDouble sum, squares;
    Four largest; /* of the present text */
    int64_t count, unused;
} Cell;

static inline Four size_of(Four x) { return (Four)((FourBits)x & 0x7fffffff); }

static inline Four larger(Four a, Four b) {
    for (int k = 0; k < 4; k++) a[k] = a[k] > b[k] ? a[k] : b[k];
    return a;
}

static inline void add(Cell *cell, Four x) {
    FourDouble wide = {x[0], x[1], x[2], x[3]};
    cell->sum += wide;
    cell->squares += wide * wide;
    cell->largest = larger(size_of(x), cell->largest);
    cell->count++;
}

/* Turn four rows of an activation each into four neurons with all their activations. */
static inline void transpose(Four x[4]) {
    Four a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5), b = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
    Four c = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5), d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
    x[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5), x[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    x[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5), x[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* A quadrant's number from the bits of gate and in, or -1 if one of them is 0. */
static inline int quadrant_of(float gate, float in) {
    return gate == 0 || in == 0 ? -1 : !!signbit(gate) * 2 + !!signbit(in);
}

/* Put into `cell` the number of each neuron's cell at one token; the last of all is that of no quadrant. */
static inline void choose_cells(const float *gate, const float *in, int counted, int width, int32_t *cell) {
    const int32_t nowhere = BLOCK * QUADRANTS;
    int j = 0;
    EightBits first = {0, 4, 8, 12, 16, 20, 24, 28};
    EightBits skipped = first * 0 - !counted;
    for (; j + 8 <= width; j += 8, first += 8 * QUADRANTS) {
        EightBits g, u;
        memcpy(&g, gate + j, sizeof g), memcpy(&u, in + j, sizeof u);
        EightBits none = (g << 1 == 0) | (u << 1 == 0) | skipped;
        EightBits chosen = (~none & (first + ((g >> 30) & 2) + ((u >> 31) & 1))) | (none & nowhere);
        memcpy(cell + j, &chosen, sizeof chosen);
    }
    for (; j < width; j++) {
        int quadrant = counted ? quadrant_of(gate[j], in[j]) : -1;
        cell[j] = quadrant < 0 ? nowhere : j * QUADRANTS + quadrant;
    }
}

/* The size that a text must reach to enter each list of a neuron: that of the last example, below 0 while there is room,
 * nothing that anything reaches where there is no list. */
static void load_last(Work *work, int64_t neuron, Four last[QUADRANTS]) {
    for (int q = 0; q < QUADRANTS; q++)
        for (int a = 0; a < ACTIVATIONS; a++) {
            int64_t entry = (LIST[q][a] * work->neurons + neuron + 1) * work->examples - 1;
            last[q][a] = LIST[q][a] < 0 ? NAN : work->list_text[entry] < 0 ? -0.5f : fabsf(work->value[entry]);
        }
}

/* Write a value into a cell of a window, as `narrow` rounds: a non-zero never becomes 0. */
static inline void write_cell(Work *work, int a, int64_t to, float x) {
    int fits = !(fabsf(x) >= HALF_OVERFLOWS);
    _Float16 half = (_Float16)x;
    if (half == 0 && x != 0) half = (_Float16)copysignf(HALF_SMALLEST, x);
    if (work->wide[a])
        ((float *)work->windows[a])[to] = fits ? (float)half : x;
    else
        ((_Float16 *)work->windows[a])[to] = half, work->unfit[a] |= !fits;
}

/* Copy gate and in around a peak to slot `to` of the windows. Outside the text is 0. */
static inline void copy_windows(Work *work, int64_t to, int64_t neuron, int64_t peak, int64_t first, int64_t end) {
    /* [head, tail): the tokens of the text [first, end) that lie in the window, which covers positions [start, stop) of it.
     * They stand together, though some of its positions may be missing. */
    int64_t start = work->position[peak] - work->before, stop = start + work->window, head = peak, tail = peak + 1;
    while (head > first && work->position[head - 1] >= start) head--;
    while (tail < end && work->position[tail] < stop) tail++;
    for (int a = GATE; a <= IN; a++) {
        int64_t cell = 0;
        for (int64_t token = head; token < tail; token++) {
            for (; start + cell < work->position[token]; cell++)
                write_cell(work, a, to * work->window + cell, work->is_routed ? NAN : 0);
            write_cell(work, a, to * work->window + cell++, work->activation[a][token * work->neurons + neuron] + 0.0f);
        }
        for (; cell < work->window; cell++) write_cell(work, a, to * work->window + cell, work->is_routed ? NAN : 0);
    }
}

typedef struct {
    float value, post;
    int32_t text, position;
} Example;

/* Whether an example stands before another: by |value|, by |post| if that breaks ties, by text. */
static inline int before(Example a, Example b, int breaks_tie) {
    if (b.text < 0) return 1;
    if (fabsf(a.value) != fabsf(b.value)) return fabsf(a.value) > fabsf(b.value);
    if (breaks_tie && fabsf(a.post) != fabsf(b.post)) return fabsf(a.post) > fabsf(b.post);
    return a.text < b.text;
}

/* Put an example where it belongs in a list. Returns the slot of its window, or -1 if it does not enter. */
static int64_t insert(Work *work, int64_t row, Example example, int breaks_tie) {
    int64_t last = work->examples - 1, start = row * work->examples, entry = start + last;
    while (entry >= start) {
        Example other = {work->value[entry], work->post[entry], work->list_text[entry], work->list_position[entry]};
        if (!before(example, other, breaks_tie)) break;
        entry--;
    }
    if (++entry > start + last) return -1;
    int64_t slot = work->slot[start + last], moved = start + last - entry;
    memmove(work->value + entry + 1, work->value + entry, moved * sizeof *work->value);
    memmove(work->post + entry + 1, work->post + entry, moved * sizeof *work->post);
    memmove(work->list_text + entry + 1, work->list_text + entry, moved * sizeof *work->list_text);
    memmove(work->list_position + entry + 1, work->list_position + entry, moved * sizeof *work->list_position);
    memmove(work->slot + entry + 1, work->slot + entry, moved * sizeof *work->slot);
    work->value[entry] = example.value, work->post[entry] = example.post;
    work->list_text[entry] = example.text, work->list_position[entry] = example.position, work->slot[entry] = slot;
    return slot;
}

/* Find the peaks of one neuron in one text and insert them into the lists whose bit is set in `wanted`. The peak is the
 * first token with the largest size; for act, of these, the first with the largest |post|. */
static __attribute__((noinline)) void insert_peaks(Work *work, int64_t text, int64_t neuron,
                                                   const Four largest[QUADRANTS], const int wanted[QUADRANTS]) {
    int64_t first = work->offset[text], end = work->offset[text + 1], peak[QUADRANTS][ACTIVATIONS];
    int pending[QUADRANTS];
    float largest_post[QUADRANTS] = {-1, -1, -1, -1};
    memcpy(pending, wanted, sizeof pending);
    for (int64_t token = first; token < end; token++) {
        int64_t at = token * work->neurons + neuron;
        int q = quadrant_of(work->activation[GATE][at], work->activation[IN][at]);
        if (q < 0 || !pending[q] || !work->counted[token]) continue;
        for (int a = 0; a < ACTIVATIONS; a++) {
            if (!(pending[q] >> a & 1) || fabsf(work->activation[a][at]) != largest[q][a]) continue;
            float post = fabsf(work->activation[POST][at]);
            if (a == ACT && post <= largest_post[q]) continue;
            peak[q][a] = token;
            if (a == ACT)
                largest_post[q] = post;
            else
                pending[q] &= ~(1 << a);
        }
    }
    for (int q = 0; q < QUADRANTS; q++)
        for (int a = 0; a < ACTIVATIONS; a++) {
            if (!(wanted[q] >> a & 1)) continue;
            int64_t at = peak[q][a] * work->neurons + neuron, row = LIST[q][a] * work->neurons + neuron;
            Example example = {work->activation[a][at], work->activation[POST][at], work->text[text],
                               work->position[peak[q][a]]};
            int64_t slot = insert(work, row, example, a == ACT);
            if (slot < 0) continue;
            copy_windows(work, row * work->examples + slot, neuron, peak[q][a], first, end);
        }
}

/* Add one token's activations to the cells [width, QUADRANTS] of a block of neurons: four neurons at a time, whose rows of
 * activations are turned so that a neuron's four lie in one vector. */
static inline void fold_token(Work *work, int64_t token, int64_t block, int width, Cell *cells) {
    const float *row[ACTIVATIONS];
    for (int a = 0; a < ACTIVATIONS; a++) {
        row[a] = work->activation[a] + token * work->neurons + block;
        for (int j = 0; j < width; j += 16) __builtin_prefetch(row[a] + AHEAD * work->neurons + j);
    }
    int32_t cell[BLOCK];
    choose_cells(row[GATE], row[IN], work->counted[token], width, cell);
    int j = 0;
    for (; j + 4 <= width; j += 4) {
        Four x[4];
        for (int a = 0; a < ACTIVATIONS; a++) memcpy(x + a, row[a] + j, sizeof *x);
        transpose(x);
        for (int k = 0; k < 4; k++) add(cells + cell[j + k], x[k]);
    }
    for (; j < width; j++) add(cells + cell[j], (Four){row[GATE][j], row[IN][j], row[ACT][j], row[POST][j]});
}

/* Which lists of a neuron its present text may enter, a bit for each activation. */
static inline int choose_lists(const Cell *cells, const Four last[QUADRANTS], int wanted[QUADRANTS]) {
    int any = 0;
    for (int q = 0; q < QUADRANTS; q++) {
        FourBits reaches = cells[q].largest >= last[q];
        wanted[q] = (reaches[GATE] & 1 << GATE) | (reaches[IN] & 1 << IN) | (reaches[ACT] & 1 << ACT) |
                    (reaches[POST] & 1 << POST);
        any |= wanted[q];
    }
    return any;
}

/* Fold a batch into a layer's state: for each block of neurons all texts, for each text all tokens, so that a block's cells
 * stay in the first-level cache while the activations stream past. Returns 0; 1 if an activation is infinite or undefined:
 * then the state is of no use any more. */
int gluscope_reduce(Work *work) {
    for (int64_t block = 0; block < work->neurons; block += BLOCK) {
        int width = (int)(work->neurons - block < BLOCK ? work->neurons - block : BLOCK);
        Cell cells[BLOCK * QUADRANTS + 1];
        Four overall[BLOCK][QUADRANTS], last[BLOCK][QUADRANTS];
        memset(cells, 0, sizeof cells);
        for (int j = 0; j < width; j++) {
            load_last(work, block + j, last[j]);
            for (int q = 0; q < QUADRANTS; q++) overall[j][q] = (Four){0, 0, 0, 0};
        }
        for (int64_t text = 0; text < work->texts; text++) {
            for (int c = 0; c < width * QUADRANTS; c++) cells[c].largest = (Four){-1, -1, -1, -1};
            for (int64_t token = work->offset[text]; token < work->offset[text + 1]; token++)
                fold_token(work, token, block, width, cells);
            for (int j = 0; j < width; j++) {
                const Cell *own = cells + j * QUADRANTS;
                int wanted[QUADRANTS];
                for (int q = 0; q < QUADRANTS; q++) overall[j][q] = larger(own[q].largest, overall[j][q]);
                if (!choose_lists(own, last[j], wanted)) continue;
                Four largest[QUADRANTS] = {own[0].largest, own[1].largest, own[2].largest, own[3].largest};
                insert_peaks(work, text, block + j, largest, wanted);
                load_last(work, block + j, last[j]);
            }
        }
        FourDouble nowhere = cells[BLOCK * QUADRANTS].sum;
        for (int j = 0; j < width; j++)
            for (int q = 0; q < QUADRANTS; q++) {
                const Cell *own = cells + j * QUADRANTS + q;
                work->count[q * work->neurons + block + j] += own->count;
                for (int a = 0; a < ACTIVATIONS; a++) {
                    int64_t at = (q * ACTIVATIONS + a) * work->neurons + block + j;
                    if (!isfinite(own->sum[a]) || !isfinite(nowhere[a])) return 1;
                    work->sum[at] += own->sum[a];
                    work->squares[at] += own->squares[a];
                    work->largest[at] = fmaxf(work->largest[at], overall[j][q][a]);
                }
            }
    }
    return 0;
}
