"""The loops that a card runs, in CUDA C, for all that is no product of matrices.

Each thread does a row, or every so many-th one, so whoever has no card compiles the same text as C++, with one thread
that does all rows (`tests/kernels/host_card.py`). Arrays are features or components first, rows last: neighbouring
threads read neighbouring numbers.
"""

from __future__ import annotations

#: Features of Phi that a thread fills: the index arithmetic is then little beside them.
RUN = 8
#: Up to so many features the density of a row is found with the row in registers, and its sums without Phi in memory.
NARROW = 8
#: Rows that a block of threads sums, those that it has in shared memory at once, and numbers there at most.
SUMMED_ROWS, SUM_ROWS, SUM_VALUES = 512, 32, 6016
#: Components and numbers of Phi whose sums a thread has at a time: six numbers are read for eight products.
SUM_TALL, SUM_WIDE = 4, 2

#: The dtypes of rows that are read as they are, with their names in C; others are converted to float64 before.
DTYPES = {
    "float64": "double", "float32": "float", "int64": "long long", "int32": "int", "int16": "short",
    "int8": "signed char", "uint64": "unsigned long long", "uint32": "unsigned int", "uint16": "unsigned short",
    "uint8": "unsigned char",
}  # fmt: skip

_ROWS = """
// Rows as they are stored, (n, d), become x, (d, n), in double precision and mapped; one that is not finite becomes
// zeros, and does not count.
extern "C" __global__ void rows_NAME(
    const TYPE* stored, long long n, int d, const double* shift, const double* scale, int mapped, int checked,
    double* x, double* counted)
{
    for (long long i = FIRST; i < n; i += STEP) {
        bool finite = true;
        for (int j = 0; j < d; j++) {
            double value = in_double(stored[i * d + j]);
            if (mapped) value = (value - shift[j]) / scale[j];
            finite = finite && (value - value == 0.0);
            x[j * n + i] = value;
        }
        if (!checked) continue;
        counted[i] = finite ? 1.0 : 0.0;
        if (!finite) for (int j = 0; j < d; j++) x[j * n + i] = 0.0;
    }
}
"""

