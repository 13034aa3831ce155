"""The Compacter nearest to given adapters: their matrices as sums of Kronecker products with one rule for all slots.

    min over A, s, t of  sum over slots, down and up, of  || W - sum_i A_i (x) (s_i t_i) ||_F^2

Rearranged as a table R[(u,v),(a,b)], the matrix W[(u,a),(v,b)] is sum_i vec(A_i) vec(s_i t_i)^T (Van Loan & Pitsianis
1993). For each of A, s and t alone, with the others fixed, this is a linear least-squares problem, so they are solved
in turn. The search has two starts, of which the better result is kept: the origin's rule, which is exact if the port
left the Kronecker structure as it was, and the n leading left singular vectors of all tables side by side. Because
every term has rank q at most, the problem is not convex: the result is a local optimum, and its error is stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.techniques.base import SHARED, Parameters, Shapes

if TYPE_CHECKING:
    from torch import Tensor

SWEEPS = 40
GOOD_ENOUGH = 1e-9  # relative error at which no further sweep is made


@dataclass(frozen=True, eq=False)
class Nearest:
    """Compacter matrices with the shared rule, and each slot's relative error ||W - W'|| / ||W|| over down and up."""

    matrices: Parameters
    errors: dict[str, float]


@dataclass(eq=False)
class _Table:
    """One matrix W (n a, n b) rearranged as R (n n, a b), and its current factors left (n, a, q), right (n, q, b)."""

    r: Tensor
    left: Tensor
    right: Tensor

    def error(self, rule: Tensor) -> float:
        return float((self.r - _flat(rule).mT @ (self.left @ self.right).flatten(1)).square().sum())


def nearest_compacter(adapters: Parameters, shapes: Mapping[str, Shapes], rule: Tensor, rank: int) -> Nearest:
    """Factor every adapter (down (R, D), up (D, R), biases) by one rule (n, n, n) near the origin's ``rule``."""
    n = len(rule)
    wide = {
        f"{slot}/{side}": adapter[side].double().mT for slot, adapter in adapters.items() for side in ("down", "up")
    }
    tables = {name: _rearranged(matrix, n) for name, matrix in wide.items()}
    candidates = [_alternate(tables, start, rank) for start in (rule, _leading_rule(tables, rule))]
    _, best_rule, best = min(candidates, key=lambda each: each[0])
    matrices: Parameters = {SHARED: {"rule": best_rule}}
    errors = {}
    for slot, adapter in adapters.items():
        down, up = best[f"{slot}/down"], best[f"{slot}/up"]
        matrices[slot] = {
            "down_left": down.left, "down_right": down.right, "down_bias": adapter["down_bias"],
            "up_left": up.left, "up_right": up.right, "up_bias": adapter["up_bias"],
        }  # fmt: skip
        norm = float(adapter["down"].double().square().sum() + adapter["up"].double().square().sum())
        errors[slot] = ((down.error(best_rule) + up.error(best_rule)) / norm) ** 0.5 if norm else 0.0
        assert all(tuple(matrices[slot][name].shape) == tuple(shape) for name, shape in shapes[slot].items())
    return Nearest(matrices, errors)


def _alternate(tables: Mapping[str, Tensor], rule: Tensor, rank: int) -> tuple[float, Tensor, dict[str, _Table]]:
    n = len(rule)
    fitted = {name: _first_factors(table, rule, rank) for name, table in tables.items()}
    norm = sum(float(table.square().sum()) for table in tables.values()) or 1.0
    for _ in range(SWEEPS):
        if sum(each.error(rule) for each in fitted.values()) / norm < GOOD_ENOUGH**2:
            break
        for each in fitted.values():
            each.left = _solve_left(each.r, rule, each.right)
            each.right = _solve_left(_transposed(each.r, n, each.left.shape[1]), rule.mT, each.left.mT).mT
        rule = _solve_rule(list(fitted.values()), n)
    return sum(each.error(rule) for each in fitted.values()), rule, fitted


def _first_factors(table: Tensor, rule: Tensor, rank: int) -> _Table:
    """The first factors: the terms s_i t_i by least squares, each then cut to the rank by SVD."""
    n = len(rule)
    a, b = table.shape[1:]
    terms = torch.linalg.lstsq(_flat(rule).mT, table.flatten(1), driver="gelsd").solution.view(n, a, b)
    u, s, vt = torch.linalg.svd(terms, full_matrices=False)
    kept = min(rank, s.shape[-1])
    left, right = table.new_zeros(n, a, rank), table.new_zeros(n, rank, b)
    root = s[:, :kept].sqrt()
    left[:, :, :kept], right[:, :kept] = u[:, :, :kept] * root[:, None, :], root[:, :, None] * vt[:, :kept]
    return _Table(table.flatten(1), left, right)


def _solve_left(r: Tensor, rule: Tensor, right: Tensor) -> Tensor:
    """The best left (n, a, q) given the rule and right (n, q, b); all rows a share one design matrix. r (n n, a b)."""
    n, q, b = right.shape
    design = torch.einsum("iw,iqb->wbiq", _flat(rule), right).reshape(-1, n * q)  # (n n b, n q)
    target = r.view(n * n, -1, b).transpose(1, 2).reshape(n * n * b, -1)  # (n n b, a)
    solved: Tensor = torch.linalg.lstsq(design, target, driver="gelsd").solution  # (n q, a)
    return solved.view(n, q, -1).transpose(1, 2)


def _transposed(r: Tensor, n: int, a: int) -> Tensor:
    """The table of W^T from the table of W."""
    whole = r.view(n, n, a, -1)
    return whole.permute(1, 0, 3, 2).reshape(n * n, -1)


def _solve_rule(tables: list[_Table], n: int) -> Tensor:
    """The best rule (n, n, n) given all terms."""
    terms = torch.cat([(each.left @ each.right).flatten(1) for each in tables], dim=1)  # (n, sum of a b)
    target = torch.cat([each.r for each in tables], dim=1)  # (n n, sum of a b)
    solved: Tensor = torch.linalg.lstsq(terms.mT, target.mT, driver="gelsd").solution
    return solved.view(n, n, n)


def _leading_rule(tables: Mapping[str, Tensor], rule: Tensor) -> Tensor:
    n = len(rule)
    side_by_side = torch.cat([table.flatten(1) for table in tables.values()], dim=1)
    u: Tensor = torch.linalg.svd(side_by_side @ side_by_side.mT).U
    leading: Tensor = u[:, :n].mT * rule.norm()
    return leading.reshape(n, n, n)


def _rearranged(matrix: Tensor, n: int) -> Tensor:
    """W (n a, n b) -> (n n, a, b)."""
    a, b = matrix.shape[0] // n, matrix.shape[1] // n
    return matrix.view(n, a, n, b).permute(0, 2, 1, 3).reshape(n * n, a, b)


def _flat(rule: Tensor) -> Tensor:
    """(n, n, n) -> (n, n n): row i is A_i."""
    return rule.flatten(1)
