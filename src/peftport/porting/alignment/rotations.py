"""Orthogonal maps fitted on pairs of rows, completed where the rows leave them open, and measured on held-out rows.

    T maximises  tr(T^T (X_s^T X_t + c m P))              Schoenemann 1966; arXiv 2602.12952 has c = 0
    polar(C) = U_1 V_1^T + U_0 polar(U_0^T P V_0) V_0^T    C = U_1 S_1 V_1^T; U_0 and V_0 span the rest

Why P: the rows often span fewer dimensions than the space has. A map may have more outputs than the residual stream
has dimensions, the texts may be few, and a layer norm removes the mean. On the remaining dimensions every orthogonal
map fits the rows equally well. The one chosen is the nearest to P, the map that is expected before any row is read
(alignment.parts): the identity between residual streams of one width, a rotation per head, an assignment of FFN units.
Without a P the map is zero on these dimensions, since there is no reason to prefer any map.

Why c: the directions that rows hardly show are mostly noise, and a map fitted to noise would move even a port between
nearly equal hosts far from the identity. c pulls the map towards P, in units of the mean energy of a dimension, m. The
strongest pull that costs nothing on held-out rows is taken.

    alignment = tr(T^T C) / (||X_s|| ||X_t||)              on held-out rows, about their mean; T fitted on the others
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from peftport.core.libraries import torch
from peftport.porting.alignment.maps import Dense, Moments, SecondMoments

if TYPE_CHECKING:
    from torch import Tensor

SEEN = 1e-10  # times the largest singular value of X_s^T X_t: smaller ones are rounding errors
PULLS = (0.0, 1e-4, 1.0)
SLACK = 0.02  # a pull counts as free if it loses at most this share more alignment than the best pull does
ROUNDING = 1e-13  # of alignments computed in float64

# P (D_s, D_t) from some rows; None where nothing is expected
Expect: TypeAlias = "Callable[[SecondMoments], Tensor | None]"


def polar(cross: Tensor, expected: Tensor | None = None) -> Tensor:
    """The orthogonal map nearest to X_s^T X_t (D_s, D_t); what it leaves open follows ``expected``, or is zero."""
    if expected is None:
        u, s, vt = torch.linalg.svd(cross, full_matrices=False)
        rank = int((s > SEEN * s[:1]).sum())
        nearest: Tensor = u[:, :rank] @ vt[:rank]
        return nearest
    u, s, vt = torch.linalg.svd(cross)
    rank = int((s > SEEN * s[:1]).sum())
    completed: Tensor = u[:, :rank] @ vt[:rank]
    if rank < min(cross.shape):
        completed = completed + u[:, rank:] @ polar(u[:, rank:].mT @ expected @ vt[rank:].mT) @ vt[rank:]
    return completed


@dataclass(frozen=True, eq=False)
class Rotation:
    """A map fitted on all rows, the map fitted without the held-out rows, and the alignment of the latter on these."""

    there: Tensor
    by_half: Tensor
    alignment: float | None

    @property
    def note(self) -> str:
        """The figure for a slot's record."""
        return measured("alignment", self.alignment)

    @property
    def dense(self) -> Dense:
        """The map, with its transpose as the way back."""
        return Dense(self.there, self.there.mT, self.note)


def measured(what: str, figure: float | None) -> str:
    """A figure from held-out rows for a slot's record, or the statement that there were none."""
    return f"{what} not measured: no second text to hold out" if figure is None else f"{what} {figure:.2f}"


def unmoved(sums: SecondMoments) -> Tensor | None:
    """Expect the identity where widths are equal. For spaces that have the residual stream's basis."""
    square = sums.count and sums.ab.shape[0] == sums.ab.shape[1]
    return torch.eye(len(sums.ab), dtype=torch.float64) if square else None


def rotation(moments: Moments, expect: Expect) -> Rotation:
    """The best orthogonal map by the rows summed in ``moments`` and by the map that is expected."""
    half, everything = expect(moments.fit), expect(moments.all)
    if everything is None or half is None:
        by_half = polar(moments.fit.ab) if moments.fit.count else polar(moments.all.ab)
        return Rotation(polar(moments.all.ab), by_half, alignment(by_half, moments.held))
    tried = [(pull, _pulled(moments.fit, pull, half)) for pull in PULLS]
    lost = [_lost(map_, moments.held) for _, map_ in tried]
    most = (1 + SLACK) * min(lost) + ROUNDING
    pull, by_half = [pair for pair, loss in zip(tried, lost, strict=True) if loss <= most][-1]
    return Rotation(_pulled(moments.all, pull, everything), by_half, alignment(by_half, moments.held))


def scaled(fitted: Rotation, moments: Moments) -> tuple[Tensor, Tensor]:
    """The best multiples of the two maps (by half the rows, by all), towards which regressions are drawn."""
    return _multiple(fitted.by_half, moments.fit), _multiple(fitted.there, moments.all)


def alignment(map_: Tensor, held: SecondMoments) -> float | None:
    """How well a map lines up held-out rows, about their mean: 1 perfectly, 0 not at all; None if there are none."""
    if held.count < 2:
        return None
    cross = (map_ * (held.ab - torch.outer(held.a, held.b) / held.count)).sum()
    spread = [_about_mean(gram, total, held.count) for gram, total in ((held.aa, held.a), (held.bb, held.b))]
    size = (spread[0] * spread[1]) ** 0.5
    return float(cross) / size if size > 0 else 0.0


def _about_mean(gram: Tensor, total: Tensor, count: int) -> float:
    return max(float(gram.diagonal().sum() - total.square().sum() / count), 0.0)


def _pulled(sums: SecondMoments, pull: float, expected: Tensor) -> Tensor:
    energy = _energy(sums) / min(expected.shape)
    return polar(sums.ab + pull * energy * expected if energy else torch.zeros_like(expected), expected)


def _lost(map_: Tensor, held: SecondMoments) -> float:
    energy = _energy(held) if held.count else 0.0
    return 1 - float((map_ * held.ab).sum()) / energy if energy else 1.0


def _energy(sums: SecondMoments) -> float:
    return float((sums.aa.diagonal().sum() * sums.bb.diagonal().sum()).clamp(min=0).sqrt()) if sums.count else 0.0


def _multiple(map_: Tensor, sums: SecondMoments) -> Tensor:
    """map_ times the factor with the least ||X_s map_ factor - X_t||; the map itself if all rows are zero."""
    size = float(sums.aa.diagonal().sum()) if sums.count else 0.0
    return map_ * (float((map_ * sums.ab).sum()) / size) if size > 0 else map_
