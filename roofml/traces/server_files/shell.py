"""A reader of shell scripts, which runs nothing: which words `vllm serve` was given, as far as the script itself says.

Assignments are followed in order, `[ .. ]` and `[[ .. ]]` tests of known values decided; what depends on anything else
(the environment, a loop, another command) makes a variable unknown, and so every word that holds it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

UNKNOWN = "\x00"
"""Stands in a word for what the script does not say, followed by the variable's name and UNKNOWN again."""
ELSEWHERE = f"{UNKNOWN}another-command{UNKNOWN}"
"""What another command would say."""
LONGEST = 2_000_000
"""Characters of a script that are read."""
LONGEST_LINE = 100_000
"""Of one command, before and after variables are put in."""
LONGEST_VALUE = 20_000
"""Of a variable: one that holds itself twice doubles with every line."""
MOST_WORDS, LONGEST_COMMAND = 1_000, 20_000
"""Of one command; what is longer is cut."""

_ASSIGNED = re.compile(
    r"^(?:export |local |readonly |declare (?:-\w+ )*|typeset (?:-\w+ )*)*([A-Za-z_]\w*)(\+?)=(.*)$", re.DOTALL
)
_VARIABLE = re.compile(
    r"\$(?:\{(#?)([A-Za-z_]\w*|[0-9@*])(?:\[[@*]\])?((?::?[-=+?]|[#%/^,:])[^}]{0,2000})?\}|([A-Za-z_]\w*|[0-9@*#?$!])|\(\(?)"
)
_TEST = re.compile(r"^(?:if |elif )?\[\[? +(.*?) +\]\]?$")
_LOOP = re.compile(r"^for ([A-Za-z_]\w*) in (.*)$")
_SEPARATOR = re.compile(r"\s*(&&|\|\||;|\n)\s*")


def joined(text: str) -> str:
    """The script with one command a line: continued lines and arrays joined, comments removed, keywords set apart."""
    lines = re.sub(r"\\\r?\n", " ", text[:LONGEST].replace("\r\n", "\n")).split("\n")
    text = "\n".join(_without_comment(line) for line in lines)
    text = re.sub(r"(?<=\w=)\(([^()]*)\)", lambda array: f"({' '.join(array[1].split())})", text)
    text = re.sub(r'"(\$\{\w+\[[@*]\]\})"', r"\1", text)
    return re.sub(r";\s*(then|else|elif|fi|do|done)\b", r"\n\1", text)


