"""Short passages in SQuAD's form with questions whose answers stand in the text.

Every passage holds several facts of the same sort about different people, towns or fairs, so that a question is
answered by finding who did what, not by picking the only name or number in sight.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

FIRST = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olive Paul Rosa Sam Tara Victor Wendy "
    "Adam Bella Carl Diana Eric Fiona George Helen Ivan Julia Kevin Laura Martin Nina Oscar Peter Ruth Simon Tina"
).split()
LAST = (
    "Miller Stone Baker Hill Carter Young Fisher Wood Mason Reed Porter Lake Turner Brook Cooper Field Walker Marsh "
    "Hunter Snow Archer Winter Potter Rivers Taylor Forest Weaver Banks Shepherd Meadows Gardner Woods Cole Hart"
).split()
TOWNS = (
    "Ashford Birchwood Clayton Dunmore Eastfield Fairview Glenwood Harwick Ironbridge Kingsley Lakeside Maplewood "
    "Newport Oakdale Pinehurst Ravenhill Southgate Thornbury Westbrook Winfield Stonebridge Riverton Milltown Redcliff"
).split()
RIVERS = "Alder Brant Cedar Drake Elm Falcon Garnet Heron Juniper Linden Marble Otter".split()
JOBS = "teacher doctor baker painter farmer pilot nurse writer singer lawyer sailor cook builder tailor".split()
HOBBIES = "chess tennis fishing dancing swimming reading cycling gardening sailing running drawing skating".split()
GOODS = "cheese wool glass paper silk honey bread salt timber steel".split()
MONTHS = "January February March April May June July August September October November December".split()
THINGS = "apples books bells lamps boats kites clocks drums horses bikes".split()

Fact = tuple[str, list[tuple[str, str]]]
"""A sentence, and the questions that it answers, each with its answer."""


def _person(rng: random.Random, name: str) -> list[Fact]:
    first = name.split()[0]
    town, year, job, hobby = rng.choice(TOWNS), rng.randint(1901, 1999), rng.choice(JOBS), rng.choice(HOBBIES)
    count, thing, friend = rng.randint(2, 99), rng.choice(THINGS), f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    return [
        (
            f"{name} was born in {town} in {year}.",
            [
                (f"Where was {name} born?", town),
                (f"When was {name} born?", str(year)),
                (f"In which town was {name} born?", town),
            ],
        ),
        (
            f"{first} works as a {job}.",
            [(f"What is the job of {name}?", job), (f"What does {name} work as?", job)],
        ),
        (
            f"In the evening {first} likes {hobby}.",
            [(f"What does {first} like?", hobby), (f"What does {name} like in the evening?", hobby)],
        ),
        (
            f"{first} has {count} {thing}.",
            [(f"How many {thing} does {first} have?", str(count)), (f"What does {first} have?", f"{count} {thing}")],
        ),
        (
            f"The best friend of {first} is {friend}.",
            [(f"Who is the best friend of {name}?", friend), (f"Who is the friend of {first}?", friend)],
        ),
    ]


def _town(rng: random.Random, town: str) -> list[Fact]:
    year, people, river = rng.randint(1100, 1899), rng.randint(2, 99) * 100, rng.choice(RIVERS)
    mayor, goods = f"{rng.choice(FIRST)} {rng.choice(LAST)}", rng.choice(GOODS)
    return [
        (
            f"{town} was founded in {year}.",
            [(f"When was {town} founded?", str(year)), (f"In what year was {town} founded?", str(year))],
        ),
        (f"About {people} people live in {town}.", [(f"How many people live in {town}?", str(people))]),
        (
            f"{town} lies on the river {river}.",
            [(f"On which river does {town} lie?", river), (f"What is the river of {town}?", river)],
        ),
        (f"The mayor of {town} is {mayor}.", [(f"Who is the mayor of {town}?", mayor)]),
        (
            f"{town} is known for its {goods}.",
            [(f"What is {town} known for?", f"its {goods}"), (f"Which goods is {town} known for?", goods)],
        ),
    ]


def _fair(rng: random.Random, town: str) -> list[Fact]:
    month, visitors, winner = rng.choice(MONTHS), rng.randint(2, 99) * 10, f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    prize, goods = f"{rng.randint(2, 99)} {rng.choice(THINGS)}", rng.choice(GOODS)
    return [
        (
            f"The fair of {town} is held in {month}.",
            [(f"When is the fair of {town} held?", month), (f"In which month is the fair of {town}?", month)],
        ),
        (
            f"The fair of {town} has {visitors} visitors.",
            [(f"How many visitors has the fair of {town}?", str(visitors))],
        ),
        (
            f"Last year {winner} won the prize of {town}.",
            [(f"Who won the prize of {town}?", winner), (f"Who won in {town} last year?", winner)],
        ),
        (f"The prize in {town} was {prize}.", [(f"What was the prize in {town}?", prize)]),
        (f"People come to {town} to buy {goods}.", [(f"What do people buy in {town}?", goods)]),
    ]


def passage(rng: random.Random) -> tuple[str, str, list[tuple[str, str]]]:
    """Draw one passage: ``(title, context, [(question, answer), …])``; each answer is a span of the context."""
    maker: Callable[[random.Random, str], list[Fact]]
    if rng.random() < 0.5:
        # different first names, because most facts give nothing else
        firsts = rng.sample(FIRST, 2)
        subjects = [f"{first} {rng.choice(LAST)}" for first in firsts]
        maker = _person
    else:
        # two of a sort, so that no question has only one candidate
        subjects = rng.sample(TOWNS, 2)
        maker = rng.choice([_town, _fair])
    facts: list[Fact] = []
    for subject in subjects:
        own = maker(rng, subject)
        # the first fact of a person gives the full name; the others may come in any order or be left out
        facts += [own[0], *rng.sample(own[1:], rng.randint(2, 3))]
    context = " ".join(sentence for sentence, _ in facts)
    questions = [rng.choice(asked) for _, asked in facts]
    return subjects[0], context, questions


def squad(rng: random.Random, paragraphs: int, questions: int) -> dict[str, Any]:
    """Make a data set in SQuAD v1.1's JSON shape.

    Args:
        rng: draws the passages.
        paragraphs: how many passages.
        questions: the most questions of a passage.
    """
    data = []
    for number in range(paragraphs):
        title, context, asked = passage(rng)
        rng.shuffle(asked)
        qas = [
            {
                "id": f"reading-{number:05}-{index}",
                "question": question,
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
            }
            for index, (question, answer) in enumerate(asked[:questions])
        ]
        data.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "1.1", "data": data}
