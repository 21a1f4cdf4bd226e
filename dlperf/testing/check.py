"""``dlperf check``: every case on this very machine, pinned to one backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from .. import backends
from .cases import FAMILIES, cases_on
from .run import run_case


@dataclass
class FamilyResult:
    """served and declined count (case, dtype) pairs; failures name what was out of bound; operators: those served."""

    family: str
    served: int = 0
    declined: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    worst: float = 0.0
    claimed: bool = False
    operators: set[str] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        return not self.failures and (self.served > 0 or not self.claimed)


def _claims(backend: str, family: str) -> bool:
    """Whether the backend has a function for an operator that the family's cases call."""
    module = backends.load(backend)
    case = FAMILIES[family][0]
    called = run_case(case, case.dtypes[0], "reference").served
    return any(hasattr(module, name) for name in called)


def check(
    backend: str,
    *,
    device: str = "cpu",
    families: Iterable[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[FamilyResult]:
    """Runs the families' cases on the backend, forward and gradients, against float64."""
    results = []
    for family in families or FAMILIES:
        result = FamilyResult(family, claimed=_claims(backend, family))
        for case in cases_on(device, family):
            for dtype in case.dtypes:
                label = f"{case} {str(dtype).removeprefix('torch.')}"
                try:
                    outcome = run_case(case, dtype, backend, device)
                except Exception as error:  # a crash of one case is that case's failure, not the command's
                    result.failures.append(f"{label}: {type(error).__name__}: {error}")
                    continue
                if outcome.declined is not None:
                    result.declined[outcome.declined] += 1
                    continue
                result.served += 1
                result.operators.update(outcome.served)
                for name, comparison in outcome.comparisons.items():
                    if comparison.bound > 0:
                        result.worst = max(result.worst, comparison.error / comparison.bound)
                    if not comparison.ok:
                        result.failures.append(f"{label}: {name}: {comparison}")
                progress(family)
        results.append(result)
    return results


def machine() -> dict[str, str]:
    """Versions and hardware that a result depends on."""
    from .. import __version__
    from ..backends import cpu

    facts = {"dlperf": __version__, "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    facts["isa"] = cpu.isa() if cpu.available() is None else "none"
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
