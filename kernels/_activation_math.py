"""act(x) and act'(x) on float32 tiles, for kernels to call. Formulas: docs/math/activation.md."""

from __future__ import annotations

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_INVERSE_SQRT_2PI = tl.constexpr(0.3989422804014327)
_TWICE_SQRT_2_OVER_PI = tl.constexpr(1.5957691216057308)


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    s = x * x
    near = x * (1.0 + s * (-0.3333333333 + s * (0.1333333333 + s * -0.0539682540)))
    return tl.where(tl.abs(x) < 0.2, near, tl.where(x < 0, -far, far))


@triton.jit
def _tanh_of_softplus(x):
    """n / (n + 2) with n = e (e + 2), e = exp(x), and e."""
    e = tl.exp(tl.minimum(x, 20.0))
    n = e * (e + 2.0)
    return n / (n + 2.0), e, n


@triton.jit
def act(x, param, KIND: tl.constexpr):
    if KIND == "none":
        return x
    elif KIND == "relu":
        return tl.where(x <= 0.0, 0.0, x)  # NaN stays
    elif KIND == "relu6":
        return tl.where(x <= 0.0, 0.0, tl.where(x >= 6.0, 6.0, x))
    elif KIND == "leaky_relu":
        return tl.where(x > 0.0, x, x * param)
    elif KIND == "elu":
        small = x * (1.0 + x * (0.5 + x * (0.16666667 + x * 0.041666667)))
        return tl.where(x > 0.0, x, param * tl.where(x > -0.05, small, tl.exp(tl.minimum(x, 0.0)) - 1.0))
    elif KIND == "gelu":
        return tl.where(x == float("-inf"), 0.0, 0.5 * x * (1.0 + tl.erf(x * _SQRT_HALF)))
    elif KIND == "gelu_tanh":
        twice_u = (x + 0.044715 * x * x * x) * _TWICE_SQRT_2_OVER_PI
        return tl.where(x == float("-inf"), 0.0, x * tl.sigmoid(twice_u))
    elif KIND == "silu":
        return tl.where(x == float("-inf"), 0.0, x * tl.sigmoid(x))
    elif KIND == "sigmoid":
        return tl.sigmoid(x)
    elif KIND == "tanh":
        return _tanh(x)
    elif KIND == "hardsigmoid":
        return _clip(x + 3.0, 6.0) * 0.16666666666666666
    elif KIND == "hardswish":
        return x * _clip(x + 3.0, 6.0) * 0.16666666666666666
    elif KIND == "softplus":
        scaled = x * param
        e = tl.exp(-tl.abs(scaled))
        log1p = tl.where(e < 0.01, e * (1.0 - e * (0.5 - e * 0.33333333)), tl.log(1.0 + e))
        return tl.where(scaled > 20.0, x, (tl.maximum(scaled, 0.0) + log1p) / param)
    else:
        tl.static_assert(KIND == "mish", "unknown activation")
        t, _, _ = _tanh_of_softplus(x)
        return tl.where(x == float("-inf"), 0.0, x * tl.where(x > 20.0, 1.0, t))


@triton.jit
def _clip(x, top):
    """min(max(x, 0), top), NaN stays."""
    return tl.where(x <= 0.0, 0.0, tl.where(x >= top, top, x))


@triton.jit
def act_gradient(g, x, param, KIND: tl.constexpr):
    """g act'(x). Where act' is a constant by cases the gradient is selected: an infinite g meets no zero."""
    if KIND == "none":
        return g
    elif KIND == "relu":
        return tl.where(x > 0.0, g, 0.0)
    elif KIND == "relu6":
        return tl.where((x > 0.0) & (x < 6.0), g, 0.0)
    elif KIND == "leaky_relu":
        return tl.where(x > 0.0, g, g * param)
    elif KIND == "elu":
        return tl.where(x > 0.0, g, g * param * tl.exp(tl.minimum(x, 0.0)))
    elif KIND == "gelu":
        return g * (0.5 * (1.0 + tl.erf(x * _SQRT_HALF)) + x * tl.exp(-0.5 * x * x) * _INVERSE_SQRT_2PI)
    elif KIND == "gelu_tanh":
        s = tl.sigmoid((x + 0.044715 * x * x * x) * _TWICE_SQRT_2_OVER_PI)
        return g * (s + x * _TWICE_SQRT_2_OVER_PI * (1.0 + 0.134145 * x * x) * s * (1.0 - s))
    elif KIND == "silu":
        s = tl.sigmoid(x)
        return g * (s * (1.0 + x * (1.0 - s)))
    elif KIND == "sigmoid":
        s = tl.sigmoid(x)
        return g * (s * (1.0 - s))
    elif KIND == "tanh":
        s = tl.sigmoid(2.0 * x)
        return g * (4.0 * s * (1.0 - s))
    elif KIND == "hardsigmoid":
        return tl.where((x > -3.0) & (x < 3.0), g * 0.16666666666666666, 0.0)
    elif KIND == "hardswish":
        return tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, g, g * (x * 0.3333333333333333 + 0.5)))
    elif KIND == "softplus":
        return tl.where(x * param > 20.0, g, g * tl.sigmoid(x * param))
    else:
        tl.static_assert(KIND == "mish", "unknown activation")
        t, e, n = _tanh_of_softplus(x)
        inner = t + 4.0 * x * e * (1.0 + e) / ((n + 2.0) * (n + 2.0))
        return tl.where(x > 20.0, g, g * inner)
