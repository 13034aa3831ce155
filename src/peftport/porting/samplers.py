"""Samplers: random matrices in place of a ported module's, as the control arm of a comparison.

If a sampled module helps as much as the ported one, then only the distribution of the parameters helped, not what the
module had learnt. The paper compares with "parameters sampled from the same distribution" (arXiv 2401.14228) and does
not say how they are sampled; each way to read this is a sampler here. M is a matrix of the module, M' the sampled one.

    gaussian      M'_ij ~ N(mean(M), std(M)^2)
    permutation   M' = the entries of M, shuffled
    spectrum      M' = U' S V'^T with the singular values S of M and random orthogonal U', V'
    norm_matched  M' gaussian, then scaled so that each slot's whole update (LoRA: B A) keeps its Frobenius norm

For a vector (a bias), `spectrum` keeps its norm and draws a random direction.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module, stack
from peftport.porting.base import PortedMatrices, Porter, PortInputs
from peftport.techniques import technique_named
from peftport.techniques.base import SHARED, Parameters

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]


class Sampler(Porter):
    """Draw every matrix at random, in the order of names, so that saving a module does not change its samples."""

    source = "Sabry & Belz 2024, arXiv 2401.14228 (the idea; the way of sampling is ours)"

    @abstractmethod
    def draw(self, matrix: Array, rng: np.random.Generator) -> Array:
        """Draw a matrix of the same shape."""

    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        """Sample every matrix, including shared ones and the head of a linear readout."""
        matrices = {
            slot: {name: _tensor(self.draw(_array(m), rng), m) for name, m in sorted(named.items())}
            for slot, named in sorted(module.matrices.items())
        }
        return PortedMatrices(matrices, dict.fromkeys(matrices, f"sampled ({self.name})"))


class Gaussian(Sampler):
    """Normal numbers with each matrix's mean and standard deviation."""

    name = "gaussian"
    title = "normal with each matrix's mean and standard deviation"

    def draw(self, matrix: Array, rng: np.random.Generator) -> Array:
        """From N(mean, std^2), entry by entry."""
        return rng.normal(matrix.mean(), matrix.std(), matrix.shape)


class Permutation(Sampler):
    """The entries of each matrix in random order."""

    name = "permutation"
    title = "each matrix's own entries, shuffled"

    def draw(self, matrix: Array, rng: np.random.Generator) -> Array:
        """Shuffle all entries of the matrix."""
        return rng.permutation(matrix.ravel()).reshape(matrix.shape)


class Spectrum(Sampler):
    """The singular values of each matrix, with random orthogonal factors."""

    name = "spectrum"
    title = "each matrix's singular values, random orthogonal factors"

    def draw(self, matrix: Array, rng: np.random.Generator) -> Array:
        """The last two dimensions are the matrix; further ones are a batch of matrices."""
        if matrix.ndim == 1:
            direction = rng.normal(size=matrix.shape)
            return direction * (np.linalg.norm(matrix) / np.linalg.norm(direction))
        values = np.linalg.svd(matrix, compute_uv=False)  # (..., R)
        *batch, rows, columns = matrix.shape
        left = _orthonormal((*batch, rows, values.shape[-1]), rng)
        right = _orthonormal((*batch, columns, values.shape[-1]), rng)
        return np.asarray((left * values[..., None, :]) @ np.swapaxes(right, -1, -2))


class NormMatched(Gaussian):
    """Gaussian, scaled so that each slot's whole update keeps its Frobenius norm."""

    name = "norm_matched"
    title = "a random update of the same Frobenius norm"

    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        """Sample, then scale each slot's output matrices, in which its update is linear."""
        sampled = super().carry(module, receiver, rng, inputs)
        technique = technique_named(module.spec.kind)
        for name, slot in technique.slots(module.spec, receiver.slots).items():
            before, after = (
                _update_norm(module, module.matrices, name, receiver),
                _update_norm(module, sampled.matrices, name, receiver),
            )
            if after > 0:
                for matrix in technique.output_matrices:
                    sampled.matrices[slot.name][matrix] *= before / after
        return sampled


def _update_norm(module: Module, matrices: Parameters, slot: str, receiver: Host) -> float:
    technique = technique_named(module.spec.kind)
    stacked = stack([{name: named for name, named in matrices.items() if name != HEAD}], torch.float64)
    update = technique.effective(module.spec, receiver.slots[slot], stacked[slot], stacked.get(SHARED, {}))
    return float(update.norm())


def _orthonormal(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Uniformly random orthonormal columns: QR of a Gaussian matrix, with R's diagonal made positive."""
    q, r = np.linalg.qr(rng.normal(size=shape))
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return np.asarray(q * signs[..., None, :])


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


def _tensor(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)
