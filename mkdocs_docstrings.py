"""How the site reads our docstrings: references as `transformers` writes them, and the defaults of configurations.

``[`MacRecConfig`]`` becomes a link, ``[`~transformers.Trainer`]`` a plain name. The fields of a configuration become
one table with the meaning and the source that stand beside each default. Arguments that are described together
(`a, b: …`) become two entries, and an indented example becomes code.
"""

import ast
import re

import griffe

REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![\[(])")
ARGS = re.compile(r"^Args:\n((?: {4}.*\n|\n(?= {4}))*)", re.M)
ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.M)
TOGETHER = re.compile(r"^( {4,})(\w+(?:, \w+)+): (.*(?:\n\1 {4}.*)*)", re.M)
EXAMPLE = re.compile(r"^Example:\n(?= +>>>)", re.M)


class Docstrings(griffe.Extension):
    """Changes what griffe has read of the package, before mkdocstrings renders it."""

    def on_package(self, *, pkg, **kwargs):
        public = {str(name).strip("'\"") for name in pkg.exports or ()}

        def link(match):
            name = match[2].rpartition(".")[2] if match[1] else match[2]
            return f"[`{name}`][{pkg.name}.{name}]" if name in public else f"`{name}`"

        for member in everything_in(pkg):
            if member.docstring:
                text = EXAMPLE.sub("Examples:\n", TOGETHER.sub(one_by_one, member.docstring.value))
                member.docstring.value = REFERENCE.sub(link, text)

    def on_class(self, *, cls, **kwargs):
        fields = {name: call for name, member in cls.members.items() if (call := default_of(member))}
        if fields:
            text = cls.docstring.value + "\n"
            described = dict(ENTRY.findall(ARGS.search(text)[1]))
            rows = [f"    {name}: {about(call, described.get(name, ''))}" for name, call in fields.items()]
            cls.docstring.value = ARGS.sub(lambda _: "Attributes:\n" + "\n".join(rows) + "\n\n", text)


def one_by_one(match) -> str:
    return "\n".join(f"{match[1]}{name}: {match[3]}" for name in match[2].split(", "))


def default_of(member) -> ast.Call | None:
    """`_default(value, meaning, source)` of a field of a configuration."""
    text = str(member.value) if member.is_attribute else ""
    return ast.parse(text, mode="eval").body if text.startswith("_default(") else None


def about(call: ast.Call, described: str) -> str:
    value, (meaning, source) = ast.unparse(call.args[0]), map(ast.literal_eval, call.args[1:])
    return f"{(described or meaning).rstrip('.')}. Default `{value}` ({source})."


def everything_in(thing):
    for member in thing.members.values():
        if not member.is_alias:
            yield member
            if member.is_class or member.is_module:
                yield from everything_in(member)
