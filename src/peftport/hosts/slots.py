"""Slots: the named places of a host where a technique's matrices attach.

There are five kinds of slot, and a mark:

    linear      y = W x + b; a technique changes y. A slot may be a part of a fused matrix (GPT-2's q, k and v).
    parameter   the weight of a map that is no module, such as those of all experts of a layer (E, D_out, D_in); a
                technique changes the weight.
    sum         the residual stream after a block, before the layer norm that follows it where the norm comes after
                the sum ("sum_into": the norm's path), or the block's output where it does not ("sum_from").
    attention   keys and values of one attention block; a technique adds keys and values to them.
    heads       no place, but the number and width of the heads of an attention block that takes no keys and values.

A family's TOML file names the sites of known meaning (hosts.layouts). Every other linear map below the base model is a
slot too, named by where it lies: ``layers.3.linear:mlp/shared_expert/up_proj`` in a layer, and outside of the layers
``outside.0.linear:pooler/dense``; experts are ``layers.3.parameter:mlp/experts/down_proj``. Techniques attach to these
if they are asked to by name, as PEFT files do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftport.core.errors import HostRefused
from peftport.core.libraries import nn, torch, transformers
from peftport.hosts.layouts import LayerStack, Layout, Site, SlotKind

if TYPE_CHECKING:
    from torch import Tensor

LINEAR = "linear:"  # begins the site of a linear map that no layout names; its path follows, with slashes
PARAMETER = "parameter:"  # begins the site of a parameter
OUTSIDE = "outside"  # the stack of linear maps that lie in no layer
# Where attention modules and configs have the number of key heads, and the width of a head.
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads")
HEADS = ("num_heads", "n_heads", "num_attention_heads")
HEAD_WIDTHS = ("key_value_proj_dim", "head_dim", "head_size", "attention_head_size")


@dataclass(frozen=True)
class Slot:
    """A place in a host. Widths are D_in and D_out of a linear map, or heads x head width of an attention's keys.

    A slot that is a part of a fused matrix has outputs ``start`` to ``start + out_width`` of it or, with ``every``,
    ``block`` outputs from ``start`` on, and again after ``every`` outputs, until there are ``out_width``. ``in_order``:
    a pass calls the module with the tokens of the batch, text by text. A ``parameter`` is that of the module, with a
    map for each of ``experts``; ``turned`` where it is stored as (E, D_in, D_out).
    """

    name: str
    site: str
    kind: SlotKind
    path: str
    in_width: int
    out_width: int
    start: int = 0
    heads: int = 0
    block: int = 0
    every: int = 0
    in_order: bool = True
    parameter: str = ""
    experts: int = 1
    turned: bool = False

    @property
    def full_path(self) -> str:
        """The path below the base model, with the name of the parameter."""
        return f"{self.path}.{self.parameter}" if self.parameter else self.path

    @property
    def rows(self) -> slice | Tensor:
        """Which outputs of the linear map are the slot's own: a slice, or the numbers of the outputs (D_out,)."""
        if not self.every:
            return slice(self.start, self.start + self.out_width)
        starts = torch.arange(self.out_width // self.block) * self.every + self.start
        return (starts[:, None] + torch.arange(self.block)).flatten()


def find_slots(base: nn.Module, layout: Layout, where: str) -> dict[str, Slot]:
    """Find all slots of a model, by name: those of the layout in the order of its layers, then other linear maps.

    Raises:
        HostRefused: a path in the layout does not exist in the model.

    """
    slots: dict[str, Slot] = {}
    for stack in layout.stacks:
        for index, prefix in enumerate(layer_paths(base, stack)):
            for site_name, site in stack.sites.items():
                slot = _slot(base, prefix, f"{stack.name}.{index}.{site_name}", site_name, site)
                if slot is None and not site.optional:
                    raise HostRefused(
                        f"{where}: {stack.name}.{index}.{site_name}: expected a module at {prefix}.{site.paths[0]}, "
                        f"found none; the layout {layout.family}.toml does not describe this model: give one that does "
                        "(--layout FILE, docs/families.md)"
                    )
                if slot is not None:
                    slots[slot.name] = slot
    named = {slot.path for slot in slots.values() if slot.kind == "linear"}
    stacks = {path: f"{stack.name}.{i}" for stack in layout.stacks for i, path in enumerate(layer_paths(base, stack))}
    for path in linear_paths(base):
        if path not in named:
            name = _place(path, stacks, LINEAR)
            out_width, in_width = linear_shape(base.get_submodule(path))
            slots[name] = Slot(name, name.rpartition(".")[2], "linear", path, in_width, out_width, in_order=False)
    return slots | {slot.name: slot for slot in _parameter_slots(base, stacks)}


def _parameter_slots(base: nn.Module, stacks: dict[str, str]) -> Iterator[Slot]:
    """Yield the slots of the maps of experts, and of weights whose modules are no Linear (routers)."""
    for path, module in base.named_modules():
        if isinstance(module, nn.Embedding) or is_linear(module) or not path:
            continue
        for parameter, weight in module.named_parameters(recurse=False):
            shape, turned = tuple(weight.shape), bool(getattr(module, "is_transposed", False))
            if not (len(shape) == 3 and shape[0] > 1 or len(shape) == 2 and parameter == "weight"):
                continue
            experts, out_width, in_width = shape if len(shape) == 3 else (1, *shape)
            if turned and len(shape) == 3:
                out_width, in_width = in_width, out_width
            name = _place(f"{path}.{parameter}", stacks, PARAMETER)
            yield Slot(
                name, name.rpartition(".")[2], "parameter", path, in_width, out_width, in_order=False,
                parameter=parameter, experts=experts, turned=turned and len(shape) == 3,
            )  # fmt: skip


def layer_paths(base: nn.Module, stack: LayerStack) -> list[str]:
    """Return the paths of a stack's layers below the base model, in order."""
    for pattern in stack.layers:
        lists = [""]
        for part in pattern.split("."):
            lists = [inner for path in lists for inner in _inner(base, path, part)]
        if lists:
            return [f"{path}.{name}" for path in lists for name, _ in base.get_submodule(path).named_children()]
    return []


def stack_paths(base: nn.Module, layout: Layout) -> dict[str, str]:
    """Return where the list of layers of each stack of a layout lies below the base model, by the stack's name."""
    first = {stack.name: layer_paths(base, stack)[:1] for stack in layout.stacks}
    return {name: paths[0].rpartition(".")[0] for name, paths in first.items() if paths}


def layer_lists(base: nn.Module, layout: Layout) -> list[str]:
    """Return the paths of the lists of layers below the base model; without a layout, of all outermost lists."""
    if layout.stacks:
        layers = [path for stack in layout.stacks for path in layer_paths(base, stack)]
    else:
        numbered = (path.split(".") for path, _ in base.named_modules())
        layers = [
            ".".join(parts) for parts in numbered if parts[-1].isdigit() and not any(map(str.isdigit, parts[:-1]))
        ]
    return list(dict.fromkeys(path.rpartition(".")[0] for path in layers if "." in path))


def _inner(base: nn.Module, path: str, part: str) -> Iterator[str]:
    for name, _ in base.get_submodule(path).named_children():
        if part in (name, "*"):
            yield f"{path}.{name}" if path else name


def linear_classes() -> tuple[type[nn.Module], ...]:
    """Return the classes of linear maps: torch's, and GPT-2's, whose weight is transposed."""
    return nn.Linear, transformers.pytorch_utils.Conv1D


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map and no more: a router is Linear in some models, and returns a choice."""
    return isinstance(module, linear_classes()) and not type(module).__name__.endswith(("Router", "GroupedLinear"))


def linear_paths(base: nn.Module) -> Iterator[str]:
    """Yield the paths of all linear maps below a base model, except those that make its scores of tokens."""
    get_scores = getattr(base, "get_output_embeddings", None)
    scores = get_scores() if get_scores else None
    # Attention of torch's own reads this matrix without calling its module.
    uncalled = {id(m.out_proj) for m in base.modules() if isinstance(m, nn.MultiheadAttention)}
    for path, module in base.named_modules():
        if is_linear(module) and path and module is not scores and id(module) not in uncalled:
            yield path


def _place(path: str, layers: dict[str, str], prefix: str) -> str:
    """Name the slot of a map that no layout names, by the layer that it lies in."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        known = layers.get(".".join(parts[:end]))
        if known is not None:
            return f"{known}.{prefix}{'/'.join(parts[end:])}"
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number in (None, 0, len(parts) - 1):
        return f"{OUTSIDE}.0.{prefix}{'/'.join(parts)}"
    return f"{'.'.join(parts[: number + 1])}.{prefix}{'/'.join(parts[number + 1 :])}"


def _slot(base: nn.Module, prefix: str, name: str, site_name: str, site: Site) -> Slot | None:
    for path in site.paths:
        full = prefix if path == "." else f"{prefix}.{path}"
        try:
            module = base.get_submodule(full)
        except AttributeError:
            continue
        if site.kind == "linear":
            return _linear_slot(base, Slot(name, site_name, "linear", full, 0, 0), module, site)
        if site.kind in ("attention", "heads"):
            heads, head_width = key_heads(base, module)
            return Slot(name, site_name, site.kind, full, heads * head_width, heads * head_width, heads=heads)
        width = int(text_config(base).hidden_size)
        return Slot(name, site_name, site.kind, full, width, width)
    return None


def _linear_slot(base: nn.Module, bare: Slot, module: nn.Module, site: Site) -> Slot:
    """Make the slot of a linear map or of a part of it."""
    out_width, in_width = linear_shape(module)
    start, width, block, every = 0, out_width, 0, 0
    if isinstance(site.part, tuple):
        index, parts = site.part
        width = out_width // parts
        start = index * width
    elif site.part is not None:
        attention = base.get_submodule(bare.path.rpartition(".")[0])
        heads, head_width = key_heads(base, attention)
        sizes = {"q": out_width - 2 * heads * head_width, "k": heads * head_width, "v": heads * head_width}
        before = "qkv"[: "qkv".index(site.part)]
        start, width = sum(sizes[letter] for letter in before), sizes[site.part]
        if site.order == "groups" and heads > 1:
            start, block, every = start // heads, width // heads, out_width // heads
    return Slot(
        bare.name, bare.site, "linear", bare.path, in_width, width, start=start, block=block, every=every,
        in_order=site.in_order,
    )  # fmt: skip


def text_config(base: nn.Module) -> Any:
    """Return the configuration of a model's texts, which models of texts and images have beside others."""
    config: Any = base.config
    return config.get_text_config()


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return (D_out, D_in) of a Linear, or of GPT-2's Conv1D, whose weight is transposed."""
    if isinstance(module, nn.Linear):  # from its attributes, because the weights of 4-bit layers have a packed shape
        return module.out_features, module.in_features
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    rows, columns = (int(size) for size in weight.shape)
    return columns, rows


def key_heads(base: nn.Module, attention: nn.Module) -> tuple[int, int]:
    """Return the number and width of an attention block's key heads, including grouped-query attention."""
    config = text_config(base)
    queries = _number(attention, HEADS) or int(config.num_attention_heads)
    heads = _number(attention, KEY_HEADS) or _number(config, KEY_HEADS) or queries
    width = _number(attention, HEAD_WIDTHS) or _number(config, ("head_dim",)) or int(config.hidden_size) // queries
    return heads, width


def _number(owner: Any, names: tuple[str, ...]) -> int | None:
    values = (getattr(owner, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value), None)
