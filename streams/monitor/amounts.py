"""How texts show amounts. Pure."""

from decimal import Decimal


def usd(value: float) -> str:
    """US dollars: to the cent from a dollar up, three significant digits below, never an exponent."""
    return f"${value:,.2f}" if abs(value) >= 1 else f"${Decimal(f'{value:.3g}'):f}"
