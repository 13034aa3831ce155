"""The gradients of a loss at the slots of both hosts, as moments of pairs of rows; no batch is kept.

Without labels, the loss is the distance to the module's own answer. On the origin, this is what the module makes of the
last hidden states h of the words (an encoder-decoder's decoder has the last); on the receiver, that change carried
through T, the best orthogonal map between these states:

    L_s = sum |h_s - (h_s + d)|^2 / 2,  d = h_s(module) - h_s        dL_s / dh_s = -d
    L_t = sum |h_t - (h_t + d T)|^2 / 2                              dL_t / dh_t = -d T

One backward pass takes both to the outputs y of the slots. A row is a word: the sum of dL / dy over its tokens, which
is what a change of all of them does. With labels, both hosts give the losses of the same texts. Where both read every
text as the same tokens, a row is a token. Elsewhere (another vocabulary, another prompt around the text, a host that
pads texts to its window) it is the sum over the whole text, for all texts alike. Slots that no loss reaches have no
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from peftport.core.errors import NotFinite
from peftport.core.libraries import torch, without_gradients
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module, in_host_dtype, stack
from peftport.porting.alignment.activations import paired_readings
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Moments
from peftport.porting.alignment.rotations import rotation, unmoved
from peftport.porting.alignment.spaces import Spaces
from peftport.porting.alignment.words import Pooling, Reading, Word
from peftport.techniques.attach import attached, changed_at

if TYPE_CHECKING:
    from torch import Tensor

Probes: TypeAlias = "dict[str, list[Tensor]]"  # by slot: the zeros that were added to its outputs, a run each
Gradients: TypeAlias = "Mapping[str, Moments]"  # by the receiver's slot; a of the origin, b of the receiver


@contextmanager
def probed(host: Host, names: Sequence[str]) -> Iterator[Probes]:
    """Add zeros to the outputs of slots, and give those of every run: the gradients there are those of the outputs.

    A slot runs several times where layers share it, and where a text is read in parts. The weights are frozen, so
    without these zeros no graph would be kept at all.
    """
    probes: Probes = {}

    def probe(name: str) -> None:
        def add(x: Tensor, y: Tensor) -> Tensor:
            zeros = torch.zeros_like(y, requires_grad=True)
            probes.setdefault(name, []).append(zeros)
            return y + zeros

        slot = host.slots[name]
        handles.callback(changed_at(host.slot_module(slot), slot, add).remove)

    with ExitStack() as handles, torch.enable_grad():
        for name in names:
            probe(name)
        yield probes


def answer_gradients(inputs: AlignInputs, spaces: Spaces) -> Gradients:
    """The moments of both hosts' gradients of the distance to the module's own answer."""
    origin, receiver, given = inputs.origin, inputs.receiver, inputs.port_inputs
    moments = {name: Moments(left=False, right=False) for name in inputs.pairs}
    ours, carried = list(dict.fromkeys(pair.origin for pair in inputs.pairs.values())), _map_of_last(inputs, spaces)
    title = f"asking the module on {origin.name}, with gradients"
    for seen, met, words in paired_readings(origin, receiver, given, title):
        change = _answers(origin, inputs.module, seen, words) - _last(origin, seen, words)
        here = _of_words(origin, ours, seen, words, -change)
        there = _of_words(receiver, list(inputs.pairs), met, words, -change @ carried)
        for name, pair in inputs.pairs.items():
            moments[name].add(here[pair.origin], there[name])
    return moments


def _map_of_last(inputs: AlignInputs, spaces: Spaces) -> Tensor:
    """T (D_s, D_t) between the last hidden states; `spaces` has those of an encoder-decoder's encoder."""
    hosts = (inputs.origin, inputs.receiver)
    moments = spaces.hidden
    if any(host.kind == "encoder_decoder" for host in hosts):
        moments = Moments(left=False, right=False)
        title = f"reading the last states of {inputs.origin.name} and {inputs.receiver.name}"
        for seen, met, words in paired_readings(*hosts, inputs.port_inputs, title):
            moments.add(_last(hosts[0], seen, words), _last(hosts[1], met, words))
    return rotation(moments, unmoved).there


@without_gradients
def _last(host: Host, reading: Reading, words: Sequence[Word]) -> Tensor:
    """The last hidden states of the words, (n, D)."""
    return reading.pooling(words)(last_states(host, reading))


def last_states(host: Host, reading: Reading) -> Tensor:
    """The last hidden states (B, T, D); an encoder-decoder's are those of its decoder, before any map to tokens."""
    if host.kind != "encoder_decoder":
        states: Tensor = host.base(**reading.inputs)[0]
        return states
    found: list[Tensor] = []
    decoder = host.base.get_decoder()  # type: ignore[operator]
    handle = decoder.register_forward_hook(lambda module, args, out: found.append(out[0]))
    try:
        host.base(**reading.inputs)
    finally:
        handle.remove()
    return found[-1]


