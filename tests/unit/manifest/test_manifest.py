"""YAML in, data with positions out; every finding names its line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import InvalidInput, Problem
from models.manifest import Document, parse, problems_of, render, suggest, validate
from models.placed import MAX_BYTES

HEAD = "apiVersion: fibrin.dev/v1\nkind: Playbook\nmetadata:\n  name: x\n"


def one(text: str) -> Document:
    """Parse a text with exactly one document."""
    (document,) = parse("f.yaml", text)
    return document


def refusal(text: str) -> Problem:
    """Return the first problem of a text that must be refused."""
    with pytest.raises(InvalidInput) as caught:
        parse("f.yaml", text)
    assert caught.value.problems
    return caught.value.problems[0]


def test_reads_data_and_positions() -> None:
    """Every key and every list item of a document has the line and column it stands at."""
    document = one("# a comment\n" + HEAD + "spec:\n  http:\n  - name: a\n    weight: 3\n")
    assert (document.api_version, document.kind, document.name, document.line) == ("fibrin.dev/v1", "Playbook", "x", 2)
    assert document.data["spec"] == {"http": [{"name": "a", "weight": 3}]}
    assert document.position(("spec", "http", 0, "weight")) == (9, 5)
    assert document.position(("spec", "http", 0)) == (8, 5)
    assert document.position(("spec", "http", 7, "nowhere")) == (7, 3)
    assert render(("spec", "http", 0, "name")) == "spec.http[0].name"


def test_several_documents_in_one_text() -> None:
    """Documents are split at `---`, empty ones are skipped, and lines count through the whole text."""
    documents = parse("f.yaml", f"---\n{HEAD}---\n---\n{HEAD}  namespace: shop\n")
    assert [(d.line, d.namespace) for d in documents] == [(2, ""), (8, "shop")]


def test_empty_text_has_no_documents() -> None:
    """Nothing in, nothing out."""
    assert parse("f.yaml", "") == ()
    assert parse("f.yaml", "# only a comment\n") == ()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("010", 10),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("1.10", 1.1),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("~", None),
        ("", None),
        ('"1"', "1"),
        ("!!str 1", "1"),
        ("+7", 7),
        ("- 1", [1]),
    ],
)
def test_scalars_follow_the_yaml_1_2_core_schema(written: str, read: object) -> None:
    """Booleans are true and false only; nothing else turns into a surprise."""
    assert one(f"{HEAD}spec:\n  {written}\n").data["spec"] == read


def test_anchors_and_merge_keys() -> None:
    """Aliases repeat a value, merge keys lend fields, a field written out wins."""
    document = one(f"{HEAD}base: &b {{a: 1, b: 2}}\nspec:\n  <<: *b\n  b: 3\nagain: *b\n")
    assert document.data["spec"] == {"a": 1, "b": 3}
    assert document.data["again"] == {"a": 1, "b": 2}
    assert document.position(("spec", "a")) == (5, 11)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        (f"{HEAD}spec: [1, 2\nx: 1\n", 6, 2, "not YAML"),
        (f"{HEAD}spec:\n\tx: 1\n", 6, 1, "not YAML"),
        (f"{HEAD}spec:\n  a: 1\n  a: 2\n", 7, 3, "duplicate key `a`"),
        (f"{HEAD}spec: *nobody\n", 5, 7, "alias `*nobody`"),
        (f"{HEAD}spec: &a [*a]\n", 5, 11, "alias `*a`"),
        (f"{HEAD}spec: .inf\n", 5, 7, "not a number"),
        (f"{HEAD}spec: 1e999\n", 5, 7, "too large"),
        (f"{HEAD}spec: {'9' * 5000}\n", 5, 7, "not a number"),
        (f"{HEAD}spec: !!python/object:os.system x\n", 5, 7, "tag"),
        (f"{HEAD}? [a]\n: 1\n", 5, 3, "a key must be"),
        (f"{HEAD}spec: {'[' * 100}{']' * 100}\n", 5, 71, "nested deeper"),
        (f"{HEAD}spec: \x07\n", 5, 7, "U+0007"),
        ("- 1\n", 1, 1, "must be a mapping"),
        ("just text\n", 1, 1, "must be a mapping"),
        ("kind: K\nmetadata: {name: x}\n", 1, 1, "required field is missing"),
        ("apiVersion: v1\nkind: K\nmetadata: {}\n", 3, 1, "required field is missing"),
        ("apiVersion: v1\nkind: K\nmetadata: {name: 7}\n", 3, 12, "must be text"),
        ("apiVersion: v1\nkind: K\nmetadata: {name: Not_A_Name}\n", 3, 12, "is not a name"),
    ],
)
def test_refuses_with_line_and_column(text: str, line: int, column: int, message: str) -> None:
    """Each kind of bad text is refused at the place where it is bad."""
    problem = refusal(text)
    assert message in problem.message
    assert (problem.source, problem.line, problem.column) == ("f.yaml", line, column)


def test_refuses_an_alias_bomb() -> None:
    """A few lines that would unfold to billions of values are refused before they do."""
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "aliases written out" in refusal(HEAD + "\n".join(lines)).message


def test_refuses_a_text_beyond_the_limit() -> None:
    """More than 1 MiB is refused by its size alone."""
    assert "more than" in refusal("#" + "x" * MAX_BYTES).message


def test_lists_every_bad_document() -> None:
    """One look shows all that is wrong, not only the first finding."""
    with pytest.raises(InvalidInput) as caught:
        parse("f.yaml", "kind: A\n---\nkind: B\n")
    assert [(p.field, p.line) for p in caught.value.problems] == [
        ("apiVersion", 1),
        ("metadata.name", 1),
        ("apiVersion", 3),
        ("metadata.name", 3),
    ]


class Strict(BaseModel):
    """Base of the test models."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Item(Strict):
    """One item."""

    name: str
    weight: int = Field(default=1, ge=0, alias="itemWeight")
    on: bool = False


