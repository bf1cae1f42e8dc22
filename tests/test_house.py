"The keeper of the house: a notebook a module, public doors, imports downhill, short functions, plain words, pages that run as read."
import ast, builtins, importlib, json, re
from functools import cache
from pathlib import Path
from statistics import median, quantiles
import pytest
from IPython.core.inputtransformer2 import TransformerManager

root = Path(__file__).resolve().parents[1]
package = root/'pneumo_imbalance'
modules = {o.stem[3:]: o for o in sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb'))}
notebooks = sorted((root/'nbs').glob('[!._]*.ipynb'))
stories = [o for o in notebooks if not o.name[0].isdigit()]
scripts = [*(o for d in ('tests', 'tools', 'benchmarks') for o in sorted((root/d).glob('*.py'))), root/'setup.py', package/'__init__.py']

def no(bad): assert not bad, '\n' + '\n'.join(bad)

@cache
def cells(nb):
    "The cells of a notebook as pairs of type and source"
    return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(nb.read_text(encoding='utf-8'))['cells']]

def code(nb): return [o for kind,o in cells(nb) if kind == 'code']

def hidden(cell): return re.search(r'^#\|\s*(hide|hide_input|include:\s*false|echo:\s*false)\s*$', cell, re.M)

def parsed(cell):
    "A cell as a syntax tree; lines for the shell become calls"
    return ast.parse(TransformerManager().transform_cell(cell))

def called(name):
    "A module's name within the package: '' for the package itself, None for what is not ours"
    return name.removeprefix('pneumo_imbalance').removeprefix('.') if re.match(r'pneumo_imbalance(\.|$)', name or '') else None

def source_of(node):
    "Where `from … import` takes its names, within the package"
    return node.module or '' if node.level else called(node.module)

def doors(tree):
    "Pairs of our module and the name taken out of it, however it is taken: `from .x import y`, `x.y`, `pneumo_imbalance.x.y`"
    local = {}
    for n in ast.walk(tree):
        if isinstance(n, ast.Import):
            for a in n.names:
                if called(a.name): yield called(a.name), ''
                if called(a.name) and a.asname: local[a.asname] = called(a.name)
        if isinstance(n, ast.ImportFrom) and source_of(n) is not None:
            for a in n.names:
                if source_of(n): yield source_of(n), a.name
                elif a.name in modules: local[a.asname or a.name] = a.name
    yield from ((o, '') for o in local.values())
    for n in ast.walk(tree):
        if not isinstance(n, ast.Attribute): continue
        whose = ast.unparse(n.value)
        if whose in local: yield local[whose], n.attr
        elif called(whose): yield called(whose), n.attr

def private(name): return name.startswith('_') and not name.endswith('__')

def uses(file): return doors(ast.parse(file.read_text(encoding='utf-8')))

def body_lines(fn):
    "Lines of a function's body without its docstring"
    body = fn.body[1:] if ast.get_docstring(fn) and len(fn.body) > 1 else fn.body
    return fn.end_lineno - body[0].lineno + 1

def functions():
    "Name and length of every function and method of the package"
    for name in modules:
        for n in ast.walk(ast.parse((package/f'{name}.py').read_text(encoding='utf-8'))):
            if isinstance(n, ast.FunctionDef): yield f'{name}.{n.name}', body_lines(n)

# The modules

def test_each_module_has_its_notebook():
    assert {o.stem for o in package.glob('[!_]*.py')} == {*modules, 'all'}
    assert len({o.name[:2] for o in modules.values()}) == len(modules)
    no([o.name for name,o in modules.items() if not any(re.match(rf'#\| default_exp {name}$', c) for c in code(o))])

def test_all_imports_every_module_in_order(): assert list(dict.fromkeys(m for m,_ in uses(package/'all.py'))) == list(modules)

def test_imports_lead_downhill():
    order = list(modules)
    no([f'{name}.py imports {o}' for i,name in enumerate(order) for o in {m for m,_ in uses(package/f'{name}.py')} if o not in order[:i]])

def test_no_private_name_crosses_modules():
    files = [package/f'{name}.py' for name in modules] + [o for o in scripts if o.parent.name == 'benchmarks']
    bad = [f'{f.name}: {m}.{name}' for f in files for m,name in uses(f) if private(name)]
    texts = {o.name: '\n'.join(code(o)) for o in notebooks}
    for name,text in texts.items(): # tests in notebooks too, and names in strings (unittest.mock.patch)
        bad += [f'{name}: {m}.{o}' for m,o in re.findall(r'pneumo_imbalance\.(\w+)(?:\.| import )(_(?!_)\w+)', text) if m != name[3:-6]]
    no(bad)

def test_modules_are_short():
    lines = {name: len((package/f'{name}.py').read_text(encoding='utf-8').splitlines()) for name in modules}
    no([f'{name}.py has {n} lines, more than 300' for name,n in lines.items() if n > 300])

def test_functions_are_short():
    lengths = dict(functions())
    no([f'{k} has {n} lines, more than 25' for k,n in lengths.items() if n > 25])
    assert median(lengths.values()) <= 6 and quantiles(lengths.values(), n=10)[-1] <= 15

