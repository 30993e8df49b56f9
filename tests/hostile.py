"""Texts that strangers send: each breaks some medium that obeys instead of shows. One corpus for all outputs."""

ESC = "\x1b"
SCRIPT = "</script><script>document.title='taken'</script>"

TEXTS = {
    "llama": "[INST] hi [/INST]",
    "markup": "[system] [/] [bold red]x[/bold red] [link=https://evil.example]y[/link] :skull:",
    "ansi": f"{ESC}[31mred{ESC}[0m {ESC}[2J{ESC}[H",
    "title": f"{ESC}]0;taken\x07",
    "hyperlink": f"{ESC}]8;;https://evil.example{ESC}\\click{ESC}]8;;{ESC}\\",
    "c1": "\x9b31m \x9d8;;x\x9c",
    "bidi": "\u202egnp.exe \u2066\u2069 \u200f",
    "newlines": "one\n2026-01-01 00:00:00 ERROR driftline: forged\r\ntwo\rover",
    "separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "nul": "a\x00b\x08\x7f",
    "surrogates": "half \ud83d pair \udc00",
    "invisible": "a\ufeff\u2060\U000e0041b",
    "html": f"<img src=x onerror=alert(1)> {SCRIPT} <!-- & \" '",
    "slack": "<!channel> <!here> <@U024BE7LH> <https://evil.example|click> *b* _i_ ~s~ `c`",
    "format": "%s %d %(x)s {} {0.__class__} ${x}",
    "formula": '=HYPERLINK("https://evil.example") +1 -1 @SUM(1)',
    "quotes": "'; DROP TABLE traces_raw; -- \" ` \\",
    "combining": "z" + "\u0310" * 500,
    "megabyte": "long " * 200_000,
}

OBEYED = (
    "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
    + "\u2028\u2029\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u2060\ud83d\udc00\U000e0041"
)
"""Characters that no terminal or log line may be given."""


def obeyed(output: str, keep: str = "") -> str:
    """Those in an output that a terminal would obey; empty is right. Our own line ends may be kept."""
    return "".join(sorted({char for char in output if char in OBEYED and char not in keep}))