class Spec(Strict):
    """A body with a list and a union."""

    items: tuple[Item, ...]
    either: int | Item = 1


class Thing(Strict):
    """A whole object."""

    api_version: str = Field(alias="apiVersion")
    kind: str
    metadata: dict[str, str]
    spec: Spec


def test_validation_errors_point_at_their_field() -> None:
    """What pydantic finds is told with line, column, field and the nearest known name."""
    text = f"{HEAD}spec:\n  items:\n  - name: 7\n    itemWeigth: 3\n    on: yes\n  - itemWeight: -1\n"
    with pytest.raises(InvalidInput) as caught:
        validate(one(text), Thing)
    assert [str(problem) for problem in caught.value.problems] == [
        'f.yaml:7:5: spec.items[0].name: input should be a valid string, found 7 (put it in quotes: "7")',
        "f.yaml:8:5: spec.items[0].itemWeigth: unknown field (did you mean `itemWeight`?)",
        'f.yaml:9:5: spec.items[0].on: input should be a valid boolean, found "yes" (write true or false)',
        "f.yaml:10:5: spec.items[1].name: required field is missing",
        "f.yaml:10:5: spec.items[1].itemWeight: input should be greater than or equal to 0, found -1",
    ]
    assert caught.value.hint == "5 problems in all"


def test_union_tags_do_not_leak_into_field_names() -> None:
    """The names pydantic gives to a union's branches are not the user's field names."""
    document = one(f"{HEAD}spec: {{items: [], either: {{nam: x}}}}\n")
    with pytest.raises(ValidationError) as caught:
        Thing.model_validate(document.data)
    fields = {problem.field: problem for problem in problems_of(document, caught.value, Thing)}
    assert "did you mean `name`?" in fields["spec.either.nam"].hint
    assert not any("Item" in field for field in fields)


def test_a_valid_document_becomes_its_model() -> None:
    """A strict model with tuples accepts a document's lists."""
    thing = validate(one(f"{HEAD}spec: {{items: [{{name: a, itemWeight: 2}}]}}\n"), Thing)
    assert thing.spec.items[0].weight == 2


def test_suggest_lists_what_there_is_when_nothing_is_close() -> None:
    """A word like nothing known gets the list of what is known."""
    assert suggest("zzz", ("beta", "alpha")) == "known here: alpha, beta"
    assert suggest("Alpah", ("beta", "alpha")) == "did you mean `alpha`?"
    assert suggest("x", ()) == ""


TEXT = st.text(st.characters(max_codepoint=0xD7FF))  # JSON escapes the rest in pairs that YAML does not know
KEYS = st.text(st.characters(max_codepoint=0xD7FF), max_size=100)  # YAML takes no simple key over 1024 characters
INTEGERS = st.integers(-(2**63), 2**63)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(JSON)
def test_json_is_read_back_as_it_was(value: object) -> None:
    """JSON is YAML: whatever JSON can say comes back unchanged."""
    text = json.dumps({"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "spec": value})
    read = one(text).data["spec"]
    assert read == value
    assert json.dumps(read) == json.dumps(value)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@`,? \n\t0.~<\x00é\ud800"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in any way but its own error, with a problem that names the source."""
    try:
        documents = parse("f.yaml", HEAD + text)
    except InvalidInput as error:
        assert all(problem.source == "f.yaml" for problem in error.problems)  # noqa: PT017 - both outcomes are right
    else:
        assert documents
