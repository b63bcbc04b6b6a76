import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.languages import UNDETERMINED
from iberlm.curate.langid import TAGS, identify, identify_documents, load_model
from iberlm.curate.langid.evaluate import read_labelled, table_of

EVERYDAY = Path(__file__).parent / "everyday"
TEXTS = {
    "es": "El ayuntamiento aprobó ayer el presupuesto del año que viene, que incluye una nueva biblioteca en el barrio de la estación.",
    "ca": "Aquest matí l'ajuntament ha aprovat el pressupost de l'any vinent, que inclou una biblioteca nova al barri. Els nens hi podran anar avui.",
    "ca-valencia": "Este matí l'ajuntament ha aprovat el pressupost de l'any que ve, que inclou una biblioteca nova al barri. Els xiquets hi podran anar hui.",
    "eu": "Udalak atzo onartu zuen datorren urteko aurrekontua, eta geltokiaren auzoan liburutegi berri bat egingo dute.",
    "gl": "O concello aprobou onte o orzamento do ano que vén, que inclúe unha nova biblioteca no barrio da estación, e a veciñanza está contenta.",
    "pt": "A câmara municipal aprovou ontem o orçamento do próximo ano, que inclui uma nova biblioteca no bairro da estação, e os moradores estão contentes.",
    "fr": "Le conseil municipal a approuvé hier le budget de l'année prochaine, qui prévoit une nouvelle bibliothèque dans le quartier de la gare.",
    "it": "Il consiglio comunale ha approvato ieri il bilancio dell'anno prossimo, che prevede una nuova biblioteca nel quartiere della stazione.",
    "oc": "Lo conselh municipal aprovèt ièr lo budgèt de l'an que ven, que compren una bibliotèca novèla dins lo quartièr de la gara.",
    "an": "O concello aprebó ahiere o presupuesto de l'anyo que viene, que incluye una nueva biblioteca en o barrio d'a estación.",
    "en": "Yesterday the town council approved next year's budget, which includes a new library in the quarter around the station.",
    "ast": "La xente del pueblu ye bien contenta: l'Ayuntamientu fadrá una biblioteca nueva y tamién un parque, que güei nun lu tien.",
    "other": "Der Stadtrat hat gestern den Haushalt für das nächste Jahr beschlossen, der eine neue Bücherei im Viertel am Bahnhof vorsieht.",
}
UNMARKED = "La biblioteca municipal obrirà al públic a les nou del matí i tancarà a les vuit del vespre, de dilluns a divendres, durant tot l'any."


def documents(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def test_our_languages_and_their_neighbours_are_told_apart() -> None:
    assert [tag for tag, _ in identify(list(TEXTS.values()))] == list(TEXTS)
    assert set(TEXTS) - {"ca-valencia"} == set(TAGS)


def test_documents_are_identified_as_texts_are() -> None:
    found = identify_documents(documents([text * 20 for text in TEXTS.values()]), [None] * len(TEXTS))
    assert found.languages == list(TEXTS)
    assert found.scores.dtype == np.float32
    assert all(0.9 < score <= 1 for score in found.scores)
    assert {tag: found.variety[row] for row, tag in enumerate(TEXTS) if tag.startswith("ca")} == {"ca": "central", "ca-valencia": "valencian"}
    assert {variety for tag, variety in zip(TEXTS, found.variety, strict=True) if not tag.startswith("ca")} == {None}


def test_sentences_of_daily_life_that_no_model_saw() -> None:
    """Shopping, law, school, weather, health: written for this test by others than those whose sentences were learnt from."""
    labelled = read_labelled(EVERYDAY)
    answers = [tag for tag, _ in identify([text for text, _ in labelled])]
    together = [["ca" if tag == "ca-valencia" else tag for tag in tags] for tags in ([tag for _, tag in labelled], answers)]
    table = table_of(*together)
    assert table.accuracy >= 0.97
    assert table.macro_f1 >= 0.97
    assert min(table.recall(tag) for tag in table.tags) >= 0.95
    assert table.recall("gl") >= 0.98


def test_few_catalan_sentences_are_called_valencian() -> None:
    sentences = {tag: (EVERYDAY / f"{tag}.txt").read_text("utf-8").splitlines() for tag in ("ca", "ca-valencia")}
    share = {tag: [found for found, _ in identify(texts)].count("ca-valencia") / len(texts) for tag, texts in sentences.items()}
    assert share["ca"] <= 0.05
    assert share["ca-valencia"] >= 0.6


def test_catalan_without_a_mark_of_its_variety_is_undetermined_and_then_the_source_is_believed() -> None:
    found = identify_documents(documents([UNMARKED.replace("vuit", "nou")] * 3), [None, "ca-valencia", "es"])
    assert found.variety == ["undetermined"] * 3
    assert found.languages == ["ca", "ca-valencia", "ca"]


def test_a_claim_does_not_outweigh_what_the_text_says() -> None:
    found = identify_documents(documents([TEXTS["ca"] * 5, TEXTS["ca-valencia"] * 5, TEXTS["es"]]), ["ca-valencia", "ca", "ca-valencia"])
    assert found.languages == ["ca", "ca-valencia", "es"]


def test_a_valencian_text_may_keep_catalan_forms() -> None:
    text = "\n".join([TEXTS["ca-valencia"], "Aquesta biblioteca obre cada dia i tothom hi pot anar.", "La seua directora viu ací davall.", UNMARKED])
    assert identify([text])[0][0] == "ca-valencia"


def test_a_text_without_words_is_undetermined() -> None:
    assert identify(["123 --- ...", "", "https://example.org/a/b a@b.cat"]) == [(UNDETERMINED, 0.0)] * 3
    found = identify_documents(documents(["--- 5"]), ["es"])
    assert (found.languages, found.scores.tolist(), found.variety, found.other_languages.to_pylist()) == ([UNDETERMINED], [0.0], [None], [[]])


def test_nothing_gives_nothing() -> None:
    assert identify([]) == []
    found = identify_documents(documents([]), [])
    assert (found.languages, len(found.scores), found.variety, len(found.other_languages)) == ([], 0, [], 0)


@pytest.mark.parametrize(
    "text", ["Городской совет вчера утвердил бюджет", "市議会は昨日、来年度予算を承認した。", "ενέκρινε χθες τον προϋπολογισμό", "اعتمد المجلس البلدي"]
)
def test_other_scripts_are_other(text: str) -> None:
    assert identify([text])[0][0] == "other"


def test_a_short_text_has_a_lower_score() -> None:
    short, long = identify(["o barrio", TEXTS["gl"]])
    assert short[1] < long[1]


def test_decomposed_letters_and_lone_surrogates_are_read() -> None:
    import unicodedata

    decomposed, broken = identify([unicodedata.normalize("NFD", TEXTS["gl"]), TEXTS["gl"] + "\ud800"])
    assert decomposed == identify([TEXTS["gl"]])[0]
    assert broken[0] == "gl"


def test_paragraphs_in_another_language_are_known_by_their_offsets_in_characters() -> None:
    lines = [TEXTS["es"], "Ñandú — “año”", TEXTS["en"], TEXTS["es"], TEXTS["eu"]]
    text = "\n".join(lines)
    found = identify_documents(documents([text, TEXTS["es"]]), [None, None])
    assert found.languages == ["es", "es"]
    spans = found.other_languages.to_pylist()
    assert [(text[span["start"] : span["end"]], span["language"]) for span in spans[0]] == [(TEXTS["en"], "en"), (TEXTS["eu"], "eu")]
    assert spans[1] == []
    assert found.other_languages.type == pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("language", pa.string())]))


