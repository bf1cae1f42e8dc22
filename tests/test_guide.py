"The guide names every public name of every module, once in code or in a table, and nothing that is not there."
import ast, importlib, json, re
from pathlib import Path
from IPython.core.inputtransformer2 import TransformerManager
import pneumo_imbalance.all as everything

root = Path(__file__).resolve().parents[1]
notebooks = {o.stem[3:]: o.name for o in sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb'))}
cells = json.loads((root/'nbs/guide.ipynb').read_text(encoding='utf-8'))['cells']
row = re.compile(r'^\| `(\w+)` \| (.+?) \| (\[(\w+)\]\(([\w.]+)\)|\w+) \|$', re.M)
rows = [m.groups() for c in cells if c['cell_type'] == 'markdown' for m in row.finditer(''.join(c['source']))]

def public(): return {o: name for name in notebooks for o in importlib.import_module(f'pneumo_imbalance.{name}').__all__}

def in_code():
    "Names that a visible cell uses"
    texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    trees = [ast.parse(TransformerManager().transform_cell(o)) for o in texts if not re.search(r'^#\|\s*hide\s*$', o, re.M)]
    return {n.id for t in trees for n in ast.walk(t) if isinstance(n, ast.Name)}

def test_every_public_name_is_on_the_page():
    missing = public().keys() - in_code() - {o[0] for o in rows}
    assert not missing, f'not in nbs/guide.ipynb: {", ".join(sorted(missing))}'

def test_nothing_is_named_twice_or_gone():
    names = [o[0] for o in rows]
    assert not {o for o in names if names.count(o) > 1 or o in in_code()}
    gone = [o for o in names if o not in public() or not hasattr(everything, o)]
    assert not gone, f'in a table of nbs/guide.ipynb and not public: {", ".join(gone)}'

def test_each_row_leads_to_the_module_of_its_name():
    module, wrong = None, []
    for name,_,cell,link,file in rows:
        module = link or cell
        if link and file != notebooks.get(link): wrong.append(f'{name}: {file}')
        if name not in getattr(importlib.import_module(f'pneumo_imbalance.{module}'), '__all__', []): wrong.append(f'{name}: {module}')
    assert not wrong, wrong

def test_every_module_is_linked():
    linked = set(re.findall(r'\]\(([\w.]+\.ipynb)\)', ''.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')))
    assert not set(notebooks.values()) - linked

def code_lines(nb):
    "Lines of code that a reader sees"
    texts = [''.join(c['source']) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    return [o for t in texts if not re.search(r'^#\|\s*hide\s*$', t, re.M) for o in t.splitlines() if o.strip() and not o.startswith('#|')]

def test_a_task_is_a_short_page():
    lengths = {o.stem: len(code_lines(o)) for o in (root/'nbs').glob('howto_*.ipynb')}
    assert lengths and not {k: n for k,n in lengths.items() if n >= 60}
