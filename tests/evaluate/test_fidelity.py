"""Language fidelity: prompts in each language, and what the scores say of answers in all languages, read by the real identifier."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.resources import resource_dir
from iberlm.curate.langid import identify
from tests.evaluate.tiny import sample_texts

ANSWERS = {
    "es": "Las mareas suben y bajan dos veces al día. La causa es la atracción de la luna sobre el agua del mar.",
    "ca": "Les marees pugen i baixen dues vegades al dia. Avui sabem que la seva causa és la lluna, encara que no ho sembli.",
    "ca-valencia": "Les marees pugen i baixen dos vegades al dia. Hui sabem que la seua causa és la lluna, encara que no ho parega.",
    "eu": "Itsasoko mareak egunean bitan igotzen eta jaisten dira. Ilargiak itsasoko ura erakartzen duelako gertatzen da hori.",
    "gl": "As mareas soben e baixan dúas veces ao día. A causa é a atracción que exerce a lúa sobre a auga do mar.",
    "pt": "As marés sobem e descem duas vezes por dia. A causa é a atração que a lua exerce sobre a água do mar, e não o vento.",
    "en": "The tides rise and fall twice a day. The cause is the pull of the moon on the water of the sea.",
    "fr": "Les marées montent et descendent deux fois par jour. La cause en est l'attraction de la lune sur l'eau de la mer.",
}
SCRAPS = ["casa casa casa casa casa", "la la la la la la la la la", "x q z ñ jj kk ww", "sí", "in una una\ufffd dich ento dia_ un per= el el aca per'inarse"]
INTRUDERS = {"es": ["en"], "ca": ["es", "en"], "ca-valencia": ["es", "en", "central"], "eu": ["es", "en"], "gl": ["es", "pt", "en"]}


def load() -> Any:
    path = resource_dir("eval") / "shared" / "fidelity.py"
    spec = importlib.util.spec_from_file_location("fidelity_under_test", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fidelity = load()


def score(answer: str, asked: str) -> dict[str, float]:
    found: dict[str, float] = fidelity.score({"language": asked}, [answer])
    return found


def prompts(language: str) -> list[dict[str, str]]:
    lines = (resource_dir("eval") / file_safe(language) / "fidelity.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(resource_dir("eval")), include_defaults=False)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_sixty_prompts_of_six_kinds_and_its_own_metrics(manager: TaskManager, language: str) -> None:
    name = f"fidelity_{file_safe(language)}"
    task = manager.load(name)["tasks"][name]
    docs = list(task.eval_docs)
    assert len({doc["prompt"] for doc in docs}) == len({doc["id"] for doc in docs}) == len(docs) == 60
    assert set(Counter(doc["kind"] for doc in docs).values()) == {10}
    assert {doc["language"] for doc in docs} == {language}
    assert task.doc_to_text(docs[0]) == docs[0]["prompt"] + "\n\n"
    metadata = task.get_config("metadata")
    assert (metadata["measures"], metadata["language"], metadata["card"], metadata["group_field"]) == ("fidelity", language, "iberlm_variety_eval", "kind")
    assert "chance" not in metadata
    assert list(task.aggregation()) == list(score(ANSWERS["en"], language)) == ["fidelity", "empty", *(f"intrusion_{name}" for name in INTRUDERS[language])]
    assert task.higher_is_better() == {name: name == "fidelity" for name in task.aggregation()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_prompts_are_in_their_language_and_new_to_the_training_sample(language: str) -> None:
    texts = [prompt["prompt"] for prompt in prompts(language)]
    assert sum(tag == language for tag, _ in identify(texts)) >= 0.95 * len(texts)
    training = " ".join(" ".join(text.split()) for text in sample_texts(language)).casefold()
    assert [text for text in texts if text.casefold() in training] == []


@pytest.mark.parametrize("asked", LANGUAGES)
@pytest.mark.parametrize("written", ANSWERS)
def test_an_answer_is_faithful_in_the_language_asked_only(asked: str, written: str) -> None:
    found = score(ANSWERS[written], asked)
    assert found["fidelity"] == (written == asked)
    assert found["empty"] == 0
    intruder = "central" if (asked, written) == ("ca-valencia", "ca") else written
    for name in INTRUDERS[asked]:
        if name != intruder:
            assert found[f"intrusion_{name}"] == 0
    if intruder in INTRUDERS[asked]:
        assert found[f"intrusion_{intruder}"] >= 0.5


@pytest.mark.parametrize("language", LANGUAGES)
def test_longer_texts_in_a_language_are_faithful_to_it_and_without_intrusions(language: str) -> None:
    path = resource_dir("eval") / file_safe(language) / "reading.jsonl"
    passages = list(dict.fromkeys(json.loads(line)["passage"] for line in path.read_text(encoding="utf-8").split("\n") if line))
    found = [score(passage, language) for passage in passages]
    assert sum(each["fidelity"] for each in found) >= 0.9 * len(found)
    for name in INTRUDERS[language]:
        assert sum(each[f"intrusion_{name}"] for each in found) <= 0.02 * len(found), name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("answer", ["", " \n\n ", "12 + 30 = 42", "…!?"])
def test_an_answer_without_a_letter_is_empty_and_not_faithful(language: str, answer: str) -> None:
    assert score(answer, language) == {"fidelity": 0.0, "empty": 1.0} | {f"intrusion_{name}": 0.0 for name in INTRUDERS[language]}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("answer", SCRAPS)
def test_few_words_and_one_word_again_and_again_are_not_faithful_to_any_language(language: str, answer: str) -> None:
    found = score(answer, language)
    assert (found["fidelity"], found["empty"]) == (0, 0)


def test_intrusions_are_the_share_of_sentences_in_the_other_language() -> None:
    galician, spanish, portuguese = (ANSWERS[language] for language in ("gl", "es", "pt"))
    mixed = score(f"{galician} {galician}\n{spanish}", "gl")
    assert mixed["intrusion_es"] == pytest.approx(2 / 6)
    assert mixed["intrusion_pt"] == 0
    assert score(f"{galician}\n{portuguese}", "gl")["intrusion_pt"] == pytest.approx(2 / 4)
    assert score(f"{ANSWERS['eu']}\n{spanish}", "eu")["intrusion_es"] == pytest.approx(2 / 4)
    english = score(f"{spanish}\n{ANSWERS['en']}", "es")
    assert english["intrusion_en"] == pytest.approx(2 / 4)


def test_a_central_form_in_a_valencian_sentence_is_an_intrusion() -> None:
    valencian = "Hui la meua iaia ix de casa a les huit. Després torna prompte i fa el dinar."
    assert score(valencian, "ca-valencia") == {"fidelity": 1.0, "empty": 0.0, "intrusion_es": 0.0, "intrusion_en": 0.0, "intrusion_central": 0.0}
    mixed = score(valencian.replace("meua", "meva"), "ca-valencia")
    assert mixed["intrusion_central"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "form",
    ["avui", "meva", "vuitanta", "nens", "surten", "llegeixo", "sigui", "haguessin", "pogués", "francès", "depèn", "conèixer", "parlo", "trobin", "aquí"],
)
def test_central_forms_are_found(form: str) -> None:
    assert fidelity.CENTRAL.search(f"no sé si {form} massa")


@pytest.mark.parametrize(
    "form",
    ["hui", "meua", "huitanta", "perquè", "què", "vaga", "portugués", "Mercè", "això", "aquest", "tothom", "parle", "servisc", "sortida", "deixe", "noieta"],
)
def test_forms_that_valencian_has_are_not_central(form: str) -> None:
    assert not fidelity.CENTRAL.search(f"no sé si {form} massa")


def test_valencian_sentences_hardly_have_central_forms() -> None:
    folder = resource_dir("eval")
    sentences = []
    for name, key in (("acceptability", "good"), ("variety_choice", "valencian"), ("variety", "context"), ("minimal_pairs", "good")):
        lines = (folder / "ca_valencia" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        sentences += [json.loads(line)[key] for line in lines if line]
    assert len(sentences) > 700
    assert sum(bool(fidelity.CENTRAL.search(sentence)) for sentence in sentences) <= 0.01 * len(sentences)
    central = [json.loads(line)["context"] for line in (folder / "ca" / "variety.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert sum(bool(fidelity.CENTRAL.search(sentence)) for sentence in central) >= 0.9 * len(central)


def test_titles_and_greetings_are_no_sentences_to_judge() -> None:
    assert fidelity.split_sentences("Hello!\n\n**The end**\nAs mareas soben e baixan dúas veces ao día. Ola.") == [
        "As mareas soben e baixan dúas veces ao día."
    ]
    assert fidelity.split_sentences("«Non sei que queres que che diga.» Foise para a casa sen dicir nada") == [
        "«Non sei que queres que che diga.",
        "Foise para a casa sen dicir nada",
    ]


def test_listing_and_loading_the_task_do_not_import_the_identifier() -> None:
    code = f"""
import sys
from lm_eval.tasks import TaskManager
task = TaskManager(include_path={str(resource_dir("eval"))!r}, include_defaults=False).load("fidelity_gl")["tasks"]["fidelity_gl"]
print(any(name.startswith("iberlm") for name in sys.modules))
print(task.process_results(task.eval_docs[0], ["As mareas soben e baixan dúas veces ao día."])["fidelity"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["False", "1.0"]


def test_plain_lm_eval_scores_what_a_model_writes(plain_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(plain_model, tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 512}))  # room for a prompt and 128 tokens
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}", "--include_path", str(resource_dir("eval"))]
    command += ["--tasks", "fidelity_ca_valencia", "--limit", "4", "--device", "cpu", "--output_path", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = tmp_path.rglob("out*.json")
    found = json.loads(written.read_text())["results"]["fidelity_ca_valencia"]
    assert found["fidelity,none"] == 0  # random weights write no Valencian
    assert {f"{name},none" for name in ("fidelity", "empty", "intrusion_es", "intrusion_en", "intrusion_central")} <= set(found)
