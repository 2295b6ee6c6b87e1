"""From checked mapping rules to Python functions: one a rule, written out and compiled once.

Invariant: `route` and `base` are right for any record; what `specialise` makes of samples only does the same quicker.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections import Counter
from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from tidegate.ocsf import Observable, Product, TransformationInfo
from tidegate.pipeline import support
from tidegate.pipeline.access import Touched
from tidegate.pipeline.conversions import CONVERSIONS
from tidegate.pipeline.functions import KNOWN_IPS, remember, stable_uid, to_bool, to_int, to_ms, to_text
from tidegate.pipeline.native import MISSING, DictView, ShapeView, identifier, learn, read
from tidegate.pipeline.rules import Condition, Reshape, Rule, Source, fields_of
from tidegate.pipeline.text import TextReader
from tidegate.pipeline.writer import RuleWriter, Value

__all__ = ["Compiled", "KnownSource", "Mapper", "Special", "Specials", "compile_source", "first_key"]

Mapper = Callable[[Any, str, int, int | None], tuple[str, Any] | tuple[None, str]]
"""(record, event id, time of reception in ms, time that the envelope gives) -> (correlation id, event).

Where OCSF misses something in the event: (None, what it misses).

The event is an OcsfEvent or a Struct with some of its attributes, which is encoded alike; see `narrow`. Takes the
mapped values out of `record`, which becomes part of the event. Raises RecordError.
"""

_Form = int | None
"""Which of the selecting fields a record has; None where it has to be reshaped by more than renaming."""

_USUAL = 0.08
"""A first key that begins this share of the records has a quick way of its own: order tells the shipper."""

_KEY = re.compile(r'"([^"]+)"|([^."]+)')
"""One of the keys that a native field is made of."""

_FEWEST_SAMPLES = 12
_MOST_KEYS = 96


class Special(Struct, frozen=True, kw_only=True):
    """The quick way for records of some kinds: decoded by `decode`, which refuses all others, and mapped by type."""

    decode: Callable[[bytes], Any]
    mappers: dict[type, Mapper]


class Specials(Struct, frozen=True, kw_only=True):
    """The quick ways of a source: by the first key of the record where they differ by it, else `default`."""

    by_first_key: dict[bytes, Special | None]
    default: Special | None
    code: str

    def takes(self, raw: bytes) -> bool:
        """Whether a record can be decoded the quick way."""
        special = self.by_first_key.get(first_key(raw)) if self.by_first_key else self.default
        if special is None:
            return False
        try:
            special.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return False
        return True


class KnownSource(Protocol):
    """A source whose records are mapped other than those of an unknown one."""

    name: str
    names: tuple[str, ...]
    """Its name and its aliases."""

    @property
    def text(self) -> TextReader | None:
        """What reads its lines, where it is a source of text."""

    @property
    def route(self) -> Mapper: ...

    @property
    def base(self) -> Mapper:
        """Makes a Base Event of what `route` cannot map."""

    def specialise(self, samples: list[bytes]) -> Specials | None:
        """Quick ways for records like `samples`, where there are any."""


class Compiled:
    """A source ready to run; `code` is the Python text of its functions."""

    def __init__(self, source: Source, path: Path, touched: Touched, stamp: list[TransformationInfo]) -> None:
        self._writer = _SourceWriter(source, path, touched, stamp)
        self.name = source.source
        self.names = (source.source, *source.aliases)
        self.text = TextReader(source) if source.format != "json" else None
        self.code = self._writer.write()
        self._run(self.code)
        self.route: Mapper = self._writer.namespace["route"]
        self.base: Mapper = self._writer.namespace["base"]

    def _run(self, code: str) -> None:
        exec(compile(code, f"<rules of {self.name}>", "exec"), self._writer.namespace)  # noqa: S102 - our own text

    def specialise(self, samples: list[bytes]) -> Specials | None:
        """Quick ways for the kinds of JSON records that `samples` (all of them mapped by `route` before) have most.

        Of one kind are the records that one value of the selecting field leads to one rule, or, where most records go
        to a rule that does not depend on that field, all records of that rule.
        """
        decoded = [(first_key(raw), msgspec.json.decode(raw)) for raw in samples]
        usual = {key for key, count in Counter(key for key, _ in decoded).items() if count >= len(samples) * _USUAL}
        shapes: dict[tuple[bytes, _Form], list[dict[str, Any]]] = {}
        first_keys: dict[bytes, Counter[tuple[bytes, _Form]]] = {}
        for key, record in decoded:
            shape = key if key in usual else b"", self._writer.form_of(record)
            shapes.setdefault(shape, []).append(record)
            first_keys.setdefault(key, Counter())[shape] += 1
        specials: dict[tuple[bytes, _Form], Special | None] = {}
        codes: list[str] = []
        for (key, form), records in shapes.items():
            found = self._writer.specialise(form, records)
            if found is not None:
                structs, code = found
                self._run(code)
                specials[key, form] = Special(
                    decode=msgspec.json.Decoder(reduce(or_, structs.values())).decode,
                    mappers={struct: self._writer.namespace[name] for name, struct in structs.items()},
                )
                codes.append(code)
        if not specials:
            return None
        most = max(shapes, key=lambda shape: len(shapes[shape]))
        by_first_key = {key: specials.get(counts.most_common(1)[0][0]) for key, counts in first_keys.items()}
        return Specials(
            by_first_key={} if len(shapes) == 1 else by_first_key,
            default=specials.get(most),
            code="\n\n".join(codes),
        )


def first_key(raw: bytes) -> bytes:
    """The first key of a JSON object written without white space before it."""
    return raw[2 : raw.find(b'"', 2)]


def compile_source(
    source: Source, path: Path, touched: Touched | None = None, stamp: list[TransformationInfo] | None = None
) -> Compiled:
    """The functions for `source`, which was read from `path`; raises RuleError.

    The events can be changed by stages that touch only what is `touched`, and name the pipeline by `stamp`.
    """
    return Compiled(source, path, touched or Touched(), stamp or [])


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
    def __init__(self, source: Source, path: Path, touched: Touched, stamp: list[TransformationInfo]) -> None:
        self.source = source
        self.path = path
        self.touched = touched
        self.stamped = bool(stamp)
        self.keyed: dict[str | int, list[tuple[Rule, dict[str, Any]]]] = {}
        self.wild: list[tuple[Rule, dict[str, Any]]] = []
        self.base = Rule(name="base", class_="base_event", severity=0, use=source.other)
        self._plan()
        self._specials = 0
        self.structs: dict[tuple[type[Struct], tuple[str, ...], tuple[str, ...]], str] = {}
        self.left: dict[tuple[str, ...], str] = {}
        self.namespace: dict[str, Any] = {
            "EMPTY": {},
            "MISSING": MISSING,
            "KNOWN_IPS": KNOWN_IPS,
            "PRODUCT": support.encoded(Product(name=source.product.name, vendor_name=source.product.vendor)),
            "RecordError": support.RecordError,
            "STAMP": support.encoded(stamp),
            "key_text": support.key_text,
            "open_up": support.open_up,
            "settle_time": support.settle_time,
            "join": support.join,
            "put_back": support.put_back,
            "spill": support.spill,
            "stable_uid": stable_uid,
            "to_bool": to_bool,
            "to_builtins": msgspec.to_builtins,
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
            self.namespace[f"LOOKUP_{identifier(name)}"] = both

    def narrow(self, struct: type[Struct], prefix: str, values: dict[str, Value]) -> str:
        """Writes the construction of `struct`, the object at `prefix`, with `values` (by OCSF name).

        What is built is a Struct with no more than these attributes and those that stages touch, by position: a quarter
        of the time that the full one takes to build and to encode, as it has no hundred absent attributes to pass over.
        """
        python = {field.encode_name: field.name for field in fields_of(struct)}
        order = list(python)
        always = {name for name, value in values.items() if value.always and not self.touched.changed(prefix, name)}
        names = sorted(values, key=lambda name: (name not in always, order.index(name)))
        added = [name for name in self.touched.below(prefix) if name not in values]
        key = (
            struct,
            tuple(name for name in names if name in always),
            (*(n for n in names if n not in always), *added),
        )
        if key not in self.structs:
            required = [(python[name], Any) for name in key[1]]
            optional = [(python[name], Any, None) for name in key[2]]
            self.structs[key] = f"{struct.__name__}_{len(self.structs)}"
            self.namespace[self.structs[key]] = msgspec.defstruct(
                struct.__name__,
                [*required, *optional],
                frozen=not self.touched,
                omit_defaults=True,
                gc=False,
                rename={python[name]: name for name in (*names, *added)},
            )
        return f"{self.structs[key]}({', '.join(values[name].expression for name in names)})"

    def _leftovers(self, keys: tuple[str, ...]) -> str:
        """The name of a Struct with these keys, for what is left of objects; those that are MISSING are not encoded."""
        if keys not in self.left:
            self.left[keys] = f"Left_{len(self.left)}"
            fields = [(f"f{number}", Any) for number in range(len(keys))]
            rename = {f"f{number}": key for number, key in enumerate(keys)}
            self.namespace[self.left[keys]] = msgspec.defstruct("Left", fields, frozen=True, gc=False, rename=rename)
        return self.left[keys]

    def observables(self, path: str, type_id: int) -> str:
        """The name of the table of observables at `path`, by value."""
        name = f"SEEN_{identifier(path)}"
        if name not in self.namespace:
            table = support.Shared if "observables" in self.touched.paths else support.Encoded
            self.namespace[name] = table(lambda value: Observable(name=path, type_id=type_id, value=value))
        return name

    def kept(self, struct: type[Struct], prefix: str, values: dict[str, Value]) -> str | None:
        """The table of encoded objects like this one, by its only text; None where such a table would not pay."""
        varying = [name for name, value in values.items() if not value.constant]
        if not getattr(struct, "few", False) or len(varying) != 1 or not values[varying[0]].text:
            return None
        if self.touched.below(prefix):
            return None
        python = {field.encode_name: field.name for field in fields_of(struct)}
        constants = {python[name]: literal_eval(each.expression) for name, each in values.items() if each.constant}
        only = python[varying[0]]
        name = f"KEPT_{struct.__name__}_{only}_{'_'.join(identifier(str(each)) for each in constants.values())}"
        if name not in self.namespace:
            self.namespace[name] = support.Encoded(lambda value: struct(**constants, **{only: value}))
        return name

    def native(self, field: str) -> tuple[str, ...]:
        """The keys that lead to a native field."""
        return tuple(quoted or plain for quoted, plain in _KEY.findall(field)) if self.source.nested else (field,)

    def _plan(self) -> None:
        """Which rules a value of the selecting field leads to, and which rules any value does."""
        for rule in self.source.rule:
            conditions = dict(rule.when)
            keys: list[str | int] | None = None
            for field in self.source.select:
                value = conditions.get(field)
                if value is not None and not isinstance(value, Condition):
                    keys = list(value) if isinstance(value, list) else [value]
                    del conditions[field]
                    break
            if keys is None:
                self.wild.append((rule, conditions))
            else:
                for key in _both_spellings(keys):
                    self.keyed.setdefault(key, []).append((rule, conditions))

    def _rules_for(self, key: str | int) -> list[tuple[Rule, dict[str, Any]]]:
        return [*self.keyed.get(key, []), *self.wild]

    def write(self) -> str:
        source = self.source
        parts = [RuleWriter(self, rule, DictView()).write(f"rule_{identifier(rule.name)}") for rule in source.rule]
        parts.append(RuleWriter(self, self.base, DictView(), base=True).write("rule_base"))
        parts.append(self._chain("other", "pick_other", self.wild))
        chains: dict[tuple[str, ...], str] = {}
        rules: list[str] = []
        picks: list[str] = []
        for key in self.keyed:
            names = tuple(rule.name for rule, _ in self.keyed[key])
            if names not in chains:
                chains[names] = f"chain_{len(chains)}"
                parts.append(self._chain(chains[names], f"pick_{chains[names]}", self._rules_for(key)))
            first, conditions = self.keyed[key][0]
            rules.append(f"    {key!r}: {chains[names] if conditions else f'rule_{identifier(first.name)}'},")
            picks.append(f"    {key!r}: pick_{chains[names]},")
        parts += [self._reshape(index, reshape) for index, reshape in enumerate(source.reshape)]
        parts.append("\n".join(["RULES = {", *rules, "}", "PICKS = {", *picks, "}", ""]))
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
            lines.append(f"{indent}key = {read(self.native(field))}")
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

    def _chain(self, name: str, pick: str, rules: list[tuple[Rule, dict[str, Any]]]) -> str:
        """Two functions: one that maps a record by the first of `rules` that takes it, and one that names that rule."""
        mapping, naming = [f"def {name}(record, uid, received_ms, when):"], [f"def {pick}(record):"]
        for rule, conditions in [*rules, (self.base, {})]:
            call = f"rule_{identifier(rule.name)}(record, uid, received_ms, when)"
            tests = [
                test for field, wanted in conditions.items() for test in self._test(read(self.native(field)), wanted)
            ]
            indent = "    "
            if tests:
                mapping.append(f"    if {' and '.join(tests)}:")
                naming.append(f"    if {' and '.join(tests)}:")
                indent = "        "
            mapping.append(f"{indent}return {call}")
            naming.append(f"{indent}return {rule.name!r}")
            if not tests:
                break
        return "\n".join([*mapping, "", "", *naming, ""])

    def _test(self, value: str, wanted: Any) -> list[str]:
        if isinstance(wanted, Condition):
            tests = []
            if wanted.exists is not None:
                tests.append(f"{value} is {'not ' if wanted.exists else ''}None")
            if wanted.starts:
                tests.append(f"str({value}).startswith({tuple(wanted.starts)!r})")
            if wanted.ends:
                tests.append(f"str({value}).endswith({tuple(wanted.ends)!r})")
            return tests
        if isinstance(wanted, bool):
            return [f"{value} is {wanted}"]
        return [f"{value} in {tuple(_both_spellings(wanted if isinstance(wanted, list) else [wanted]))!r}"]

    def _reshape(self, index: int, reshape: Reshape) -> str:
        view = DictView()
        body: list[str] = []
        for field, name in reshape.move.items():
            keys = self.native(field)
            parent = view.parent(keys)
            body += [
                f"    value = {view.take(keys)}",
                f"    if value is not None and record.setdefault({name!r}, value) is not value:",
                f"        {parent}[{keys[-1]!r}] = value",
            ]
        for field in reshape.lift:
            keys = self.native(field)
            inner = view.inner(keys)
            body += [
                f"    if record.keys().isdisjoint({inner}):",
                f"        record.update({inner})",
                f"        {inner}.clear()",
                "    else:",
                f"        for name in [name for name in {inner} if name not in record]:",
                f"            record[name] = {inner}.pop(name)",
            ]
        opened = [f"    open_up(record, {self.native(field)!r})" for field in reshape.lift]
        return "\n".join([f"def reshape_{index}(record):", *opened, *view.prologue(), *body, *view.epilogue(), ""])

    def form_of(self, record: dict[str, Any]) -> _Form:
        present = [index for index, field in enumerate(self.source.select) if record.get(field) is not None]
        beyond = any(each.when in record and not self._only_renames(each) for each in self.source.reshape)
        return present[0] if present and not beyond else None

    def _only_renames(self, reshape: Reshape) -> bool:
        return not reshape.lift and all(len(self.native(field)) == 1 for field in reshape.move)

    def specialise(self, form: _Form, records: list[dict[str, Any]]) -> tuple[dict[str, type[Struct]], str] | None:
        """Structs that decode the most frequent kinds of `records`, by the name of the function for each, and these."""
        if form is None:
            return None
        field = self.source.select[form]
        moves = {old: new for each in self.source.reshape if self._only_renames(each) for old, new in each.move.items()}
        groups: dict[tuple[str | int, str, frozenset[str]], list[dict[str, Any]]] = {}
        for record in records:
            key = record.get(field)
            old = frozenset(moves.keys() & record.keys())
            if (key.__class__ is str or key.__class__ is int) and not any(moves[name] in record for name in old):
                reshaped = {moves.get(name, name): value for name, value in record.items()}
                rule = self.namespace["PICKS"].get(key, self.namespace["pick_other"])(reshaped)
                groups.setdefault((key, rule, old), []).append(reshaped)
        found = sorted(groups.items(), key=lambda item: -len(item[1]))
        by_rule: Counter[str] = Counter()
        kinds: Counter[type] = Counter()
        for (key, name, _), alike in found:
            by_rule[name] += len(alike)
            kinds[type(key)] += len(alike)
        wild = next((rule for rule, _ in self.wild if by_rule[rule.name] * 2 > by_rule.total()), None)
        structs: dict[str, type[Struct]] = {}
        parts: list[str] = []
        if wild is not None:
            usual = next(old for (_, name, old), _ in found if name == wild.name)
            alike = [one for (_, name, old), each in found if name == wild.name and old == usual for one in each]
            self._special(wild, (field, None), {moves[name]: name for name in usual}, alike, structs, parts)
        else:
            done: set[str | int] = set()
            for (key, name, old), alike in found:
                rule = next((rule for rule, _ in self.keyed.get(key, []) if rule.name == name), None)
                # The tags of a decoder are all texts or all numbers.
                if rule is not None and key not in done and type(key) is kinds.most_common(1)[0][0]:
                    done.add(key)
                    self._special(rule, (field, key), {moves[name]: name for name in old}, alike, structs, parts)
        return (structs, "\n\n".join(parts)) if structs else None

    def _special(
        self,
        rule: Rule,
        tag: tuple[str, str | int | None],
        renames: dict[str, str],
        alike: list[dict[str, Any]],
        structs: dict[str, type[Struct]],
        parts: list[str],
    ) -> None:
        field, key = tag
        rules = self.wild if key is None else self._rules_for(key)
        before = rules[: [each.name for each, _ in rules].index(rule.name) + 1]
        fields = {field, *(each for _, conditions in before for each in conditions)}
        fields |= RuleWriter(self, rule, DictView()).fields()
        if len(alike) < _FEWEST_SAMPLES:
            return
        shape = learn(alike, {self.native(each) for each in fields}, _MOST_KEYS)
        if shape is None:
            return
        view = ShapeView(shape, field, key, renames, self._leftovers, plain=self.touched.leftovers)
        tests: list[str] = []
        if key is None:
            tests += [f"    if {view.peek((field,))} in RULES:", "        return None, ''"]
        for each, conditions in before:
            said = [
                test for name, wanted in conditions.items() for test in self._test(view.peek(self.native(name)), wanted)
            ]
            if said:
                negation = "not " if each is rule else ""
                tests += [f"    if {negation}({' and '.join(said)}):", "        return None, ''"]
        name = f"special_{self._specials}"
        self._specials += 1
        parts.append(RuleWriter(self, rule, view).write(name, tests))
        structs[name] = view.struct