def test_the_sibling_variety_is_no_other_language() -> None:
    found = identify_documents(documents([f"{TEXTS['ca-valencia']}\n{TEXTS['ca']}\n{TEXTS['ca-valencia']}"]), [None])
    assert found.languages == ["ca-valencia"]
    assert found.other_languages.to_pylist() == [[]]


def test_only_a_sample_of_a_long_document_decides() -> None:
    text = "\n".join([TEXTS["gl"]] * 10 + [TEXTS["en"]] * 10 + [TEXTS["gl"]] * 40)
    assert identify_documents(documents([text]), [None], characters=1000).languages == ["gl"]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=300), st.lists(st.sampled_from([*TEXTS.values(), "", "—", "x" * 300, "é" * 90]), max_size=8).map("\n".join)), max_size=6
    )
)
def test_spans_are_whole_lines_inside_the_text_whatever_it_is(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    found = identify_documents(documents(texts), [None] * len(texts), characters=200)
    assert len(found.languages) == len(found.variety) == len(found.scores) == len(texts)
    assert set(found.languages) <= {*TAGS, "ca-valencia", UNDETERMINED}
    assert all(0 <= score <= 1 for score in found.scores)
    for text, language, spans in zip(texts, found.languages, found.other_languages.to_pylist(), strict=True):
        for span in spans:
            assert 0 <= span["start"] < span["end"] <= len(text)
            assert text[span["start"] : span["end"]] in text.split("\n")
            assert span["language"] != language


def test_claims_and_documents_must_fit() -> None:
    with pytest.raises(ConfigError, match="claims: 1 for 2 documents"):
        identify_documents(documents(["a", "b"]), [None])
    with pytest.raises(ConfigError, match="characters"):
        identify_documents(documents(["a"]), [None], characters=5)


def test_a_model_by_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such model file"):
        load_model(str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    with pytest.raises(CorruptError, match="not a model"):
        load_model(str(tmp_path / "bad.safetensors"))
    shipped = Path(sys.modules["iberlm.curate.langid"].__file__ or "").parent / "languages.safetensors"
    (tmp_path / "copy.safetensors").write_bytes(shipped.read_bytes())
    assert identify([TEXTS["gl"]], model=load_model(str(tmp_path / "copy.safetensors"))) == identify([TEXTS["gl"]])


def test_a_fasttext_model_without_the_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    (tmp_path / "lid.176.ftz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"lid\.176\.ftz: fastText models need the library fasttext.*fasttext-wheel"):
        load_model(str(tmp_path / "lid.176.ftz"))


def test_a_fasttext_model_is_plugged_in(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    names = {"spa_Latn": TEXTS["es"], "glg_Latn": TEXTS["gl"], "rus_Cyrl": "собака спит в доме у реки"}
    (tmp_path / "train.txt").write_text("".join(f"__label__{name} {text}\n" for name, text in names.items()) * 60, encoding="utf-8")
    made = fasttext.train_supervised(str(tmp_path / "train.txt"), epoch=30, minn=2, maxn=4, dim=8, bucket=5000, thread=1, verbose=0)
    made.save_model(str(tmp_path / "model.bin"))
    model = load_model(str(tmp_path / "model.bin"))
    assert [tag for tag, _ in identify([*names.values(), "..."], model=model)] == ["es", "gl", "other", UNDETERMINED]
