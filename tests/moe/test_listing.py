"""The list of transformers' models that is kept: what transformers itself finds, until a source changes."""

from pathlib import Path
from typing import Any

import pytest

from moe import listing
from moe.hook import IMPLEMENTATION  # noqa: F401 (imports transformers the lean way)

SOURCE = '__all__ = ["OneConfig", "OneModel"]\n'


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "models"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "modeling_one.py").write_text(SOURCE)
    (folder / "__init__.py").write_text("")
    return folder


def test_the_list_is_made_once_and_again_when_a_source_changes(models: Path) -> None:
    from transformers.utils.import_utils import create_import_structure_from_path, spread_import_structure

    asked: list[Any] = []

    def define(path: Any, prefix: str | None = None) -> listing.Listing:
        asked.append(path)
        assert prefix is None
        create_import_structure_from_path.cache_clear()
        made: listing.Listing = spread_import_structure(create_import_structure_from_path(str(path)))
        return made

    def found(prefix: str | None = None) -> listing.Listing:
        listing._state.cache_clear()
        return listing.remembering(define)(models / "__init__.py" if prefix is None else models, prefix)

    first = found()
    assert [sorted(names) for modules in first.values() for names in modules.values()] == [["OneConfig", "OneModel"]]
    next(iter(first.values())).clear()  # whoever gets it may change it
    assert [list(modules) for modules in found("models").values()] == [["models.one.modeling_one"]]
    assert len(asked) == 1
    (models / "one" / "modeling_one.py").write_text(SOURCE.replace("OneModel", "OneBigModel"))
    assert {"OneConfig", "OneBigModel"} in [names for modules in found().values() for names in modules.values()]
    assert len(asked) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"state": 3, "listing": 4}', '{"listing": []}'])
def test_a_cache_that_says_nothing_is_none(text: str, models: Path) -> None:
    place = models.parent / "cache" / "moelab" / "transformers.json"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    made: listing.Listing = {frozenset({"torch"}): {"one": {"One"}}}
    listing._state.cache_clear()
    assert listing.remembering(lambda *_, **__: made)(models) == made
    assert '"One"' in place.read_text()
