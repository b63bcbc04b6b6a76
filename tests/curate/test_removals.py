"""Requests for removal, block lists, and passages turned into offsets."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError
from iberlm.curate import locate
from iberlm.curate.locate import LocateConfig
from iberlm.curate.removals import Removals, load_removals
from tests.curate.test_robots import extracted, write_jsonl

ABOUT = {"requested": "2025-03-01", "reason": "copyright"}


def loaded(folder: Path, *requests: dict[str, Any]) -> Removals:
    return load_removals(write_jsonl(folder / "requests.jsonl", [{**ABOUT, **request} for request in requests]))


def removed(removals: Removals, *, ids: list[str] | None = None, urls: list[str | None] | None = None, hashes: list[int] | None = None) -> list[bool]:
    count = len(ids or urls or hashes or [])
    return removals.removed(ids or [""] * count, urls or [None] * count, np.array(hashes or [0] * count, np.uint64)).tolist()


def test_each_kind_of_target_removes_its_documents_and_no_others(tmp_path: Path) -> None:
    removals = loaded(
        tmp_path,
        {"id": "00000000000000aa"},
        {"url": "http://Example.com/page/?utm_source=x#part"},
        {"domain": "Blog.es"},
        {"text_hash": "ffffffffffffffff"},
    )
    assert removed(removals, ids=["00000000000000aa", "00000000000000ab"]) == [True, False]
    pages = ["https://example.com/page", "https://example.com/page/2", "https://example.com/", None]
    assert removed(removals, urls=pages) == [True, False, False, False]
    assert removed(removals, urls=["http://blog.es", "https://www.blog.es:8080/x", "https://myblog.es/", "https://blog.es.com/"]) == [True, True, False, False]
    assert removed(removals, hashes=[(1 << 64) - 1, 0, 5]) == [True, False, False]
    assert removals.reasons == {"copyright": 4}


@pytest.mark.parametrize(
    ("prefix", "url", "expected"),
    [
        ("https://a.es/blog/", "http://a.es/blog", True),
        ("https://a.es/blog/", "https://a.es/blog/2024/x", True),
        ("https://a.es/blog/", "https://a.es/blog?page=2", True),
        ("https://a.es/blog/", "https://a.es/blogger", False),
        ("https://a.es/blog", "https://a.es/blogger", True),
        ("https://a.es/nota?id=3", "https://a.es/nota?id=33", True),
        ("https://a.es/nota?id=3", "https://a.es/nota?id=4", False),
        ("https://a.es/", "https://a.es/x?y=1", True),
        ("https://a.es/", "https://b.a.es/x", False),
        ("https://a.es:8080/", "https://a.es/x", False),
        ("https://a.es/camión/", "https://a.es/cami%C3%B3n/1", True),
    ],
)
def test_a_prefix_means_a_folder_when_it_ends_in_a_slash(tmp_path: Path, prefix: str, url: str, expected: bool) -> None:
    assert removed(loaded(tmp_path, {"url_prefix": prefix}), urls=[url]) == [expected]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["a.es", "b.a.es", "xa.es", "es.com", "c.b.a.es", "ñandú.es"]), max_size=4), st.data())
def test_domains_remove_what_a_plain_comparison_removes(domains: list[str], data: st.DataObject) -> None:
    import tempfile

    hosts = data.draw(st.lists(st.sampled_from(["a.es", "b.a.es", "xa.es", "es.com", "c.b.a.es", "www.ñandú.es", "other.cat"]), max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        removals = loaded(Path(folder), *({"domain": domain} for domain in domains))
        found = removed(removals, urls=[f"https://{host}/x" for host in hosts])
    assert found == [any(host == domain or host.endswith(f".{domain}") for domain in domains) for host in hosts]


def test_a_request_can_be_traced_to_its_line(tmp_path: Path) -> None:
    removals = loaded(tmp_path, {"id": "a"}, {"domain": "b.es"}, {"url": "https://c.es/"})
    lines = removals.lines(["a", "x", "y", "z"], [None, "https://b.es/1", "https://c.es", "https://d.es"], np.zeros(4, np.uint64))
    assert lines.tolist() == [1, 2, 3, 0]


def test_passages_are_spans_of_their_documents(tmp_path: Path) -> None:
    removals = loaded(tmp_path, {"id": "b", "start": 40, "end": 50}, {"id": "b", "start": 3, "end": 9}, {"id": "d", "start": 0, "end": 1})
    spans = removals.spans(["a", "b", "c", "d"])
    assert [column.tolist() for column in spans] == [[1, 1, 3], [3, 40, 0], [9, 50, 1]]
    assert removed(removals, ids=["a", "b", "c", "d"]) == [False] * 4
    assert [column.tolist() for column in removals.spans([])] == [[], [], []]


def test_a_block_list_is_a_domain_a_line(tmp_path: Path) -> None:
    path = tmp_path / "domains.txt"
    path.write_text("# spam\n\nspam.es\n*.ads.cat  # and below\n.Ñandú.es\n", encoding="utf-8")
    removals = load_removals(path)
    assert removed(removals, urls=["https://x.spam.es/", "https://ads.cat/", "https://ñandú.es/", "https://good.es/"]) == [True, True, True, False]
    assert removals.reasons == {"block_list": 3}


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_requests_may_be_packed_and_may_be_none(tmp_path: Path, ending: str) -> None:
    pack = gzip.compress if ending.endswith("gz") else zstandard.compress
    (tmp_path / f"r{ending}").write_bytes(pack(json.dumps({"id": "a", **ABOUT}).encode()))
    assert removed(load_removals(tmp_path / f"r{ending}"), ids=["a", "b"]) == [True, False]
    (tmp_path / f"empty{ending}").write_bytes(pack(b"\n"))
    assert removed(load_removals(tmp_path / f"empty{ending}"), ids=["a"], urls=["https://a.es/"]) == [False]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert removed(loaded(tmp_path, {"id": "a"}), ids=["a", "bb"]) == [True, False]
    assert removed(loaded(tmp_path, {"id": "bb"}), ids=["a", "bb"]) == [False, True]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"id": "a", "url": "https://a.es/", **ABOUT}, "id and url; give one of id, url"),
        (ABOUT, "no target; give one of"),
        ({"id": "a", "person": "X Y", **ABOUT}, "unknown key 'person'.*no person is named"),
        ({"id": 5, **ABOUT}, "id is 5; it must be a text"),
        ({"id": "", **ABOUT}, 'id is ""; it must be a text'),
        ({"id": "a", "reason": "copyright"}, "requested is null; it must be a day"),
        ({"id": "a", "reason": "copyright", "requested": "1 March"}, 'requested is "1 March"'),
        ({"id": "a", "requested": "2025-03-01"}, "reason is null; it must be a code"),
        ({"id": "a", "requested": "2025-03-01", "reason": "Asked by X"}, 'reason is "Asked by X"; it must be a code'),
        ({"id": "a", "reference": "Mr X", **ABOUT}, 'reference is "Mr X"'),
        ({"url": "a.es/x", **ABOUT}, "url 'a.es/x' is no http or https address"),
        ({"url_prefix": "ftp://a.es/", **ABOUT}, "url_prefix 'ftp://a.es/' is no http"),
        ({"domain": "https://a.es", **ABOUT}, "'https://a.es' is no domain; write it as example.com"),
        ({"domain": "es", **ABOUT}, "'es' is no domain"),
        ({"text_hash": "12", **ABOUT}, "text_hash '12'; it must be 16 hexadecimal digits"),
        ({"id": "a", "start": 3, **ABOUT}, "start and end go together"),
        ({"url": "https://a.es/", "start": 3, "end": 4, **ABOUT}, "only with id"),
        ({"id": "a", "start": 4, "end": 4, **ABOUT}, "start 4 and end 4; they must be code points"),
        ({"id": "a", "start": True, "end": 4, **ABOUT}, "start True and end 4"),
        ([1], "a JSON list instead of an object"),
    ],
)
def test_a_request_that_means_nothing_is_refused_with_its_line(tmp_path: Path, request_: Any, message: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n" + json.dumps({"id": "good", **ABOUT}) + "\n" + json.dumps(request_) + "\n")
    with pytest.raises(ConfigError, match=rf"requests\.jsonl:3: .*{message}"):
        load_removals(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_removals(tmp_path / "none.jsonl")
    (tmp_path / "list.csv").write_text("a.es")
    with pytest.raises(ConfigError, match="ends in none of"):
        load_removals(tmp_path / "list.csv")
    (tmp_path / "bad.txt").write_text("good.es\nnot a domain\n")
    with pytest.raises(ConfigError, match=r"bad\.txt:2: 'not a domain' is no domain"):
        load_removals(tmp_path / "bad.txt")
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress((json.dumps({"id": "a", **ABOUT}) + "\n").encode() * 9999)[:-8])
    with pytest.raises(ConfigError, match="cannot be read after line"):
        load_removals(tmp_path / "cut.jsonl.zst")


PASSAGE = "En Joan Prat va néixer a l'Ametlla el dia de Nadal de 1950."


def test_a_passage_is_located_once_and_then_is_a_request_without_words(tmp_path: Path) -> None:
    texts = [
        "Res d'això.",
        f"Vides. {PASSAGE.upper().replace('JOAN PRAT', 'JOAN  PRAT')} I més.",
        "Joan Prat va néixer a l'Ametlla",
        f"«{PASSAGE}» i «{PASSAGE}»",
    ]
    source = extracted(tmp_path / "extract", [{"text": text} for text in texts], per_file=2)
    path = write_jsonl(tmp_path / "passages.jsonl", [{"text": PASSAGE, "requested": "2025-03-01", "reason": "personal_data", "reference": "2025/17"}])
    manifest = locate.run(LocateConfig(passages=str(path), workers=1), [source], tmp_path / "locate")
    assert manifest.metrics == {"passages": 1, "passages_found": 1, "occurrences": 3}
    found = manifest.path("removals.jsonl")
    assert "Prat" not in found.read_text(encoding="utf-8")
    ids = [f"{number:016x}" for number in range(4)]
    spans = load_removals(found).spans(ids)
    assert spans.row.tolist() == [1, 3, 3]
    cut = [texts[row][start:end] for row, start, end in zip(*(column.tolist() for column in spans), strict=True)]
    assert cut == [PASSAGE.upper().replace("JOAN PRAT", "JOAN  PRAT")[:-1], PASSAGE[:-1], PASSAGE[:-1]]
    assert not [path for path in manifest.paths() if path.suffix == ".parquet"]
    assert pq.read_metadata(source.path("documents/00000.parquet")).num_rows == 2


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text": "En Joan Prat", **ABOUT}, "a passage of 3 words is in many documents"),
        ({"text": 3, **ABOUT}, "text is 3; it must be the words"),
        ({"text": PASSAGE, "id": "a", **ABOUT}, "unknown key 'id'"),
        ({"text": PASSAGE, "reason": "x"}, "requested is null"),
    ],
)
def test_a_passage_that_cannot_be_looked_for_is_refused(tmp_path: Path, request_: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "passages.jsonl", [request_])
    with pytest.raises(ConfigError, match=rf"passages\.jsonl:1: .*{message}"):
        locate.run(LocateConfig(passages=str(path)), [], tmp_path / "locate")
