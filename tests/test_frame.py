"The frame: pages in step with their notebooks, no fact in two places, workflows that can run, links that lead somewhere."
import json, re, runpy, tomllib
from configparser import ConfigParser
from pathlib import Path
import pytest, yaml

root = Path(__file__).resolve().parents[1]
notebooks = sorted((root/'nbs').glob('[!._]*.ipynb'))
workflows = sorted((root/'.github').glob('**/*.yml'))
pyproject = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))
places = 'home|Users|root|tmp|private|var/folders|work|content'
settings = ConfigParser()
settings.read(root/'settings.ini', encoding='utf-8')

def canonical(req): return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', req)[0]).lower()

def outputs(nb):
    "All that the cells of `nb` printed or showed, pictures aside, as one text."
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    for out in (o for c in cells for o in c.get('outputs', [])):
        for mime,text in {**out.get('data', {}), 'stream': out.get('text', [])}.items():
            if not mime.startswith('image/') or mime == 'image/svg+xml': yield ''.join(text)

@pytest.mark.parametrize('page', ['index', 'contributing'])
def test_pages_are_in_step_with_their_notebooks(page):
    readme = runpy.run_path(str(root/'tools/readme.py'))
    text, pictures = readme['make_page'](page)
    assert (root/readme['pages'][page]).read_text(encoding='utf-8') == text, 'run `make nbs`'
    stored = {str(p.relative_to(root)): p.read_bytes() for p in root.glob(f'{page}_files/*')}
    assert stored == pictures, 'run `make nbs`'

def prose(page):
    "What links stand in: a Markdown file, or the Markdown cells of a notebook"
    text = page.read_text(encoding='utf-8')
    if page.suffix == '.md': return text
    return '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')

@pytest.mark.parametrize('page', [root/'README.md', root/'CONTRIBUTING.md', *notebooks], ids=lambda o: o.name)
def test_links_lead_somewhere(page):
    links = re.findall(r'(?:\]\(|src=")(?!https?:|mailto:|#)([^)\s"#]+)', prose(page))
    assert not [o for o in links if not (page.parent/o).exists()]

def test_no_fact_twice():
    elsewhere = {'version', 'readme', 'dependencies', 'optional-dependencies'}
    assert elsewhere <= set(pyproject['project']['dynamic']) and not elsewhere & pyproject['project'].keys()
    assert all(k.endswith('requirements') for k in settings['DEFAULT'])
    version = re.search(r'^__version__ = "(.+)"$', (root/'pneumo_imbalance/__init__.py').read_text(), re.M)[1]
    assert not [f for f in ('pyproject.toml', 'settings.ini', 'setup.py') if version in (root/f).read_text()]
    assert re.search(rf'^## {re.escape(version)} ', (root/'CHANGELOG.md').read_text(), re.M)

def test_requirements_are_pinned_and_name_no_registry():
    lines = [o for o in (root/'constraints.txt').read_text().splitlines() if o and not o.startswith('#')]
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+', o) for o in lines)
    needed = (settings['DEFAULT']['requirements'] + ' ' + settings['DEFAULT']['dev_requirements']).split()
    assert not {canonical(o) for o in needed} - {canonical(o) for o in lines}
    assert '://' not in (root/'settings.ini').read_text() + '\n'.join(lines)

def test_an_extra_stands_for_what_exists():
    code = '\n'.join(o.read_text(encoding='utf-8') for o in (root/'pneumo_imbalance').glob('[!_]*.py')).replace('_', '-')
    extras = [o for k,v in settings['DEFAULT'].items() if k not in ('requirements', 'dev_requirements') for o in v.split()]
    decoders = 'pylibjpeg', 'pylibjpeg-openjpeg', 'pyjpegls', 'python-gdcm' # pydicom finds them by itself, and torch its onnxscript
    used = [o for o in extras if re.search(rf'^ *(try: )?(import|from) {canonical(o).removeprefix("python-")}\b', code, re.M)]
    assert {*extras} - {*used} == {*decoders, 'onnxscript'}

@pytest.mark.parametrize('path', workflows, ids=lambda p: p.name)
def test_workflows_can_run(path):
    text = path.read_text(encoding='utf-8')
    assert isinstance(yaml.safe_load(text), dict)
    targets = re.findall(r'^([a-z]+):', (root/'Makefile').read_text(), re.M)
    assert not set(re.findall(r'run: make ([a-z]+)', text)) - set(targets)
    assert 'secrets.' not in text

def test_ci_runs_each_supported_python():
    strategy = yaml.safe_load((root/'.github/workflows/test.yml').read_text())['jobs']['test']['strategy']
    pythons = [re.search(r':: (3\.\d+)$', o) for o in pyproject['project']['classifiers']]
    assert strategy['matrix']['python-version'] == [o[1] for o in pythons if o]
    assert pyproject['project']['requires-python'] == '>=' + strategy['matrix']['python-version'][0]

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook_says_nothing_about_a_machine(nb):
    for text in outputs(nb):
        assert not re.search(rf'(?<![\w.])/({places})/|site-packages|[A-Z]:\\Users', text), text[:300]
        assert not re.search(r'\d+%\s*\|| it/s|s/it\]|█|<progress', text), text[:300]
