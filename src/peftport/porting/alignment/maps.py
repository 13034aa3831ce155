"""Linear maps between a space of the origin and one of the receiver, and how they are fitted to pairs of rows.

A pair of rows x_s, x_t are the activations of both hosts for the same word, and the map should give x_t ~ x_s T and
x_s ~ x_t T'. There are three kinds of map:

    orthogonal   T = U V^T, U S V^T = svd(X_s^T X_t), T' = T^T           alignment.rotations
    ridge        T = (X_s^T X_s + c)^-1 (X_s^T X_t + c T_0)              c chosen on held-out rows, T_0 a prior or 0
    assignment   T picks one origin unit for each receiver unit, one to one, by a score (Hungarian method)

Rows are never kept: `Moments` sums up their products, and every fit is computed from these sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from typing_extensions import override

from peftport.core.errors import NotFinite
from peftport.core.libraries import torch

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # times the mean of the Gram matrix's diagonal
TIE = 1e-9  # times the largest score: units and heads whose scores differ by less keep their positions
SLACK = 0.02  # a penalty counts as best if it leaves at most this share more unexplained than the best one
ROUNDING = 1e-13  # the error of shares computed in float64

Coordinates: TypeAlias = "slice | Tensor"  # some coordinates of a space
Prior: TypeAlias = "tuple[Tensor, Tensor]"  # T_0 (P, Q), computed without the held-out rows and with all rows


class Map(ABC):
    """A linear map between a space of the origin and one of the receiver, with a way back."""

    note: str

    @abstractmethod
    def write(self, rows: Tensor) -> Tensor:
        """Vectors of the origin's space (n, D_s) as vectors of the receiver's (n, D_t). For matrices that write."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Vectors (n, D_s) that multiply the origin's vectors, as (n, D_t) for the receiver. For matrices that read."""

    def matrices(self, width: int) -> tuple[Tensor, Tensor]:
        """T (D_s, D_t) and T' (D_t, D_s), float64, for a space of the origin of the given width."""
        rows = torch.eye(width, dtype=torch.float64)
        return self.write(rows), self.read(rows).mT

    def scale(self, numbers: Tensor) -> Tensor:
        """The scaling of the receiver's coordinates (D_t,) nearest to that of the origin's by ``numbers`` (D_s,).

        The origin adds x_s diag(l), which is x_t T' diag(l) T in the receiver's space. The diagonal matrix nearest to
        T' diag(l) T is its own diagonal. If the map only reorders coordinates, the result is exact.
        """
        there, back = self.matrices(len(numbers))
        return (back.mT * there).mT @ numbers


@dataclass(frozen=True, eq=False)
class Dense(Map):
    """A map with a full matrix each way: ``there`` (D_s, D_t) and ``back`` (D_t, D_s)."""

    there: Tensor
    back: Tensor
    note: str = ""

    @override
    def write(self, rows: Tensor) -> Tensor:
        return rows @ self.there

    @override
    def read(self, rows: Tensor) -> Tensor:
        return rows @ self.back.mT

    def scaled(self, factor: float) -> Dense:
        """The map followed by multiplication by a factor in the receiver's space."""
        return Dense(self.there * factor, self.back / factor, self.note)


@dataclass(frozen=True, eq=False)
class Reordering(Map):
    """A map that reorders units: unit j of the receiver is unit ``order[j]`` of the origin, or none if that is -1."""

    order: Tensor
    note: str = ""

    @override
    def write(self, rows: Tensor) -> Tensor:
        picked = rows[:, self.order.clamp(min=0)]
        return picked * (self.order >= 0).to(rows.dtype)

    @override
    def read(self, rows: Tensor) -> Tensor:
        # A permutation is the transpose of its own inverse.
        return self.write(rows)


@dataclass(frozen=True, eq=False)
class Thin(Map):
    """A map between subspaces: T = V_s C V_t^T, with V_s (D_s, k), C (k, k) and V_t (D_t, k).

    With ``rest``, for equal widths, + (I - V_s V_s^T)(I - V_t V_t^T), which keeps vectors outside both subspaces. C is
    orthogonal or a product of projections, so `read` and `write` are the same.
    """

    ours: Tensor
    core: Tensor
    theirs: Tensor
    rest: bool
    note: str = ""

    @override
    def write(self, rows: Tensor) -> Tensor:
        inside = rows @ self.ours
        mapped = inside @ self.core @ self.theirs.mT
        if not self.rest:
            return mapped
        outside = rows - inside @ self.ours.mT
        return mapped + outside - (outside @ self.theirs) @ self.theirs.mT

    @override
    def read(self, rows: Tensor) -> Tensor:
        return self.write(rows)


