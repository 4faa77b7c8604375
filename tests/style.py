"""Measure how plain the code is: names with two homes, and docstrings that do not begin with a verb (`make style`).

A public name (a function, class or constant of a module) with two homes makes a reader ask which one is meant.
A docstring that begins with a verb in the imperative says what the function does. Ends with 1 beyond the bounds.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ROOMS: Final = ("pneumowatch", "db", "watcher", "worker", "trainer", "notify", "review", "cli")
MOST_SHARED: Final = 0.06  # of all public names
FEWEST_VERBS: Final = 0.97  # of all docstrings of functions and methods
CONVENTIONS: Final = {"log", "router", "main"}  # every module that logs, or has routes, calls them so

VERBS: Final = frozenset(
    """
    accept acknowledge acquire add adjust admit adopt allocate allow announce append apply approximate ask assemble
    assert assess assign attach augment authenticate average back balance begin bend bind blend block blur bound
    break bring build cache calculate calibrate call cap carry change check choose claim classify clean clear clip
    close collect combine commit compare complete compose compress compute concatenate configure confirm connect
    consume convert copy correct count cover create crop cut deal decide declare decode decompress decrypt defer
    define delete deliver demonstrate derive describe detach detect determine disable discard disconnect display
    distil distill distort divide drain draw drop dump duplicate embed emit empty enable encode end enforce enqueue
    ensure enter enumerate erase escape establish estimate evaluate examine exclude execute exit expect expire
    explain export extend extract fail fetch fill filter find finish fit fix flag flatten flip flush fold follow
    forbid force forget format forward free freeze gather generate get give grant group guard halt handle hash hide
    hold identify ignore import include increase index infer inform initialise insert inspect install instantiate
    interpolate interpret interrupt invalidate invert issue iterate join judge keep kill know label lay lead learn
    leave lend let limit link list listen load locate lock log look lower make map mark mask match measure merge
    migrate mirror mix model modify monitor mount move name narrow normalise note notify number obey observe obtain
    offer open order overlay override pack pad paint parse pass pause perform permit pick place plan plot poll post
    predict prefer prepare prevent print process produce project promote prompt propagate protect prove provide
    prune publish pull purge push put quarantine query queue quote raise rank read reattach rebuild recalculate
    receive recognise recommend reconcile reconnect reconstruct record recover redirect reduce refer refill refresh
    refuse register reject release reload remember remove rename render renew reopen repair repeat replace report
    represent request requeue require rescale rescore reserve reset resize resolve respond rest restart restore
    restrict resubscribe resume retain retire retract retry return reuse reverse revoke rewrite roll rotate round
    run sample satisfy save say scale scan schedule score search see select send separate serialise serve set settle
    shade share shift show shrink shuffle shut sign simulate skip sleep smooth sort speak split spread squash stack
    stamp start state stay step stop store stretch strip submit subscribe subtract suggest sum summarise supersede
    supply support suppress survey swap sweep switch synchronise tag take tell tender test throttle throw tile time
    toggle train transform translate transpose traverse treat trim truncate trust try turn unannounce unlock unpack
    unregister unwrap update upgrade upload use validate vary verify visit wait wake walk warm warn watch weigh
    widen withdraw work wrap write yield zero zoom
    """.split()  # noqa: SIM905 - words read better than a list of strings
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield (path, syntax tree) of each module of the product; migrations are history, not code to be read."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "versions" not in path.parts:
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"))


def public_names() -> dict[str, set[str]]:
    """Return {public name: the modules that define it}, for names of a module's own top level."""
    homes: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees():
        for node in tree.body:
            for name in defined(node):
                if not name.startswith("_") and name not in CONVENTIONS:
                    homes[name].add(path)
    return homes


def defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement at the top level defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield (place, docstring) of each function and method, properties aside, which are named as what they are."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, Function) and not is_property(node) and (text := ast.get_docstring(node)):
                yield f"{path}:{node.lineno} {node.name}", text


def is_property(node: Function) -> bool:
    """Tell whether a method is read like an attribute."""
    names = [ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list]
    return bool({"property", "cached_property"} & set(names))


def begins_with_a_verb(docstring: str) -> bool:
    """Tell whether the first word is a verb in the imperative, as far as `VERBS` knows them."""
    word = re.match(r"[A-Za-z-]+", docstring)
    return word is not None and word[0][0].isupper() and word[0].lower() in VERBS


def shared_names() -> tuple[dict[str, set[str]], float]:
    """Return the public names with two or more homes, and their share of all."""
    homes = public_names()
    shared = {name: places for name, places in homes.items() if len(places) > 1}
    return shared, len(shared) / len(homes)


def verbless() -> tuple[list[str], float]:
    """Return where a docstring does not begin with a verb, and the share of those that do."""
    found = list(docstrings())
    wrong = [f"{place}: {text.splitlines()[0]}" for place, text in found if not begins_with_a_verb(text)]
    return wrong, 1 - len(wrong) / len(found)


def main() -> int:
    shared, share = shared_names()
    for name, places in sorted(shared.items()):
        print(f"{name}: {', '.join(sorted(places))}")
    wrong, verbs = verbless()
    print(*wrong, sep="\n")
    print(f"{share:.1%} of public names have two or more homes (bound {MOST_SHARED:.0%})")
    print(f"{verbs:.1%} of docstrings begin with a verb (bound {FEWEST_VERBS:.0%})")
    return 0 if share <= MOST_SHARED and verbs >= FEWEST_VERBS else 1


if __name__ == "__main__":
    sys.exit(main())
