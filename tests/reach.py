"""Functions and classes that a function can use, found by static analysis."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@cache
def parsed(module):
    """Top-level names of a module: its definitions and assignments as syntax trees, and its imports from this package."""
    tree = ast.parse(Path(find_spec(module).origin).read_text())
    own = {}
    for node in tree.body:
        if isinstance(node, DEFINITIONS):
            own[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            own |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return own, imports_in(tree.body)


def imports_in(nodes):
    """Local name to (module, name in it), the name None for a module itself."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                found[each.asname or each.name] = (inner, None) if is_module(inner) else (node.module, each.name)
    return found


@cache
def is_module(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def reached(module, name):
    """Every (module, definition) that a function of a module may use, itself included."""
    seen, todo, found = set(), [(module, name)], set()
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        module, name = place
        own, imported = parsed(module)
        if name not in own:
            todo += [imported[name]] if imported.get(name, (None, None))[1] else []
            continue
        node = own[name]
        if isinstance(node, DEFINITIONS):
            found.add(place)
        known = imported | imports_in(ast.walk(node))
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in known and known[part.id][1]:
                todo.append(known[part.id])
            elif isinstance(part, ast.Name) and part.id in own:
                todo.append((module, part.id))
            elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                source, inner = known.get(part.value.id, (None, ""))
                if inner is None:
                    todo.append((source, part.attr))
    return found
