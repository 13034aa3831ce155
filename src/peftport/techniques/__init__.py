"""The techniques by name. A technique is one file here and one line in `TECHNIQUES`.

`AnySpec` is the pydantic type of a spec of any of them, for the models that are read from and written to files.
"""

from __future__ import annotations

from functools import cache, reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter, ValidationError

from peftport.core.errors import BadRequest, UnknownName
from peftport.core.guesses import guess
from peftport.techniques.adapter import Adapter
from peftport.techniques.base import Technique, TechniqueSpec
from peftport.techniques.compacter import Compacter
from peftport.techniques.lora import Lora
from peftport.techniques.prefix import PrefixTuning

TECHNIQUES: dict[str, Technique[Any]] = {t.name: t for t in (Lora(), Adapter(), Compacter(), PrefixTuning())}


@cache
def _union(specs: tuple[type[TechniqueSpec], ...]) -> TypeAdapter[Any]:
    known, by_kind = reduce(or_, specs), Field(discriminator="kind")
    one_of_them: Any = Annotated[known, by_kind]
    return TypeAdapter(one_of_them)


def read_spec(values: object) -> TechniqueSpec:
    """The spec of one of the techniques from its settings; ``kind`` in them is the technique's name.

    Raises:
        ValidationError: there is no technique of that name, or a setting is unknown or out of range.

    """
    union = _union(tuple(technique.spec_class for technique in TECHNIQUES.values()))
    spec: TechniqueSpec = union.validate_python(values)
    return spec


AnySpec = Annotated[SerializeAsAny[TechniqueSpec], PlainValidator(read_spec)]


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
        return read_spec({**(settings or {}), "kind": name})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or name
        known = [f for f in TECHNIQUES[name].spec_class.model_fields if f != "kind"]
        near = guess(where, known) if first["type"] == "extra_forbidden" else None
        meant = f"did you mean {near!r}? " if near else ""
        raise BadRequest(
            f"{name}.{where}: {first['msg']}, got {first['input']!r}; {meant}settings of {name}: {', '.join(known)}"
        ) from error