def identity(width: int) -> Map:
    """The map that changes nothing."""
    return Reordering(torch.arange(width))


class Moments:
    """Sums of products of pairs of rows a (n, P) and b (n, Q), added batch by batch.

    Every second batch goes into ``held``, the others into ``fit``, so that a penalty can be chosen on other rows than
    those that a map is fitted to. All of a^T a is kept only with ``left``, and all of b^T b only with ``right``;
    otherwise just the diagonal is, because these products cost most.
    """

    def __init__(self, *, left: bool = True, right: bool = True) -> None:
        self.fit, self.held = SecondMoments(left, right), SecondMoments(left, right)
        self.left, self.right = left, right
        self._batches = 0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in n pairs of rows."""
        (self.held if self._batches % 2 else self.fit).add(a.double(), b.double())
        self._batches += 1

    @property
    def all(self) -> SecondMoments:
        """The sums over all rows, held out or not."""
        return self.fit.plus(self.held)

    def swapped(self) -> Moments:
        """The moments with a and b exchanged."""
        return self._changed(lambda s: (s.b, s.a, s.bb, s.ab.mT, s.aa))

    def with_ones(self) -> Moments:
        """The moments of [a 1] with [b 1]."""
        return self._changed(
            lambda s: (
                torch.cat([s.a, s.a.new_tensor([s.count])]),
                torch.cat([s.b, s.b.new_tensor([s.count])]),
                _bordered(s.aa, s.a, s.a, s.count),
                _bordered(s.ab, s.a, s.b, s.count),
                _bordered(s.bb, s.b, s.b, s.count),
            )
        )

    def through(self, weight: Tensor) -> Moments:
        """The moments of a with b W, for W (Q, R). Needs all of b^T b (``right``)."""
        return self._changed(lambda s: (s.a, s.b @ weight, s.aa, s.ab @ weight, weight.mT @ s.bb @ weight))

    def part(self, rows: Coordinates, columns: Coordinates) -> Moments:
        """The moments of some columns of a with some of b."""
        made = Moments(left=self.left, right=self.right)
        made.fit, made.held = self.fit.part(rows, columns), self.held.part(rows, columns)
        return made

    def _changed(self, change: Callable[[SecondMoments], tuple[Tensor, ...]]) -> Moments:
        made = Moments(left=self.left, right=self.right)
        for before, after in ((self.fit, made.fit), (self.held, made.held)):
            after.count = before.count
            if before.count:
                after.a, after.b, after.aa, after.ab, after.bb = change(before)
        return made


class SecondMoments:
    """The number of pairs of rows, the sums of a and b, and a^T a, a^T b and b^T b."""

    def __init__(self, left: bool = True, right: bool = True) -> None:
        self.left, self.right = left, right
        self.count = 0
        self.a = self.b = self.aa = self.ab = self.bb = torch.zeros(())

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in n pairs of rows."""
        self.count += len(a)
        self.a, self.b = self.a + a.sum(0), self.b + b.sum(0)
        self.aa, self.ab, self.bb = self.aa + _gram(a, self.left), self.ab + a.mT @ b, self.bb + _gram(b, self.right)

    def plus(self, other: SecondMoments) -> SecondMoments:
        """The sums over both sets of rows."""
        both = SecondMoments(self.left, self.right)
        both.count = self.count + other.count
        both.a, both.b = self.a + other.a, self.b + other.b
        both.aa, both.ab, both.bb = self.aa + other.aa, self.ab + other.ab, self.bb + other.bb
        return both

    def part(self, rows: Coordinates, columns: Coordinates) -> SecondMoments:
        """The sums of some columns of a and some of b."""
        made = SecondMoments(self.left, self.right)
        made.count = self.count
        if self.count:
            made.a, made.b = self.a[rows], self.b[columns]
            made.aa, made.bb = self.aa[rows][:, rows], self.bb[columns][:, columns]
            made.ab = self.ab[rows][:, columns]
        return made

    def correlation(self) -> Tensor:
        """Pearson's r of every column of a with every column of b, (P, Q); 0 where a column does not vary."""
        n = max(self.count, 1)
        covariance = self.ab - torch.outer(self.a, self.b) / n
        spread = [
            (gram.diagonal() - total.square() / n).clamp(min=0).sqrt()
            for gram, total in ((self.aa, self.a), (self.bb, self.b))
        ]
        scale = torch.outer(*spread)
        return torch.where(scale > 1e-12 * scale.max(), covariance / scale, 0.0)


