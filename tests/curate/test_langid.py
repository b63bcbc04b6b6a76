import pytest

from iberlm.curate.langid import identify

TEXTS = {
    "es": "El ayuntamiento aprobó ayer el presupuesto del año que viene, que incluye una nueva biblioteca en el barrio de la estación.",
    "ca": "Aquest matí l'ajuntament ha aprovat el pressupost de l'any vinent, que inclou una biblioteca nova al barri. Els nens hi podran anar avui.",
    "ca-valencia": "Este matí l'ajuntament ha aprovat el pressupost de l'any que ve, que inclou una biblioteca nova al barri. Els xiquets hi podran anar hui.",
    "eu": "Udalak atzo onartu zuen datorren urteko aurrekontua, eta geltokiaren auzoan liburutegi berri bat egingo dute.",
    "gl": "O concello aprobou onte o orzamento do ano que vén, que inclúe unha nova biblioteca no barrio da estación, e a veciñanza está contenta.",
    "pt": "A câmara municipal aprovou ontem o orçamento do próximo ano, que inclui uma nova biblioteca no bairro da estação, e os moradores estão contentes.",
    "fr": "Le conseil municipal a approuvé hier le budget de l'année prochaine, qui prévoit une nouvelle bibliothèque dans le quartier de la gare.",
    "en": "Yesterday the town council approved next year's budget, which includes a new library in the quarter around the station.",
    "ast": "La xente del pueblu ye bien contenta: l'Ayuntamientu fadrá una biblioteca nueva y tamién un parque, que güei nun lu tien.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_our_languages_and_their_neighbours_are_told_apart(language: str) -> None:
    assert identify(TEXTS[language], None, 1000).language == language


def test_catalan_without_a_mark_of_its_variety_is_undetermined_and_then_the_source_is_believed() -> None:
    text = "La biblioteca municipal obrirà al públic a les nou del matí i tancarà a les vuit del vespre, de dilluns a divendres, durant tot l'any."
    assert identify(text, None, 1000)[::2] == ("ca", "undetermined")
    assert identify(text, "ca-valencia", 1000)[::2] == ("ca-valencia", "undetermined")
    assert identify(text, "es", 1000)[::2] == ("ca", "undetermined")


def test_a_text_without_words_is_undetermined() -> None:
    assert identify("123 --- ...", "es", 1000)[:2] == ("und", 0.0)
    assert identify("--- ...", "es", 1000) == ("und", 0.0, None)