_COMMON = """
#define FIRST ((long long)blockIdx.x * blockDim.x + threadIdx.x)
#define STEP ((long long)gridDim.x * blockDim.x)

// CuPy compiles with -ftz=true, by which a float below 1.2e-38 is 0 when it is converted: this one is not.
__device__ inline double in_double(float x)
{
    unsigned int bits;
    memcpy(&bits, &x, sizeof bits);
    if (bits & 0x7f800000u) return (double)x;
    const double size = (double)(bits & 0x7fffffu) * 0x1p-149;
    return bits >> 31 ? -size : size;
}
template <class T> __device__ inline double in_double(T x) { return (double)x; }

// Adds values to total; lack is what total lacks of the sum of all (Kahan 1965, doi:10.1145/363707.363723).
extern "C" __global__ void add(double* total, double* lack, const double* values, long long n)
{
    for (long long i = FIRST; i < n; i += STEP) {
        const double value = values[i] + lack[i], sum = total[i] + value;
        lack[i] = value - (sum - total[i]);
        total[i] = sum;
    }
}

// Phi, (n_second + d + 1, n), of rows x, (d, ld), about the origin: each second moment is the sum of the products of
// features from starts[f] to starts[f + 1]; then the rows themselves, and 1.
extern "C" __global__ void phi(
    const double* x, long long ld, long long n, int d, const double* origin, const int* left, const int* right,
    const int* starts, int n_second, double* out)
{
    const int n_phi = n_second + d + 1;
    const long long n_runs = (n_phi + RUN - 1) / RUN;
    for (long long t = FIRST; t < n * n_runs; t += STEP) {
        const long long i = t % n;
        const int begin = (int)(t / n) * RUN, end = begin + RUN < n_phi ? begin + RUN : n_phi;
        for (int f = begin; f < end; f++) {
            double value = 1.0;
            if (f < n_second) {
                value = 0.0;
                for (int p = starts[f]; p < starts[f + 1]; p++)
                    value += (x[left[p] * ld + i] - origin[left[p]]) * (x[right[p] * ld + i] - origin[right[p]]);
            } else if (f < n_phi - 1) {
                value = x[(f - n_second) * ld + i] - origin[f - n_second];
            }
            out[f * n + i] = value;
        }
    }
}

// Offsets of rows x, (d, ld), from each mean, (k, d), times its scales where it has some: z, (k, d, n).
extern "C" __global__ void offsets(
    const double* x, long long ld, long long n, int d, int k, const double* means, const double* scales, int scaled,
    double* z)
{
    for (long long t = FIRST; t < n * d * k; t += STEP) {
        const long long i = t % n, own = t / n;
        const double value = x[(own % d) * ld + i] - means[own];
        z[t] = scaled ? value * scales[own] : value;
    }
}

// log-densities, row own[k] of out, (., n), of the exact form: constants[k] - |z|^2 / 2 of z, (k, d, n).
extern "C" __global__ void exact_density(
    const double* z, long long n, int d, int k, const double* constants, const int* own, double* out)
{
    for (long long t = FIRST; t < n * k; t += STEP) {
        const long long i = t % n;
        const int c = (int)(t / n);
        double total = 0.0;
        for (int j = 0; j < d; j++) {
            const double value = z[((long long)c * d + j) * n + i];
            total += value * value;
        }
        out[own[c] * n + i] = constants[c] - 0.5 * total;
    }
}

// Products of z with the responsibilities, row own[k] of resp, (., n): z, (k, d, n), becomes out of that shape.
extern "C" __global__ void weighted(
    const double* z, const double* resp, const int* own, long long n, int d, int k, double* out)
{
    for (long long t = FIRST; t < n * d * k; t += STEP)
        out[t] = z[t] * resp[own[t / n / d] * n + t % n];
}

// Log-densities l, (k, n), become responsibilities times weights; log-sum-exp of each row, and the logarithm of its
// largest responsibility. Comparisons are such that what is no number stays so.
extern "C" __global__ void softmax(
    double* l, long long n, int k, const double* weights, int has_weights, double smallest, double* log_likelihood,
    double* log_largest)
{
    const double least = exp(smallest);
    for (long long i = FIRST; i < n; i += STEP) {
        const double weight = has_weights ? weights[i] : 1.0;
        if (weight == 0.0) {
            for (int c = 0; c < k; c++) l[c * n + i] = 0.0;
            log_likelihood[i] = log_largest[i] = 0.0;
            continue;
        }
        double top = l[i], total = 0.0;
        for (int c = 1; c < k; c++) top = l[c * n + i] > top ? l[c * n + i] : top;
        for (int c = 0; c < k; c++) {
            double value = l[c * n + i] - top;
            value = exp(value < smallest ? smallest : value) - least;
            total += value;
            l[c * n + i] = value;
        }
        const double factor = weight / total, log_total = log(total);
        for (int c = 0; c < k; c++) l[c * n + i] *= factor;
        log_likelihood[i] = top + log_total;
        log_largest[i] = -log_total;
    }
}

// Log-densities l, (k, n), become responsibilities, and lost, (k, n), what a row loses without each component; with the
// entropy of each row's responsibilities: see `support.leave_out`.
extern "C" __global__ void leave_out(
    double* l, long long n, int k, const double* weights, int has_weights, double smallest, double* lost,
    double* log_likelihood, double* log_largest, double* entropy)
{
    const double least = exp(smallest);
    for (long long i = FIRST; i < n; i += STEP) {
        if (has_weights && weights[i] == 0.0) {
            for (int c = 0; c < k; c++) l[c * n + i] = lost[c * n + i] = 0.0;
            log_likelihood[i] = log_largest[i] = entropy[i] = 0.0;
            continue;
        }
        int top = 0;
        for (int c = 1; c < k; c++) if (l[c * n + i] > l[top * n + i]) top = c;
        const double highest = l[top * n + i];
        bool any = false;
        double second = 0.0, others = 0.0, within = 0.0;
        for (int c = 0; c < k; c++) {
            const double value = l[c * n + i];
            if (c == top || value < -1.7976931348623157e308 || (any && !(value > second))) continue;
            second = value;
            any = true;
        }
        for (int c = 0; c < k; c++) {
            double below = l[c * n + i] - second;
            below = below < smallest ? smallest : below;
            const double value = c == top || !any ? 0.0 : exp(below) - least;
            others += value;
            if (value > 0.0) within -= value * below;
            l[c * n + i] = value;
        }
        const double log_others = second + log(others);
        const double whole = any ? highest + log1p(exp(log_others - highest)) : highest;
        const double factor = any ? exp(second - whole) : 1.0;
        for (int c = 0; c < k; c++) {
            const double resp = c == top ? exp(highest - whole) : l[c * n + i] * factor;
            lost[c * n + i] = c != top ? -log(1.0 - resp) : any ? whole - log_others : 0.0;
            l[c * n + i] = resp;
        }
        log_likelihood[i] = whole;
        log_largest[i] = highest - whole;
        // (Where the share of the others is small, 1 less it is not exact.)
        const double share = any ? exp(log_others - whole) : 0.0;
        const double exact = share < 0.5 ? log1p(-share) : highest - whole;
        const double spread = any ? share * (log(others) + within / others - (log_others - whole)) : 0.0;
        entropy[i] = spread - exp(highest - whole) * exact;
    }
}

// The component of the largest log-density of each row of l, (k, n), the first of equal ones, and that density.
extern "C" __global__ void label(const double* l, long long n, int k, long long* labels, double* highest)
{
    for (long long i = FIRST; i < n; i += STEP) {
        int top = 0;
        double most = l[i];
        for (int c = 1; c < k; c++) {
            const double value = l[c * n + i];
            if (value > most || value != value) { top = c; most = value; }
        }
        labels[i] = top;
        highest[i] = most;
    }
}
"""

