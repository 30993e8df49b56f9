import socket

import pytest

from driftline.streams.embed.languages import LONGEST, Languages

TEXTS = {
    "How do I reset the password of my router?": "en",
    "Wie setze ich das Passwort meines Routers zurück?": "de",
    "¿Cómo restablezco la contraseña de mi router?": "es",
    "Comment réinitialiser le mot de passe de mon routeur ?": "fr",
    "Как сбросить пароль маршрутизатора?": "ru",
    "ルーターのパスワードをリセットする方法": "ja",
    "如何重置路由器的密码": "zh",
    "मैं अपने राउटर का पासवर्ड कैसे रीसेट करूं": "hi",
    "HOW DO I RESET THE PASSWORD OF MY ROUTER": "en",
    "How do I\nreset the password\r\nof my router?": "en",
}


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages()


@pytest.mark.parametrize(("text", "language"), TEXTS.items())
def test_tells_languages(languages: Languages, text: str, language: str) -> None:
    assert languages.of(text) == language


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "hi", "ok", "Ja", "thanks!", "42?", "12345 67890", "🦊🦊🦊🦊", "\x00\x01", "\ud800"),
        *("def f(x):\n    return x + 1", '{"a": 1, "b": [2, 3], "c": {"d": 4}}', "asdf qwer zxcv hjkl", "a" * 100),
    ],
)
def test_says_nothing_of_what_it_cannot_tell(languages: Languages, text: str) -> None:
    assert languages.of(text) is None


def test_looks_at_the_beginning_alone(languages: Languages) -> None:
    english = ("How do I reset the password of my router? " * 20)[:LONGEST]
    assert languages.of(english + "Wie setze ich das Passwort meines Routers zurück? " * 500) == "en"


def test_company_changes_nothing(languages: Languages) -> None:
    assert [languages.of(text) for text in reversed(TEXTS)] == list(TEXTS.values())[::-1]
    assert [Languages().of(text) for text in TEXTS] == list(TEXTS.values())


def test_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"dials {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Languages().of("How do I reset the password of my router?") == "en"
