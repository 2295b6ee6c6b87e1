"""The stage that puts something else in the place of values that tell of people.

Invariant: observables, enrichments and the correlation id follow; nothing is written before all of it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from tidegate import tomlfile
from tidegate.errors import ConfigError
from tidegate.pipeline import access
from tidegate.pipeline import definition as language
from tidegate.pipeline.anonymise.applying import Groups, Maker, clean, enriched, followed, note, noting, observables_of
from tidegate.pipeline.anonymise.detectors import DETECTORS
from tidegate.pipeline.anonymise.elsewhere import alter, replace_all
from tidegate.pipeline.anonymise.keys import KeyRing, load_keys
from tidegate.pipeline.anonymise.methods import REMOVED, build, deep, needs_keys, resolve
from tidegate.pipeline.anonymise.pseudonyms import Pseudonyms
from tidegate.pipeline.anonymise.redact import Redactor
from tidegate.pipeline.anonymise.settings import Drop, Method
from tidegate.pipeline.enrichment.cache import Cached
from tidegate.pipeline.expressions import steps_of
from tidegate.pipeline.rules import Attribute
from tidegate.pipeline.stages.body import Body, remove_observables
from tidegate.pipeline.support import Shared

__all__ = ["write_anonymise"]

_WHOLE_TEXT = Attribute(kind="text", observable=None, many=False)
_ALSO_IN = ("message", "unmapped")


class _Field(Struct, kw_only=True):
    """One attribute to be anonymised."""

    path: str
    attribute: Attribute
    method: Method
    steps: list[str | int]

    @property
    def in_unmapped(self) -> bool:
        return self.path.startswith("unmapped")

    @property
    def plain(self) -> bool:
        """Whether its values are texts."""
        return self.attribute.kind in ("text", "ip", "mac", "email", "texts", "emails", "http_method")


class _Writer:
    def __init__(self, stage: language.Anonymise, body: Body) -> None:
        self.stage = stage
        self.body = body
        self.makers: list[Maker] = []
        self.known: dict[str, int] = {}
        self.fields = self._fields()
        self.ring = self._keys()
        self.pairs = bool(self.fields)
        """Whether values are to be found again elsewhere."""
        taken = {field.path for field in self.fields}
        by_default = [path for path in _ALSO_IN if self.pairs and path not in taken]
        self.also_in = by_default if stage.also_in is None else stage.also_in
        self.after: list[str] = []
        """What is written once everything is computed."""

    # -- checks

    def _fields(self) -> list[_Field]:
        found: dict[str, _Field] = {}
        for index, method in enumerate(self.stage.fields):
            steps: list[str | int] = ["fields", index, "field"]
            if not method.paths:
                raise self.body.fail(["fields", index], 'say which attributes: field = "user.name"')
            for path in method.paths:
                if path in found:
                    raise self.body.fail(steps, f'"{path}" is there twice')
                attribute = self.body.changeable(path, steps, whole=isinstance(method, Drop))
                if attribute.many and attribute.kind == "any":
                    raise self.body.fail(steps, f'"{path}" is a list of objects; name attributes of its elements')
                try:
                    resolved = resolve(method, attribute)
                except ValueError as error:
                    raise self.body.fail(steps, f'"{path}": {error}') from error
                found[path] = _Field(path=path, attribute=attribute, method=resolved, steps=steps)
        return list(found.values())

    def _keys(self) -> KeyRing | None:
        """The keys, if anything needs them."""
        body, stage = self.body, self.stage
        for one in self.fields:
            if needs_keys(one.method):
                return self._ring(one.steps, "the method")
        for name, method in stage.replace.items():
            if needs_keys(method):
                return self._ring(["replace", name], "the method")
        if not self.fields or stage.correlation == "keep":
            return None
        body.reads |= {"metadata.correlation_uid", "metadata.uid"}
        return self._ring([], 'the correlation id (or say: correlation = "keep")')

    def _ring(self, steps: list[str | int], what: str) -> KeyRing:
        definition = self.body.definition
        settings = definition.file.anonymisation
        if settings is None:
            raise self.body.fail(steps, f"{what} needs keys: write [anonymisation] with keys = a key file")
        try:
            return load_keys(Path(definition.path).parent / settings.keys)
        except ConfigError as error:
            raise definition.fail(["anonymisation", "keys"], str(error)) from error

    # -- tables

    def table(self, key: str, make: Maker) -> str:
        """Code for the table that `make` makes; for the same `key` it is the same one."""
        if key not in self.known:
            self.known[key] = len(self.makers)
            self.makers.append(make)
        return f"tables[{self.known[key]}]"

    def cached(self, method: Method) -> str:
        most = self.stage.most
        return self.table(f"text {method}", lambda pseudonyms: Cached(build(method, pseudonyms), most))

    def call(self, field: _Field, value: str) -> str:
        """Code for what takes the place of `value`, which is not None."""
        method = field.method
        if field.plain and field.attribute.many:
            table = self.cached(method)
            return f"[new for each in {value} if (new := {table}[each]) is not None] or None"
        if field.plain:
            return f"{self.cached(method)}[{value}]"
        if field.attribute.kind == "any":
            return f"{self.anything(method)}({value})"
        return f"{self.table(f'value {method}', lambda pseudonyms: build(method, pseudonyms))}({value})"

    def anything(self, method: Method) -> str:
        most = self.stage.most

        def make(pseudonyms: Pseudonyms | None) -> Callable[[Any], Any]:
            function = build(method, pseudonyms)
            return partial(deep, Cached(function, most).__getitem__, function)

        return self.table(f"any {method}", make)

    def redactor(self) -> str:
        body, stage = self.body, self.stage
        for name in stage.patterns:
            if name in DETECTORS:
                raise body.fail(["patterns", name], f'"{name}" is a detector already')
        names = [*stage.detect, *stage.patterns]
        methods: dict[str, Method] = {}
        for name, method in stage.replace.items():
            if name not in names:
                raise body.fail(["replace", name], f'nothing finds "{name}"{tomlfile.nearest(name, names)}')
            try:
                methods[name] = resolve(method, _WHOLE_TEXT)
            except ValueError as error:
                raise body.fail(["replace", name], str(error)) from error
        try:
            redactor = Redactor(stage.detect, stage.patterns)
        except ValueError as error:
            raise body.fail(["patterns"], str(error)) from error
        body.found = redactor.counts
        most = stage.most

        def make(pseudonyms: Pseudonyms | None) -> Cached[str]:
            return Cached(redactor.using({name: build(one, pseudonyms) for name, one in methods.items()}), most)

        return self.table("redactor", make)

    # -- code

    def write(self) -> None:
        put = self.body.put
        lines: list[str] = []
        self.body.lines, before = lines, self.body.lines
        if self.pairs:
            put("pairs = []")
        put("unmapped = e.unmapped")
        for number, field in enumerate(self.fields):
            self._unmapped(field) if field.in_unmapped else self._attribute(number, field)
        self._texts()
        put(*self._observables(), *self._enrichments(), *self._correlation())
        put("if unmapped is not e.unmapped:", "    e.unmapped = unmapped or None", *self.after)
        self.body.lines = [*before, *self._group(), *lines]

    def _group(self) -> list[str]:
        """Looks the tables up; last, when all makers are known."""
        body = self.body
        if self.ring is None:
            return [f"tables = {body.constant([make(None) for make in self.makers])}"]
        groups = Groups(self.ring, self.makers)
        newest, find = body.constant(groups.newest), body.constant(groups.find)
        settings = body.definition.file.anonymisation
        assert settings is not None
        if settings.tenant is None:
            body.reads.add("metadata.tenant_uid")
        tenant = access.read("metadata.tenant_uid") if settings.tenant is None else repr(settings.tenant)
        return [
            f"tenant = {tenant}",
            f"group = {newest}.get(tenant)",
            "if group is None or not group.since <= e.time < group.until:",
            f"    group = {find}(tenant, e.time)",
            "tables = group.tables",
        ]

    def _unmapped(self, field: _Field) -> None:
        steps = steps_of(field.path)[1:]
        change = self.anything(field.method)
        if self.pairs:
            self.body.names["noting"] = noting
            change = f"noting({change}, pairs)"
        self.body.names["alter"] = alter
        self.body.put("if unmapped is not None:", f"    unmapped = alter(unmapped, {steps!r}, {change})")

    def _attribute(self, number: int, field: _Field) -> None:
        old, new, path = f"old_{number}", f"new_{number}", field.path
        self.body.put(f"{old} = {access.read(path)}")
        if isinstance(field.method, Drop):
            self.body.names["remove_observables"] = remove_observables
            self.body.reads.add("observables")
            put_new = "None"
            self.after += [
                f"if {old} is not None:",
                f"    {access.assign(path, 'None')}",
                f"    remove_observables(e, {path!r}, {path + '.'!r})",
            ]
        else:
            put_new = new
            self.body.put(f"{new} = None if {old} is None else {self.call(field, old)}")
            self.after += [f"if {new} is not {old}:", f"    {access.assign(path, new)}"]
        if self.pairs and (field.plain or field.attribute.kind == "any"):
            if field.plain and not field.attribute.many and put_new != "None":
                self.body.put(f"if {new} != {old}:", f"    pairs.append(({old}, REMOVED if {new} is None else {new}))")
                self.body.names["REMOVED"] = REMOVED
            else:
                self.body.names["note"] = note
                self.body.put(f"if {old} is not None:", f"    note(pairs, {old}, {put_new})")

    def _texts(self) -> None:
        body, stage = self.body, self.stage
        redactor = self.redactor() if stage.redact else ""
        taken = {field.path for field in self.fields}
        paths = dict.fromkeys([*self.also_in, *stage.redact])
        for number, path in enumerate(paths):
            steps: list[str | int] = ["redact" if path in stage.redact else "also_in"]
            if self.also_in and not stage.fields:
                raise body.fail(["also_in"], "there are no fields whose values could be found in texts")
            if path in taken:
                raise body.fail(steps, f'"{path}" is in fields, too')
            pairs = "pairs" if path in self.also_in else "()"
            table = redactor if path in stage.redact else "None"
            if path == "unmapped":
                body.names["clean"] = clean
                body.put("if unmapped is not None:", f"    unmapped = clean(unmapped, {pairs}, {table})")
                continue
            attribute = body.changeable(path, steps)
            if attribute.kind not in ("text", "texts", "any") or attribute.observable or "unmapped" in path:
                raise body.fail(steps, f'"{path}" is no free text; name it in fields, or `unmapped` as a whole')
            if attribute.many and attribute.kind == "any":
                raise body.fail(steps, f'"{path}" is a list of objects; name texts in its elements')
            text = f"text_{number}"
            body.put(f"{text} = now = {access.read(path)}")
            if attribute.kind == "text":
                body.names["replace_all"] = replace_all
                body.put("if now is not None:")
                if path in self.also_in:
                    body.put("    if pairs:", "        now = replace_all(now, pairs)")
                body.put(*([f"    now = {table}[now]"] if redactor and path in stage.redact else []))
            else:
                body.names["clean"] = clean
                body.put("if now is not None:", f"    now = clean(now, {pairs}, {table})")
            body.put(f"after_{number} = now")
            self.after += [f"if after_{number} is not {text}:", f"    {access.assign(path, f'after_{number}')}"]

    def _observables(self) -> list[str]:
        body = self.body
        follow: dict[str, tuple[int, Shared]] = {}
        for field in self.fields:
            type_id, path = field.attribute.observable, field.path
            if type_id is None or isinstance(field.method, Drop):
                continue
            self.cached(field.method)
            follow[path] = self.known[f"text {field.method}"], observables_of(path, type_id)
        if not self.fields:
            return []
        body.reads.add("observables")
        body.names["followed"] = followed
        self.after.insert(0, "    e.observables = seen")
        self.after.insert(0, "if seen is not e.observables:")
        return [f"seen = followed(e.observables, {body.constant(follow)}, tables, pairs) if e.observables else None"]

    def _enrichments(self) -> list[str]:
        if not self.pairs:
            return []
        self.body.reads.add("enrichments")
        self.body.names["enriched"] = enriched
        self.after.append("e.enrichments = facts")
        return ["facts = enriched(e.enrichments, pairs) if pairs and e.enrichments else e.enrichments"]

    def _correlation(self) -> list[str]:
        if self.ring is None or not self.fields or self.stage.correlation == "keep":
            return []
        body, most = self.body, self.stage.most
        body.reads |= {"metadata.correlation_uid", "metadata.uid"}

        def make(pseudonyms: Pseudonyms | None) -> Cached[str]:
            assert pseudonyms is not None
            token = pseudonyms.token
            return Cached(lambda text: f"correlation-{token(text, 'correlation')}", most)

        table = self.table("correlation", make)
        self.after.append("e.metadata.correlation_uid = correlation")
        return [
            "correlation = e.metadata.correlation_uid",
            "if correlation != e.metadata.uid:",
            f"    correlation = {table}[correlation]",
        ]


def write_anonymise(stage: language.Anonymise, body: Body) -> None:
    if not (stage.fields or stage.redact):
        raise body.fail([], f'"{stage.name}" needs fields or redact')
    if stage.on_error is not None and stage.on_error.action in ("continue", "fallback"):
        problem = f'"{stage.on_error.action}" would let events pass that were not anonymised'
        raise body.fail(["on_error", "action"], problem)
    for name, method in stage.replace.items():
        if method.paths:
            raise body.fail(["replace", name], "no field is needed here")
    _Writer(stage, body).write()