# The pages

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_page_begins_as_all_do(nb):
    (first, title), (second, intro) = cells(nb)[:2]
    match = re.fullmatch(r'# (.+)\n\n?> .+\n?', title)
    assert first == 'markdown' and match, f'the first cell holds more or less than "# title" and one line "> subtitle": {title[:200]}'
    name = match[1] if nb in stories else nb.stem[3:]
    assert match[1] == name
    words = re.sub(r'\[!\[.*?\]\(.*?\)\]\(.*?\)|(?<=\])\([^)]*\)', '', intro).split()
    assert second == 'markdown' and 5 < len(words) <= 120, f'second cell: an introduction of at most 120 words, found {len(words)} words'
    if nb not in stories: assert cells(nb)[2][1].strip() == f'#| default_exp {name}'

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_notebook_is_small(nb): assert nb.stat().st_size < 300_000

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_every_picture_is_described(nb):
    outputs = [(o, c) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    bare = [''.join(c['source']) for o,c in outputs if any(m.startswith('image/') for m in o.get('data', {}))]
    no([f'a picture without `#| fig-alt:`: {o[:80]!r}' for o in bare if not re.search(r'^#\|\s*fig-alt: *\S', o, re.M)])

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_every_picture_is_followed_by_what_to_see(nb):
    made = json.loads(nb.read_text(encoding='utf-8'))['cells']
    shows = [i for i,c in enumerate(made) if any(m.startswith('image/') for o in c.get('outputs', []) for m in o.get('data', {}))]
    def says(cell): return cell['cell_type'] == 'markdown' and not ''.join(cell['source']).startswith('#')
    no([''.join(made[i]['source'])[:80] for i in shows if not any(map(says, made[i + 1:i + 3]))])

def length_limit(nb, cell): return 100 if nb in stories and not hidden(cell) else 140

def test_lines_are_short():
    long = [f'{nb.name}: {o[:60]}… ({len(o)})' for nb in notebooks for c in code(nb) for o in c.splitlines()
        if len(o) > length_limit(nb, c) and not o.startswith(('#| fig-alt', '!'))]
    no(long + [f'{f.name}: {o[:60]}… ({len(o)})' for f in scripts for o in f.read_text(encoding='utf-8').splitlines() if len(o) > 140])

# Words. *Room* as space for something stays ("room for", "make room"); as a name for a module or a page it goes.
one = r'\b(?:the|this|that|each|every|an?|any|another|which) room\b(?! (?:for|to|on|in|there|it)\b)'
unwanted = re.compile(rf'films?\b|lopsided|\brooms\b|{one}', re.I)
frame = ('README.md', 'CONTRIBUTING.md', 'settings.ini', 'pyproject.toml', 'Makefile', 'nbs/sidebar.yml', *root.glob('.github/**/*.*'))

def sentences():
    "All that is ours to write, by name of the file; CHANGELOG.md tells old names too"
    yield from ((o.name, '\n'.join(s for _,s in cells(o))) for o in notebooks)
    yield from ((o.name, o.read_text(encoding='utf-8')) for o in (*scripts, *(root/f for f in frame)) if o.name != 'test_house.py')

def test_words():
    found = [(name, m[0], text[max(0, m.start() - 40):m.end() + 30]) for name,text in sentences() for m in unwanted.finditer(text)]
    no([f'{name}: {word!r} in {part!r}' for name,word,part in found])

def test_names_of_the_api():
    public = [f'{name}.{o}' for name in modules for o in importlib.import_module(f'pneumo_imbalance.{name}').__all__]
    no([o for o in public if re.search(r'film|room|lopsided', o, re.I)])

# What a reader copies

def stars(node):
    "The names that `from … import *` brings"
    module = importlib.import_module(node.module)
    return getattr(module, '__all__', None) or [o for o in vars(module) if not o.startswith('_')]

def bound(tree):
    "Names that a cell binds at its top level"
    for n in ast.walk(tree):
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            if any(a.name == '*' for a in n.names): yield from stars(n)
            yield from (a.asname or a.name.split('.')[0] for a in n.names)
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)): yield n.name
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store): yield n.id
        if isinstance(n, ast.ExceptHandler) and n.name: yield n.name
        if isinstance(n, ast.arg): yield n.arg

def only_imports(tree): return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body)

def counts(nb, cell, tree):
    "May visible cells use what this one binds? Of a module's hidden cells those that hold nothing but imports, or are exported."
    return not hidden(cell) or nb not in stories and (only_imports(tree) or '| export' in cell)

def missing(nb):
    "Names that visible cells use and only hidden ones bind"
    trees = [(o, parsed(o)) for o in code(nb)]
    known = {*dir(builtins), 'get_ipython', 'display', *(n for o,tree in trees if counts(nb, o, tree) for n in bound(tree))}
    used = {n.id for o,tree in trees if not hidden(o) for n in ast.walk(tree) if isinstance(n, ast.Name)}
    return sorted(used - known)

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_a_page_runs_from_top_to_bottom_as_it_is_read(nb): assert missing(nb) == []
