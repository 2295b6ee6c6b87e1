"""From checked mapping rules to Python functions: one a rule, written out and compiled once.

Invariant: a native value is either in an attribute or still in the record, and what remains of the record becomes
`unmapped`. Native names and constants enter the generated code only as literals made by `repr`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.errors import RuleError
from tidegate.ocsf import (
    BASE_EVENT,
    CLASSES,
    OCSF_VERSION,
    PROFILES,
    Metadata,
    OcsfClass,
    OcsfEvent,
    Product,
)
from tidegate.pipeline import support
from tidegate.pipeline.functions import CONVERSIONS, KNOWN_IPS, remember, stable_uid, to_bool, to_int, to_ms, to_text
from tidegate.pipeline.rules import (
    Condition,
    CorrelationKey,
    FieldRule,
    Mapping,
    Reshape,
    Rule,
    Source,
    attribute_at,
    hints_of,
    shape_of,
    split,
)

__all__ = ["Compiled", "Mapper", "compile_source"]

Mapper = Callable[[dict[str, Any], str, int, int | None], tuple[str, Any] | tuple[None, str]]
"""(record, event id, time of reception in ms, time that the envelope gives) -> (correlation id, event).

Where OCSF misses something in the event: (None, what it misses).

The event is an OcsfEvent or a Struct with some of its attributes, which is encoded alike; see `narrow`. Takes the
mapped values out of `record`, which becomes part of the event. Raises RecordError.
"""


class Compiled(Struct, frozen=True, kw_only=True):
    """A source ready to run; `code` is the Python text of its functions."""

    name: str
    names: tuple[str, ...]
    route: Mapper
    base: Mapper
    code: str


def compile_source(source: Source, path: Path) -> Compiled:
    """The functions for `source`, which was read from `path`."""
    writer = _SourceWriter(source, path)
    code = writer.write()
    namespace = writer.namespace
    exec(compile(code, f"<rules of {source.source}>", "exec"), namespace)  # noqa: S102 - our own text, names as literals
    return Compiled(
        name=source.source,
        names=(source.source, *source.aliases),
        route=namespace["route"],
        base=namespace["base"],
        code=code,
    )


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def _both_spellings(values: list[str | int]) -> list[str | int]:
    """A number counts as its decimal text and the other way round."""
    found: list[str | int] = []
    for value in values:
        found.append(value)
        if isinstance(value, int) and not isinstance(value, bool):
            found.append(str(value))
        elif isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,17}", value):
            found.append(int(value))
    return found


class _SourceWriter:
    def __init__(self, source: Source, path: Path) -> None:
        self.source = source
        self.path = path
        self.structs: dict[tuple[type[Struct], tuple[str, ...], tuple[bool, ...]], str] = {}
        self.namespace: dict[str, Any] = {
            "EMPTY": {},
            "KNOWN_IPS": KNOWN_IPS,
            "PRODUCT": support.encoded(Product(name=source.product.name, vendor_name=source.product.vendor)),
            "RecordError": support.RecordError,
            "is_uuid": support.is_uuid,
            "key_text": support.key_text,
            "settle_time": support.settle_time,
            "put_back": support.put_back,
            "spill": support.spill,
            "stable_uid": stable_uid,
            "to_bool": to_bool,
            "to_int": to_int,
            "to_ms": to_ms,
            "to_text": to_text,
        }
        for name, conversion in CONVERSIONS.items():
            self.namespace[f"as_{name}"] = conversion.function
            if conversion.memo:
                memo: dict[str, Any] = {}
                self.namespace[f"MEMO_{name}"] = memo
                self.namespace[f"as_{name}"] = remember(conversion.function, memo, frozenset(source.absent))
        for name, table in source.lookups.items():
            both = {spelling: value for key, value in table.items() for spelling in _both_spellings([key])}
            self.namespace[f"LOOKUP_{_identifier(name)}"] = both

    def narrow(self, struct: type[Struct], values: dict[str, _Value]) -> str:
        """Writes the construction of `struct` with `values` (by OCSF name).

        What is built is a Struct with no more than these attributes, by position: a quarter of the time that the full
        one takes to build and to encode, as it has no hundred absent attributes to pass over.
        """
        python = {field.encode_name: field.name for field in msgspec.structs.fields(struct)}
        order = list(python)
        names = sorted(values, key=lambda name: (not values[name].always, order.index(name)))
        key = (struct, tuple(names), tuple(values[name].always for name in names))
        if key not in self.structs:
            fields = [(python[name], Any) if values[name].always else (python[name], Any, None) for name in names]
            rename = {python[name]: name for name in names}
            made = msgspec.defstruct(struct.__name__, fields, frozen=True, omit_defaults=True, gc=False, rename=rename)
            self.structs[key] = f"{struct.__name__}_{len(self.structs)}"
            self.namespace[self.structs[key]] = made
        return f"{self.structs[key]}({', '.join(values[name].expression for name in names)})"

    def observables(self, path: str, type_id: int) -> str:
        """The name of the table of observables at `path`, by value."""
        name = f"SEEN_{_identifier(path)}"
        self.namespace.setdefault(name, support.Observables(path, type_id))
        return name

    def native(self, field: str) -> tuple[str, ...]:
        """The keys that lead to a native field."""
        return tuple(field.split(".")) if self.source.nested else (field,)

    def write(self) -> str:
        source = self.source
        parts: list[str] = []
        table: dict[str | int, list[str]] = {}
        wild: list[tuple[Rule, dict[str, Any]]] = []
        chained: list[tuple[Rule, dict[str, Any], list[str | int]]] = []
        for rule in source.rule:
            parts.append(_RuleWriter(self, rule).write())
            conditions = dict(rule.when)
            keys: list[str | int] | None = None
            for field in source.select:
                value = conditions.get(field)
                if value is not None and not isinstance(value, Condition):
                    keys = list(value) if isinstance(value, list) else [value]
                    del conditions[field]
                    break
            if keys is None:
                wild.append((rule, conditions))
            else:
                chained.append((rule, conditions, _both_spellings(keys)))
        for _, _, keys in chained:
            for key in keys:
                table.setdefault(key, [])
        others: Mapping = {}
        base = Rule(name="base", class_="base_event", severity=0, set=others, use=source.other)
        parts.append(_RuleWriter(self, base, base=True).write())
        parts.append(self._chain("other", wild))
        chains: dict[tuple[str, ...], str] = {}
        entries: list[str] = []
        for key in table:
            mine = [(rule, conditions) for rule, conditions, keys in chained if key in keys]
            if len(mine) == 1 and not mine[0][1]:
                entries.append(f"    {key!r}: rule_{_identifier(mine[0][0].name)},")
                continue
            names = tuple(rule.name for rule, _ in mine)
            if names not in chains:
                chains[names] = f"chain_{len(chains)}"
                parts.append(self._chain(chains[names], [*mine, *wild]))
            entries.append(f"    {key!r}: {chains[names]},")
        for index, reshape in enumerate(source.reshape):
            parts.append(self._reshape(index, reshape))
        parts.append("\n".join(["RULES = {", *entries, "}\n"]))
        parts.append(self._route())
        return "\n\n".join(parts)

    def _reshapes(self) -> list[str]:
        lines: list[str] = []
        for index, reshape in enumerate(self.source.reshape):
            lines += [f"    if {reshape.when!r} in record:", f"        reshape_{index}(record)"]
        return lines

    def _route(self) -> str:
        source = self.source
        lines = ["def route(record, uid, received_ms, when):", *self._reshapes()]
        for index, field in enumerate(source.select):
            indent = "    " if index == 0 else "    if key is None:\n        "
            lines.append(f"{indent}key = {_read(self.native(field))}")
        lines += [
            "    if key.__class__ is not str and key.__class__ is not int and key is not None:",
            f'        raise RecordError("normalise", {source.source + "." + source.select[0]!r}, '
            'f"{key.__class__.__name__} cannot tell the type of the record: text or a whole number is needed")',
            "    return RULES.get(key, other)(record, uid, received_ms, when)",
            "",
            "",
            "def base(record, uid, received_ms, when):",
            *self._reshapes(),
            "    return rule_base(record, uid, received_ms, when)",
            "",
        ]
        return "\n".join(lines)

    def _chain(self, name: str, rules: list[tuple[Rule, dict[str, Any]]]) -> str:
        lines = [f"def {name}(record, uid, received_ms, when):"]
        for rule, conditions in rules:
            tests: list[str] = []
            for field, wanted in conditions.items():
                tests += self._test(_read(self.native(field)), wanted)
            call = f"rule_{_identifier(rule.name)}(record, uid, received_ms, when)"
            if tests:
                lines += [f"    if {' and '.join(tests)}:", f"        return {call}"]
            else:
                lines.append(f"    return {call}")
                return "\n".join([*lines, ""])
        lines.append("    return rule_base(record, uid, received_ms, when)")
        return "\n".join([*lines, ""])

    def _test(self, value: str, wanted: Any) -> list[str]:
        if isinstance(wanted, Condition):
            tests = []
            if wanted.exists is not None:
                tests.append(f"{value} is {'not ' if wanted.exists else ''}None")
            if wanted.starts:
                tests.append(f"str({value}).startswith({tuple(wanted.starts)!r})")
            return tests
        if isinstance(wanted, bool):
            return [f"{value} is {wanted}"]
        return [f"{value} in {tuple(_both_spellings(wanted if isinstance(wanted, list) else [wanted]))!r}"]

    def _reshape(self, index: int, reshape: Reshape) -> str:
        parents = _Parents()
        body: list[str] = []
        for field, name in reshape.move.items():
            keys = self.native(field)
            parent = parents.of(keys[:-1])
            body += [
                f"    value = {parent}.pop({keys[-1]!r}, None)",
                f"    if value is not None and record.setdefault({name!r}, value) is not value:",
                f"        {parent}[{keys[-1]!r}] = value",
            ]
        for field in reshape.lift:
            keys = self.native(field)
            inner = parents.of(keys)
            body += [
                f"    if record.keys().isdisjoint({inner}):",
                f"        record.update({inner})",
                f"        {inner}.clear()",
                "    else:",
                f"        for name in [name for name in {inner} if name not in record]:",
                f"            record[name] = {inner}.pop(name)",
            ]
        return "\n".join([f"def reshape_{index}(record):", *parents.loads(), *body, *parents.cleanup(), ""])


def _read(keys: tuple[str, ...]) -> str:
    if len(keys) == 1:
        return f"record.get({keys[0]!r})"
    inner = f"record.get({keys[0]!r})"
    for key in keys[1:]:
        inner = f"(parent if (parent := {inner}).__class__ is dict else EMPTY).get({key!r})"
    return inner


class _Parents:
    """The objects inside a record that a function works on, each in a local variable."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], str] = {(): "record"}

    def of(self, keys: tuple[str, ...]) -> str:
        if keys not in self._names:
            self.of(keys[:-1])
            self._names[keys] = f"in_{len(self._names)}_{_identifier(keys[-1])}"
        return self._names[keys]

    def loads(self) -> list[str]:
        lines: list[str] = []
        for keys, name in self._names.items():
            if keys:
                lines += [
                    f"    {name} = {self._names[keys[:-1]]}.get({keys[-1]!r})",
                    f"    if {name}.__class__ is not dict:",
                    f"        {name} = EMPTY",
                ]
        return lines

    def cleanup(self) -> list[str]:
        lines: list[str] = []
        for keys, name in reversed(self._names.items()):
            if keys:
                lines += [
                    f"    if not {name} and {name} is not EMPTY:",
                    f"        {self._names[keys[:-1]]}.pop({keys[-1]!r}, None)",
                ]
        return lines


