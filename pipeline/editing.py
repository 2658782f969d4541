"""Change params.yaml as text: what is not meant stays byte for byte, which no dump of a parsed file manages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from pipeline.errors import UserError


class EditingError(UserError):
    """A params.yaml that is laid out so that nothing can be put into it."""


def activated(text: str, study: str) -> str:
    """The file with `study` alone active."""
    value = _block(text, "active")
    indent = "" if value.flow_style else "  "  # a list a line below its key may stand as far left as the key
    return text[: value.start_mark.index] + f"{indent}[{study}]" + text[_end(value) :]


def with_study(text: str, name: str, why: str, keys: Mapping[str, Any]) -> str:
    """The file with a new study behind the others; `why` becomes its comment.

    Raises EditingError where the studies are not one indented block.
    """
    studies = _block(text, "studies")
    if not isinstance(studies, MappingNode) or studies.flow_style:
        raise EditingError("params.yaml: studies stands in braces; write one study a line below, indented")
    first: Node = studies.value[0][0]
    indent = " " * first.start_mark.column
    line_end = "\r\n" if "\r\n" in text else "\n"
    lines = [f"{indent}{name}: # {why}", *(f"{indent}  {key}: {written(value)}" for key, value in keys.items())]
    after = text.find(
        "\n", len(text[: _end(studies)].rstrip())
    )  # a folded text's end mark is where the next key stands
    before, rest = (text + line_end, "") if after < 0 else (text[: after + 1], text[after + 1 :])
    return before + "".join(line + line_end for line in ("", *lines)) + rest


def written(value: Any) -> str:
    """A value as it stands behind its key, on one line; text is quoted where YAML might take it for something else."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(inside) for inside in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[\w/.~][\w/. -]*\w", value) and value.isprintable() and yaml.safe_load(value) == value:
        return value
    signs = (sign if sign.isprintable() and sign not in '"\\' else f"\\U{ord(sign):08x}" for sign in value)
    return f'"{"".join(signs)}"'


def _block(text: str, key: str) -> CollectionNode:
    top = YAML(typ="safe", pure=True).compose(text)
    found: CollectionNode = next(value for name, value in top.value if name.value == key)
    return found


def _end(node: Node) -> int:
    """Where a value ends: a block's own end mark lies behind the comments that follow it."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)
