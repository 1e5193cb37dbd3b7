# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether two radiology texts state the same: term by term in both directions, then how the terms are related.

A difference that no source supports as a synonym is a difference in meaning; what cannot be decided is rejected.
``docs/correction.md`` lists the codes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .clinical_text import Statement, Term, read_statement
from .clinical_wording import CERTAINTY, OPPOSED, POSITIONS
from .wordnet import opposite, same_meaning


def meaning_differences(annotation: str, candidate: str, question: str = "") -> dict[str, str]:
    """Why a rewording does not keep the meaning of the ground truth: code and explanation; empty if it does.

    A rewording may add words of the question ("Is there fluid in the left lung?", "Yes" may become "Yes, there is
    fluid in the left lung"), if it negates them as the answer does.
    """
    truth, rewording, asked = map(read_statement, (annotation, candidate, question))
    pairs, dropped, added = _match(truth.terms, rewording.terms)
    answered, _, added = _match(asked.terms, added) if added and question else ([], (), added)
    dropped = [term for term in dropped if not term.optional]
    added = [term for term in added if not term.optional]
    found: dict[str, str] = {}
    _explain_words(dropped, added, found)
    if found:
        return found

    for old, new in pairs:
        if old.negated != new.negated and (_is_negated(old, truth) or _is_negated(new, rewording)):
            found["negation"] = f"{new.text!r} is {'negated' if new.negated else 'not negated'}"
        if (old.noun or new.noun) and old.plural != new.plural and not (old.negated and new.negated):
            found["number"] = f"{old.text!r} becomes {new.text!r}"
        if old.form != new.form and {old.form, new.form} & {"er", "est"} or {old.form, new.form} == {"ing", "ed"}:
            found["degree"] = f"{old.text!r} becomes {new.text!r}"
    if truth.has_verb and rewording.has_verb and truth.past != rewording.past:
        found["tense"] = "present and past change places"
    _check_answer(truth, rewording, asked, answered, found)
    names = {new.key: old.key for old, new in [*answered, *pairs]}
    _check_relations(truth, asked if answered else None, _renamed(rewording, names), found)
    return found


def _match(old: Iterable[Term], new: Iterable[Term]) -> tuple[list[tuple[Term, Term]], list[Term], list[Term]]:
    """Pairs of terms of the same meaning, first those with the same key, and the terms left over on either side."""
    pairs, old, new = [], list(old), list(new)
    for same in (
        lambda a, b: a.key == b.key and a.negated == b.negated and a.neighbours & b.neighbours,
        lambda a, b: a.key == b.key and a.negated == b.negated,
        lambda a, b: a.key == b.key,
        lambda a, b: not _is_fixed(a) and not _is_fixed(b) and same_meaning(a.key, b.key),
    ):
        for a in list(old):
            b = next((b for b in new if same(a, b)), None)
            if b is not None:
                pairs.append((a, b))
                old.remove(a)
                new.remove(b)
    return pairs, old, new


def _is_fixed(term: Term) -> bool:
    """Whether it has a number, so that only the very same word means the same."""
    return any(map(str.isdigit, term.key))


def _explain_words(dropped: list[Term], added: list[Term], found: dict[str, str]) -> None:
    for old in dropped:
        for new in added:
            if opposite(old.key, new.key) or opposite(old.text.lower(), new.text.lower()):
                found["opposite"] = f"{old.text!r} becomes {new.text!r}"
    for verb, terms in (("dropped", dropped), ("added", added)):
        for term in terms:
            doubt = "certainty" if term.key in CERTAINTY else verb
            code = "quantity" if _is_fixed(term) else "position" if term.key in POSITIONS else doubt
            found.setdefault(code, f"{term.text!r} is {verb}")


def _is_negated(term: Term, statement: Statement) -> bool:
    """Whether a negation concerns the term: a place in which something else is absent is itself not negated."""
    return term.negated and not (term.place and any(each.negated and not each.place for each in statement.terms))


def _check_answer(
    truth: Statement, rewording: Statement, asked: Statement, answered: list[tuple[Term, Term]], found: dict[str, str]
) -> None:
    """Yes and no, the number of negations, and what a rewording takes from the question."""
    expected = len(truth.negations) + (len(asked.negations) if answered else 0)
    if answered and truth.answer == "no":
        expected = len(truth.negations) + 1
        if not any(_is_negated(new, rewording) for _, new in answered):
            found["negation"] = "the answer is no, and the words of the question are not negated"
    elif any(_is_negated(new, rewording) != _is_negated(old, asked) for old, new in answered):
        found["negation"] = "a word of the question is negated"
    if rewording.answer != truth.answer and (rewording.answer or not truth.terms):
        found["answer"] = f"the answer is {rewording.answer or 'missing'!r}, not {truth.answer or 'missing'!r}"
    count, twice = len(rewording.negations), len(rewording.negations) > len(set(rewording.negations))
    shared = truth.alternatives or rewording.alternatives  # "no A or B" is "no A and no B"
    if count != expected and (twice or not (shared and count and expected)):
        found.setdefault("negation", f"{count} negations, not {expected}")
    if answered and (asked.alternatives or any(term.key == "versus" for term in asked.terms)):
        found["question"] = "words are added from a question that offers alternatives"
    doubts = not (asked.keys & CERTAINTY <= rewording.keys)
    if rewording.has_verb and not (truth.has_verb or truth.answer) and (doubts or count < len(asked.negations)):
        found["question"] = "a sentence leaves out a negation or a doubt of the question"


