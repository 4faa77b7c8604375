"""Draws docs/datapath.svg, the way of a film through the components (`make picture`)."""

from html import escape
from pathlib import Path
from typing import Final

WIDTH, HEIGHT = 980, 470
STYLE: Final = (
    "text{font:14px system-ui,sans-serif;fill:#1c2733}.small{font-size:12px;fill:#5a6a7a}"
    ".component{fill:#eef4fa;stroke:#2b6ca3}.store{fill:#fdf5e3;stroke:#a37a2b}.edge{fill:#f2f2f2;stroke:#777}"
    "path{stroke:#40505f;stroke-width:1.5;fill:none}"
    "@media(prefers-color-scheme:dark){svg{background:#10161c}text{fill:#e4ebf2}.small{fill:#9fb0c0}"
    ".component{fill:#16283a;stroke:#5aa0dc}.store{fill:#33290f;stroke:#d0a44a}.edge{fill:#222;stroke:#999}path{stroke:#a8b8c8}}"
)
# name: kind, x, y, width, its lines
BOXES: Final[dict[str, tuple[str, int, int, int, tuple[str, ...]]]] = {
    "inbox": ("edge", 20, 60, 170, ("shared folders", "images, never changed")),
    "watch": ("component", 270, 60, 170, ("watch", "seen, settled, registered")),
    "redis": ("edge", 520, 60, 170, ("Redis", "messages of scan ids")),
    "work": ("component", 780, 60, 180, ("work (one a GPU)", "children decode, CNN reads")),
    "table": ("store", 395, 205, 300, ("PostgreSQL or SQLite", "the ledger: one row a scan, its state")),
    "schedule": ("component", 20, 205, 170, ("schedule", "announces again, expires leases")),
    "images": ("store", 780, 205, 180, ("DATA_DIR/images", "stored images and heatmaps")),
    "training": ("component", 780, 350, 180, ("work --queue training", "learns from verdicts, nightly")),
    "review": ("component", 395, 350, 300, ("review", "worklist, image, heatmap, verdict")),
    "out": ("edge", 20, 350, 170, ("webhook, e-mail, PACS", "by the outbox")),
}
# a path, and where which words stand beside it
ARROWS: Final = (
    ("M190 85H268", (229, 77), "files"),
    ("M440 85H518", (479, 77), "ids"),
    ("M690 85H778", (734, 77), "ids"),
    ("M400 112L450 203", (372, 160), "rows, first"),
    ("M800 112L670 203", (650, 160), "claims, outcomes"),
    ("M870 112V203", (912, 150), "images"),
    ("M190 230H393", (292, 222), "leases"),
    ("M105 255V348", (140, 305), "sends"),
    ("M545 257V348", (598, 305), "reads, verdicts"),
    ("M870 257V348", (912, 305), "labels"),
    ("M780 375L690 259", (700, 330), "models"),
)


def draw() -> str:
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The way of a scan: from a shared folder to a reader, and back into the next model</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0L8 4L0 8"/></marker></defs>',
        '<text x="20" y="30">The database is the truth, the queue only announces: what is lost is announced '
        "again from the rows.</text>",
    ]
    for kind, x, y, width, lines in BOXES.values():
        drawn.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="50" rx="6"/>')
        for number, line in enumerate(lines):
            drawn.append(_text(x + width // 2, y + 21 + 18 * number, line, small=number > 0))
    for path, (x, y), words in ARROWS:
        drawn.append(f'<path d="{path}" marker-end="url(#tip)"/>')
        drawn.append(_text(x, y, words, small=True))
    drawn.append(
        '<text class="small" x="20" y="445">Blue: our processes, in `up` threads of one. Yellow: what is kept. '
        "Gray: other people's.</text>"
    )
    return "\n".join([*drawn, "</svg>", ""])


def _text(x: int, y: int, words: str, small: bool) -> str:
    kind = ' class="small"' if small else ""
    return f'<text{kind} x="{x}" y="{y}" text-anchor="middle">{escape(words)}</text>'


if __name__ == "__main__":
    Path(__file__).with_name("datapath.svg").write_text(draw(), "utf-8")
