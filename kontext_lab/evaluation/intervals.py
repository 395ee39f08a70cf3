"""95 % intervals of means, by the bootstrap (Efron 1979); of shares see `kontext_core.metrics.wilson`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

DRAWS = 2000


def bootstrap(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """Percentile interval of the mean of values, resampled with replacement; (nan, nan) of none."""
    if not values:
        return float("nan"), float("nan")
    given = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(draws, dtype=torch.float64)
    # In parts: thousands of cases by thousands of draws are too many at once.
    for start in range(0, draws, 100):
        stop = min(draws, start + 100)
        at = torch.randint(len(values), (stop - start, len(values)), generator=generator)
        means[start:stop] = given[at].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
