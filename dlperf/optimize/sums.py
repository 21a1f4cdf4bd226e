"""Sums of two gradients, of what was read twice, as the end of the kernel that makes one of them."""

from __future__ import annotations

from dataclasses import replace

from ..backends import cpu
from .prepared import Address, Step, Value, leaves

# C.conv2d_bwd_input's operands: shape, gy, weight, bias, residual, gx, workspace, threads.
_RESIDUAL, _RESULT = 4, 5
# C.add's: dtype, count, a, b, alpha, relu, y.
_SIDES, _ALPHA, _RELU, _SUM = (2, 3), 4, 5, 6


def join_sums(steps: list[Step], outputs: list) -> list[Step]:
    """The steps with ``conv2d_bwd_input`` and the ``add`` of its result, where nothing else reads that, as one."""
    if cpu.C is None:
        return steps
    makers = {step.outs[0]: step for step in steps if _is_gradient(step)}
    uses: dict[Value, int] = {}
    for value in leaves(outputs, Value):
        uses[value] = uses.get(value, 0) + 1
    for step in steps:
        for value in set(leaves((step.args, step.kwargs, step.prepared and step.prepared.operands), Value)):
            if value not in step.outs:
                uses[value] = uses.get(value, 0) + 1
            if value.root is not None:
                uses[value.root] = uses.get(value.root, 0) + 1
    order = {step: index for index, step in enumerate(steps)}
    found: list[Step | None] = list(steps)
    for index, step in enumerate(steps):
        if not _is_sum(step):
            continue
        operands = step.prepared.operands
        sides = [(operands[i], operands[j]) for i, j in (_SIDES, _SIDES[::-1])]
        sides = [(mine, other) for mine, other in sides if mine.of in makers and uses[mine.of] == 1 and mine != other]
        sides = [
            s for s in sides if s[0].of.example == step.outs[0].example and found[order[makers[s[0].of]]] is not None
        ]
        if not sides:
            continue
        mine, other = max(sides, key=lambda s: order[makers[s[0].of]])
        maker = makers[mine.of]
        given = list(maker.prepared.operands)
        given[_RESIDUAL], given[_RESULT] = other, operands[_SUM]
        prepared = replace(maker.prepared, operands=tuple(given))
        found[order[maker]] = None
        found[index] = replace(step, name=maker.name, args=(*maker.args, other.of), kwargs={}, prepared=prepared)
    return [step for step in found if step is not None]


def _is_gradient(step: Step) -> bool:
    """Of a convolution's input: undivided, without strides, not yet added to anything."""
    prepared = step.prepared
    if prepared is None or prepared.function is not cpu.C.conv2d_bwd_input or len(step.outs) != 1:
        return False
    if step.name != "conv2d_bwd_input" or prepared.operands[_RESULT] != Address(step.outs[0]):
        return False
    _, _, _, stride, _, _, groups, _ = step.args
    return tuple(stride) == (1, 1) and groups == 1 and prepared.operands[_RESIDUAL] == 0


def _is_sum(step: Step) -> bool:
    prepared = step.prepared
    if prepared is None or prepared.function is not cpu.C.add or len(step.outs) != 1:
        return False
    operands = prepared.operands
    plain = operands[_ALPHA] == 1 and not operands[_RELU] and operands[_SUM] == Address(step.outs[0])
    return plain and all(operands[i].offset == 0 and operands[i].of.root is None for i in _SIDES)
