"llms.txt and llms-ctx.txt: every page with its subtitle, links that lead to pages, the guide whole, nothing hidden."
import importlib.util, json, re, subprocess, sys
from pathlib import Path
import pytest, yaml

root = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('llms', root/'tools/llms.py')
llms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(llms)
site = yaml.safe_load((root/'nbs/nbdev.yml').read_text(encoding='utf-8'))['website']['site-url']
bar = yaml.safe_load((root/'nbs/sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
linked = re.compile(r'^- \[([^\]]+)\]\(([^)]+)\): (.+)$', re.M)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "What the command writes into a folder"
    out = tmp_path_factory.mktemp('site')
    subprocess.run([sys.executable, root/'tools/llms.py', out], check=True)
    return {o.name: o.read_text(encoding='utf-8') for o in out.iterdir()}

def titles(name):
    "Title and subtitle of a notebook"
    first = ''.join(json.loads((root/'nbs'/name).read_text(encoding='utf-8'))['cells'][0]['source'])
    return re.match(r'# (.+)\n+> (.+)', first).groups()

def page(name): return f"{site}/{re.sub(r'^[0-9]+_', '', name[:-6])}.html.md"

def test_form(made):
    assert made.keys() == {'llms.txt', 'llms-ctx.txt'}
    text = made['llms.txt']
    assert re.match(r'# .+\n\n> .+\n\n[^#]+\n\n## Docs\n\n- \[', text) and len(re.findall(r'^# ', text, re.M)) == 1
    heads = re.findall(r'^## (.+)$', text, re.M)
    assert heads[0] == 'Docs' and heads[-1] == 'Optional' and len(set(heads)) == len(heads)
    body = text[text.index('## Docs'):].splitlines()
    assert [o for o in body if o and not o.startswith('## ') and not linked.match(o)] == []

def test_every_page_of_the_sidebar_is_linked_once_by_title_and_subtitle(made):
    names = list(llms.pages(bar))
    found = linked.findall(made['llms.txt'])
    assert sorted(o[1] for o in found) == sorted(map(page, names))
    assert {(t, u, d) for t,u,d in found} == {(titles(o)[0], page(o), titles(o)[1]) for o in names}

def test_no_link_leads_nowhere(made):
    pages = {page(o.name) for o in (root/'nbs').glob('[!._]*.ipynb')}
    links = {o for text in made.values() for o in re.findall(rf'\(({re.escape(site)}/[^)#]*)', text)}
    built = re.findall(r'_docs/([\w./-]+)', (root/'Makefile').read_text(encoding='utf-8')) # what `make docs` adds to the site
    assert pages & links and not links - pages - {f'{site}/{o}' for o in built}
    assert not re.findall(r'\]\([\w.-]+\.ipynb', made['llms-ctx.txt'])

def test_markdown_pages_are_linked_only_where_they_are_kept(monkeypatch):
    assert llms.url('12_data.ipynb') == f'{site}/data.html.md' # `keep-md` is on in nbs/_quarto.yml
    whole = llms.settings
    monkeypatch.setattr(llms, 'settings', lambda name: whole(name) if name == 'nbdev.yml' else dict(format=dict(html={})))
    assert llms.url('12_data.ipynb') == f'{site}/data.html'

def test_sections_follow_the_sidebar(monkeypatch):
    learn = dict(section='Learn', contents=[dict(text='A', href='tutorial.ipynb'), 'speed.ipynb'])
    modules = dict(section='Deep', contents=['12_data.ipynb'])
    bar = ['index.ipynb', learn, dict(section='Look up', contents=[dict(href='guide.ipynb'), modules]), 'contributing.ipynb']
    monkeypatch.setattr(llms, 'settings', lambda name: dict(website=dict(sidebar=dict(contents=bar))))
    assert llms.sections() == dict(Docs=['index.ipynb', 'guide.ipynb'], Learn=['tutorial.ipynb', 'speed.ipynb'],
        Optional=['12_data.ipynb', 'contributing.ipynb'])

def test_context_holds_the_guide_whole(made):
    text = made['llms-ctx.txt']
    docs = dict(re.findall(r'<doc title="([^"]+)" desc="[^"]+">\n?(.+?)</doc>', text, re.S))
    assert text.startswith('<project title=') and text.rstrip().endswith('</docs></project>')
    assert list(docs) == [titles(o)[0] for o in ('index.ipynb', 'guide.ipynb')]
    guide, cells = docs[titles('guide.ipynb')[0]], json.loads((root/'nbs/guide.ipynb').read_text(encoding='utf-8'))['cells']
    for c in cells:
        source = ''.join(c['source'])
        lines = [o for o in source.splitlines() if o and not o.startswith(('#|', '[![')) and '.ipynb' not in o]
        if re.search(r'^#\|\s*hide\s*$', source, re.M): assert not [o for o in lines if len(o) > 30 and o in guide]
        else: assert not [o for o in lines if o not in guide]

def test_outputs_are_text():
    table = dict(data={'text/html': ['<table>'], 'text/plain': ['   a\n', '0  1']})
    picture = dict(data={'image/png': 'AAAA', 'text/plain': ['<Figure>']})
    cell = dict(cell_type='code', source=['#| fig-alt: "two bars"\n', 'show()'], outputs=[dict(text=['said\n']), table, picture])
    assert llms.told(cell) == '```python\nshow()\n```\n\n```\nsaid\n```\n\n```\n   a\n0  1\n```\n\n[picture: two bars]'
    assert llms.told(cell | dict(source=['#| echo: false\n', 'show()'], outputs=[table])) == '```\n   a\n0  1\n```'
    assert llms.told(cell | dict(source=['#| hide\n', 'show()'])) == ''

def test_a_wrong_call_says_how(tmp_path):
    res = subprocess.run([sys.executable, root/'tools/llms.py'], capture_output=True, text=True)
    assert res.returncode == 1 and 'usage: python tools/llms.py FOLDER' in res.stderr