class _Leaf(Struct, kw_only=True):
    """One attribute of one rule."""

    path: str
    rule: FieldRule
    name: str


class _Value(Struct, kw_only=True):
    """A value in the generated code: an expression, and whether it is there always."""

    expression: str
    always: bool
    constant: bool = False
    paths: list[str] = []


_NATIVE = {1: ("actor", "device"), 3: ("actor",)}
"""Attributes of the host profile that the classes of a category have without it."""


class _RuleWriter:
    def __init__(self, owner: _SourceWriter, rule: Rule, *, base: bool = False) -> None:
        self.owner = owner
        self.rule = rule
        self.base = base
        self.source = owner.source
        self.ocsf_class: OcsfClass = BASE_EVENT if base else CLASSES[rule.class_]
        self.parents = _Parents()
        self.lines: list[str] = []
        self.early: dict[str, str] = {}
        self.observed = False
        self.leaves = self._leaves()
        self.time_fields = self.source.time.from_
        self.correlation = self.source.correlation if rule.correlation is None else rule.correlation
        self.consumers: dict[str, list[_Leaf]] = {}
        for leaf in self.leaves:
            for field in leaf.rule.fields:
                self.consumers.setdefault(field, []).append(leaf)
        self.readers = {field for key in self.correlation for field in key.fields} | set(self._identity())

    def _leaves(self) -> list[_Leaf]:
        merged: Mapping = {}
        for group in self.rule.use:
            merged |= self.source.groups[group]
        merged |= self.rule.set
        numbers: Mapping = {"activity_id": self.rule.activity, "severity_id": self.rule.severity}
        merged = numbers | merged
        found: list[_Leaf] = []
        for path, setting in merged.items():
            if isinstance(setting, FieldRule):
                rule = setting
            elif isinstance(setting, str | list):
                rule = FieldRule(from_=setting)
            else:
                rule = FieldRule(value=setting)
            found.append(_Leaf(path=path, rule=rule, name=f"v_{_identifier(path)}"))
        return found

    def _identity(self) -> list[str]:
        identity = self.source.id
        return [*identity.from_, *([identity.uuid] if identity.uuid else [])]

    def _fail(self, problem: str) -> RuleError:
        return RuleError(f"{self.owner.path} (rule {self.rule.name})", problem)

    def _key(self, suffix: str) -> str:
        return f"{self.source.source}.{self.rule.name}.{suffix}"

    # -- native values

    def _shared(self, field: str) -> bool:
        return field in self.readers or len(self.consumers.get(field, ())) > 1 or field in self.time_fields

    def _load_shared(self) -> None:
        wanted = [field for field in (*self.readers, *self.consumers) if self._shared(field)]
        for field in sorted(dict.fromkeys(wanted)):
            if field in self.time_fields and field not in self.readers:
                continue
            keys = self.owner.native(field)
            name = f"n_{len(self.early)}_{_identifier(field)}"
            self.early[field] = name
            users = self.consumers.get(field, [])
            alone = (
                field not in self.time_fields
                and len(users) == 1
                and len(users[0].rule.fields) == 1
                and self._keeps(users[0])
            )
            verb = "pop" if alone else "get"
            default = ", None" if alone else ""
            self.lines.append(f"    {name} = {self.parents.of(keys[:-1])}.{verb}({keys[-1]!r}{default})")

    def _keeps(self, leaf: _Leaf) -> bool:
        """Whether the attribute keeps all of the native value."""
        if leaf.rule.lookup is not None or leaf.rule.present is not None:
            return False
        return CONVERSIONS[self._kind(leaf)].keeps

    def _kind(self, leaf: _Leaf) -> str:
        return leaf.rule.as_ or attribute_at(leaf.path).kind

    def _write_leaves(self) -> None:
        """Writes the attributes; those that all come from one inner object are passed over where it is not there."""
        inner: dict[str, list[_Leaf]] = {}
        for leaf in self.leaves:
            if leaf.rule.value is None:
                parent = self._only_parent(leaf)
                if parent is None:
                    self._write_leaf(leaf)
                else:
                    inner.setdefault(parent, []).append(leaf)
        for parent, leaves in inner.items():
            start = len(self.lines)
            for leaf in leaves:
                self._write_leaf(leaf)
            written = self.lines[start:]
            absent = " = ".join(leaf.name for leaf in leaves)
            self.lines[start:] = [
                f"    if {parent} is EMPTY:",
                f"        {absent} = None",
                "    else:",
                *(f"    {line}" for line in written),
            ]

    def _only_parent(self, leaf: _Leaf) -> str | None:
        """The inner object from which alone an attribute comes, so that it has no value without it."""
        rule = leaf.rule
        keys = self.owner.native(rule.fields[0])
        if len(rule.fields) > 1 or len(keys) == 1 or rule.default is not None or rule.unless is not None:
            return None
        return None if rule.fields[0] in self.early else self.parents.of(keys[:-1])

    def _write_leaf(self, leaf: _Leaf) -> None:
        rule = leaf.rule
        for index, field in enumerate(rule.fields):
            indent = "    "
            if index:
                self.lines.append(f"    if {leaf.name} is None:")
                indent = "        "
            self._write_alternative(leaf, field, indent)
        if rule.default is not None and (rule.lookup is None or len(rule.fields) > 1):
            unless = f" and v_{_identifier(rule.unless)} is None" if rule.unless else ""
            self.lines.append(f"    if {leaf.name} is None{unless}:")
            self.lines.append(f"        {leaf.name} = {rule.default!r}")

    def _write_alternative(self, leaf: _Leaf, field: str, indent: str) -> None:
        keys = self.owner.native(field)
        parent, key = self.parents.of(keys[:-1]), keys[-1]
        name, put = leaf.name, self.lines.append
        keeps = self._keeps(leaf)
        shared = field in self.early
        users = self.consumers[field]
        popped = keeps and (not shared or (len(users) == 1 and len(leaf.rule.fields) == 1))
        popped = popped and not (shared and field in self.time_fields)
        if shared:
            put(f"{indent}{name} = {self.early[field]}")
        elif keeps:
            put(f"{indent}{name} = {parent}.pop({key!r}, None)")
        else:
            put(f"{indent}{name} = {parent}.get({key!r})")
        self._convert(leaf, indent, f"{parent}, {key!r}" if popped else "")
        if keeps and shared and not popped:
            put(f"{indent}if {name} is not None:")
            put(f"{indent}    {parent}.pop({key!r}, None)")

    def _convert(self, leaf: _Leaf, indent: str, place: str) -> None:
        """Writes what makes the attribute's value of the native one; one that fails goes back to `place`, if any."""
        name, put = leaf.name, self.lines.append
        kind = self._kind(leaf)
        absent = " or ".join(f"{name} == {text!r}" for text in self.source.absent)
        call = f"put_back({{function}}, {place}, {name})" if place else f"{{function}}({name})"

        def unless(fine: str, function: str) -> None:
            put(f"{indent}if {fine} and {name} is not None:")
            put(f"{indent}    {name} = {call.format(function=function)}")

        if leaf.rule.present is not None:
            put(f"{indent}if {name} is not None:")
            put(f"{indent}    {name} = {leaf.rule.present!r}")
        elif leaf.rule.lookup is not None:
            default = repr(leaf.rule.default) if len(leaf.rule.fields) == 1 else "None"
            table = f"LOOKUP_{_identifier(leaf.rule.lookup)}"
            if leaf.rule.as_ is not None:
                memo = f"{name}.__class__ is str and MEMO_{kind}.get({name}) or " if CONVERSIONS[kind].memo else ""
                put(f"{indent}{name} = {memo}as_{kind}({name})")
            plain = f"{name}.__class__ is str or {name}.__class__ is int"
            put(f"{indent}{name} = {table}.get({name}, {default}) if {plain} else {default}")
        elif kind == "text":
            unless(f"{name}.__class__ is not str", "to_text")
        elif kind in ("int", "bool"):
            unless(f"{name}.__class__ is not {kind}", f"to_{kind}")
        elif kind == "port":
            unless(f"({name}.__class__ is not int or not 0 <= {name} <= 65535)", "as_port")
        elif kind == "ip":
            unless(f"({name}.__class__ is not str or {name} not in KNOWN_IPS)", "as_ip")
        elif CONVERSIONS[kind].memo:
            put(f"{indent}if {name}.__class__ is str and {name} in MEMO_{kind}:")
            put(f"{indent}    {name} = MEMO_{kind}[{name}]")
            put(f"{indent}elif {name} is not None:")
            put(f"{indent}    {name} = {call.format(function=f'as_{kind}')}")
        elif kind != "any":
            put(f"{indent}if {name} is not None:")
            put(f"{indent}    {name} = {call.format(function=f'as_{kind}')}")
        if kind == "text" and absent and leaf.rule.lookup is None and leaf.rule.present is None:
            put(f"{indent}elif {absent}:")
            if place:
                parent, key = place.split(", ", 1)
                put(f"{indent}    {parent}[{key}] = {name}")
            put(f"{indent}    {name} = None")

    # -- keys

    def _write_time(self) -> None:
        put = self.lines.append
        for index, field in enumerate(self.time_fields):
            keys = self.owner.native(field)
            parent = self.parents.of(keys[:-1])
            verb = "get" if field in self.consumers else "pop"
            load = f"raw_time = {parent}.{verb}({keys[-1]!r}{', None' if verb == 'pop' else ''})"
            if index == 0:
                put(f"    {load}")
            else:
                put("    if raw_time is None:")
                put(f"        {load}")
        first = self.owner.native(self.time_fields[0])
        strict = not self.base
        received = self.base or self.source.time.missing == "received"
        put("    time = to_ms(raw_time)")
        put("    if time is None or when is not None:")
        key = f"{self.source.source}.time" if self.base else self._key("time")
        put(f"        time = settle_time(raw_time, time, received_ms, when, {key!r}, {strict}, {received})")
        put("    original_time = raw_time")
        put("    if original_time.__class__ is not str and original_time is not None:")
        # A number stays where it was: to write it out as text takes longer than to keep it.
        put(f"        original_time = {'None' if len(self.time_fields) == 1 else 'to_text(raw_time)'}")
        put("        if original_time is None:")
        put(f"            {self.parents.of(first[:-1])}[{first[-1]!r}] = raw_time")

    def _write_id(self) -> None:
        identity, put = self.source.id, self.lines.append
        key = f"{self.source.source}.id"
        if identity.uuid:
            keys = self.owner.native(identity.uuid)
            name = self.early[identity.uuid]
            put(f"    if {name} is not None and is_uuid(key_text({name}, {key!r})):")
            put(f"        uid = {name}")
            put(f"        {self.parents.of(keys[:-1])}.pop({keys[-1]!r}, None)")
        if identity.from_:
            names = [self.early[field] for field in identity.from_]
            parts = "|".join(f"{{{name}}}" for name in names)
            put(f"    {'elif' if identity.uuid else 'if'} {names[0]} is not None:")
            put(f"        key_text({names[0]}, {key!r})")
            put(f'        uid = stable_uid(f"{self.source.source}|{parts}")')

    def _write_correlation(self, keys: list[CorrelationKey]) -> None:
        put = self.lines.append
        rule = f"{self.source.source}.correlation"
        put("    correlation = None")
        for index, key in enumerate(keys):
            indent = "    "
            if index:
                put("    if correlation is None:")
                indent = "        "
            names = [self.early[field] for field in key.fields]
            skipped = list(dict.fromkeys([*key.skip, *self.source.absent]))
            tests = [" and ".join([name, *(f"{name} != {text!r}" for text in skipped)]) for name in names]
            put(f"{indent}if {' and '.join(tests)}:")
            texts = [f"{name} if {name}.__class__ is str else key_text({name}, {rule!r})" for name in names]
            if len(names) == 1:
                put(f"{indent}    correlation = {texts[0]}")
            else:
                joined = ":".join(f"{{{text}}}" for text in texts)
                put(
                    f"{indent}    correlation = f{joined!r}"
                    if "'" not in joined
                    else f'{indent}    correlation = f"{joined}"'
                )
            if key.as_ is not None:
                memo = f"MEMO_{key.as_}.get(correlation) or " if CONVERSIONS[key.as_].memo else ""
                put(f"{indent}    correlation = {memo}as_{key.as_}(correlation)")
        put("    if not correlation:")
        put("        correlation = uid")

    # -- objects

    def _write_object(self, struct: type[Struct], prefix: str, tree: dict[str, Any]) -> _Value:
        """Builds the object at `prefix` from its values, when it has all that OCSF requires of it."""
        hints = hints_of(struct)
        values: dict[str, _Value] = {}
        seen: list[tuple[str, _Value, int]] = []
        for name, below in tree.items():
            path = f"{prefix}.{name}"
            if isinstance(below, _Leaf):
                values[name] = self._leaf_value(below)
                observable = attribute_at(below.path).observable
                if observable is not None:
                    seen.append((path, values[name], observable))
            else:
                values[name] = self._write_inner(hints[name], path, below)
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        required = [name for name, field in fields.items() if field.required]
        for name in required:
            if name not in values:
                raise self._fail(f'"{prefix}" needs "{prefix}.{name}"')
        choice: tuple[str, ...] = getattr(struct, "at_least_one", ())
        if choice and not any(name in values for name in choice):
            raise self._fail(f'"{prefix}" needs one of {", ".join(choice)}')
        conditions = [f"{values[name].expression} is not None" for name in required if not values[name].always]
        chosen = [values[name] for name in choice if name in values]
        settled = {name for name in required if not values[name].always}
        if chosen and not any(value.always for value in chosen):
            conditions.append("(" + " or ".join(f"{value.expression} is not None" for value in chosen) + ")")
            if len(chosen) == 1:
                settled |= {name for name in choice if name in values}
        sometimes = [value for value in values.values() if not value.always]
        settling = chosen and any(value.always for value in chosen)
        if not conditions and sometimes and not settling and all(v.constant for v in values.values() if v.always):
            conditions.append("(" + " or ".join(f"{value.expression} is not None" for value in sometimes) + ")")
        result = f"o_{_identifier(prefix)}"
        build = f"{result} = {self.owner.narrow(struct, values)}"
        indent = "        " if conditions else "    "
        if conditions:
            self.lines.append(f"    if {' and '.join(conditions)}:")
        self.lines.append(f"{indent}{build}")
        for path, value, type_id in seen:
            known = value.always or path.rpartition(".")[2] in settled
            self._observe(path, value, type_id, indent, known=known)
        if conditions:
            self.lines.append("    else:")
            self.lines.append(f"        {result} = None")
            free = not settled and len(chosen or sometimes) == len(sometimes)
            alone = len(sometimes) == 1 or free
            lost = [(f"{prefix}.{name}", value) for name, value in values.items() if not value.always]
            if not alone:
                pairs = ", ".join(f"({path!r}, {value.expression})" for path, value in lost)
                tests = " or ".join(f"{value.expression} is not None" for _, value in lost)
                self.lines += [f"        if {tests}:", f"            spill(record, ({pairs},))"]
        return _Value(
            expression=result, always=not conditions, constant=all(value.constant for value in values.values())
        )

    def _observe(self, path: str, value: _Value, type_id: int, indent: str, *, known: bool) -> None:
        self.observed = True
        text = value.expression
        if not known:
            self.lines.append(f"{indent}if {text} is not None:")
            indent += "    "
        if attribute_at(path).many:
            self.lines.append(f"{indent}for each in {text}:")
            path, text = (f"{path}.value", "each.value") if path.endswith(".hashes") else (path, "each")
            indent += "    "
        self.lines.append(f"{indent}observe({self.owner.observables(path, type_id)}[{text}])")

    def _leaf_value(self, leaf: _Leaf) -> _Value:
        if leaf.rule.value is not None:
            return _Value(expression=repr(leaf.rule.value), always=True, constant=True)
        return _Value(expression=leaf.name, always=leaf.rule.default is not None and leaf.rule.unless is None)

    def _write_inner(self, hint: Any, path: str, below: dict[str, Any]) -> _Value:
        struct, many, _ = shape_of(hint)
        assert struct is not None
        if not many:
            return self._write_object(struct, path, below)
        elements = [self._write_object(struct, f"{path}[{label}]", tree) for label, tree in below.items()]
        names = [element.expression for element in elements]
        if all(element.always for element in elements):
            return _Value(expression=f"[{', '.join(names)}]", always=True)
        result = f"l_{_identifier(path)}"
        if len(names) == 1:
            self.lines.append(f"    {result} = [{names[0]}] if {names[0]} is not None else None")
        else:
            self.lines.append(f"    {result} = [each for each in ({', '.join(names)}) if each is not None] or None")
        return _Value(expression=result, always=False)

    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for leaf in self.leaves:
            parts = split(leaf.path)
            here = tree
            for name, label in parts[:-1]:
                here = here.setdefault(name, {})
                if label is not None:
                    here = here.setdefault(label, {})
            here[parts[-1][0]] = leaf
        return tree

    # -- the whole

    def write(self) -> str:
        tree = self._tree()
        for key in self.correlation:
            for field in key.fields:
                self.parents.of(self.owner.native(field)[:-1])
        self._load_shared()
        self._write_time()
        self._write_id()
        self._write_correlation(self.correlation)
        self._write_leaves()
        metadata = tree.pop("metadata", {})
        values = self._numbers(tree.pop("activity_id"), tree.pop("severity_id"))
        values["metadata"] = self._metadata(metadata)
        hints = hints_of(OcsfEvent)
        for name, below in tree.items():
            if isinstance(below, _Leaf):
                values[name] = self._leaf_value(below)
            else:
                values[name] = self._write_inner(hints[name], name, below)
        self._require(values)
        if self.observed:
            values["observables"] = _Value(expression="observables or None", always=False)
        values["unmapped"] = _Value(expression="record or None", always=False)
        if self.base:
            values["status_detail"] = _Value(expression="None", always=False)
        head = [f"def rule_{_identifier(self.rule.name)}(record, uid, received_ms, when):", *self.parents.loads()]
        if self.observed:
            head += ["    observables = []", "    observe = observables.append"]
        tail = [*self.parents.cleanup(), f"    return correlation, {self.owner.narrow(OcsfEvent, values)}", ""]
        return "\n".join([*head, *self.lines, *tail])

    def _numbers(self, activity: _Leaf, severity: _Leaf) -> dict[str, _Value]:
        uid = self.ocsf_class.uid
        for leaf in (activity, severity):
            if leaf.rule.value is None and leaf.rule.default is None:
                self.lines += [f"    if {leaf.name} is None:", f"        {leaf.name} = 0"]
        first, second = self._leaf_value(activity), self._leaf_value(severity)
        kind = str(uid * 100 + int(first.expression)) if first.constant else f"{uid * 100} + {first.expression}"
        found = {
            "class_uid": str(uid),
            "category_uid": str(self.ocsf_class.category_uid),
            "activity_id": first.expression,
            "type_uid": kind,
            "severity_id": second.expression,
            "time": "time",
        }
        return {name: _Value(expression=expression, always=True) for name, expression in found.items()}

    def _metadata(self, tree: dict[str, Any]) -> _Value:
        own = {
            "version": repr(OCSF_VERSION),
            "product": "PRODUCT",
            "uid": "uid",
            "correlation_uid": "correlation",
            "log_source": repr(self.source.source),
        }
        values = {name: _Value(expression=expression, always=True) for name, expression in own.items()}
        values["original_time"] = _Value(expression="original_time", always=False)
        profiles = self._profiles()
        if profiles:
            constant = "PROFILES_" + "_".join(profiles)
            self.owner.namespace[constant] = support.encoded(profiles)
            values["profiles"] = _Value(expression=constant, always=True)
        for name, leaf in tree.items():
            if name in values or name == "profiles":
                raise self._fail(f'"metadata.{name}" is set by the pipeline itself')
            values[name] = self._leaf_value(leaf)
        return _Value(expression=self.owner.narrow(Metadata, values), always=True)

    def _profiles(self) -> list[str]:
        """The OCSF profiles to which the attributes of this rule belong."""
        wanted = self.ocsf_class
        own = {*wanted.required, *_NATIVE.get(wanted.category_uid, ())}
        names = {leaf.path.partition(".")[0] for leaf in self.leaves} - own
        return sorted({PROFILES[name] for name in names if name in PROFILES})

    def _require(self, values: dict[str, _Value]) -> None:
        """Returns the reason, where the record lacks what its class requires."""
        wanted = self.ocsf_class
        label = f"{self.source.source}.{self.rule.name}: {self.rule.class_} requires"
        for name in wanted.required:
            if name not in values:
                raise self._fail(f'class {self.rule.class_} requires "{name}"')
            if not values[name].always:
                self.lines += [
                    f"    if {values[name].expression} is None:",
                    f"        return None, {f'{label} {name}'!r}",
                ]
        if wanted.at_least_one:
            chosen = [values[name] for name in wanted.at_least_one if name in values]
            if not chosen:
                raise self._fail(f"class {self.rule.class_} requires one of {', '.join(wanted.at_least_one)}")
            if not any(value.always for value in chosen):
                tests = " and ".join(f"{value.expression} is None" for value in chosen)
                reason = f"{label} one of {', '.join(wanted.at_least_one)}"
                self.lines += [f"    if {tests}:", f"        return None, {reason!r}"]
