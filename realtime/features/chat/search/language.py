"""Which language a text is in: told by its script, and in Latin script by its small words and its letters.

It is cheap (a few microseconds), it is asked for every message that says nothing of its language, and it may
be wrong: what is found by a word itself is found in any language, only by its stem it is not.
"""

# ruff: noqa: RUF001 - letters of other languages are meant here.

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LOOKED_AT: Final = 400  # characters of a text
_SMALL_WORDS: Final[Mapping[str, str]] = {
    "en": "the and of to in is that it for you was with on are have this be not but what all were we when "
    "your can there an which do how if will so about no my me from they i am or just get has at been "
    "did does would could should why where any some then than please thanks yes hello hi it's don't i'm "
    "that's",
    "de": "der die das und ist nicht ich du er sie es wir ihr ein eine einen einem einer zu mit auf für von "
    "dem den des in was wie wo aber auch noch nur schon wenn dann oder bei nach aus mir mich dir dich "
    "kann habe hat sind war wird keine kein ja nein danke bitte sehr hier gibt doch mal so als",
    "fr": "le la les un une des et est pas je tu il elle nous vous ils que qui dans pour sur avec ce cette "
    "au aux du de en ne se sont mais ou où donc plus très bien oui non merci bonjour c'est j'ai mon ton "
    "son suis fait",
    "es": "el la los las un una y es no yo tú él que en de del por para con se lo como más pero muy sí "
    "gracias hola está están son mi su al cuando donde porque qué hay esto este esta todo ya también "
    "fue ser tiene",
    "it": "il lo la gli le un una e è non io tu che di del della in per con si ma come più sono ho hai ha "
    "anche questo questa grazie ciao molto bene dove quando perché sì al nel dei tutto cosa era essere "
    "mi ti ci",
    "pt": "o a um uma e é não eu tu ele ela que de do da em no na por para mas como mais muito sim obrigado "
    "olá está são meu seu isso este esta quando onde porque também já foi ser tem você ao dos das",
    "nl": "de het een en is niet ik jij je hij zij wij we dat die in op van voor met te zijn was er maar ook "
    "nog naar aan om bij wat hoe waar dan als ja nee dank heb heeft kan wordt geen deze dit uit goed "
    "wel mijn",
    "sv": "och att det är jag du han hon vi ni som en ett i på för med av inte den till har var men om så "
    "från kan ska eller vad hur när här tack ja nej mycket bara också min din detta alla skulle",
    "da": "og at det er jeg du han hun vi som en et i på for med af ikke den til har var men om så fra kan "
    "skal eller hvad hvor når her tak ja nej meget også min din dette alle blev være mig dig",
    "no": "og å det er jeg du han hun vi som en et i på for med av ikke den til har var men om så fra kan "
    "skal eller hva hvor når her takk ja nei mye bare også min din dette alle ble være meg deg",
    "fi": "ja on ei se että hän minä sinä mutta kun niin myös tai oli ole en mitä missä miten kiitos hyvä "
    "vain nyt jos tämä joka ovat voi kuin sen",
    "pl": "i w nie na to jest się że z do jak co ja ona po za ale tak od czy już tylko dla mnie dziękuję "
    "proszę dobrze bardzo gdzie kiedy był być są tego",
    "tr": "ve bir bu da de için ne ben sen o biz siz çok ama gibi var yok mı mi değil ile daha olarak evet "
    "hayır teşekkürler nasıl nerede şey her kadar sonra",
}
# What hardly any other of these languages writes.
_LETTERS: Final[Mapping[str, str]] = {
    "de": "ßäöü",
    "fr": "çœèêàùëïîô",
    "es": "ñ¿¡áíóú",
    "it": "ìòàèù",
    "pt": "ãõçáéâêó",
    "sv": "åäö",
    "da": "æøå",
    "no": "æøå",
    "fi": "äö",
    "pl": "ąćęłńśźż",
    "tr": "ğışçöü",
}
# Scripts, in the order in which they are looked for: Japanese is mostly written with Chinese characters.
_SCRIPTS: Final = (
    (re.compile("[\u3041-\u30ff\uff66-\uff9d]"), "ja"),
    (re.compile("[\uac00-\ud7a3\u1100-\u11ff]"), "ko"),
    (re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), "zh"),
    (re.compile("[\u0e01-\u0e5b]"), "th"),
    (re.compile("[\u0e81-\u0edf]"), "lo"),
    (re.compile("[\u1780-\u17ff]"), "km"),
    (re.compile("[\u1000-\u109f]"), "my"),
    (re.compile("[\u067e\u0686\u0698\u06af\u06a9\u06cc]"), "fa"),
    (re.compile("[\u0620-\u06ff]"), "ar"),
    (re.compile("[\u05d0-\u05ea]"), "he"),
    (re.compile("[\u0370-\u03ff\u1f00-\u1fff]"), "el"),
    (re.compile("[\u0454\u0456\u0457\u0491\u0404\u0406\u0407\u0490]"), "uk"),
    (re.compile("[\u0400-\u04ff]"), "ru"),
    (re.compile("[\u0900-\u097f]"), "hi"),
    (re.compile("[\u0980-\u09ff]"), "bn"),
    (re.compile("[\u0b80-\u0bff]"), "ta"),
    (re.compile("[\u10a0-\u10ff]"), "ka"),
    (re.compile("[\u0530-\u058f]"), "hy"),
)
_BEYOND_LATIN: Final = re.compile(
    "[\u0370-\u1dff\u1f00-\u1fff\u3040-\uabff\uac00-\ud7a3\uf900-\ufdff\ufe70-\uffef\U00020000-\U0003ffff]"
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_LETTER_WEIGHT: Final = 0.6


def _weights() -> dict[str, dict[str, float]]:
    """By small word: how much each language has of it. What several have says less."""
    owners: dict[str, list[str]] = {}
    for lang, words in _SMALL_WORDS.items():
        for word in words.split():
            if len(word) > 1 or not word.isascii():  # a lone letter is a name or an option at least as often
                owners.setdefault(word, []).append(lang)
    return {word: {lang: 1 / len(langs) for lang in langs} for word, langs in owners.items()}


_WEIGHTS: Final = _weights()
_OF_LETTER: Final = {
    letter: [lang for lang, letters in _LETTERS.items() if letter in letters]
    for letter in {letter for letters in _LETTERS.values() for letter in letters}
}
STOP_WORDS: Final = {lang: frozenset(words.split()) for lang, words in _SMALL_WORDS.items()}
"""By language, the words that say nothing by themselves: they have no stems."""


def language_of(text: str) -> str:
    """Return the language of a text as two letters (ISO 639-1), empty where it does not show."""
    head = text[:LOOKED_AT]
    if not head.isascii():
        beyond = _BEYOND_LATIN.findall(head)
        if len(beyond) * 2 > sum(map(str.isalpha, head)):
            return next((lang for script, lang in _SCRIPTS if script.search(head)), "")
    return _of_latin(head.lower())


def _of_latin(head: str) -> str:
    scores: dict[str, float] = {}
    for word in _WORD.findall(head):
        for lang, weight in _WEIGHTS.get(word, {}).items():
            scores[lang] = scores.get(lang, 0.0) + weight
    if not head.isascii():
        for letter in head:
            of = _OF_LETTER.get(letter, ())
            for lang in of:
                scores[lang] = scores.get(lang, 0.0) + _LETTER_WEIGHT / len(of)
    if not scores:
        return ""
    first, *others = sorted(scores.values(), reverse=True)
    if others and others[0] == first:
        return ""
    return next(lang for lang, score in scores.items() if score == first)