_NARROW = """
// Log-densities, (k, n), of rows x, (D, ld), of full covariances: eta, (k, n_phi), times Phi, which is nowhere.
extern "C" __global__ void narrow_density_D(
    const double* x, long long ld, long long n, const double* origin, const double* eta, int k, double* out)
{
    for (long long i = FIRST; i < n; i += STEP) {
        double row[D];
        for (int j = 0; j < D; j++) row[j] = x[j * ld + i] - origin[j];
        for (int c = 0; c < k; c++) {
            const double* own = eta + c * (D * (D + 1) / 2 + D + 1);
            const double* linear = own + D * (D + 1) / 2;
            double total = linear[D];
            for (int a = 0; a < D; a++) {
                double part = linear[a];
                for (int b = a; b < D; b++) part += *own++ * row[b];
                total += part * row[a];
            }
            out[c * n + i] = total;
        }
    }
}
"""

_SUMS = """
// Sums of n_rows rows for each block of threads: of resp, (k, n), times Phi, (n_phi), of rows x, (d, ld); out is
// (blocks, k, n_phi). Responsibilities and Phi of some rows lie in shared memory at a time; a thread has a patch of
// sums, those of some components and some numbers of Phi.
extern "C" __global__ void narrow_sums(
    const double* x, long long ld, long long n, long long n_rows, int d, const double* origin, const int* left,
    const int* right, int n_second, const double* resp, int k, double* out)
{
    __shared__ double held[SUM_VALUES];
    const int n_phi = n_second + d + 1, length = SUM_ROWS + 1, n_threads = blockDim.x;
    const int n_across = (n_phi + SUM_WIDE - 1) / SUM_WIDE, n_patches = (k + SUM_TALL - 1) / SUM_TALL * n_across;
    double* const phi = held + k * length;
    double* const rows = phi + n_second * length;
    for (long long block = blockIdx.x; block * n_rows < n; block += gridDim.x) {
        const long long begin = block * n_rows, end = begin + n_rows < n ? begin + n_rows : n;
        for (int first = 0; first < n_patches; first += n_threads) {
            // (Threads without a patch do one again, patches at an edge their last sums again: none is written twice.)
            const int patch = first + (int)threadIdx.x, own = patch < n_patches ? patch : 0;
            const int top = own / n_across * SUM_TALL, side = own % n_across;
            const double *weights[SUM_TALL], *values[SUM_WIDE];
            double total[SUM_TALL][SUM_WIDE];
            #pragma unroll
            for (int a = 0; a < SUM_TALL; a++) weights[a] = held + (top + a < k ? top + a : k - 1) * length;
            #pragma unroll
            for (int b = 0; b < SUM_WIDE; b++) {
                // (Neighbouring threads have neighbouring numbers: their reads then meet in no bank of the memory.)
                const int f = side + b * n_across;
                values[b] = phi + (f < n_phi ? f : n_phi - 1) * length;
            }
            #pragma unroll
            for (int a = 0; a < SUM_TALL; a++)
                #pragma unroll
                for (int b = 0; b < SUM_WIDE; b++) total[a][b] = 0.0;
            for (long long low = begin; low < end; low += SUM_ROWS) {
                const int m = (int)(end - low < SUM_ROWS ? end - low : SUM_ROWS);
                __syncthreads();
                for (int t = threadIdx.x; t < (k + d + 1) * SUM_ROWS; t += n_threads) {
                    const int f = t / SUM_ROWS - k, r = t % SUM_ROWS;
                    const long long i = low + r;
                    double value = 1.0;
                    if (r >= m) value = 0.0;
                    else if (f < 0) value = resp[(f + k) * n + i];
                    else if (f < d) value = x[f * ld + i] - origin[f];
                    (f < 0 ? held + (f + k) * length : rows + f * length)[r] = value;
                }
                __syncthreads();
                for (int t = threadIdx.x; t < n_second * SUM_ROWS; t += n_threads) {
                    const int f = t / SUM_ROWS, r = t % SUM_ROWS;
                    phi[f * length + r] = rows[left[f] * length + r] * rows[right[f] * length + r];
                }
                __syncthreads();
                double part[SUM_TALL][SUM_WIDE] = {};
                for (int r = 0; r < SUM_ROWS; r++) {
                    #pragma unroll
                    for (int a = 0; a < SUM_TALL; a++)
                        #pragma unroll
                        for (int b = 0; b < SUM_WIDE; b++) part[a][b] += weights[a][r] * values[b][r];
                }
                #pragma unroll
                for (int a = 0; a < SUM_TALL; a++)
                    #pragma unroll
                    for (int b = 0; b < SUM_WIDE; b++) total[a][b] += part[a][b];
            }
            if (patch >= n_patches) continue;
            #pragma unroll
            for (int a = 0; a < SUM_TALL; a++)
                #pragma unroll
                for (int b = 0; b < SUM_WIDE; b++) {
                    const int f = side + b * n_across;
                    if (top + a < k && f < n_phi) out[(block * k + top + a) * n_phi + f] = total[a][b];
                }
        }
    }
}
"""

_NUMBERS = {"SUM_ROWS": SUM_ROWS, "SUM_VALUES": SUM_VALUES, "SUM_TALL": SUM_TALL, "SUM_WIDE": SUM_WIDE, "RUN": RUN}


def _defined() -> str:
    """Return the numbers that the loops take, as definitions."""
    return "".join(f"#define {name} {value}\n" for name, value in _NUMBERS.items())


SOURCE = (
    _defined()
    + _COMMON
    + "".join(_ROWS.replace("NAME", name).replace("TYPE", of_c) for name, of_c in DTYPES.items())
    + "".join(f"#define D {d}\n{_NARROW.replace('density_D', f'density_{d}')}#undef D\n" for d in range(1, NARROW + 1))
    + _SUMS
)