class _TextRows:
    """The gradients of texts at one slot of both hosts, with rows of one kind: a token each, or a whole text each."""

    def __init__(self, by_token: bool) -> None:
        self.tokens = Moments(left=False, right=False) if by_token else None
        self.texts: list[tuple[Tensor, Tensor]] = []

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in one text, a row a token, (T_s, D_s) and (T_t, D_t)."""
        self.texts.append((a.sum(0, keepdim=True), b.sum(0, keepdim=True)))
        if self.tokens is not None and len(a) == len(b):
            self.tokens.add(a, b)
        else:
            self.tokens = None

    def moments(self) -> Moments:
        """The moments of tokens if all texts have as many on both hosts, else of whole texts."""
        if self.tokens is not None:
            return self.tokens
        made = Moments(left=False, right=False)
        for pair in self.texts:
            made.add(*pair)
        return made


def label_gradients(inputs: AlignInputs) -> Gradients:
    """The moments of both hosts' gradients of the loss of the same labelled texts."""
    given, origin, receiver = inputs.port_inputs, inputs.origin, inputs.receiver
    assert given.labelled is not None and given.labelled_at_home is not None
    rows = {name: _TextRows(given.same_tokens) for name in inputs.pairs}
    ours = list(dict.fromkeys(pair.origin for pair in inputs.pairs.values()))
    with probed(origin, ours) as at_home, probed(receiver, list(inputs.pairs)) as away:
        for losses in zip(given.labelled_at_home.losses(), given.labelled.losses(), strict=True):
            here, there = (
                _of_loss(host, loss, probes)
                for host, loss, probes in zip((origin, receiver), losses, (at_home, away), strict=True)
            )
            for name, pair in inputs.pairs.items():
                if pair.origin in here and name in there:  # not a decoder's, where the loss reads the encoder alone
                    rows[name].add(here[pair.origin], there[name])
            at_home.clear()  # the next text may not reach every slot
            away.clear()
    return {name: found.moments() for name, found in rows.items()}


def _answers(host: Host, module: Module, reading: Reading, words: Sequence[Word]) -> Tensor:
    """The last hidden states of the words with the module attached."""
    body = {slot: named for slot, named in module.matrices.items() if slot != HEAD}
    with attached(host, module.spec, in_host_dtype(host, stack([body]))):
        return _last(host, reading, words)


def _of_words(
    host: Host, names: Sequence[str], reading: Reading, words: Sequence[Word], wanted: Tensor
) -> dict[str, Tensor]:
    """The gradients at slots, a row a word, where those of the words' last hidden states are ``wanted`` (n, D)."""
    pooling = reading.pooling(words)
    with probed(host, names) as probes:
        states = last_states(host, reading)
        gradients = _at_probes(states, probes, spread(pooling, wanted, states))
    found = {
        name: torch.stack([pooling(run) for run in runs]).sum(0) * pooling.counts.unsqueeze(1)
        for name, runs in gradients.items()
    }
    check_gradients(host, found)
    return {name: found.get(name, pooling(torch.zeros_like(runs[0]))) for name, runs in probes.items()}


def _at_probes(of: Tensor, probes: Probes, given: Tensor | None = None) -> dict[str, list[Tensor]]:
    """The gradients at the outputs of slots, by slot, of every run that ``of`` depends on; slots without one have none.

    ``given`` is the gradient of ``of``, where that is no single number.
    """
    places = [(name, zeros) for name, runs in probes.items() for zeros in runs]
    gradients = torch.autograd.grad(of, [zeros for _, zeros in places], given, allow_unused=True)
    found: dict[str, list[Tensor]] = {}
    for (name, _), gradient in zip(places, gradients, strict=True):
        if gradient is not None:
            found.setdefault(name, []).append(gradient.detach())
    return found


def spread(pooling: Pooling, rows: Tensor, states: Tensor) -> Tensor:
    """The gradient of the tokens' states (B, T, D), where that of the words' means is ``rows`` (n, D)."""
    made = torch.zeros(states.shape, dtype=torch.float64)
    made[pooling.texts, pooling.tokens] = (rows / pooling.counts.unsqueeze(1))[pooling.rows]
    return made.to(states)


def _of_loss(host: Host, loss: Tensor, probes: Probes) -> dict[str, Tensor]:
    """The gradients of one text's loss at the slots that it depends on, a row a token of every run, (T, D)."""
    found = {
        name: torch.cat([run.flatten(0, -2).cpu().double() for run in runs])
        for name, runs in _at_probes(loss, probes).items()
    }
    check_gradients(host, found)
    return found


def check_gradients(host: Host, gradients: Mapping[str, Tensor]) -> None:
    """Refuse gradients that are no numbers: neither a sign nor a map can be read from them.

    Raises:
        NotFinite: one is NaN or infinite; the message names the first slot.

    """
    for name, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise NotFinite(
                f"{name}: expected finite gradients of the loss on {host.name}, got NaN or infinity; use a method that "
                "needs no gradients, or a host whose numbers are not extremely large"
            )
