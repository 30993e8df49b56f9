"""Numbers, times and lengths as people read them. Pure."""

from driftline.schemas.clock import utc

CUT = " … [cut]"
_JOINERS = "\u200c\u200d"  # Persian, Hindi and family emoji are spelled with them


def length(text: str) -> int:
    """In UTF-16 units: never less than what any receiver counts, be it code points or JavaScript's characters."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def clip(text: str, limit: int) -> str:
    """At most `limit` long, ending in a visible mark where something was left out."""
    if length(text) <= limit:
        return text
    room = limit - length(CUT)
    return text.encode("utf-16-le", "surrogatepass")[: 2 * room].decode("utf-16-le", "ignore").rstrip() + CUT


def clean(text: str) -> str:
    """Without what is not to be seen and may be obeyed: control characters, what turns text around, half characters.
    No receiver shows them, and some refuse them."""
    if text.isprintable():
        return text.strip()
    return "".join(_seen(char) for char in text).strip()


def _seen(char: str) -> str:
    if char.isprintable() or char in "\n\t" or char in _JOINERS:
        return char
    return " " if char.isspace() else ""


def one_line(text: str) -> str:
    return clean(" ".join(text.split()))


def number(value: float) -> str:
    """Three digits that matter: 0.0123, 4.56, 1,235."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A signed relative change: 0.1 is +10 %."""
    text = number(100 * share)
    return f"{text if text.startswith('-') else '+' + text} %"


def when(ts: int) -> str:
    return f"{utc(ts):%Y-%m-%d %H:%M:%S} UTC"


def rfc3339(ts: int) -> str:
    return utc(ts).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lasting(microseconds: int) -> str:
    """A duration in its two largest units: 45 s, 2 h 5 min, 3 d 4 h."""
    seconds = max(0, round(microseconds / 1_000_000))
    sizes = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in sizes:
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    first = next((i for i, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for i, (count, unit) in enumerate(parts[first : first + 2]) if count or i == 0)