class Script:
    """Variables of a script as they are after each of its commands. A value None is not known."""

    def __init__(self, variables: Mapping[str, str | None] | None = None) -> None:
        self.variables: dict[str, str | None] = dict(variables or {})

    def run(self, text: str) -> Iterator[str]:
        """The script's lines (see `joined`), each with variables as they are where it stands put in."""
        branches: list[bool | None] = []  # of each `if` we are in: True taken, False not, None undecided
        taken: list[bool | None] = []  # whether one of its branches was
        cases = 0
        for whole in text.split("\n"):
            line = whole[:LONGEST_LINE]
            words = line.strip()
            if words.startswith("if "):
                branches.append(self._test(words))
                taken.append(branches[-1])
            elif branches and re.match(r"(elif|else)\b", words):
                if taken[-1] is not None:
                    test = True if words.startswith("else") else self._test(words)
                    branches[-1] = False if taken[-1] else test
                    taken[-1] = taken[-1] or test
            elif branches and re.match(r"fi\b", words):
                branches.pop()
                taken.pop()
            cases += words.startswith("case ") - words.startswith("esac")
            if False in branches:
                continue
            words = re.sub(r"^(?:then|else|do)\b *", "", words)
            words = re.sub(r"^[^()=]*\) *", "", words) if cases > 0 else words
            self._steps(words, None if None in branches or cases > 0 else True)
            yield self.expand(line)

    def _steps(self, line: str, taken: bool | None) -> None:
        """Follow the assignments of a line. `taken` None: it may not have been run."""
        if loop := _LOOP.match(line.split(";")[0].strip()):
            words = loop[2].split()
            self.variables[loop[1]] = self.expand(words[0]) if len(words) == 1 and "$" not in loop[2] else None
            return
        held: bool | None = True
        parts = _SEPARATOR.split(line)
        for place, part in enumerate(parts):
            if place % 2:
                continue
            before = parts[place - 1] if place else ";"
            runs: bool | None = True if before in (";", "\n") else held if before == "&&" else None
            if before == "||":
                runs = None if held is None else not held
            if runs is False:
                continue
            if _TEST.match(part):
                held = self._test(part) if runs else None
            elif found := _ASSIGNED.match(part):
                self._assign(found[1], found[2] == "+", found[3], taken is True and runs is True)
                held = held if before in ("&&", "||") and runs is None else True
            else:
                held = None if before not in ("&&", "||") or held is None else held

    def _assign(self, name: str, appended: bool, text: str, sure: bool) -> None:
        value: str | None = self.expand(_unquoted(text.strip()), LONGEST_VALUE)
        if appended:
            so_far = self.variables.get(name, "")
            value = None if so_far is None else f"{so_far} {value}".strip()
        if not sure and self.variables.get(name) != value:
            value = None
        if name not in self.variables or sure or value is None:
            self.variables[name] = value

    def _test(self, text: str) -> bool | None:
        """What a test of known values says; None where it asks for something else."""
        found = _TEST.match(text)
        if not found:
            return None
        words = self.expand(found[1]).replace('"', " ").replace("'", " ").split(" ")
        raw = [word for word in words if word]
        if UNKNOWN in found[1] or any(UNKNOWN in word for word in raw):
            return None
        if raw[:1] in (["-n"], ["-z"]):
            return (len(raw) > 1) == (raw[0] == "-n")
        for sign in ("==", "=", "!="):
            if sign in raw:
                place = raw.index(sign)
                return (raw[:place] == raw[place + 1 :]) == (sign != "!=")
        return None

    def expand(self, text: str, most: int = LONGEST_LINE) -> str:
        """The text with its variables put in, until more than `most` characters are."""
        room = most

        def value(found: re.Match[str]) -> str:
            nonlocal room
            put_in = value_of(found) if room > 0 else ""
            room -= len(put_in)
            return put_in

        def value_of(found: re.Match[str]) -> str:
            if found[0].startswith("$("):
                return ELSEWHERE
            name, how = found[2] or found[4], found[3] or ""
            default = how.removeprefix(":")
            known = self.variables.get(name, "" if name in self.variables else None)
            if default[:1] in ("-", "="):
                unset = name not in self.variables and not name.isdigit()
                if unset or name.isdigit() or (known == "" and how.startswith(":")):
                    return self.expand(default[1:].strip("\"'"))
                return known if known is not None else f"{UNKNOWN}{name}{UNKNOWN}"
            if default[:1] == "+" and known is not None:
                return self.expand(default[1:]) if known else ""
            if known is None or (how and default[:1] != "?") or found[1]:
                return f"{UNKNOWN}{name}{UNKNOWN}"
            return known

        text = re.sub(r"\$\(\(?[^()]*\)?\)", ELSEWHERE, text)
        return _VARIABLE.sub(value, text)


def words_of(text: str) -> list[str]:
    """The words of one command, up to whatever ends it: `;`, `&`, `|`, a redirection, a bracket or a loose quote."""
    lexer = shlex.shlex(text[:LONGEST_COMMAND], posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    while len(words) < MOST_WORDS:
        try:
            word = lexer.get_token()
        except ValueError:  # a quote that opened before the command, or never closes
            word = None
        if word is None or (word and not word.strip(";&|<>()")) or word == "\n":
            break
        words.append(word)
    if words and words[-1].isdecimal() and len(words) > 1 and re.search(rf"\s{words[-1]}>", text):
        words.pop()  # the 2 of `2>&1`
    return [word.rstrip("'\"") for word in words]


def _unquoted(text: str) -> str:
    if text.startswith("("):  # an array
        return " ".join(text.strip("()").split())
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        return text[1:-1]
    return text.split(" ")[0] if " " in text and text[:1] not in "'\"" else text.strip("'\"")


def _without_comment(line: str) -> str:
    """The line without `# ...`, unless that stands in quotes."""
    if "#" not in line:
        return line
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line
