// Which outputs of a convolution, or of a transposed one, read which elements of its source through which taps of its filters.
// Both directions are one sum: y[n, m, u, v] = sum over c, i, j of W[m, c, i, j] * source[n, c, row(u, i), column(v, j)].
// A transposed convolution with a stride is one such sum for each phase of its outputs, over the taps that reach that phase.
// The structs mirror the dtypes of cuda/convolution.py.
#pragma once

// Division of 0 <= n < 2^31 by a constant of the launch, as a multiplication.
struct Divisor {
    unsigned multiplier;
    int shift;

    __device__ __forceinline__ int quotient(int n) const {
        return static_cast<int>(static_cast<unsigned long long>(static_cast<unsigned>(n)) * multiplier >> shift);
    }
};

// Along one axis, tap t of output u reads the source at u * stride + t * dilate + offset.
struct Axis {
    int source;           // extent of the source
    int size;             // extent of y
    int outputs;          // outputs of this launch:
    int first, step;      // u stands for y's pixel first + u * step
    int stride, dilate, offset;
    int taps;             // taps of this launch:
    int first_tap, tap_step;  // t stands for W's tap first_tap + t * tap_step; the step may be negative, as dilate never is
    int ksize;            // extent of W

    __device__ __forceinline__ int pixel(int u) const { return first + u * step; }
    __device__ __forceinline__ int tap(int t) const { return first_tap + t * tap_step; }
};

// The pooling that made the switches, where the source is an unpooled signal.
struct Pooling {
    int rows, columns;      // windows
    int ksize_rows, ksize_columns;
    int stride_rows, stride_columns;
    int pad_rows, pad_columns;  // before the first row and column
    Divisor by_rows, by_columns;  // division by the strides
    int rectify;            // whether what was unpooled is rectified
};

struct Layout {
    long long group_stride, output_stride, channel_stride;  // in W, from a group, output m or channel c to the next
    int groups, outputs, channels;  // the latter two of one group
    Axis rows, columns;
    Divisor by_taps, by_tap_columns;  // division by the number of taps, and by that of their columns
    Pooling pooling;

    __device__ __forceinline__ int taps() const { return rows.taps * columns.taps; }

    // Where W's value lies.
    __device__ __forceinline__ long long weight(int group, int output, int channel, int i, int j) const {
        return group * group_stride + output * output_stride + channel * channel_stride +
               rows.tap(i) * columns.ksize + columns.tap(j);
    }
};

// One of the launch's pixels, counted over the whole batch: its picture, row and column.
template <typename Index>
struct Pixel {
    Index picture;
    int row, column;

    __device__ __forceinline__ Pixel(const Layout& layout, Index number) {
        const Index line = number / layout.columns.outputs;
        column = static_cast<int>(number - line * layout.columns.outputs);
        picture = line / layout.rows.outputs;
        row = static_cast<int>(line - picture * layout.rows.outputs);
    }

    // Its place in y's channel 0 of the picture, and so, with channel * plane added, in any other.
    __device__ __forceinline__ Index place(const Layout& layout) const {
        const Index plane = static_cast<Index>(layout.rows.size) * layout.columns.size;
        return picture * (layout.groups * layout.outputs) * plane +
               static_cast<Index>(layout.rows.pixel(row)) * layout.columns.size + layout.columns.pixel(column);
    }
};
