"""The fields that ship in a file: those of the classes, whichever way the flags are made."""

import json
from importlib.metadata import version

import pytest

from macrec_hf.cli import fields
from macrec_hf.cli.main import build_parser
from macrec_hf.cli.numbers import Number

SHIPPED = fields.FILE
NEEDED = {
    "train": ["--interactions", "a", "--semantic-ids", "b", "--output", "c"],
    "quantize": ["--embeddings", "a", "--output", "c"],
}
WORDS = {"VALUE": "1", "LIST": "1,2", "JSON": '{"a": 1}', "true|false": "true"}
SHOWN = ("option_strings", "dest", "nargs", "default", "type", "choices", "required", "help", "metavar", "remedy")


@pytest.fixture
def of_another_release(tmp_path, monkeypatch):
    """A file that was made with a transformers that is not installed."""
    monkeypatch.setattr(fields, "FILE", tmp_path / "fields.json")
    fields.FILE.write_text(json.dumps({"transformers": "5.0.0", "fields": {}}))


def test_the_file_is_what_the_classes_say_today(tmp_path, monkeypatch):
    monkeypatch.setattr(fields, "FILE", tmp_path / "fields.json")
    fields.write()
    made, shipped = (path.read_text(encoding="utf-8").splitlines() for path in (fields.FILE, SHIPPED))
    differing = [line for line in made if line not in shipped] + [line for line in shipped if line not in made]
    assert made == shipped, f"`make flags` writes {SHIPPED.name} anew; it differs in {differing[:3]}"


def test_the_file_knows_every_field_by_itself(monkeypatch):
    monkeypatch.setattr(fields, "read_class", lambda name: pytest.fail(f"{name} was loaded"))
    assert json.loads(SHIPPED.read_text(encoding="utf-8"))["transformers"] == version("transformers")
    for name in fields.ARGUMENTS:
        known = {field.name: field for field in fields.fields_of(name)}
        assert len(known) > 100 and known["learning_rate"].default == 1e-3
        assert known["optim"].choices and known["bf16"].kind == "bool"
    sizes = {field.name: field.default for field in fields.fields_of("MacRecQuantizerConfig")}
    assert sizes["hidden_sizes"] == [2048, 1024, 512, 256, 128, 64] and sizes["contrastive_weights"] is None


def parsers(verb, request):
    """The same parser from the file and from the classes."""
    from_file = build_parser(verb)
    request.getfixturevalue("of_another_release")
    return from_file, build_parser(verb)


@pytest.mark.parametrize("verb", NEEDED)
def test_another_transformers_is_read_from_its_classes(verb, request, monkeypatch):
    loaded, read = [], fields.read_class
    monkeypatch.setattr(fields, "read_class", lambda name: loaded.append(name) or read(name))
    from_file, from_classes = parsers(verb, request)
    assert len(loaded) == 2 and from_file.format_help() == from_classes.format_help()
    assert len(from_file._actions) == len(from_classes._actions) > 100
    for ours, theirs in zip(from_file._actions, from_classes._actions, strict=True):
        assert type(ours) is type(theirs)
        for name in SHOWN:
            assert getattr(ours, name, None) == getattr(theirs, name, None), (ours.option_strings, name)


@pytest.mark.parametrize("verb", NEEDED)
def test_the_same_words_give_the_same_values_both_ways(verb, request):
    both, tried = parsers(verb, request), 0
    assert vars(both[0].parse_args(NEEDED[verb])) == vars(both[1].parse_args(NEEDED[verb]))
    for action in both[0]._actions:
        if action.dest == "help" or hasattr(action, "remedy"):
            continue
        word = action.choices[-1] if action.choices else WORDS.get(action.type, WORDS.get(action.metavar, "a"))
        if isinstance(action.type, Number):
            word = "1" if action.type.is_whole else "0.5"
        words = [*NEEDED[verb], action.option_strings[0], *([] if action.nargs == 0 else [word])]
        file, classes = (vars(parser.parse_args(words)) for parser in both)
        assert file == classes and type(file[action.dest]) is type(classes[action.dest]), words
        tried += 1
    assert tried > 80


def test_a_default_that_json_cannot_hold_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(fields, "FILE", tmp_path / "fields.json")
    odd = fields.Field("place", "text", tmp_path, "where", "ours")
    monkeypatch.setattr(fields, "read_class", lambda name: [odd])
    with pytest.raises(TypeError, match="not JSON serializable"):
        fields.write()
    assert not fields.FILE.exists()
