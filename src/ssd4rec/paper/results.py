"""results.json: the sections of a sweep beside those that an earlier one left, none of them lost."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from ssd4rec._io import escaped
from ssd4rec.config import DataConfig, EvaluationConfig, value_of
from ssd4rec.errors import DataError
from ssd4rec.paper.budgets import Budget
from ssd4rec.paper.origins import changed
from ssd4rec.paper.rows import Results, Section, Studies
from ssd4rec.paper.runs import RESULT, Part, commit
from ssd4rec.paper.section import make_section
from ssd4rec.paper.studies import STUDIES

RESULTS = "results.json"
FORMAT = 4  # of results.json
PROTOCOL = frozenset(
    f"{group}.{key}"
    for group, settings in (("data", DataConfig), ("evaluation", EvaluationConfig))
    for key in settings.model_fields
    if f"{group}.{key}" not in ("data.user", "data.item", "data.time", "evaluation.token_budget")
)


def summarize(parts: Sequence[Part], budget: Budget, out: Path) -> Results:
    """The parts of this sweep as far as they are finished, and what an earlier one left in the folder.

    Raises:
        DataError: results.json is of another version, or not of this program, or a run's files are damaged.
    """
    studies = earlier(out)
    for part in parts:
        sections = studies.setdefault(part.study, {})
        name, section = _name(part, sections), make_section(part, budget, out)
        others = _finished(sections.get(name)) - {run.key for _, run in part.runs}
        if _finished(section) or not others:  # figures of other runs stay until there are some of these
            sections[name] = section
    in_order = {name: studies[name] for name in STUDIES if name in studies}
    return Results(format=FORMAT, commit=commit(), studies=in_order)


def refuse_what_would_be_lost(parts: Sequence[Part], out: Path) -> None:
    """A section is replaced only where its runs lie beside it, so that its command can bring it back.

    A run that this sweep makes may be missing beside others that are there: it was damaged, and removed as was advised.

    Raises:
        DataError: one has figures whose runs are not in the folder.
    """
    studies = earlier(out)
    for part in parts:
        sections = studies.get(part.study, {})
        name = _name(part, sections)
        finished = _finished(sections.get(name))
        missing = {key for key in finished if not (out / "runs" / key / RESULT).is_file()}
        mended = missing < finished and missing <= {run.key for _, run in part.runs}
        if missing and not mended:
            raise DataError(
                f"{out / RESULTS} holds {part.study} on {name}, whose runs are not in {out / 'runs'}: writing over it would lose "
                "figures; choose another --out, or move the file away"
            )


def _finished(section: Section | None) -> set[str]:
    """The keys of the runs whose figures a section has."""
    return {seed.key for row in (section.rows if section else ()) for seed in row.finished}


def _name(part: Part, sections: Mapping[str, Section]) -> str:
    """Of its section: the data, and what --set changed of the protocol. Other data of the same name keep theirs."""
    first = next((point for point in part.points if point.unset), None)
    named = [f"{name}={value_of(first.configs[0], name)}" for name in changed(first) if name in PROTOCOL] if first else []
    name = escaped(" ".join([part.data.name, *named]))
    there = sections.get(name)
    other = there is not None and there.source != escaped(part.data.source) and there.fingerprint != part.data.fingerprint
    return escaped(" ".join([part.data.source, *named])) if other else name


def earlier(out: Path) -> Studies:
    """The studies that results.json holds; none: there is no such file.

    Raises:
        DataError: it is damaged, of another program, or of another version of this one.
    """
    path = out / RESULTS
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text)["format"]
        found = Results.model_validate_json(text) if version == FORMAT else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a result of reproduce ({_why(error)}); move it away, or choose another --out") from error
    if found is None:
        raise DataError(f"{path} has format {version}, this version writes {FORMAT}; move it away (runs stay)")
    return found.studies


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return repr(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
