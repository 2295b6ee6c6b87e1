"""Writes the Python function of one rule: native values into attributes, these into objects, those into the event.

Invariant: a native value is either in an attribute or still in the record, and what remains of the record becomes
`unmapped`. Native names and constants enter the text only as literals made by `repr`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from tidegate.errors import RuleError
from tidegate.ocsf import BASE_EVENT, CLASSES, OCSF_VERSION, PROFILES, Metadata, OcsfClass, OcsfEvent, Product
from tidegate.pipeline import support
from tidegate.pipeline.access import Touched
from tidegate.pipeline.conversions import CONVERSIONS
from tidegate.pipeline.native import View, identifier
from tidegate.pipeline.rules import (
    CorrelationKey,
    FieldRule,
    Mapping,
    Rule,
    Source,
    attribute_at,
    fields_of,
    hints_of,
    shape_of,
    split,
)

__all__ = ["RuleWriter", "SourceContext", "Value"]


class SourceContext(Protocol):
    """What the rules of one source share."""

    source: Source
    path: Path
    namespace: dict[str, Any]

    touched: Touched
    stamped: bool

    def narrow(self, struct: type[Struct], prefix: str, values: dict[str, Value]) -> str: ...

    def kept(self, struct: type[Struct], prefix: str, values: dict[str, Value]) -> str | None: ...

    def observables(self, path: str, type_id: int) -> str: ...

    def native(self, field: str) -> tuple[str, ...]: ...


class Leaf(Struct, kw_only=True):
    """One attribute of one rule."""

    path: str
    rule: FieldRule
    name: str


class Value(Struct, kw_only=True):
    """A value in the generated code: an expression, and whether it is there always."""

    expression: str
    always: bool
    constant: bool = False
    text: bool = False


_PLAIN = {"int": int, "bool": bool}
_NATIVE = {1: ("actor", "device"), 3: ("actor",)}
"""Attributes of the host profile that the classes of a category have without it."""


class RuleWriter:
    """Writes the function of one rule, for the kind of record that `view` gives access to."""

    def __init__(self, owner: SourceContext, rule: Rule, view: View, *, base: bool = False) -> None:
        self.owner = owner
        self.rule = rule
        self.base = base
        self.view = view
        self.source = owner.source
        self.ocsf_class: OcsfClass = BASE_EVENT if base else CLASSES[rule.class_]
        self.lines: list[str] = []
        self.early: dict[str, str] = {}
        self.observed = False
        self.leaves = self._leaves()
        self.time_fields = self.source.time.from_ if rule.time is None else rule.time
        self.correlation = self.source.correlation if rule.correlation is None else rule.correlation
        self.consumers: dict[str, list[Leaf]] = {}
        for leaf in self.leaves:
            for field in leaf.rule.fields:
                self.consumers.setdefault(field, []).append(leaf)
        self.readers = {field for key in self.correlation for field in key.fields} | set(self._identity())

    def fields(self) -> set[str]:
        """All native fields that the function looks at."""
        return {*self.consumers, *self.readers, *self.time_fields}

    def _leaves(self) -> list[Leaf]:
        merged: Mapping = {}
        for group in self.rule.use:
            merged |= self.source.groups[group]
        merged |= self.rule.set
        numbers: Mapping = {"activity_id": self.rule.activity, "severity_id": self.rule.severity}
        merged = numbers | merged
        found: list[Leaf] = []
        for path, setting in merged.items():
            if isinstance(setting, FieldRule):
                rule = setting
            elif isinstance(setting, str | list):
                rule = FieldRule(from_=setting)
            else:
                rule = FieldRule(value=setting)
            found.append(Leaf(path=path, rule=rule, name=f"v_{identifier(path)}"))
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
            name = f"n_{len(self.early)}_{identifier(field)}"
            self.early[field] = name
            value = self.view.take(keys) if self._alone(field) else self.view.peek(keys)
            self.lines.append(f"    {name} = {value}")

    def _alone(self, field: str) -> bool:
        """Whether one attribute takes the value of this field for certain, so that it need not stay in the record."""
        users = self.consumers.get(field, [])
        return (
            field not in self.time_fields
            and len(users) == 1
            and len(users[0].rule.fields) == 1
            and self._keeps(users[0])
        )

    def _keeps(self, leaf: Leaf) -> bool:
        """Whether the attribute keeps all of the native value."""
        if leaf.rule.lookup is not None or leaf.rule.present is not None:
            return False
        return CONVERSIONS[self._kind(leaf)].keeps

    def _kind(self, leaf: Leaf) -> str:
        return leaf.rule.as_ or attribute_at(leaf.path).kind

    def _write_leaves(self) -> None:
        """Writes the attributes; those that all come from one inner object are passed over where it is not there."""
        inner: dict[str, list[Leaf]] = {}
        for leaf in self.leaves:
            if leaf.rule.value is None:
                absent = self._without_parent(leaf)
                if absent is None:
                    self._write_leaf(leaf)
                else:
                    inner.setdefault(absent, []).append(leaf)
        for condition, leaves in inner.items():
            start = len(self.lines)
            for leaf in leaves:
                self._write_leaf(leaf)
            if condition != "False":
                self.lines[start:] = [
                    f"    if {condition}:",
                    f"        {' = '.join(leaf.name for leaf in leaves)} = None",
                    "    else:",
                    *(f"    {line}" for line in self.lines[start:]),
                ]

    def _without_parent(self, leaf: Leaf) -> str | None:
        """The condition that the inner object is not there from which alone an attribute comes."""
        rule = leaf.rule
        keys = self.owner.native(rule.fields[0])
        if len(rule.fields) > 1 or len(keys) == 1 or rule.default is not None or rule.unless is not None:
            return None
        if any(other.rule.unless == leaf.path for other in self.leaves):
            return None
        return None if rule.fields[0] in self.early else self.view.absent(keys)

    def _write_leaf(self, leaf: Leaf) -> None:
        rule = leaf.rule
        for index, field in enumerate(rule.fields):
            indent = "    "
            if index:
                self.lines.append(f"    if {leaf.name} is None:")
                indent = "        "
            self._write_alternative(leaf, field, indent)
        if rule.default is not None and (rule.lookup is None or len(rule.fields) > 1):
            unless = f" and v_{identifier(rule.unless)} is None" if rule.unless else ""
            self.lines.append(f"    if {leaf.name} is None{unless}:")
            self.lines.append(f"        {leaf.name} = {rule.default!r}")

    def _write_alternative(self, leaf: Leaf, field: str, indent: str) -> None:
        keys = self.owner.native(field)
        name, put = leaf.name, self.lines.append
        if self.view.lacks(keys):
            put(f"{indent}{name} = {leaf.rule.default if leaf.rule.lookup and len(leaf.rule.fields) == 1 else None!r}")
            return
        keeps = self._keeps(leaf)
        taken = self._alone(field)
        if field in self.early:
            put(f"{indent}{name} = {self.early[field]}")
        else:
            put(f"{indent}{name} = {self.view.take(keys) if taken else self.view.peek(keys)}")
        self._convert(leaf, keys, indent, taken=taken)
        if keeps and not taken:
            put(f"{indent}if {name} is not None:")
            put(f"{indent}    {self.view.drop(keys)}")

    def _convert(self, leaf: Leaf, keys: tuple[str, ...], indent: str, *, taken: bool) -> None:
        """Writes what makes the attribute's value of the native one; one that fails is left, where it was taken."""
        name, put = leaf.name, self.lines.append
        kind = self._kind(leaf)
        absent = " or ".join(f"{name} == {text!r}" for text in self.source.absent)

        def call(function: str, indent: str = f"{indent}    ") -> None:
            lines = self.view.convert(keys, function, name) if taken else [f"{name} = {function}({name})"]
            self.lines += [f"{indent}{line}" for line in lines]

        def unless(fine: str, function: str) -> None:
            put(f"{indent}if {fine} and {name} is not None:")
            call(function)

        if leaf.rule.present is not None:
            put(f"{indent}if {name} is not None:")
            put(f"{indent}    {name} = {leaf.rule.present!r}")
        elif leaf.rule.lookup is not None:
            default = repr(leaf.rule.default) if len(leaf.rule.fields) == 1 else "None"
            table = f"LOOKUP_{identifier(leaf.rule.lookup)}"
            if leaf.rule.as_ is not None:
                memo = f"{name}.__class__ is str and MEMO_{kind}.get({name}) or " if CONVERSIONS[kind].memo else ""
                put(f"{indent}{name} = {memo}as_{kind}({name})")
            plain = f"{name}.__class__ is str or {name}.__class__ is int"
            put(f"{indent}{name} = {table}.get({name}, {default}) if {plain} else {default}")
        elif kind == "text":
            if self.view.is_always(keys, int):
                put(f"{indent}if {name} is not None:")
                put(f"{indent}    {name} = str({name})")
            elif not self.view.is_always(keys, str):
                unless(f"{name}.__class__ is not str", "to_text")
        elif kind in ("int", "port") and self.view.is_always(keys, str):
            short = f"len({name}) < {20 if kind == 'int' else 5}"
            put(f"{indent}if {name} is not None:")
            put(f"{indent}    if {short} and {name}.isdecimal() and {name}.isascii():")
            put(f"{indent}        {name} = int({name})")
            put(f"{indent}    else:")
            call(f"as_{kind}", f"{indent}        ")
        elif kind in ("int", "bool"):
            if not self.view.is_always(keys, _PLAIN[kind]):
                unless(f"{name}.__class__ is not {kind}", f"to_{kind}")
        elif kind == "port":
            unless(f"({name}.__class__ is not int or not 0 <= {name} <= 65535)", "as_port")
        elif kind == "ip":
            unless(f"({name}.__class__ is not str or {name} not in KNOWN_IPS)", "as_ip")
        elif CONVERSIONS[kind].memo:
            put(f"{indent}if {name}.__class__ is str and {name} in MEMO_{kind}:")
            put(f"{indent}    {name} = MEMO_{kind}[{name}]")
            put(f"{indent}elif {name} is not None:")
            call(f"as_{kind}")
        elif kind != "any":
            put(f"{indent}if {name} is not None:")
            call(f"as_{kind}")
        mapped = leaf.rule.lookup is not None or leaf.rule.present is not None
        if kind == "text" and absent and not mapped and not self.view.is_always(keys, int):
            put(f"{indent}{'if' if self.view.is_always(keys, str) else 'elif'} {absent}:")
            if taken:
                put(f"{indent}    {self.view.put(keys, name)}")
            put(f"{indent}    {name} = None")

    # -- keys

    def _write_time(self) -> None:
        put = self.lines.append
        for index, field in enumerate(self.time_fields):
            keys = self.owner.native(field)
            indent = "    "
            if index:
                if self.view.lacks(keys):
                    continue
                put("    if raw_time is None:")
                indent = "        "
            if index == 0 and field not in self.consumers:
                put(f"{indent}raw_time = {self.view.take(keys)}")
            else:
                put(f"{indent}raw_time = {self.view.peek(keys)}")
                if field not in self.consumers and not self.view.lacks(keys):
                    put(f"{indent}{self.view.drop(keys)}")
        first = self.owner.native(self.time_fields[0])
        strict = not self.base
        received = self.base or self.source.time.missing == "received"
        put("    time = to_ms(raw_time)")
        put("    if time is None or when is not None:")
        key = f"{self.source.source}.time" if self.base else self._key("time")
        given = f"None if raw_time in {tuple(self.source.absent)!r} else raw_time" if self.source.absent else "raw_time"
        put(f"        time = settle_time({given}, time, received_ms, when, {key!r}, {strict}, {received})")
        put("    original_time = raw_time")
        put("    if original_time.__class__ is not str and original_time is not None:")
        # A number stays where it was: to write it out as text takes longer than to keep it.
        put(f"        original_time = {'None' if len(self.time_fields) == 1 else 'to_text(raw_time)'}")
        put("        if original_time is None:")
        put(f"            {self.view.put(first, 'raw_time')}")

    def _write_id(self) -> None:
        identity, put = self.source.id, self.lines.append
        key = f"{self.source.source}.id"
        if identity.uuid:
            keys = self.owner.native(identity.uuid)
            name = self.early[identity.uuid]
            dashes = " == ".join(f"{name}[{place}]" for place in (8, 13, 18, 23))
            put(f"    if {name} is not None and {name}.__class__ is not str:")
            put(f"        key_text({name}, {key!r})")
            put(f'    elif {name} is not None and len({name}) == 36 and {dashes} == "-":')
            put(f"        uid = {name}")
            put(f"        {self.view.drop(keys)}")
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
                # A conversion looks at the value itself, and finds nothing in one that it cannot take.
                put(f"{indent}    correlation = {names[0] if key.as_ else texts[0]}")
            else:
                joined = ":".join(f"{{{text}}}" for text in texts)
                put(
                    f"{indent}    correlation = f{joined!r}"
                    if "'" not in joined
                    else f'{indent}    correlation = f"{joined}"'
                )
            if key.as_ is not None:
                memo = ""
                if CONVERSIONS[key.as_].memo:
                    memo = f"correlation.__class__ is str and MEMO_{key.as_}.get(correlation) or "
                put(f"{indent}    correlation = {memo}as_{key.as_}(correlation)")
        put("    if not correlation:")
        put("        correlation = uid")

    # -- objects

    def _write_object(self, struct: type[Struct], prefix: str, tree: dict[str, Any]) -> Value:
        """Builds the object at `prefix` from its values, when it has all that OCSF requires of it."""
        hints = hints_of(struct)
        values: dict[str, Value] = {}
        seen: list[tuple[str, Value, int]] = []
        for name, below in tree.items():
            path = f"{prefix}.{name}"
            if isinstance(below, Leaf):
                values[name] = self._leaf_value(below)
                observable = attribute_at(below.path).observable
                if observable is not None:
                    seen.append((path, values[name], observable))
            else:
                values[name] = self._write_inner(hints[name], path, below)
        fields = {field.encode_name: field for field in fields_of(struct)}
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
        result = f"o_{identifier(prefix)}"
        table = self.owner.kept(struct, prefix, values) if conditions else None
        if table is not None:
            text = next(value.expression for value in values.values() if not value.constant)
            build = f"{result} = {table}[{text}]"
        else:
            build = f"{result} = {self.owner.narrow(struct, prefix, values)}"
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
                self.lines += [f"        if {tests}:", f"            {self.view.spill(f'({pairs},)')}"]
        return Value(
            expression=result, always=not conditions, constant=all(value.constant for value in values.values())
        )

    def _observe(self, path: str, value: Value, type_id: int, indent: str, *, known: bool) -> None:
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

    def _leaf_value(self, leaf: Leaf) -> Value:
        if leaf.rule.value is not None:
            return Value(expression=repr(leaf.rule.value), always=True, constant=True)
        attribute = attribute_at(leaf.path)
        return Value(
            expression=leaf.name,
            always=leaf.rule.default is not None and leaf.rule.unless is None,
            text=not attribute.many and attribute.kind not in ("any", "bool", "float", "int", "port", "time"),
        )

    def _write_inner(self, hint: Any, path: str, below: dict[str, Any]) -> Value:
        struct, many, _ = shape_of(hint)
        assert struct is not None
        if not many:
            return self._write_object(struct, path, below)
        elements = [self._write_object(struct, f"{path}[{label}]", tree) for label, tree in below.items()]
        names = [element.expression for element in elements]
        if all(element.always for element in elements):
            return Value(expression=f"[{', '.join(names)}]", always=True)
        result = f"l_{identifier(path)}"
        if len(names) == 1:
            self.lines.append(f"    {result} = [{names[0]}] if {names[0]} is not None else None")
        else:
            self.lines.append(f"    {result} = [each for each in ({', '.join(names)}) if each is not None] or None")
        return Value(expression=result, always=False)

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

    def write(self, function: str, before: list[str] | None = None) -> str:
        """The text of the function, which begins with `before`."""
        tree = self._tree()
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
            if isinstance(below, Leaf):
                values[name] = self._leaf_value(below)
            else:
                values[name] = self._write_inner(hints[name], name, below)
        self._require(values)
        if self.observed:
            values["observables"] = Value(expression="observables or None", always=False)
        values["unmapped"] = Value(expression=self.view.rest, always=False)
        if self.base:
            values["status_detail"] = Value(expression="None", always=False)
        made = self.owner.narrow(OcsfEvent, "", values)
        body = [*self.lines, *self.view.epilogue(), f"    return correlation, {made}", ""]
        head = [
            f"def {function}({self.view.argument}, uid, received_ms, when):",
            *self.view.prologue(),
            *(before or []),
        ]
        if self.observed:
            head += ["    observables = []", "    observe = observables.append"]
        return "\n".join([*head, *body])

    def _numbers(self, activity: Leaf, severity: Leaf) -> dict[str, Value]:
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
        return {name: Value(expression=expression, always=True) for name, expression in found.items()}

    def _metadata(self, tree: dict[str, Any]) -> Value:
        own = {
            "version": repr(OCSF_VERSION),
            "product": "PRODUCT",
            "uid": "uid",
            "correlation_uid": "correlation",
            "log_source": repr(self.source.source),
        }
        values = {name: Value(expression=expression, always=True) for name, expression in own.items()}
        values["original_time"] = Value(expression="original_time", always=False)
        profiles = self._profiles()
        if profiles:
            constant = "PROFILES_" + "_".join(profiles)
            self.owner.namespace[constant] = support.encoded(profiles)
            values["profiles"] = Value(expression=constant, always=True)
        if self.owner.stamped:
            values["transformation_info_list"] = Value(expression="STAMP", always=True)
        if "product" in tree:
            values["product"] = self._write_object(Product, "metadata.product", tree.pop("product"))
        for name, leaf in tree.items():
            if name in values or name in ("profiles", "transformation_info_list"):
                raise self._fail(f'"metadata.{name}" is set by the pipeline itself')
            values[name] = self._leaf_value(leaf)
        return Value(expression=self.owner.narrow(Metadata, "metadata", values), always=True)

    def _profiles(self) -> list[str]:
        """The OCSF profiles to which the attributes of this rule belong."""
        wanted = self.ocsf_class
        own = {*wanted.required, *_NATIVE.get(wanted.category_uid, ())}
        paths = [*(leaf.path for leaf in self.leaves), *self.owner.touched.writes]
        names = {path.partition(".")[0] for path in paths} - own
        return sorted({PROFILES[name] for name in names if name in PROFILES})

    def _require(self, values: dict[str, Value]) -> None:
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
