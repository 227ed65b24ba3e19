#!/usr/bin/env python3
"""Makes a man page, in mdoc(7), of a page of docs/, so that there is one text of each. What is read is the Markdown of those pages:
headings, paragraphs, tables, fenced blocks, lists, `code`, [links] and **bold**.

    manual.py tunnelctl.8 --version 0.1.0 --date SECONDS
"""

import argparse
import pathlib
import re
import time

# Page: where its text is, its one line, and what else to read.
PAGES = {
    "tunneld.8": ("tunneld.md", "join the container subnets of many hosts into one network", ["systemd 1", "tunneld.yaml 5", "tunnelctl 8"]),
    "tunnelctl.8": ("tunnelctl.md", "show and change what a running tunneld does", ["tunneld.yaml 5", "tunneld 8"]),
    "tunneld.yaml.5": ("configuration.md", "configuration of a network of tunneld", ["tunnelctl 8", "tunneld 8"]),
}
REFERENCES = {source: name.rsplit(".", 1) for name, (source, _, _) in PAGES.items()}
DOCUMENTS = "/usr/share/doc/tunnel/"


def escaped(text):
    """Text for a text line: backslashes and hyphens that are minus signs, no macro at its beginning."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    for character, name in (("↔", "<\\->"), ("→", "\\->"), ("…", "..."), ("×", "\\(mu"), ("–", "\\(en"), ("←", "<\\-")):
        text = text.replace(character, name)
    return "\\&" + text if text[:1] in (".", "'") else text


def link(match):
    """A link's text; a page of the manual is named where it leads to one."""
    text, target = match.group(1), match.group(2).split("#")[0]
    if not target:
        return text
    target = target.removeprefix("docs/")
    if target in REFERENCES:
        page, section = REFERENCES[target]
        return f"`{page}`({section})" if text.endswith(".md") else f"{text} (`{page}`({section}))"
    name = target.removeprefix("../")
    return f"{DOCUMENTS}{name}" if text.endswith(".md") else text


def inline(text):
    """Running text in roff: code is bold, as literal text is in manuals."""
    text = re.sub(r"\[([^\]]*)\]\(([^)]*)\)", link, text)
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", text)
    made = []
    for part in parts:
        if part.startswith("`"):
            made.append("\\fB" + escaped(part.strip("`")).removeprefix("\\&") + "\\fR")
        elif part.startswith("**"):
            made.append("\\fI" + escaped(part.strip("*")) + "\\fR")
        else:
            made.append(escaped(part) if not made else escaped(part).removeprefix("\\&"))
    return "".join(made)


def cells(row):
    """The cells of a row of a table; \\| is a bar within one."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def table(rows):
    """A table as a list: the first cell is the tag, the others the text. A column of its own title is named where there are many."""
    title, *body = [cells(row) for row in rows if not re.fullmatch(r"[|\s:-]+", row)]
    yield ".Bl -tag -width Ds"
    for row in body:
        yield ".It " + inline(row[0])
        notes = [f"{title[i]}: {row[i]}" for i in range(1, len(row) - 1) if row[i]]
        if row[-1]:
            yield from (inline(sentence) for sentence in sentences(row[-1]))
        if notes:
            yield ".br"
            yield inline("; ".join(notes) + ".")
    yield ".El"


def blocks(lines):
    """The page's blocks, each with its kind."""
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.startswith("```"):
            end = lines.index("```", i + 1)
            yield "literal", lines[i + 1:end]
            i = end + 1
        elif line.startswith("#"):
            yield "heading", [line]
            i += 1
        elif not line.strip():
            i += 1
        else:
            kind = "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"
            end = i
            while end < len(lines) and lines[end].strip() and not lines[end].startswith(("```", "#")) and (kind == "table") == lines[end].startswith("|"):
                end += 1
            yield kind, lines[i:end]
            i = end


def sentences(text):
    """A sentence a line, as roff likes it."""
    return re.split(r"(?<=[a-z0-9)`].) (?=[A-Z`0-9])(?<=[.:?] )", text)


def body(page):
    """The page after its title, as roff."""
    after_heading = False
    for kind, lines in blocks(page.split("\n")):
        if kind == "heading":
            level, text = lines[0].split(" ", 1)
            if level == "#":
                yield ".Sh DESCRIPTION"
            else:
                text = text.replace("`", "")
                yield f".Sh {escaped(text.upper())}" if level == "##" else f".Ss {escaped(text)}"
            after_heading = True
            continue
        if kind == "literal":
            yield ".Bd -literal -offset 2n"
            yield from (escaped(line).replace("\t", "        ") for line in lines)
            yield ".Ed"
        elif kind == "table":
            yield from table(lines)
        elif kind == "list":
            yield ".Bl -bullet -compact"
            for item in re.split(r"\n- ", "\n" + "\n".join(lines))[1:]:
                yield ".It"
                yield from (inline(sentence) for sentence in sentences(" ".join(item.split())))
            yield ".El"
        else:
            if not after_heading:
                yield ".Pp"
            yield from (inline(sentence) for sentence in sentences(" ".join(" ".join(lines).split())))
        after_heading = False


def main():
    """Prints the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("page", choices=PAGES)
    options.add_argument("--version", default="")
    options.add_argument("--date", type=int, default=0, help="seconds since 1970")
    given = options.parse_args()
    source, title, others = PAGES[given.page]
    name, section = given.page.rsplit(".", 1)
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / source).read_text(encoding="utf-8")
    print(f'.\\" Made of docs/{source} by packaging/man/manual.py.')
    date = time.gmtime(given.date)
    print(f".Dd {time.strftime('%B', date)} {date.tm_mday}, {date.tm_year}")
    print(f".Dt {name.upper()} {section}")
    print(f".Os Tunnel {given.version}".rstrip())
    print(".Sh NAME")
    print(f".Nm {name}")
    print(f".Nd {title}")
    print("\n".join(body(page)))
    print(".Sh SEE ALSO")
    for i, other in enumerate(others):
        print(f".Xr {other}" + (" ," if i + 1 < len(others) else ""))


if __name__ == "__main__":
    main()
