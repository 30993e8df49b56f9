"""Numbers, times and lengths as people read them. Pure."""

from driftline.schemas.clock import utc

CUT = " … [cut]"
_DIRECTION = (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))  # they turn text around, or break lines
_CONTROL = dict.fromkeys(
    [
        code
        for code in (*range(0x20), *range(0x7F, 0xA0), *_DIRECTION, *range(0xD800, 0xE000))
        if chr(code) not in "\n\t"
    ]
)


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
    """Without control characters, which no receiver shows and some refuse."""
    return text.translate(_CONTROL).strip()


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
