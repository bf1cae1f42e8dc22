"The frame: pages in step with their notebooks, no fact in two places, workflows that can run, notebooks fit to be read."
import json, re, runpy, tomllib
from configparser import ConfigParser
from pathlib import Path
import pytest, yaml

root = Path(__file__).resolve().parents[1]
notebooks = sorted((root/'nbs').glob('[!._]*.ipynb'))
workflows = sorted((root/'.github').glob('**/*.yml'))
pyproject = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))
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

def test_links_of_pages_lead_somewhere():
    for page in ('README.md', 'CONTRIBUTING.md'):
        links = re.findall(r'(?:\]\(|src=")(?!https?:|mailto:|#)([^)\s"#]+)', (root/page).read_text(encoding='utf-8'))
        assert not [o for o in links if not (root/o).exists()], page

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

def test_sidebar_lists_every_page_once():
    entries = yaml.safe_load((root/'nbs/sidebar.yml').read_text())['website']['sidebar']['contents']
    pages = [p for e in entries for p in (e['contents'] if isinstance(e, dict) else [e])]
    assert sorted(pages) == [o.name for o in notebooks]

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook_is_small_and_says_nothing_about_a_machine(nb):
    assert nb.stat().st_size < 300_000
    for text in outputs(nb):
        assert not re.search(r'(?<![\w.])/(home|Users|root|tmp|private|var/folders|work|content)/|site-packages|[A-Z]:\\Users', text), text[:300]
        assert not re.search(r'\d+%\s*\|| it/s|s/it\]|█|<progress', text), text[:300]