def _renamed(statement: Statement, names: Mapping[str, str]) -> Statement:
    """The statement with each key replaced by that of its partner in the ground truth."""

    def rename(keys: Iterable[str]) -> frozenset[str]:
        return frozenset(names.get(key, key) for key in keys)

    def renamed(term: Term) -> Term:
        key = names.get(term.key, term.key)
        return replace(term, key=key, neighbours=rename(term.neighbours), qualifiers=rename(term.qualifiers))

    return replace(
        statement,
        terms=tuple(map(renamed, statement.terms)),
        targets=rename(statement.targets),
        parts=frozenset((names.get(part, part), names.get(whole, whole)) for part, whole in statement.parts),
        actions=tuple((names.get(verb, verb), rename(a), rename(b)) for verb, a, b in statement.actions),
    )


def _check_relations(truth: Statement, asked: Statement | None, rewording: Statement, found: dict[str, str]) -> None:
    """Which noun each word belongs to, what is in what, and what acts on what."""
    sources = [truth] if asked is None else [truth, asked]
    old_neighbours = _neighbours(sources)
    leading = _leading([rewording]) & _leading(sources)
    # "soft tissue mass": whether the parse gives "soft" to "tissue" or to "mass" is no difference.
    compounds = {pair for source in sources for pair in _compounds(source)} & _compounds(rewording)
    for key, new in _neighbours([rewording]).items():
        old = old_neighbours.get(key)
        if key in leading:
            old = old and old | _mates(key, sources)
        bracketed = any((a in old and b in new) or (b in old and a in new) for a, b in compounds) if old else False
        if old and new and old.isdisjoint(new) and not bracketed:
            found["relation"] = f"{key!r} belongs to {'/'.join(sorted(new))}, not to {'/'.join(sorted(old))}"

    if any((whole, part) in rewording.parts for source in sources for part, whole in source.parts):
        found["roles"] = "a part and its whole change places"
    targets = frozenset().union(*(source.targets for source in sources))
    inside = (targets - rewording.targets) & rewording.keys
    outside = (rewording.targets - targets) & frozenset().union(*(source.keys for source in sources))
    if inside and outside:
        found["roles"] = f"{'/'.join(sorted(inside))} and {'/'.join(sorted(outside))} change places"
    for source in sources:
        for verb, actors, acted_on in source.actions:
            for other, new_actors, new_acted_on in rewording.actions:
                if source is asked and not (actors and acted_on):
                    continue  # the parse of "are the ventricles enlarged?"
                if verb == other and (actors & new_acted_on - new_actors or acted_on & new_actors - new_acted_on):
                    found["roles"] = f"what acts and what is acted upon change places at {verb!r}"
    if asked is None:
        _check_contrasts(truth, rewording, found)


def _leading(statements: list[Statement]) -> set[str]:
    return {term.key for statement in statements for term in statement.terms if term.leads}


def _neighbours(statements: list[Statement]) -> dict[str, frozenset[str]]:
    """The nouns of each key, over all its terms."""
    found: dict[str, frozenset[str]] = {}
    for term in (term for statement in statements for term in statement.terms):
        found[term.key] = found.get(term.key, frozenset()) | (term.neighbours - {term.key})
    return found


def _compounds(statement: Statement) -> set[tuple[str, str]]:
    return {(qualifier, term.key) for term in statement.terms if term.noun for qualifier in term.qualifiers}


def _mates(key: str, statements: list[Statement]) -> frozenset[str]:
    """The nouns in the same segments as a key."""
    return frozenset(
        term.key
        for statement in statements
        for segment in {term.segment for term in statement.terms if term.key == key}
        for term in statement.terms
        if term.segment == segment and term.noun
    )


def _check_contrasts(truth: Statement, rewording: Statement, found: dict[str, str]) -> None:
    """Where a text contrasts two sides, two numbers or two of a kind, the words that stand with each stay with it."""
    keys = truth.keys
    repeated = [noun for noun, count in Counter(term.key for term in truth.terms if term.noun).items() if count > 1]
    kinds = [frozenset().union(*(t.qualifiers for t in truth.terms if t.key == noun)) for noun in repeated]
    numbers = {key for key in keys if any(map(str.isdigit, key))}
    for contrast in (*(group & keys for group in OPPOSED), numbers, *kinds):
        old, new = ([term.key for term in each.terms if term.key in contrast] for each in (truth, rewording))
        if truth.directed and old != new:
            found["roles"] = f"the order of {', '.join(sorted(contrast))} changes"
        for key in sorted(contrast) if len(contrast) > 1 else ():
            if _beside(key, truth, contrast) != _beside(key, rewording, contrast):
                found["relation"] = f"other words stand beside {key!r}"


def _beside(key: str, statement: Statement, contrast: set[str]) -> Counter[str]:
    segments = {term.segment for term in statement.terms if term.key == key}
    beside = {term.key for term in statement.terms if term.segment in segments} - contrast
    elsewhere = {term.key for term in statement.terms if term.segment not in segments}
    return Counter(beside - (elsewhere & beside) if beside - elsewhere else beside)
