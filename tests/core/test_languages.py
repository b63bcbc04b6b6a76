import pytest

from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language, file_safe, from_file_safe


def test_file_safe_spelling_is_reversible() -> None:
    for tag in (*LANGUAGES, *NEIGHBOURS):
        assert from_file_safe(file_safe(tag)) == tag
        assert file_safe(tag).isidentifier()


@pytest.mark.parametrize(
    ("wrong", "mend"), [("val", "Vehes"), ("va", "ca-valencia"), ("eus", "'eu'"), ("xx", "choose among es"), ("ca_valencia", "ca-valencia")]
)
def test_an_unknown_language_is_refused_with_the_mend(wrong: str, mend: str) -> None:
    with pytest.raises(ConfigError, match=mend):
        check_language(wrong, "select.languages[0]")
