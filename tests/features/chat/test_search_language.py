"""Which language a message is in."""

import pytest

from realtime.features.chat.search.language import language_of


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("hello there, how are you?", "en"),
        ("Wo sind die Häuser der Stadt?", "de"),
        ("où est la gare s'il vous plaît", "fr"),
        ("¿dónde está el gato?", "es"),
        ("come stai? sono molto stanco", "it"),
        ("não sei o que fazer", "pt"),
        ("Hej hur mår du, jag är trött", "sv"),
        ("привет, как дела", "ru"),
        ("東京都に行く", "ja"),
        ("我们去吃饭", "zh"),
        ("안녕하세요 친구", "ko"),
        ("สวัสดีครับ", "th"),
        ("مرحبا يا صديقي", "ar"),
        ("ok", ""),
        ("", ""),
        ("12:30 :-)", ""),
    ],
)
def test_the_language_shows_in_script_letters_and_small_words(text, lang):
    assert language_of(text) == lang
