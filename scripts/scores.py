"""Make the tables of recipes from the headers of `configs/*.yaml`.

    python scripts/scores.py            # print the tables
    python scripts/scores.py --write    # write them into the pages that have their markers

A config begins with lines `# Key: value`; a line that begins with `#   ` continues the one before.
The keys are What, Command (one or more), Scored on, Score (one for each seed), Machine and,
optionally, Notes. A score is a list of figures and the seed of the run:

    # Score: 0.5862 nats per name, accuracy 0.8226 (seed 1)

The first score belongs to the seed in the config. A recipe that nobody has run yet says
`# Score: never run`.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/use/recipes.md")
REQUIRED = ("What", "Command", "Scored on", "Score", "Machine")
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+%?")


@dataclass(frozen=True)
class Recipe:
    """One config: its file name, and the values of each key of its header."""

    name: str
    header: dict[str, list[str]]

    def text(self, key: str) -> str:
        """Return the value of a key that occurs at most once in the header."""
        return self.header[key][0]


def read_recipe(path: Path) -> Recipe:
    """Read the header of a config.

    Raises ValueError for a line that is neither `# Key: value` nor a continuation, and for a key
    that is unknown, missing, or repeated where it may occur once only.
    """
    header: dict[str, list[str]] = {}
    values: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   ") and values:
            values[-1] += " " + line[4:].strip()
            continue
        entry = re.fullmatch(r"# ([A-Z][a-z ]+): (\S.*)", line)
        if entry is None or entry[1] not in (*REQUIRED, "Notes"):
            raise ValueError(f"{path.name}: expected '# Key: value' with a known key, not {line!r}")
        values = header.setdefault(entry[1], [])
        if values and entry[1] not in ("Command", "Score"):
            raise ValueError(f"{path.name}: '{entry[1]}' occurs twice; join the two lines")
        values.append(entry[2])
    missing = [key for key in REQUIRED if key not in header]
    if missing:
        raise ValueError(f"{path.name}: the header lacks {', '.join(missing)}")
    return Recipe(path.name, header)


def read_recipes() -> list[Recipe]:
    """Read the headers of all configs, by file name."""
    return [read_recipe(path) for path in sorted((ROOT / "configs").glob("*.yaml"))]


def join_scores(recipe: Recipe) -> tuple[str, list[int]]:
    """Join the figures of all seeds, such as "0.5862, 0.5985 nats per name", and list the seeds.

    Raises ValueError if a score has no seed, or differs from the first one in more than figures.
    """
    scores = recipe.header["Score"]
    if scores == ["never run"]:
        return "never run", []
    seeds, figures, forms = [], [], set()
    for score in scores:
        entry = re.fullmatch(r"(.+) \(seed (\d+)\)", score)
        if entry is None:
            raise ValueError(f"{recipe.name}: the score {score!r} does not end in '(seed N)'")
        seeds.append(int(entry[2]))
        figures.append(FIGURE.findall(entry[1]))
        forms.add(FIGURE.sub("{}", entry[1]))
    if len(forms) > 1:
        raise ValueError(f"{recipe.name}: the scores of the seeds differ in form: {sorted(forms)}")
    measures = forms.pop().split(", ")
    if [measure.count("{}") for measure in measures] != [1] * len(measures):
        raise ValueError(f"{recipe.name}: each part of a score needs one figure: {scores[0]!r}")
    by_measure = zip(measures, zip(*figures, strict=True), strict=True)
    return "; ".join(form.replace("{}", ", ".join(each)) for form, each in by_measure), seeds


def score_table(recipes: list[Recipe]) -> str:
    """Build the Markdown table of scores, one row for each recipe."""
    rows = ["| config | what it trains | score | seeds | scored on |", "|---|---|---|---|---|"]
    for recipe in recipes:
        score, seeds = join_scores(recipe)
        cells = (recipe.text("What"), score, ", ".join(map(str, seeds)), recipe.text("Scored on"))
        row = " | ".join(cell.replace("<unk>", "`<unk>`") for cell in cells)
        rows.append(f"| `{recipe.name}` | {row} |")
    return "\n".join(rows)


def command_list(recipes: list[Recipe]) -> str:
    """Build a section for each recipe: its commands, the machine it was scored on, its notes."""
    sections = []
    for recipe in recipes:
        lines = [f"### `{recipe.name}`", "", "```text", *recipe.header["Command"], "```", ""]
        lines.append(f"Machine: {recipe.text('Machine')}.")
        if "Notes" in recipe.header:
            lines += ["", recipe.text("Notes")]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def fill(page: str, blocks: dict[str, str]) -> str:
    """Put each block between its markers, if the page has them, and return the page's new text."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: generated by scripts/scores.py -->", f"<!-- {name}: end -->"
        if begin not in page:
            continue
        before, _, rest = page.partition(begin)
        if end not in rest:
            raise ValueError(f"the marker {end!r} is missing; put it after {begin!r}")
        page = f"{before}{begin}\n\n{block}\n\n{end}{rest.partition(end)[2]}"
    return page


def generate() -> dict[str, str]:
    """Build all blocks, by the names of their markers."""
    recipes = read_recipes()
    return {"scores": score_table(recipes), "commands": command_list(recipes)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tables of recipes from configs/*.yaml.")
    parser.add_argument("--write", action="store_true", help="write them into the pages")
    write = parser.parse_args().write
    blocks = generate()
    if not write:
        print("\n\n".join(blocks.values()))
        return
    for name in PAGES:
        path = ROOT / name
        path.write_text(fill(path.read_text("utf-8"), blocks), "utf-8")
        print(f"wrote {name}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
