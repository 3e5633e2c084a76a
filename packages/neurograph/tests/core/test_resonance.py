"""Exact scores and the best of them, against a loop over Python's whole numbers."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from neurograph.core import resonance
from neurograph.core.resonance import NONE, UNIT, best, cosine_units, float_bound, phasor_rows, unit_scores
from neurograph.errors import ConfigError

CPU = torch.device("cpu")


def loop(context, own, bins, k, allowed=None):
    """[B][S][k] rows: every score a Python integer, sorted by (−score, row)."""
    table = [round(math.cos(2 * math.pi * i / bins) * 2**30) for i in range(bins)]
    found = []
    for sample in context.tolist():
        rows = []
        for s, a in enumerate(sample):
            scores = [
                (-sum(table[(x + y) % bins] for x, y in zip(a, b, strict=True)), row)
                for row, b in enumerate(own.tolist())
                if allowed is None or bool(allowed[s, row])
            ]
            chosen = [row for _, row in sorted(scores)[:k]]
            rows.append(chosen + [-1] * (k - len(chosen)))
        found.append(rows)
    return found


@st.composite
def cases(draw):
    bins = draw(st.sampled_from([2, 3, 4, 7, 8, 512]))
    b, s, n, d = (draw(st.integers(1, high)) for high in (3, 3, 12, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    context, own = (torch.randint(bins, shape, generator=generator) for shape in ((b, s, d), (n, d)))
    allowed = torch.rand(s, n, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.8]))
    return context, own.short(), bins, draw(st.integers(1, 14)), draw(st.sampled_from([None, allowed]))


@given(cases())
def test_the_best_are_those_of_a_loop_with_ties_by_row(case):
    context, own, bins, k, allowed = case
    found = best(context, own, bins, k, allowed=allowed)
    assert found.index.tolist() == loop(context, own, bins, k, allowed)
    there = found.index >= 0
    units = unit_scores(context[:, :, None], own[found.index.clamp(min=0)], bins)
    assert torch.equal(found.units, torch.where(there, units, NONE))


@given(cases(), st.integers(1, 30))
def test_pieces_do_not_change_the_answer(case, elements):
    context, own, bins, k, allowed = case
    whole = best(context, own, bins, k, allowed=allowed).index
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resonance, "_ELEMENTS", elements)
        assert torch.equal(best(context, own, bins, k, allowed=allowed).index, whole)


def test_a_batch_answers_as_its_singles():
    generator = torch.Generator().manual_seed(5)
    context, own = torch.randint(16, (40, 7, 3), generator=generator), torch.randint(16, (90, 3), generator=generator)
    whole = best(context, own, 16, 6).index
    for b in range(0, 40, 13):
        for s in range(7):
            assert torch.equal(best(context[b : b + 1, s : s + 1], own, 16, 6).index[0, 0], whole[b, s])


@pytest.mark.parametrize("bins", [2, 3, 5, 8, 64, 512, 1000])
def test_cosines_are_rounded_and_symmetric_to_the_last_bit(bins):
    units = cosine_units(bins, CPU).tolist()
    assert units[:bins] == [round(math.cos(2 * math.pi * i / bins) * 2**30) for i in range(bins)]
    assert units[bins:] == units[: bins - 1]
    assert all(units[i] == units[bins - i] for i in range(1, bins))
    if bins % 2 == 0:
        assert all(units[i] == -units[i + bins // 2] for i in range(bins // 2))


@pytest.mark.parametrize(("bins", "dim"), [(512, 8), (512, 300), (1000, 33), (7, 5)])
def test_the_product_stays_within_its_bound(bins, dim):
    generator = torch.Generator().manual_seed(dim)
    a, b = (torch.randint(bins, (200, dim), generator=generator) for _ in range(2))
    product = phasor_rows(a, bins, conjugate=True) @ phasor_rows(b, bins).mT
    off = (product - unit_scores(a[:, None], b, bins).double() * UNIT).abs().max().item()
    assert off <= float_bound(dim)
    assert off > float_bound(dim) / 1000 if bins != 7 else True  # the bound is no blank cheque


@pytest.mark.parametrize("bins", [512, 1000, 30_000, 1 << 15])
def test_the_share_of_rounding_in_the_bound_holds_by_itself(bins):
    # In extended precision, where there is one; elsewhere this can only pass.
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(bins, (200_000, 1), generator=generator) for _ in range(2))
    product = (phasor_rows(a, bins, conjugate=True) * phasor_rows(b, bins)).sum(1).numpy()
    wide = np.longdouble
    angle = 2 * wide("3.14159265358979323846264338327950288") * ((a + b) % bins)[:, 0].numpy().astype(wide) / bins
    off = float(np.abs(product - np.cos(angle)).max())
    assert off <= float_bound(1) - UNIT / 2


def test_rows_of_contexts_and_nodes_have_one_length():
    rows = phasor_rows(torch.arange(30).view(6, 5), 30)
    assert torch.allclose(rows.square().sum(1), torch.full((6,), 5.0, dtype=torch.float64), rtol=1e-15)


def test_scores_near_a_tie_are_decided_by_whole_numbers():
    # Permuted copies of one context tie exactly; a product rounds their sums differently.
    generator = torch.Generator().manual_seed(1)
    one = torch.randint(512, (24,), generator=generator)
    own = torch.stack([one[torch.randperm(24, generator=generator)] for _ in range(50)])
    context = torch.full((1, 1, 24), 77)
    product = phasor_rows(context[0], 512, conjugate=True) @ phasor_rows(own, 512).mT
    assert product.unique().numel() > 1
    assert best(context, own, 512, 5).index.tolist() == [[[0, 1, 2, 3, 4]]]


def test_autocast_changes_nothing():
    generator = torch.Generator().manual_seed(2)
    context, own = torch.randint(512, (4, 5, 8), generator=generator), torch.randint(512, (300, 8), generator=generator)
    plain = best(context, own, 512, 9).index
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(best(context, own, 512, 9).index, plain)


def test_no_target_at_all_is_refused():
    with pytest.raises(ConfigError, match="k = 0"):
        best(torch.zeros(1, 1, 2, dtype=torch.long), torch.zeros(3, 2, dtype=torch.long), 8, 0)


@pytest.mark.gpu
def test_a_gpu_answers_as_a_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator().manual_seed(3)
    for bins in (4, 512):
        context = torch.randint(bins, (8, 20, 5), generator=generator)
        own = torch.randint(bins, (400, 5), generator=generator)
        allowed = torch.rand(20, 400, generator=generator) < 0.7
        here = best(context, own, bins, 6, allowed=allowed)
        there = best(context.cuda(), own.cuda(), bins, 6, allowed=allowed.cuda())
        assert torch.equal(here.index, there.index.cpu())
        assert torch.equal(here.units, there.units.cpu())
