"""YAML in which a word is what it looks like, with everything that is wrong with its keys."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.files import shown


class YamlError(UserError):
    """A file that can't be read, or is no YAML."""


class _Loader(yaml.SafeLoader):
    """YAML in which a word is what it looks like.

    Its first edition takes no for false, 010 for 8 and 1:30 for 90; the next one, by which DVC reads the same file,
    takes 010 for 10. Here all of them are text, which is refused where a number is asked for.
    """


_Loader.yaml_implicit_resolvers, _Loader.yaml_constructors = {}, {}

TAG = "tag:yaml.org,2002:"
for _tag, _written, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"{TAG}{_tag}", re.compile(f"(?:{_written})\\Z"), _first)
for _tag in ("null", "bool", "int", "float", "str", "seq"):
    _Loader.add_constructor(f"{TAG}{_tag}", yaml.SafeLoader.yaml_constructors[f"{TAG}{_tag}"])
_Loader.add_constructor(None, yaml.SafeLoader.yaml_constructors[None])  # says which tag it does not know

# What DVC, which makes stages of the names, or any other reader may take for something else than text.
NO_NAME = re.compile(
    r"|true|false|null|~|[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-f_]+|[0-9][0-9_]*\.?[0-9_]*(?:e[-+]?[0-9]+)?|\.[0-9_]+(?:e[-+]?[0-9]+)?)"
    r"|[-+]?\.(?:inf|nan)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[t ].*)?",
    re.IGNORECASE,
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    # Keys as they were written; what is none has been named by `_wrong_keys`.
    return {
        key.value: loader.construct_object(value, deep=True)
        for key, value in node.value
        if isinstance(key, yaml.ScalarNode)
    }


_Loader.add_constructor(f"{TAG}map", _mapping)


def _wrong_keys(node: yaml.Node | None, where: str, seen: set[int]) -> Iterator[str]:
    """Every key of a file that is no text, or is given twice, of which a plain reader keeps the last in silence."""
    if id(node) in seen:  # an anchor, which has been looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from _wrong_keys(item, f"{where}[{position}]", seen)
    if not isinstance(node, yaml.MappingNode):
        return
    names: set[str] = set()
    for key, value in node.value:
        line = f"{where}, line {key.start_mark.line + 1}".removeprefix(", ")
        if not isinstance(key, yaml.ScalarNode):
            yield f"{line}: a list or a block is no key; write a name"
            continue
        plain = key.style is None
        if not (plain and key.tag == f"{TAG}merge"):  # `<<: *anchor`, whose keys may be given anew
            name = shown(reprlib.repr(key.value)[1:-1])
            if plain and NO_NAME.fullmatch(key.value):
                mend = f"put it in quotes: '{name}'"
                yield f"{where or line}: the name {name} is not text to every reader of YAML; {mend}"
            elif key.value in names:
                yield f"{line}: '{name}' is given twice; keep one"
            names.add(key.value)
        yield from _wrong_keys(value, f"{where}.{key.value}".removeprefix("."), seen)


def read(path: Path) -> tuple[Any, list[str]]:
    """What a file holds, and what is wrong with its keys. Raises YamlError where it can't be read or is no YAML."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        wrong = list(_wrong_keys(node, "", set()))
        return (None if node is None else loader.construct_document(node)), wrong
    except OSError as error:
        raise YamlError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} is no text: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except RecursionError:
        raise YamlError(f"{path}: nested too deeply; it takes blocks in blocks, six deep at most") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{path} is no YAML: {place}{shown(error.problem or str(error))}") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:  # the latter two: `!!bool maybe`, and the like
        raise YamlError(f"{path} is no YAML: {shown(str(error))}") from None
