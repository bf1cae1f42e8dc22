"The modules: one notebook a module, imports that follow the flow of data, all of it in `all.py`, short functions."
import ast, re
from pathlib import Path
from statistics import median, quantiles
import pytest

root = Path(__file__).resolve().parents[1]
rooms = {o.stem[3:]: o for o in sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb'))}
package = root/'pneumo_imbalance'

def imported(module):
    "Names of our own modules that `module` imports, in order."
    tree = ast.parse((package/f'{module}.py').read_text(encoding='utf-8'))
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    ours = [o.removeprefix('pneumo_imbalance.') for o in names]
    return [o for o in ours if (package/f'{o}.py').exists()]

def body_lines(fn):
    "Lines of a function's body without its docstring."
    body = fn.body[1:] if ast.get_docstring(fn) and len(fn.body) > 1 else fn.body
    return fn.end_lineno - body[0].lineno + 1

def functions():
    "Name and length of every function and method of the package."
    for name in rooms:
        for n in ast.walk(ast.parse((package/f'{name}.py').read_text(encoding='utf-8'))):
            if isinstance(n, ast.FunctionDef): yield f'{name}.{n.name}', body_lines(n)

def test_each_module_has_its_notebook():
    assert {o.stem for o in package.glob('[!_]*.py')} == {*rooms, 'all'}
    for name,nb in rooms.items(): assert re.search(rf'"#\| default_exp {name}(\\n)?"', nb.read_text(encoding='utf-8')), nb.name

def test_all_imports_every_room_in_order(): assert imported('all') == list(rooms)

@pytest.mark.parametrize('name', rooms)
def test_room_imports_only_from_rooms_before_it(name):
    order = list(rooms)
    assert set(imported(name)) <= set(order[:order.index(name)])

def test_functions_are_short():
    lengths = dict(functions())
    assert not {k: n for k,n in lengths.items() if n > 25}
    assert median(lengths.values()) <= 6 and quantiles(lengths.values(), n=10)[-1] <= 15
