"""The four techniques of the paper, by name. A technique is one file and one line here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from peftport.core.errors import BadRequest, UnknownName
from peftport.techniques.adapter import Adapter, AdapterSpec
from peftport.techniques.base import Technique, TechniqueSpec
from peftport.techniques.compacter import Compacter, CompacterSpec
from peftport.techniques.lora import Lora, LoraSpec
from peftport.techniques.prefix import PrefixSpec, PrefixTuning

TECHNIQUES: dict[str, Technique[Any]] = {t.name: t for t in (Lora(), Adapter(), Compacter(), PrefixTuning())}
AnySpec = Annotated[LoraSpec | AdapterSpec | CompacterSpec | PrefixSpec, Field(discriminator="kind")]
_SPECS: TypeAdapter[TechniqueSpec] = TypeAdapter(AnySpec)


def technique_named(name: str) -> Technique[Any]:
    """The technique of that name.

    Raises:
        UnknownName: there is none.

    """
    if name not in TECHNIQUES:
        raise UnknownName.of("technique", name, TECHNIQUES)
    return TECHNIQUES[name]


def make_spec(name: str, settings: dict[str, Any] | None = None) -> TechniqueSpec:
    """A spec from a technique's name and settings (``{"rank": 4}``), defaults for the rest.

    Raises:
        UnknownName: no such technique.
        BadRequest: an unknown setting or a value out of range.

    """
    technique_named(name)
    try:
        return _SPECS.validate_python({**(settings or {}), "kind": name})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or name
        known = ", ".join(f for f in TECHNIQUES[name].spec_class.model_fields if f != "kind")
        raise BadRequest(
            f"{name}.{where}: {first['msg']}, got {first['input']!r}; settings of {name}: {known}"
        ) from error
