#include "cpu/conv2d.h"

namespace dlperf {

const Conv2dTable& conv2d_kernels(const Conv2dShape& s) {
    const bool depthwise = s.groups == s.c && s.c > 1;
    return depthwise ? DLPERF_DISPATCH(depthwise_table) : DLPERF_DISPATCH_BF16(conv2d_table);
}

}  // namespace dlperf
