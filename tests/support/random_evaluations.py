"""Random guards and payload schemas of all kinds, and payloads for them: each seed gives the same ones."""

import random
from typing import Any


class Expressions:
    """Makes guards of all functions and macros, and payloads for them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._loops = 0

    def guard(self) -> str:
        """A guard, which need not be accepted."""
        self._loops = 0
        return f" {self._pick('&&', '||')} ".join(
            self._condition(0) for _ in range(self._random.randint(1, 12))
        )

    def payload(self) -> dict[str, Any]:
        """Members for the guard, each of its own kind, of up to 64 kB together."""
        share = int(20_000 ** self._random.random())
        member = self._pick(0, 1.5, "ab", "ü", [0], {}, {"a": 1}, [[1]], "1s", None, "2026-01-01T00:00:00Z")
        return {
            "l": [member] * max(1, share // max(4, len(str(member)))),
            "m": list(range(share // 6)),
            "s": self._pick("a", "ü", "1", "1h", "a b ", "%") * (share // 3),
            "t": self._pick("a", "b", "") * (share // 7) + "b",
            "o": {f"k{n}": member for n in range(share // 12)},
            "n": self._pick(1, 1.5, -3),
        }

    def _pick(self, *options: Any) -> Any:
        return self._random.choice(options)

    def _value(self, depth: int, item: str = "") -> str:
        value = self._pick(
            "payload.l", "payload.m", "payload.s", "payload.t", "payload.o", "payload.n", item or "1"
        )
        if depth > 2:
            return str(value)
        inner = self._value(depth + 1, item)
        options = [
            value, value, f"({inner} + {value})", f"[{inner}, {value}]", f"{{'a': {inner}}}", f"{value}[0]",
            f"{value}.k1", f"string({inner})", f"bytes({inner})", f"dyn({inner})", f"int({inner})",
            f"double({inner})", f"(has(payload.s) ? {inner} : {value})", f"payload.o[{inner}]",
            f"google.protobuf.ListValue{{values: {inner}}}", f"size({inner})", f"({inner} * 1.5)",
            f"-{inner}",
        ]  # fmt: skip
        if not item and self._loops < 2:
            self._loops += 1
            body, name = self._condition(depth + 1, "x"), self._pick("l", "m", "o")
            mapped = self._value(depth + 1, "x")
            options += [f"payload.{name}.filter(x, {body})", f"payload.{name}.map(x, {mapped})"] * 3
        return str(self._pick(*options))

    def _condition(self, depth: int, item: str = "") -> str:
        left, right = self._value(depth + 1, item), self._value(depth + 1, item)
        options = [f"{left} {self._pick('==', '!=', '<', '>=', 'in')} {right}"] * 3
        options += [
            f"{left}.{self._pick('startsWith', 'endsWith', 'contains')}({right})", "has(payload.o.k1)",
            f"type({left}) == type({right})", f"timestamp({left}) < now",
            f"duration({left}) > duration('1s')",
            f"!({left} == {right})", f"now.getHours({self._pick(right, repr('Europe/Paris'))}) > 3",
        ]  # fmt: skip
        if not item:
            pattern = self._pick("^a+b$", "(a|b){1,20}c", "[^x]*y", "(?i)ab.*ba$")
            options.append(f"payload.s.matches('{pattern}')")
        if not item and self._loops < 2:
            self._loops += 1
            macro = self._pick("all", "exists", "exists_one")
            options += [
                f"payload.{self._pick('l', 'm', 'o')}.{macro}(x, {self._condition(depth + 1, 'x')})"
            ] * 4
        return str(self._pick(*options))


class Schemas:
    """Makes schemas of all keywords, and payloads for them."""

    FORMATS = (
        "date-time",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "uri",
        "iri",
        "uri-template",
        "regex",
    )

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def schema(self, depth: int = 0) -> Any:
        """A schema, which need not be accepted."""
        pick, some = self._random.choice, self._random.randint
        if depth > 4:
            return pick([True, False, {"type": "string"}, {"minimum": 0.5}, {"format": pick(self.FORMATS)}])
        inner = self.schema(depth + 1)
        many = pick([1, 2, 5, 20, 100])
        options: list[dict[str, Any]] = [
            {pick(["allOf", "anyOf", "oneOf"]): [inner] * many},
            {pick(["items", "contains", "not", "additionalProperties", "propertyNames"]): inner},
            {pick(["unevaluatedItems", "unevaluatedProperties"]): inner},
            {"prefixItems": [inner] * some(1, 3), "items": self.schema(depth + 1)},
            {
                "properties": {"a": inner, "k1": self.schema(depth + 1)},
                "required": [f"k{n}" for n in range(many)],
            },
            {"patternProperties": {pick(["^k", "a|b", ".{1,9}z"]): inner}},
            {"dependentSchemas": {f"k{n}": inner for n in range(many)}},
            {"dependentRequired": {f"k{n}": ["a", "b"] for n in range(many)}},
            {"if": inner, "then": self.schema(depth + 1), "else": self.schema(depth + 1)},
            {"enum": [pick([1, 1.5, "ab", [1, 2], {"a": 1}]) for _ in range(many)]},
            {"format": pick(self.FORMATS), "minLength": some(0, 9), "pattern": pick(["^a", "(a|b){1,20}c"])},
            {"uniqueItems": True, "maxItems": some(0, 9)},
            {"multipleOf": pick([1, 0.01, 5e-324]), "maximum": pick([1, 1.5, 1e300])},
        ]
        return pick(options) | pick([{}, pick(options)])

    def payload(self) -> dict[str, Any]:
        """Many values of one kind, of up to 64 kB."""
        pick = self._random.choice
        text = pick(["a", "ü.", "a@b.", "{a}", "(", "a b "])
        value = pick(
            [0, 1.5, 1.7e308, "ab", {}, {"a": 1}, {"k1": 1}, [1, 2], [[]], text * 50, [{"k1": [text] * 9}]]
        )
        times = max(1, int(60_000 ** self._random.random()) // max(2, len(str(value))))
        found = pick([[value] * times, {f"k{n}": value for n in range(times // 4)}, text * (times // 2)])
        return {"l": found}
