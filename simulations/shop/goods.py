"""What the services answer: a small assortment with prices, so that the shop's pages say something."""

from __future__ import annotations

from typing import Final

JsonValue = str | int | float | list[int] | list[dict[str, str | int]]
Json = dict[str, JsonValue]

PRODUCTS: Final[tuple[tuple[int, str, int], ...]] = (
    (1, "Typewriter", 6799),
    (2, "Camera lens", 1249),
    (3, "Home barista kit", 12400),
    (4, "Terrarium", 3645),
    (5, "Film camera", 224500),
    (6, "Vintage record player", 6550),
    (7, "Metal camping mug", 2433),
    (8, "City bike", 78950),
    (9, "Air plant", 1230),
)
"""(id, name, price in cents)."""


_FIXED: Final[dict[str, Json]] = {
    "ads": {"ad": f"{PRODUCTS[0][1]}: 20 % off"},
    "currency": {"EUR": 1.0, "USD": 1.08, "JPY": 163.2},
    "shipping": {"cents": 499, "days": 3},
}


def body(service: str, item: str) -> Json:
    """Return the JSON a service answers for the product `item` ("" where the operation has none)."""
    if service == "catalog":
        listed: list[dict[str, str | int]] = [
            {"id": number, "name": name, "cents": cents}
            for number, name, cents in PRODUCTS
            if item in ("", str(number))
        ]
        return {"products": listed}
    if service == "recommendation":
        return {"products": [number for number, _, _ in PRODUCTS if str(number) != item][:3]}
    return _FIXED.get(service, {"status": "done", "service": service})