def put(whole: Tensor, rows: Coordinates, columns: Coordinates, block: Tensor) -> None:
    """Write a block into some rows and columns of a matrix."""
    if isinstance(rows, slice) and isinstance(columns, slice):
        whole[rows, columns] = block
        return
    numbers = [torch.arange(size)[own] for size, own in zip(whole.shape, (rows, columns), strict=True)]
    whole[numbers[0][:, None], numbers[1]] = block


def _gram(rows: Tensor, full: bool) -> Tensor:
    return rows.mT @ rows if full else rows.square().sum(0).diag()


def _bordered(products: Tensor, a: Tensor, b: Tensor, count: int) -> Tensor:
    """[a 1]^T [b 1] from a^T b and the sums of both."""
    return torch.cat([torch.cat([products, a[:, None]], 1), torch.cat([b, b.new_tensor([count])])[None]])


@dataclass(frozen=True, eq=False)
class Regression:
    """A ridge regression b ~ a W.

    Attributes:
        weight: W (P, Q), fitted to all rows.
        penalty: the chosen penalty.
        by_half: W fitted without the held-out rows.
        explained: the share of the variance of b on the held-out rows that ``by_half`` explains; below 0 if their mean
            would be a better prediction, None if no rows are held out.

    """

    weight: Tensor
    penalty: float
    by_half: Tensor
    explained: float | None


def ridge(moments: Moments, prior: Prior | None = None, judged: Moments | None = None) -> Regression:
    """Regress b on a, with the largest penalty that explains the held-out rows as well as any other does.

    "As well" means that its unexplained share is at most `SLACK` above the least. A smaller penalty would explain
    hardly more of these rows, but would give large weights to directions in which they hardly vary, and other rows
    (such as special tokens) may vary there. The penalty draws W towards ``prior``, or towards zero without one.
    ``judged`` has the moments by which the penalty is chosen, if a itself was fitted with the help of held-out rows.
    """
    half, everything = prior or (None, None)
    tried = judged or moments
    held, total = tried.held, float(tried.held.bb.trace()) if tried.held.count else 0.0
    if not total:
        by_half = _solve(tried.fit, PENALTIES[1], half)
        return Regression(_solve(moments.all, PENALTIES[1], everything), PENALTIES[1], by_half, None)
    scored = [(_explained(_solve(tried.fit, c, half), held, total), c) for c in PENALTIES]
    least = min(1 - explained for explained, _ in scored)
    explained, penalty = max(
        (pair for pair in scored if 1 - pair[0] <= (1 + SLACK) * least + ROUNDING), key=lambda pair: pair[1]
    )
    varied = total - float(held.b.square().sum()) / held.count
    explained = 1 - (1 - explained) * total / varied if varied > 0 else 0.0
    return Regression(_solve(moments.all, penalty, everything), penalty, _solve(tried.fit, penalty, half), explained)


def _solve(sums: SecondMoments, penalty: float, prior: Tensor | None) -> Tensor:
    gram = sums.aa
    ridge = penalty * float(gram.diagonal().mean()) or 1.0
    target = sums.ab if prior is None else sums.ab + ridge * prior
    weight: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), target)
    return weight


def _explained(weight: Tensor, held: SecondMoments, total: float) -> float:
    fitted = (weight * (held.aa @ weight)).sum() - 2 * (weight * held.ab).sum()
    return float(-fitted) / total


def _best_pairs(score: Tensor) -> tuple[list[int], list[int]]:
    """Rows and columns of the one-to-one pairing with the largest sum; among equals, the one that moves least."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and every method passes here

    if not bool(score.isfinite().all()):
        raise NotFinite(
            "pairing: expected finite scores, got NaN or infinity; use hosts whose weights are not extremely large"
        )
    score = score.double() + TIE * float(score.abs().max()) * torch.eye(*score.shape, dtype=torch.float64)
    rows, columns = linear_sum_assignment(-score.numpy())
    return rows.tolist(), columns.tolist()


def matched(score: Tensor) -> list[int]:
    """For each column, the row with which it is matched one to one so that the sum of scores is largest.

    If there are more columns than rows, each column that is left over takes the row with which it scores best.
    """
    rows, columns = _best_pairs(score)
    row_of = dict(zip(columns, rows, strict=True))
    best = score.argmax(0).tolist()
    return [row_of.get(column, best[column]) for column in range(score.shape[1])]


def assignment(score: Tensor) -> Reordering:
    """The reordering by the best pairing: each receiver unit (column) takes one origin unit (row), or none."""
    rows, columns = _best_pairs(score)
    order = torch.full((score.shape[1],), -1)
    order[columns] = torch.tensor(rows)
    return Reordering(order)
